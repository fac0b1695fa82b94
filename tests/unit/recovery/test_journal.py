"""The record of an operation: what it says, and what happens to containers if it cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from docker_rollback import BackupStore, StoreError, backup, restore
from docker_rollback._model.backup import Detached, Resting
from docker_rollback._recovery.operation_record import Record
from docker_rollback._recovery.operations import Operation
from docker_rollback._store.files import Disk
from docker_rollback.parts import Operations
from docker_rollback.testing import FailingEngine, Killed
from docker_rollback.testing._failing.calls import CHANGING
from tests.unit.shop import Shop


def begun(shop: Shop) -> Operation:
    """Return an operation on the service that has just begun."""
    service = Resting(shop.id, "shop", "stop", "then")
    return Operations(shop.engine, shop.store).begin("20260102T030405Z-shop-a1b2c3", [service], ["orders"])


def written(shop: Shop) -> Record:
    """Return the only record in the store."""
    (name,) = shop.store.journal.names()
    record = shop.store.journal.get(name, Record)
    assert record is not None
    return record


def test_another_container_is_recorded_once_as_it_was_stopped_last(shop: Shop) -> None:
    """Recovery starts each one once, by what was known of it before its last stop."""
    operation = begun(shop)
    desk, lamp = Resting("1" * 64, "desk", "stop", "then"), Resting("2" * 64, "lamp", "stop", "then")
    later = Resting("1" * 64, "desk", "pause", "later")
    for other in (desk, lamp, later):
        operation.note_other(other)
    assert written(shop).guests == (lamp, later)


def test_a_detached_container_keeps_the_first_record_of_each_network(shop: Shop) -> None:
    """A second attempt finds it without its address."""
    operation = begun(shop)
    front = Detached("1" * 64, "desk", "front", {"IPAMConfig": {"IPv4Address": "10.0.0.9"}})
    inner = Detached("1" * 64, "desk", "inner")
    other = Detached("2" * 64, "lamp", "front")
    for found in (front, inner, other, Detached("1" * 64, "desk", "front")):
        operation.note_detached(found)
    assert written(shop).detached == (front, inner, other)


def test_a_restore_whose_backup_cannot_be_held_touches_nothing(tmp_path: Path) -> None:
    """A prune could remove the backup in the midst of it."""

    class Unholding(Disk):
        def rename(self, source: Path, target: Path) -> None:
            """Rename a file, unless it would be a hold."""
            if target.parent.name == "holds":
                raise OSError(errno.EIO, "Input/output error")
            super().rename(source, target)

    shop = Shop(BackupStore(tmp_path / "store", disk=Unholding()))
    taken = backup("shop", client=shop.engine, store=shop.store)
    watching = FailingEngine(shop.engine)
    with pytest.raises(StoreError, match="Input/output error"):
        restore(taken, client=watching, store=shop.store)
    assert [call.verb for call in watching.calls if call.verb in CHANGING] == []
    assert shop.store.journal.names() == []


@pytest.mark.parametrize("restore_tags", [True, False])
def test_who_continues_a_restore_decides_about_image_names(shop: Shop, *, restore_tags: bool) -> None:
    """Not who began it."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    before = shop.engine.inspect_image("shop:1")["Id"]
    shop.engine.add_image("shop:1", files={"/app": "version 1, built again"})
    moved = shop.engine.inspect_image("shop:1")["Id"]
    dying = FailingEngine(shop.engine, at=1, kill=True, verbs={"rename_container"})
    with pytest.raises(Killed):
        restore(taken, client=dying, store=shop.store, restore_tags=not restore_tags)
    restore(taken, client=shop.engine, store=shop.store, restore_tags=restore_tags)
    assert shop.engine.inspect_image("shop:1")["Id"] == (before if restore_tags else moved)
    assert shop.store.journal.names() == []
