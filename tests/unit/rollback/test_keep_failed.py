"""The state of an update that failed is kept before it is undone, and that never stands in the way of the rollback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docker_rollback import (
    BackupStore,
    Rollback,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UpdateRejectedError,
    recover,
    restore,
)
from docker_rollback.testing import FailingEngine, Killed
from tests.unit.recovery.test_recovery import check_clean, die_in_the_body
from tests.unit.shop import Shop, UpdateFailedError


def failed_update(shop: Shop, **options: Any) -> Rollback:
    """Roll back an update that broke the shop, and return how."""
    with shop.rollback(keep_failed=True, **options) as tx:
        shop.break_it()
        raise RollbackRequested
    return tx


def test_what_the_update_left_is_kept(shop: Shop) -> None:
    """Its containers and its data, as a backup that can be restored; everything is as it was all the same."""
    tx = failed_update(shop)
    shop.check_restored()
    kept = tx.outcome.kept
    assert kept is not None
    assert "-failed-" in kept
    found = shop.store.get(kept)
    assert found.kept_for == ("shop",)
    assert [one.image.reference for one in found.containers] == ["shop:2"]
    assert [step.step for step in tx.outcome.steps][-4:] == ["keep", "restore", "verify again", "finish"]
    assert not shop.engine.has_image(found.containers[0].image.tag), "the store has it"
    restore(kept, client=shop.engine, store=shop.store)
    assert shop.engine.container("shop").image == "shop:2"
    assert shop.engine.volume("orders").read("/migrated") == b"half"


def test_a_note_names_it(shop: Shop) -> None:
    """Whoever sees the exception alone finds the backup, and the exception is untouched."""
    body = UpdateFailedError("no")
    with pytest.raises(UpdateFailedError) as raised, shop.rollback(keep_failed=True) as tx:
        shop.break_it()
        raise body
    assert raised.value is body
    assert f"the state of the failed update is kept as backup {tx.outcome.kept}" in body.__notes__[0]
    assert "rolled back to backup" in body.__notes__[1]


def test_an_update_by_replace_is_kept(shop: Shop) -> None:
    """A rejected one as well, with the original that stands aside, which comes back."""
    shop.engine.on_start("shop:2", lambda container: container.exit(4))
    with pytest.raises(UpdateRejectedError), shop.rollback(keep_failed=True) as tx:
        tx.replace("shop", image="shop:2")
    shop.check_restored()
    assert shop.engine.container("shop").id == shop.id
    assert tx.outcome.kept is not None
    names = [one.name for one in shop.store.get(tx.outcome.kept).containers]
    assert "shop" in names


def test_an_update_that_stands_keeps_nothing(shop: Shop) -> None:
    """There is no failed state."""
    with shop.rollback(keep_failed=True) as tx:
        pass
    assert tx.outcome.kept is None
    assert [found.id for found in shop.store.list()] == [tx.backup.id]


def test_failed_states_push_out_no_good_one(shop: Shop) -> None:
    """With one backup to keep, one of each kind stays: the last good state, and the last failed one."""
    done: list[Rollback] = []
    for _ in range(3):
        done.append(failed_update(shop, keep=1))
        shop.clock.advance(60)
    assert {found.id for found in shop.store.list()} == {done[-1].backup.id, done[-1].outcome.kept}
    shop.check_restored()


def test_what_was_added_by_the_update_makes_no_series_of_its_own(shop: Shop) -> None:
    """A failed state with another container in it is thinned out like the others."""
    for number in range(3):
        with shop.rollback(keep_failed=True, keep=1):
            shop.engine.run(f"migrator-{number}", image="shop:2", volumes={"orders": "/data"})
            raise RollbackRequested
        shop.engine.remove_container(f"migrator-{number}", force=True)
        shop.clock.advance(60)
    assert sorted(len(found.containers) for found in shop.store.list()) == [1, 2]


def test_wherever_keeping_fails_the_rollback_goes_on(tmp_path: Path) -> None:
    """For every call that changes something in it: everything is as it was, and the report and a note say it failed.

    Every second one takes effect all the same, and only its answer is lost.
    """
    entered, left = calls(Shop(BackupStore(tmp_path / "count")))
    assert left > entered + 4, "keeping was seen to make calls"
    for k in range(entered + 1, left + 1):
        shop = Shop(BackupStore(tmp_path / str(k)))
        failing = FailingEngine(shop.engine, at=k, after=k % 2 == 0)
        body = UpdateFailedError()
        tx = shop.rollback(failing, keep_failed=True)
        with pytest.raises(UpdateFailedError), tx:
            shop.break_it()
            raise body
        assert tx.status is Status.ROLLED_BACK, failing.story()
        shop.check_restored()
        if tx.outcome.kept is None:
            assert any(problem.step == "keep" for problem in tx.outcome.problems), failing.story()
            assert "could not be kept" in body.__notes__[0]
        assert recover(client=shop.engine, store=shop.store) == ()
        check_clean(shop)


def calls(shop: Shop) -> tuple[int, int]:
    """Return how many calls that change something have been made when the keeping begins, and when it ends."""
    counting = FailingEngine(shop.engine)
    begun: list[int] = []
    with shop.rollback(counting, keep_failed=True) as tx:
        shop.break_it()
        begun.append(counting.count)
        raise RollbackRequested
    # Putting back begins by holding the good image by its name.
    holds = [call.number or 0 for call in counting.called("tag_image") if tx.backup.id in str(call.arguments)]
    return begun[0], next(number for number in holds if number > begun[0]) - 1


def test_wherever_it_dies_while_it_is_kept_recovery_finishes_it(tmp_path: Path) -> None:
    """For every call that changes something in it: recovery keeps what it finds, and rolls back; nothing is left."""
    begun, ended = calls(Shop(BackupStore(tmp_path / "count")))
    for k in range(begun + 1, ended + 1):
        shop = Shop(BackupStore(tmp_path / str(k)))
        failing = FailingEngine(shop.engine, at=k, after=k % 2 == 0, kill=True)
        with pytest.raises(Killed), shop.rollback(failing, keep_failed=True):
            shop.break_it()
            raise RollbackRequested
        (done,) = recover(client=shop.engine, store=shop.store)
        assert done.outcome == "rolled back", failing.story()
        assert done.kept is not None
        assert shop.store.get(done.kept).kept_for == ("shop",)
        shop.check_restored()
        check_clean(shop)


def test_a_backup_that_cannot_be_read_is_found_out_before_anything_stops(shop: Shop) -> None:
    """The failed update runs on: nothing is kept of it by stopping it for a rollback that cannot be."""
    with pytest.raises(RollbackFailedError), shop.rollback(keep_failed=True) as tx:
        shop.break_it()
        for blob in (shop.store.path / "blobs" / "sha256").iterdir():
            blob.chmod(0o600)
            blob.write_bytes(b"rotten")
        raise RollbackRequested
    assert tx.outcome.kept is None
    assert shop.engine.container("shop").image == "shop:2"
    assert shop.engine.container("shop").status == "running"


def test_what_recovery_keeps_pushes_out_no_good_one(shop: Shop) -> None:
    """It is the same mechanism: a state that was found counts for itself too."""
    die_in_the_body(shop, shop.break_it)
    (done,) = recover(client=shop.engine, store=shop.store)
    shop.clock.advance(60)
    with shop.rollback(keep=1) as tx:
        pass
    assert {found.id for found in shop.store.list()} == {done.kept, tx.backup.id}
