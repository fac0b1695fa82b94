"""The room that a backup needs, known before it is taken: `check()` counts volumes too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from docker_rollback import BackupStore, backup, rollback
from docker_rollback._inspection.preflight_report import Report
from docker_rollback._volumes.capture import size_survey
from docker_rollback.errors import StoreFullError
from tests.unit.shop import Shop

ROWS = bytes(5_000_000)


def look(shop: Shop, **options: object) -> Report:
    """Return what a rollback of the service says before it is entered."""
    return rollback("shop", client=shop.engine, store=shop.store, **options).check()  # type: ignore[arg-type] # any


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int | None], None]:
    """Give what says how much room the disk has."""

    def have(size: int, files: int | None) -> None:
        monkeypatch.setattr("docker_rollback._store.files.Disk.room", lambda *_: size)
        monkeypatch.setattr("docker_rollback._store.files.Disk.inodes", lambda *_: files)

    return have


def test_a_volume_that_was_never_archived_is_looked_at(shop: Shop) -> None:
    """Its size is near that of its files, and the room counts the images and the volumes."""
    before = look(shop)
    shop.engine.volume("orders").write("/large", ROWS)
    report = look(shop)
    assert report.sizes.keys() == report.volumes.keys()
    size, was = report.sizes["orders"], before.sizes["orders"]
    assert size is not None
    assert was is not None
    assert len(ROWS) <= size - was <= len(ROWS) + 10_000
    assert report.room - before.room == pytest.approx(len(ROWS) / 2, rel=0.01)
    assert (report.shortage, report.unsized) == (None, ())


def test_the_last_archive_tells_how_large_a_volume_is(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at it again, and the room is what its archive took."""
    shop.engine.volume("orders").write("/large", ROWS)
    made = backup("shop", client=shop.engine, store=shop.store)
    monkeypatch.setattr(size_survey, "look", lambda *_: pytest.fail("it is known"))
    report = look(shop)
    archive = made.volume("orders")
    assert report.sizes["orders"] == archive.size
    others = [sum(one.stored) for one in made.volumes if one.name != "orders"]
    images = report.room - sum(archive.stored) - sum(others)
    assert images == look(shop, exclude=["orders"]).room - sum(others)


def test_what_is_excluded_takes_no_room(shop: Shop) -> None:
    """Paths that are left out do not count, and an archive with them tells nothing."""
    shop.engine.volume("orders").write("/large", ROWS)
    backup("shop", client=shop.engine, store=shop.store)
    size = look(shop, exclude=["orders:large"]).sizes["orders"]
    assert size is not None
    assert size < len(ROWS)


def test_a_volume_of_too_many_names_is_of_unknown_size(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look ends, and the report says whose room is not counted."""
    monkeypatch.setattr(size_survey, "MOST_NAMES", 1)
    report = look(shop)
    assert report.sizes["orders"] is None
    assert "orders" in report.unsized
    assert report.shortage is None


def test_a_store_that_has_too_little_room_is_named_before(shop: Shop, free: Callable[[int, int | None], None]) -> None:
    """The report says how much is lacking, and entering refuses, before anything is stopped."""
    shop.engine.volume("orders").write("/large", ROWS)
    room = look(shop).room
    free(room - 1, None)
    shortage = look(shop).shortage
    assert shortage is not None
    assert f"{room / 1e6:,.2f} MB are needed" in shortage
    backup("shop", client=shop.engine, store=shop.store)
    known, state = look(shop).room, shop.engine.inspect_container("shop")["State"]
    free(known - 1, None)
    with pytest.raises(StoreFullError) as caught, shop.rollback():
        pytest.fail("there is no update")
    assert (caught.value.needed, caught.value.free) == (known, known - 1)
    assert shop.engine.inspect_container("shop")["State"] == state


@pytest.mark.parametrize(("files", "told"), [(40, "inodes for 40"), (1000, None), (None, None)])
def test_a_store_that_has_too_few_inodes_is_named_before(
    shop: Shop, free: Callable[[int, int | None], None], files: int | None, told: str | None
) -> None:
    """Some file systems run out of inodes first, and others have no such limit."""
    free(1 << 40, files)
    shortage = look(shop).shortage
    assert told in shortage if told and shortage else shortage is told


def test_the_disk_tells_how_many_files_may_be_made(tmp_path: Path) -> None:
    """A store's check returns what the disk says of both."""
    size, files = BackupStore(tmp_path / "store").check()
    assert size > 0
    assert files is None or files > 0
