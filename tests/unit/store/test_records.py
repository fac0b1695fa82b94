"""Notes beside the backups: whole or not there, readable, and written even where the disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from docker_rollback import BackupStore, CorruptBackupError, StoreError
from docker_rollback._model.backup import Resting
from docker_rollback._store.files import Disk
from docker_rollback.errors import UnsupportedFormatError

NOTE = Resting(id="1" * 64, name="wéb", how="stop", started="2026-01-02T03:04:05Z", policy={"Name": "always"})


def test_a_note_comes_back_as_it_was(store: BackupStore) -> None:
    """What was put is got, by another process's store too; the file is private."""
    store.journal.put("one", NOTE)
    again = BackupStore(store.path)
    assert again.journal.names() == ["one"]
    assert again.journal.get("one", Resting) == NOTE
    assert (store.path / "journal" / "one.json").stat().st_mode & 0o777 == 0o600


def test_a_note_that_is_not_there_is_none(store: BackupStore) -> None:
    """Neither reading nor removing it is an error, not even where the store has never been written."""
    assert store.journal.names() == []
    assert store.journal.get("one", Resting) is None
    store.journal.remove("one")
    assert not store.path.exists()


def test_what_dead_writers_left_is_swept_up(store: BackupStore) -> None:
    """Their half-written files go; notes stay."""
    store.journal.sweep()
    store.journal.put("one", NOTE)
    for name in (".one.json.0123.tmp", ".other.json.0123.tmp"):
        (store.path / "journal" / name).touch()
    store.journal.sweep()
    assert [path.name for path in (store.path / "journal").iterdir()] == ["one.json"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "journal": {"id": 3}}', b"\xff"])
def test_a_damaged_note_is_named(store: BackupStore, data: bytes) -> None:
    """Whatever its file holds, the error is ours and names the file."""
    store.journal.put("one", NOTE)
    (store.path / "journal" / "one.json").write_bytes(data)
    with pytest.raises(CorruptBackupError, match=r"journal/one\.json"):
        store.journal.get("one", Resting)


def test_a_newer_note_is_refused(store: BackupStore) -> None:
    """Its format is named."""
    store.journal.put("one", NOTE)
    (store.path / "journal" / "one.json").write_text('{"format": 999}', encoding="utf-8")
    with pytest.raises(UnsupportedFormatError, match="999"):
        store.journal.get("one", Resting)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "a" * 121, "a\n"])
def test_a_hostile_name_is_refused(store: BackupStore, name: str) -> None:
    """No note is written outside its folder."""
    with pytest.raises(ValueError, match="name"):
        store.journal.put(name, NOTE)


def test_a_full_disk_takes_a_note_from_the_reserve(tmp_path: Path) -> None:
    """The first refusal gives up the store's reserve; the second one comes out, and what was there before stands."""

    class Full(Disk):
        refusals = 0

        def write(self, fd: int, data: bytes | memoryview) -> None:
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().write(fd, data)

    disk = Full()
    store = BackupStore(tmp_path / "store", disk=disk)
    store.journal.put("one", NOTE)
    reserve = store.path / "locks" / "reserve"
    assert reserve.exists()
    disk.refusals = 1
    store.journal.put("two", NOTE)
    assert not reserve.exists()
    disk.refusals = 2
    with pytest.raises(StoreError):
        store.journal.put("two", "another")
    assert store.journal.get("two", Resting) == NOTE
    store.journal.remove("two")
    assert reserve.exists()
