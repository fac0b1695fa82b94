"""Somebody starts a container whenever it does not run: no container runs on half of its data, and all comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from docker_rollback import (
    BackupStore,
    RollbackFailedError,
    RollbackRequested,
    Status,
    recover,
    restore,
)
from docker_rollback._engine.port import Process
from docker_rollback._recovery.journalled_capture import JournalledCapture
from docker_rollback._recovery.operations import Operation
from docker_rollback._recovery.revival import Removal
from docker_rollback._volumes.archiver import VolumeArchiver
from docker_rollback.errors import CaptureError, DockerRollbackError, EngineError
from docker_rollback.testing import FailingEngine, FakeContainer, FakeEngine
from tests.unit.shop import Shop

T = TypeVar("T")


class Supervised(FailingEngine):
    """An engine on which somebody looks at containers before some calls, and starts those that do not run.

    Args:
        engine: the engine.
        references: the names and ids of the containers.
        at: before which call, from the first on; None for every call.
        times: how often it starts one at most.
    """

    def __init__(self, engine: FakeEngine, *references: str, at: int | None = None, times: int = 1000) -> None:
        super().__init__(engine)
        self._fake, self._references, self._turn, self._times = engine, references, at, times
        self._asked = 0
        self.starts = 0
        self.awake = False

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
        """Do one call, after whatever the supervisor does."""
        if self.awake:
            self._asked += 1
            if self._turn is None or self._asked == self._turn:
                self._supervise()
        return super().pass_on(verb, work, *arguments)

    @property
    def is_over(self) -> bool:
        """Return True if there were fewer calls than the chosen one."""
        return self._turn is not None and self._asked < self._turn

    def _supervise(self) -> None:
        for reference in self._references:
            try:
                if self.starts < self._times and self._fake.container(reference).status not in ("running", "paused"):
                    self._fake.start_container(reference)
                    self.starts += 1
            except DockerRollbackError:
                continue


class Meddling(FailingEngine):
    """An engine on which somebody starts the shop, or starts and stops it, before a call while it is stopped."""

    def __init__(self, shop: Shop, *, at: int, stops: bool) -> None:
        super().__init__(shop.engine)
        self._shop, self._turn, self._stops = shop, at, stops
        self._asked = self.starts = 0

    @property
    def is_over(self) -> bool:
        """Return True if there were fewer calls than the chosen one."""
        return self._asked < self._turn

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
        """Do one call, once somebody has meddled."""
        container = self._shop.engine.container("shop")
        with self._lock:
            self._asked += container.status in ("paused", "exited")
            now = self._asked == self._turn and not self.starts
        if now:
            self._shop.clock.advance(1)
            self.starts += 1
            if container.status == "paused":
                self._shop.engine.unpause_container("shop")
            else:
                self._shop.engine.start_container("shop")
                if self._stops:
                    self._shop.engine.stop_container("shop")
        return super().pass_on(verb, work, *arguments)


def spoil(container: FakeContainer) -> None:
    """Write to the volume as soon as it starts, if it has the data of a failed update, or none."""
    if not container.exists("/data/table"):
        container.write("/data/half", "seen")


def update(shop: Shop, *, replaced: bool) -> str:
    """Break the service, by another container or in place; return the id of what has its name then."""
    if replaced:
        shop.break_it()
    else:
        shop.engine.volume("orders").delete("/table")
        shop.engine.volume("orders").write("/migrated", "half")
    return str(shop.engine.inspect_container("shop")["Id"])


def check(shop: Shop) -> None:
    """Assert that all is as it was, that it runs, and that nothing else runs on its volume."""
    shop.check_restored()
    assert shop.engine.container("shop").status == "running"
    assert not shop.engine.volume("orders").exists("/half")
    assert len(shop.engine.list_containers()) == 1


@pytest.mark.parametrize("quiesce", ["stop", "pause"])
@pytest.mark.parametrize("stops", [False, True], ids=["started", "started and stopped"])
def test_one_that_is_started_during_its_capture_is_captured_again(tmp_path: Path, quiesce: str, *, stops: bool) -> None:
    """Once, at each call while it is stopped: entering works, and the backup can be restored."""
    number = started = 0
    while True:
        number += 1
        shop = Shop(BackupStore(tmp_path / str(number)))
        shop.engine.on_start("shop", lambda container: container.write("/data/seen", "1"))
        watched = Meddling(shop, at=number, stops=stops)
        with shop.timed(watched, quiesce=quiesce) as tx:
            assert shop.engine.container("shop").status == "running"
        assert [one.id for one in shop.store.list()] == [tx.backup.id]
        assert shop.store.journal.names() == []
        shop.check_nothing_left()
        started += watched.starts
        if watched.is_over:
            break
        if watched.starts:
            shop.engine.volume("orders").delete("/table")
            restore(tx.backup, client=shop.engine, store=shop.store)
            assert shop.engine.volume("orders").read("/table") == b"rows"
    assert started == number - 1 > 2


@pytest.mark.parametrize("max_downtime", [None, 5.0])
def test_one_that_is_always_started_during_its_capture_is_an_error(tmp_path: Path, max_downtime: float | None) -> None:
    """It is stopped four times, or as long as it may be down; the error names its unit, and nothing is left."""
    shop = Shop(BackupStore(tmp_path))
    shop.engine.remove_container("shop", force=True)
    labels = {"PODMAN_SYSTEMD_UNIT": "shop.service"}
    shop.engine.run("shop", image="shop:1", volumes={"orders": "/data"}, labels=labels)

    class Slow(Supervised):
        """It takes two seconds to commit a stopped container."""

        def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
            """Commit it."""
            shop.clock.advance(0 if tag.endswith("-live") else 2)
            return super().commit_container(ref, tag, author=author)

    watched = Slow(shop.engine, "shop")
    watched.awake = True
    with pytest.raises(CaptureError, match=r"systemctl stop shop\.service") as failed:
        shop.timed(watched, max_downtime=max_downtime).__enter__()
    tries = 4 if max_downtime is None else 3
    assert len(watched.called("stop_container")) == tries
    assert any(f"the backup was tried {tries} times" in note for note in failed.value.__notes__)
    assert shop.engine.container("shop").status == "running"
    assert shop.store.list() == []
    assert shop.store.journal.names() == []
    shop.check_nothing_left()


@pytest.mark.parametrize("replaced", [False, True], ids=["original", "replaced"])
def test_whoever_starts_it_by_its_name_finds_nothing_to_start(tmp_path: Path, *, replaced: bool) -> None:
    """It is looked for before every single call of the rollback, and comes back all the same."""
    shop = Shop(BackupStore(tmp_path))
    shop.engine.on_start("shop", spoil)
    watched = Supervised(shop.engine, "shop")
    with shop.rollback(watched, verify=None) as tx:
        update(shop, replaced=replaced)
        watched.awake = True
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    check(shop)


@pytest.mark.parametrize("replaced", [False, True], ids=["original", "replaced"])
def test_whoever_starts_it_by_its_id_is_undone(tmp_path: Path, *, replaced: bool) -> None:
    """Once, at each call of the rollback in turn: the original, or what an update put in its place."""
    number, started = 1, 0
    while True:
        number += 7
        shop = Shop(BackupStore(tmp_path / str(number)))
        shop.engine.on_start("shop", spoil)
        found: list[str] = []
        watched = Supervised(shop.engine, shop.id, at=number, times=1)
        with shop.rollback(watched, verify=None) as tx:
            found.append(update(shop, replaced=replaced))
            watched._references = (found[0],)
            watched.awake = True
            raise RollbackRequested
        assert tx.status is Status.ROLLED_BACK, number
        check(shop)
        started += watched.starts
        if watched.is_over:
            break
    assert started > 1


def test_one_that_is_started_again_and_again_is_an_error_that_names_its_unit(tmp_path: Path) -> None:
    """It is stopped a few times; then the rollback fails, and can be finished once the unit is stopped."""
    shop = Shop(BackupStore(tmp_path))
    shop.engine.remove_container("shop", force=True)
    labels = {"PODMAN_SYSTEMD_UNIT": "shop.service"}
    own = shop.engine.run("shop", image="shop:1", volumes={"orders": "/data"}, labels=labels)
    watched = Supervised(shop.engine, own)
    fails = pytest.raises(RollbackFailedError, match=r"systemctl stop shop\.service")
    with fails as failed, shop.rollback(watched, verify=None):
        shop.engine.volume("orders").delete("/table")
        watched.awake = True
        raise LookupError
    assert 4 <= watched.starts < 40
    assert "restore(" in str(failed.value)
    watched.awake = False
    (done,) = recover(store=shop.store, client=watched)
    assert done.outcome == "rolled back"
    assert shop.engine.volume("orders").read("/table") == b"rows"
    assert shop.engine.container("shop").status == "running"


def test_one_that_makes_a_container_of_its_name_gives_way(tmp_path: Path) -> None:
    """A quadlet runs a new container of the name; it is stopped and removed, and the volume filled again."""
    shop = Shop(BackupStore(tmp_path))

    class Quadlet(FailingEngine):
        """An engine on which somebody makes a container once a program is started in a helper."""

        made = False

        def exec(self, ref: str, command: Sequence[str], *, stdin: bool = False) -> Process:
            """Begin a program; the first that is fed fills a volume."""
            if stdin and not self.made:
                self.made = True
                shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
                shop.engine.volume("orders").write("/half", "seen")
            return super().exec(ref, command, stdin=stdin)

    quadlet = Quadlet(shop.engine)
    with shop.rollback(quadlet, verify=None, way="helper") as tx:
        shop.break_it()
        raise RollbackRequested
    assert quadlet.made
    assert tx.status is Status.ROLLED_BACK
    check(shop)


def test_a_state_that_no_restore_mends_is_said_to_be_such(tmp_path: Path) -> None:
    """The container is back and ends each time: the advice is `recover`, and no restore."""
    shop = Shop(BackupStore(tmp_path))
    with pytest.raises(RollbackFailedError) as failed, shop.rollback(verify=None) as tx:
        shop.engine.update_container("shop", {"RestartPolicy": {"Name": "no"}})
        shop.engine.on_start("shop", lambda container: container.exit(3))
        shop.engine.stop_container("shop")
        raise LookupError
    assert tx.status is Status.FAILED
    assert "another restore would end the same" in str(failed.value)
    assert "docker_rollback.restore(" not in str(failed.value)
    assert all("restore(" not in todo for todo in tx.outcome.to_do)


class Makes(FailingEngine):
    """An engine on which somebody makes a container of the shop's name right before it gets its name again.

    Args:
        engine: the engine.
        times: how often.
    """

    def __init__(self, engine: FakeEngine, times: int) -> None:
        super().__init__(engine)
        self._fake, self._left = engine, times
        self.awake = False

    def rename_container(self, ref: str, name: str) -> None:
        """Rename a container, once somebody has made another one."""
        if self.awake and name == "shop" and self._left:
            self._left -= 1
            self._fake.run("shop", image="shop:2", start=False)
        super().rename_container(ref, name)


@pytest.mark.parametrize("replaced", [False, True], ids=["original", "replaced"])
@pytest.mark.parametrize("times", [1, 3])
def test_one_that_is_made_at_the_last_moment_gives_way(tmp_path: Path, times: int, *, replaced: bool) -> None:
    """It is renamed away like what stood there before, and goes in the end."""
    shop = Shop(BackupStore(tmp_path))
    watched = Makes(shop.engine, times)
    with shop.rollback(watched, verify=None) as tx:
        update(shop, replaced=replaced)
        watched.awake = True
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    check(shop)


def test_one_that_is_made_again_and_again_is_an_error(tmp_path: Path) -> None:
    """It names the container and what may make it; the backup stays."""
    shop = Shop(BackupStore(tmp_path))
    watched = Makes(shop.engine, 1_000)
    with pytest.raises(RollbackFailedError) as failed, shop.rollback(watched, verify=None):
        update(shop, replaced=True)
        watched.awake = True
        raise RollbackRequested
    assert "container 'shop': somebody created it while another container of its name was restored" in str(failed.value)
    assert len(shop.store.list()) == 1


def test_a_capture_that_could_not_be_given_up_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may be down then, which a second backup would record as its state."""
    shop = Shop(BackupStore(tmp_path))
    watched = Meddling(shop, at=1, stops=False)
    tidy_up = VolumeArchiver.remove_left_over

    def fail(archiver: VolumeArchiver) -> None:
        if watched.starts:
            shop.engine.stop_container("shop")
            raise EngineError("list containers", "made to fail")
        tidy_up(archiver)

    with monkeypatch.context() as patched:
        patched.setattr(VolumeArchiver, "remove_left_over", fail)
        with pytest.raises(CaptureError, match="somebody else started it") as failed, shop.timed(watched):
            pytest.fail("it was entered")
    assert "cleaning up failed too" in " ".join(failed.value.__notes__)
    assert len(shop.store.journal.names()) == 1
    shop.recover()
    assert shop.engine.container("shop").status == "running"
    assert shop.store.journal.names() == []
    shop.check_nothing_left()


def test_a_capture_is_not_tried_again_if_what_ran_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup records what it finds: it never takes a service that went down meanwhile for one that was stopped."""
    shop = Shop(BackupStore(tmp_path))
    watched = Meddling(shop, at=1, stops=False)
    give_up = JournalledCapture.discard

    def end_after(capture: JournalledCapture, operation: Operation) -> list[Removal]:
        removed = give_up(capture, operation)
        shop.engine.stop_container("shop")
        return removed

    monkeypatch.setattr(JournalledCapture, "discard", end_after)
    with pytest.raises(CaptureError, match="somebody else started it") as failed, shop.timed(watched):
        pytest.fail("it was entered")
    assert "no longer run: shop" in " ".join(failed.value.__notes__)
    assert shop.store.ids() == []
