"""Whatever somebody prunes or removes while containers are stopped, the service comes back with all that it held."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from docker_rollback import BackupStore, Status
from docker_rollback.errors import CaptureError, EngineConflictError
from docker_rollback.testing import FailingEngine, FakeClock, FakeEngine, Killed
from tests.unit.pruning import (
    PRUNES,
    Pruned,
    check_equal,
    check_serving,
    entering_fails,
    shop_with_a_layer,
    way_back,
)
from tests.unit.shop import parts, timed

_STEP = 3
"""From how many calls of a way back one is tried; a way in is short."""


@pytest.mark.parametrize("kind", PRUNES)
def test_a_prune_on_the_way_in_loses_nothing(tmp_path: Path, kind: str) -> None:
    """Before any call while the container is stopped: it runs again, and where it was removed the error says so."""
    k = removals = 0
    while True:
        k += 1
        shop = shop_with_a_layer(tmp_path / str(k))
        engine = Pruned(shop.engine, PRUNES[kind], k)
        error = entering_fails(shop, engine)
        check_serving(shop, engine.story())
        if shop.engine.inspect_container("shop")["Id"] != shop.id:
            removals += 1
            assert isinstance(error, CaptureError), engine.story()
            assert error.container == "shop"
            assert "somebody removed it while it was stopped" in str(error)
        assert (error is None) == (len(shop.store.list()) == 1)
        if not engine.pruned:
            break
    assert error is None
    assert k > 8, "the backup was seen to make calls"
    assert (removals > 0) == (kind in ("containers", "system", "everything", "rm", "rm -v"))


@pytest.mark.parametrize("kind", ["everything", "networks"])
def test_a_prune_and_a_death_on_the_way_in_lose_nothing(tmp_path: Path, kind: str) -> None:
    """Where our process dies right after somebody pruned, recovery brings the service back."""
    k = 0
    while True:
        k += 1
        shop = shop_with_a_layer(tmp_path / str(k))
        engine = Pruned(shop.engine, PRUNES[kind], k, dies=True)
        with suppress(Killed), shop.timed(engine):
            pass
        if not engine.pruned:
            break
        shop.recover()
        check_serving(shop, engine.story())
    assert k > 8, "the backup was seen to make calls"


@pytest.mark.parametrize("kind", ["everything", "networks", "rm -v"])
def test_a_prune_on_the_way_back_does_not_fail_it(tmp_path: Path, kind: str) -> None:
    """Before any call of a rollback: what somebody removes of what it has made is made once more."""
    k = -1
    while True:
        k += _STEP
        shop = shop_with_a_layer(tmp_path / str(k))
        engine, status = way_back(shop, kind, k)
        assert status is Status.ROLLED_BACK, engine.story()
        check_equal(shop, engine.story())
        if not engine.pruned:
            break
    assert k > 20, "the rollback was seen to make calls"


def test_a_prune_and_a_death_on_the_way_back_lose_nothing(tmp_path: Path) -> None:
    """Where our process dies right after somebody pruned, recovery puts everything back."""
    k = 0
    while True:
        k += _STEP
        shop = shop_with_a_layer(tmp_path / str(k))
        engine, _ = way_back(shop, "everything", k, dies=True)
        if not engine.pruned:
            break
        shop.recover()
        check_equal(shop, engine.story())
    assert k > 20, "the rollback was seen to make calls"


class NetworkLost(FailingEngine):
    """Fails as its base does; somebody removes a network once the stopped container is committed."""

    def __init__(self, engine: FakeEngine, *, at: int) -> None:
        super().__init__(engine, at=at, kill=True)
        self.lost = False
        self._fake = engine

    def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
        """Commit it; the first commit is that of the running container."""
        committed = super().commit_container(ref, tag, author=author)
        if not tag.endswith("-live") and not self.lost:
            self.lost = True
            self._fake.remove_network("front")
        return committed


@pytest.mark.parametrize("what", ["its network", "it"])
def test_the_error_says_what_somebody_removed(tmp_path: Path, what: str) -> None:
    """The container, or its network alone; in either case it runs again."""
    shop = shop_with_a_layer(tmp_path)
    engine = NetworkLost(shop.engine, at=1_000) if what == "its network" else Pruned(shop.engine, PRUNES["rm"], 3)
    error = entering_fails(shop, engine)
    assert isinstance(error, CaptureError)
    assert error.container == "shop"
    assert error.reason.startswith(f"somebody removed {what} while it was stopped for")
    check_serving(shop, engine.story())


def test_a_death_while_a_container_is_recreated_is_finished(tmp_path: Path) -> None:
    """Whatever the dead process had renamed, held or disconnected, recovery leaves one container, as it was."""
    k, deaths = 0, 0
    while True:
        k += 1
        store, clock = BackupStore(tmp_path / str(k)), FakeClock()
        engine = FakeEngine(clock=clock)
        engine.add_image("app:1", files={"/app": "1"})
        engine.run("web", image="app:1", volumes={"rows": "/rows"}, networks=["front"], restart="always")
        engine.container("web").write("/dirty", "2")
        failing = NetworkLost(engine, at=k)
        with suppress(Killed, CaptureError), timed("web", engine=failing, store=store, clock=clock):
            pass
        if failing.struck is None:
            break
        if not failing.lost:
            continue
        deaths += 1
        parts(engine, store, clock).recovery.recover()
        standing = [engine.inspect_container(one) for one in engine.list_containers()]
        found = [(one["Name"], one["State"]["Status"], one["HostConfig"]["RestartPolicy"]["Name"]) for one in standing]
        assert found == [("/web", "running", "always")], failing.story()
        assert engine.container("web").read("/dirty") == b"2", failing.story()
        assert list(standing[0]["NetworkSettings"]["Networks"]) == ["front"], failing.story()
    assert deaths > 2


def test_a_container_that_is_half_removed_while_it_is_stopped_is_recreated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine starts, renames and commits a dead container no more; it can only be removed."""
    shop = shop_with_a_layer(tmp_path)
    commit = shop.engine.commit_container

    def commit_and_break(ref: str, tag: str, *, author: str) -> str:
        committed = commit(ref, tag, author=author)
        if not tag.endswith("-live") and shop.engine.container("shop").id == shop.id:
            shop.engine.container("shop")._container.status = "dead"
        return committed

    start = shop.engine.start_container

    def start_the_whole(ref: str) -> None:
        if shop.engine.inspect_container(ref)["State"]["Status"] == "dead":
            raise EngineConflictError("start container", "it is marked for removal and cannot be started")
        start(ref)

    monkeypatch.setattr(shop.engine, "commit_container", commit_and_break)
    monkeypatch.setattr(shop.engine, "start_container", start_the_whole)
    error = entering_fails(shop, FailingEngine(shop.engine))
    assert isinstance(error, CaptureError)
    assert shop.engine.container("shop").id != shop.id
    check_serving(shop, str(error))
