"""Whatever somebody prunes while other containers, or the state of a failed update, are stopped: nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from docker_rollback import RecoveryFailedError, RollbackRequested, Status
from docker_rollback._capture import CaptureOptions
from docker_rollback.errors import CaptureError
from docker_rollback.testing import FailingEngine, Killed
from tests.unit.mortal import Life, MortalEngine
from tests.unit.pruning import (
    PRUNES,
    Pruned,
    PrunedBack,
    check_equal,
    check_serving,
    entering_fails,
    shop_with_a_layer,
    way_back,
)
from tests.unit.shop import Shop, parts


def shop_with_a_neighbour(folder: Path) -> Shop:
    """Return a service, and another container that writes to its volume and to its own writable layer."""
    shop = shop_with_a_layer(folder)
    shop.engine.run(
        "reports", image="shop:1", volumes={"orders": "/orders"}, networks=["back"], restart="unless-stopped"
    )
    shop.engine.container("reports").write("/own", "only copy too")
    return shop


def check_both(shop: Shop, story: str) -> None:
    """Assert that both containers run as they did, and that nothing of ours is left over."""
    check_serving(shop, story)
    other = shop.engine.inspect_container("reports")
    assert other["State"]["Running"], story
    assert shop.engine.container("reports").read("/own") == b"only copy too", story
    assert other["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped", story
    assert list(other["NetworkSettings"]["Networks"]) == ["back"], story


@pytest.mark.parametrize("kind", ["containers", "networks", "everything"])
def test_a_prune_on_the_way_in_loses_no_container_that_shares_a_volume(tmp_path: Path, kind: str) -> None:
    """Before any call while both are stopped: both run again, and the error names each that was removed."""
    k = removals = 0
    while True:
        k += 1
        shop = shop_with_a_neighbour(tmp_path / str(k))
        before = str(shop.engine.inspect_container("reports")["Id"])
        engine = Pruned(shop.engine, PRUNES[kind], k)
        error = entering_fails(shop, engine, shared="stop")
        check_both(shop, engine.story())
        if shop.engine.inspect_container("reports")["Id"] != before:
            removals += 1
            assert isinstance(error, CaptureError), engine.story()
            assert "reports" in error.container, engine.story()
            assert "somebody removed it while it was stopped" in str(error)
        if not engine.pruned:
            break
    assert error is None
    assert k > 12, "the backup was seen to make calls"
    assert (removals > 0) == (kind != "networks")


def test_a_prune_and_a_death_on_the_way_in_lose_no_container_that_shares_a_volume(tmp_path: Path) -> None:
    """Where our process dies right after somebody pruned, recovery brings both back."""
    k = 0
    while True:
        k += 1
        shop = shop_with_a_neighbour(tmp_path / str(k))
        engine = Pruned(shop.engine, PRUNES["everything"], k, dies=True)
        with suppress(Killed), shop.timed(engine, shared="stop"):
            pass
        if not engine.pruned:
            break
        shop.recover()
        check_both(shop, engine.story())
    assert k > 12, "the backup was seen to make calls"


def test_no_death_leaves_an_image_of_a_container_that_shares_a_volume(tmp_path: Path) -> None:
    """What is committed while it runs is removed, also if nothing was recorded of it before the death."""
    k, without_record = 0, 0
    while True:
        k += 1
        shop = shop_with_a_neighbour(tmp_path / str(k))
        engine = FailingEngine(shop.engine, at=k, kill=True)
        with suppress(Killed), shop.timed(engine, shared="stop"):
            pass
        if engine.struck is None:
            break
        names = [name for named in shop.engine.image_names().values() for name in named]
        without_record += any("reports-live" in name for name in names) and not engine.called("stop_container")
        shop.recover()
        check_both(shop, engine.story())
    assert without_record > 1, "it died with the image of the other container, and before it was recorded"


@pytest.mark.parametrize("kind", ["everything", "rm -v"])
def test_a_prune_while_a_failed_update_is_kept_does_not_fail_the_rollback(tmp_path: Path, kind: str) -> None:
    """Before any call of it: all comes back, and what is kept, if it could be kept, is whole."""
    k, kept = -1, 0
    while True:
        k += 5
        shop = shop_with_a_layer(tmp_path / str(k))
        engine, status = way_back(shop, kind, k, keep_failed=True)
        assert status is Status.ROLLED_BACK, engine.story()
        check_equal(shop, engine.story())
        for backup in shop.store.list():
            shop.store.verify(backup.id)
            kept += bool(backup.kept_for)
        if not engine.pruned:
            break
    assert k > 30, "the rollback was seen to make calls"
    assert kept > 5


def test_a_prune_while_recovery_keeps_what_it_finds_loses_nothing(tmp_path: Path) -> None:
    """Before any call of it: what was found runs again if recovery fails, and the next recovery finishes it."""
    k, failed = 0, 0
    while True:
        k += 3
        shop = shop_with_a_layer(tmp_path / str(k))
        life = Life()
        with suppress(Killed), shop.timed(MortalEngine(shop.engine, life)):
            shop.engine.volume("orders").write("/migrated", "half")
            raise life.die()
        engine = PrunedBack(shop.engine, PRUNES["everything"], k)
        engine.begin()
        with suppress(RecoveryFailedError):
            shop.recover(engine)
        if shop.store.journal.names():
            failed += 1
            assert shop.engine.inspect_container("shop")["State"]["Running"], engine.story()
            assert shop.engine.container("shop").read("/layer") == b"only copy", engine.story()
            shop.recover()
        check_equal(shop, engine.story())
        kept = [backup for backup in shop.store.list() if backup.kept_for]
        assert kept, engine.story()
        if not engine.pruned:
            break
    assert failed > 0
    assert k > 20, "the recovery was seen to make calls"


def shop_with_many_changes(folder: Path) -> Shop:
    """Return a service that has written so many files that its image is exported."""
    shop = shop_with_a_layer(folder)
    for number in range(100):
        shop.engine.container("shop").write(f"/layer-{number}", "of its own")
    return shop


class RemovedAtLast(FailingEngine):
    """An engine on which somebody removes a stopped container once its image is exported."""

    armed = True

    def save_image(self, ref: str) -> Iterator[bytes]:
        """Export an image."""
        yield from super().save_image(ref)
        if self.armed and not self._engine.inspect_container("shop")["State"]["Running"]:
            self._engine.remove_container("shop")


def test_a_removal_after_the_capture_is_noticed_before_the_block(tmp_path: Path) -> None:
    """Without resume the container stays stopped until the backup is durable; if it is gone then, entering fails."""
    shop = shop_with_many_changes(tmp_path)
    error = entering_fails(shop, RemovedAtLast(shop.engine), resume=False)
    assert isinstance(error, CaptureError)
    assert "somebody removed it while it was stopped" in str(error)
    assert shop.store.list() == []
    check_serving(shop, str(error))


def test_a_removal_of_what_runs_again_is_no_failure_of_the_capture(tmp_path: Path) -> None:
    """With resume its part is done by then: the backup is of the moment in which it was stopped."""
    shop = shop_with_many_changes(tmp_path)

    class Removed(FailingEngine):
        def save_image(self, ref: str) -> Iterator[bytes]:
            """Export an image."""
            yield from super().save_image(ref)
            if self.called("commit_container"):
                shop.engine.remove_container("shop", force=True)

    engine = Removed(shop.engine)
    built = parts(engine, shop.store, shop.clock)
    with built.preflight.holding(["shop"]) as report:
        taken = built.capture.take(report, "20260102T030405Z-shop-a1b2c3", CaptureOptions())
    assert len(engine.called("save_image")) == 2
    assert shop.engine.list_containers() == []
    assert shop.store.ids() == [taken.id]


def test_a_removal_after_the_state_of_an_update_was_captured_loses_no_kept_state(tmp_path: Path) -> None:
    """What is kept is about to be undone, so the removal of its container changes nothing."""
    shop = shop_with_many_changes(tmp_path)
    engine = RemovedAtLast(shop.engine)
    engine.armed = False
    tx = shop.timed(engine, keep_failed=True)
    with tx:
        shop.break_it()
        engine.armed = True
        shop.engine.container("shop").write("/trace", "of the update")
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert tx.outcome.kept is not None
    check_equal(shop, "")
