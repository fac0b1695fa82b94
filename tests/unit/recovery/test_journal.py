"""The record of an operation: what it says, and what happens to containers if it cannot be written."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
from attrs import evolve

from docker_rollback import BackupStore, RollbackRequested, StoreError, VolumeArchiver, backup, recover, restore
from docker_rollback._model.backup import Detached, Resting
from docker_rollback._recovery.operation_record import Record
from docker_rollback._recovery.operations import Operation
from docker_rollback._restore import Restorer
from docker_rollback._store.files import Disk
from docker_rollback.parts import Operations, Recovery
from docker_rollback.testing import FailingEngine, Killed
from docker_rollback.testing._failing.calls import CHANGING
from tests.unit.recovery.test_recovery import die_in_the_body
from tests.unit.shop import Shop, parts
from tests.unit.town import Town


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


CONCERNED: list[tuple[list[str], str | None, bool]] = [
    ([], None, False),
    (["desk"], None, False),
    (["desk"], "town", False),
    (["desk", "shop"], None, True),
    (["1" * 64], None, True),
    (["1" * 12], None, True),
    ([], "shop", True),
]


@pytest.mark.parametrize(("references", "project", "concerns"), CONCERNED)
def test_an_operation_concerns_its_containers_and_its_project(
    shop: Shop, references: list[str], project: str | None, *, concerns: bool
) -> None:
    """Nobody finishes that of others."""
    containers = (Resting("1" * 64, "shop", "stop", "then"), Resting("2" * 64, "lamp", "stop", "then"))
    record = Record("b1", "updating", shop.clock.now, "host", 1, "engine", containers, project="shop")
    assert record.concerns(references, project) == concerns
    alone = evolve(record, project=None)
    assert alone.concerns(references, project) == (concerns and project is None)


def test_the_id_of_a_backup_says_what_it_is_of(shop: Shop, town: Town) -> None:
    """Of a project its name, else that of the first container."""
    with town.rollback() as project:
        assert re.fullmatch(r"\d{8}T\d{6}Z-shop-[0-9a-f]{6}", project.backup.id)
    shop.engine.run("desk", image="shop:1")
    taken = backup("desk", client=shop.engine, store=shop.store)
    assert re.fullmatch(r"\d{8}T\d{6}Z-desk-[0-9a-f]{6}", taken.id)


@pytest.mark.parametrize(("keep_found", "kept"), [(True, True), (False, False)])
def test_a_recovery_keeps_the_state_of_an_update_unless_told_otherwise(
    shop: Shop, caplog: pytest.LogCaptureFixture, *, keep_found: bool, kept: bool
) -> None:
    """It may hold what people have done since."""
    die_in_the_body(shop, lambda: shop.engine.volume("orders").write("/table", "newer"))
    (done,) = recover(client=shop.engine, store=shop.store, keep_found=keep_found)
    assert (done.kept is not None) == kept
    assert len(shop.store.ids()) == 1 + kept
    told = [record.levelname for record in caplog.records if record.message.startswith("kept the state that operation")]
    assert told == ["WARNING"] * kept
    shop.check_restored()


def test_half_of_a_restore_is_no_state_to_keep(shop: Shop) -> None:
    """It died on the way back, and nobody has touched anything since."""
    dying = FailingEngine(shop.engine, at=1, kill=True, verbs={"create_network"})
    with pytest.raises(Killed), shop.rollback(dying, verify=None):
        shop.break_it()
        raise RollbackRequested
    (done,) = recover(client=shop.engine, store=shop.store)
    assert (done.outcome, done.kept) == ("rolled back", None)
    assert len(shop.store.ids()) == 1
    shop.check_restored()


def test_what_joins_a_project_on_the_way_back_is_not_the_updates(town: Town) -> None:
    """A second attempt does not count it either; a rollback that begins later does."""
    taken = backup(project="shop", client=town.engine, store=town.store)
    operation = Operations(town.engine, town.store).restoring(taken)
    came = operation.record.came
    late = town.run("late")
    operation.enter("rolling back")
    operation.enter("restored")
    assert came is not None
    assert operation.record.came == came
    assert late not in came.containers
    operation.enter("updating")
    assert operation.record.came == came
    operation.enter("rolling back")
    assert operation.record.came is not None
    assert late in operation.record.came.containers


def test_parts_work_without_a_reporter(shop: Shop) -> None:
    """Who composes them himself need not want reports."""
    built = parts(shop.engine, shop.store, shop.clock)
    recovery = Recovery(
        shop.engine,
        shop.store,
        Operations(shop.engine, shop.store),
        preflight=built.preflight,
        capture=built.capture,
        restorer=Restorer(shop.engine, shop.store),
        archiver=VolumeArchiver(shop.engine, shop.store),
    )
    with recovery.holding(["shop"]) as (report, _):
        operation, taken = recovery.begin(report, then="committed")
        recovery.settle(operation, taken, rolled_back=False)
    assert shop.store.ids() == [taken.id]
    assert shop.store.journal.names() == []


def test_a_capture_records_the_runs_that_it_has_started(tmp_path: Path) -> None:
    """If it has to be undone after that, only what has ended since is started."""
    found: list[Record] = []

    class Looking(Disk):
        def rename(self, source: Path, target: Path) -> None:
            """Rename a file; before the first hold, look up what is recorded."""
            if target.parent.name == "holds":
                found.append(written(shop))
            super().rename(source, target)

    shop = Shop(BackupStore(tmp_path / "store", disk=Looking()))
    before = shop.before["State"]["StartedAt"]
    shop.clock.advance(60.0)
    with shop.rollback():
        started = shop.engine.inspect_container("shop")["State"]["StartedAt"]
    (record,) = found
    assert record.phase == "capturing"
    assert [one.started for one in record.containers] == [started]
    assert started != before
