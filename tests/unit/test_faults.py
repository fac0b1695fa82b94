"""Wherever the engine fails, the service runs or the backup says how to get it back, and no error is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker_rollback import BackupStore, DockerRollbackError, RollbackFailedError, RollbackRequested, Status, restore
from docker_rollback.testing import FailingEngine
from tests.unit.shop import Shop, UpdateFailedError


def fresh(folder: Path, number: int) -> Shop:
    """Return a new service with a new store."""
    return Shop(BackupStore(folder / f"store-{number}"))


@pytest.mark.parametrize("after", [False, True])
def test_a_failure_on_the_way_in_leaves_the_service_as_it_was(tmp_path: Path, *, after: bool) -> None:
    """For every call of a backup that changes something: where it fails, the container runs, the error is ours."""
    k = 0
    while True:
        k += 1
        shop = fresh(tmp_path, k)
        failing = FailingEngine(shop.engine, at=k, after=after)
        tx = shop.rollback(failing)
        try:
            with tx:
                pass
        except DockerRollbackError:
            assert tx.status is Status.FAILED
            assert shop.store.list() == [], failing.story()
        if failing.struck is None:
            break
        assert shop.engine.inspect_container("shop")["Id"] == shop.id, failing.story()
        shop.check_restored()
    assert k > 8, "the backup was seen to make calls"


@pytest.mark.parametrize("after", [False, True])
def test_a_failure_on_the_way_back_loses_nothing(tmp_path: Path, *, after: bool) -> None:
    """For every call of a rollback that changes something: both errors are there, and a restore finishes the job."""
    entered, left = calls_of_a_rollback(fresh(tmp_path, 0))
    assert left > entered + 8, "the rollback was seen to make calls"
    for k in range(entered + 1, left + 1):
        shop = fresh(tmp_path, k)
        failing = FailingEngine(shop.engine, at=k, after=after)
        body = UpdateFailedError()
        tx = shop.rollback(failing)
        with pytest.raises((UpdateFailedError, RollbackFailedError)) as raised, tx:
            shop.break_it()
            raise body
        if isinstance(raised.value, RollbackFailedError):
            assert raised.value.__cause__ is body
            assert tx.status is Status.FAILED
            restored = restore(raised.value.backup_id, client=shop.engine, store=shop.store)
            assert restored == ["shop"], failing.story()
        else:
            # What failed did no harm, or everything stood again already.
            assert tx.status is Status.ROLLED_BACK
        shop.check_restored()


def calls_of_a_rollback(shop: Shop) -> tuple[int, int]:
    """Return how many calls that change something have been made when the body starts, and when all is over."""
    counting = FailingEngine(shop.engine)
    with shop.rollback(counting):
        entered = counting.count
        shop.break_it()
        raise RollbackRequested
    return entered, counting.count
