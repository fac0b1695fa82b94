"""A power cut after any call: what was not brought to the disk is lost, and what a caller was told is there."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from docker_rollback._store.files import DISK, Disk
from docker_rollback._store.store import BackupStore
from tests.unit.store import making
from tests.unit.store.making import FailingDisk, StoppedError, image
from tests.unit.store.test_atomic import WORKS, assert_sound


class VolatileDisk(FailingDisk):
    """A disk that forgets, at a power cut, all content and all names that nobody waited for.

    A file has the content of its last `sync`, and a folder the names of its last `sync_folder`; what was there when
    this object was made is on the disk already.

    Args:
        ground: the folder that holds all that is of interest.
        at: the call before which the process dies, from 1 on; none where 0.
    """

    def __init__(self, ground: Path, at: int = 0) -> None:
        super().__init__(at, StoppedError())
        self._contents: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int | None]] = {}
        self._numbers: dict[int, int] = {}
        self._next = itertools.count()
        self._opened: dict[int, Path] = {}
        self._ground = ground
        for path in (ground, *ground.rglob("*")):
            if path.is_file():
                self._contents[self._number(path.stat().st_ino)] = path.read_bytes()
        for path in (ground, *ground.rglob("*")):
            if path.is_dir():
                self._note_names(path)

    def create(self, path: Path) -> int:
        """Make a new file, of which nothing is on the disk yet."""
        fd = super().create(path)
        self._opened[fd] = path
        # An inode may have been another file's before.
        self._numbers[os.fstat(fd).st_ino] = next(self._next)
        return fd

    def reopen(self, path: Path) -> int:
        """Open a file again."""
        fd = super().reopen(path)
        self._opened[fd] = path
        return fd

    def sync(self, fd: int) -> None:
        """Bring the content of a file to the disk."""
        super().sync(fd)
        self._contents[self._number(os.fstat(fd).st_ino)] = self._opened[fd].read_bytes()

    def sync_folder(self, path: Path) -> None:
        """Bring the names in a folder to the disk."""
        super().sync_folder(path)
        self._note_names(path)

    def cut_power(self, target: Path) -> None:
        """Make a folder of what is on the disk now."""
        shutil.rmtree(target, ignore_errors=True)
        self._bring_back(self._ground, target)

    def _number(self, inode: int) -> int:
        if inode not in self._numbers:
            self._numbers[inode] = next(self._next)
        return self._numbers[inode]

    def _note_names(self, folder: Path) -> None:
        with os.scandir(folder) as entries:
            self._names[folder] = {
                entry.name: None if entry.is_dir() else self._number(entry.inode()) for entry in entries
            }

    def _bring_back(self, folder: Path, target: Path) -> None:
        target.mkdir()
        for name, number in self._names.get(folder, {}).items():
            if number is None:
                self._bring_back(folder / name, target / name)
            else:
                (target / name).write_bytes(self._contents.get(number, b""))


SYNC, SYNC_FOLDER = Disk.sync, Disk.sync_folder
"""As they are: while unit tests run, stores do not wait for the disk."""


def test_a_disk_waits_until_the_system_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file and a folder are brought to the disk by a call of their own, and no descriptor stays open."""
    asked: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: asked.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with (tmp_path / "file").open("wb") as file:
        SYNC(DISK, file.fileno())
    SYNC_FOLDER(DISK, tmp_path)
    assert asked == [str(tmp_path / "file"), str(tmp_path)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_disk_lets_go_of_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of it stays in the page cache, so that what is read back comes from the disk."""
    asked: list[tuple[str, int, int, int]] = []

    def note(fd: int, begin: int, length: int, advice: int) -> None:
        asked.append((str(Path(f"/proc/self/fd/{fd}").readlink()), begin, length, advice))

    monkeypatch.setattr(os, "posix_fadvise", note)
    (tmp_path / "file").touch()
    DISK.forget(tmp_path / "file")
    assert asked == [(str(tmp_path / "file"), 0, 0, os.POSIX_FADV_DONTNEED)]


Ground = Callable[[str], Path]


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    """Give a function that makes a folder with the store that a piece of work begins with."""
    begun = tmp_path / "begun"
    begun.mkdir()
    making.save(BackupStore(begun / "store", disk=FailingDisk()), "b1", img=image(b"base" * 500, b"top"))
    other = BackupStore(tmp_path / "other", disk=FailingDisk())
    making.save(other, "b2", img=image(b"base" * 500, b"new"))
    other.export("b2", begun / "b2.tar")

    def make(work: str) -> Path:
        made = tmp_path / "ground"
        shutil.rmtree(made, ignore_errors=True)
        if work == "into a new store":
            made.mkdir()
        else:
            shutil.copytree(begun, made)
        return made

    return make


@pytest.mark.parametrize("name", WORKS)
def test_a_power_cut_at_any_call_leaves_whole_backups_only(ground: Ground, tmp_path: Path, name: str) -> None:
    """What is listed after it is whole; once the work is done, its outcome stands."""
    work, at_least, at_most = WORKS[name]
    path = ground(name)
    disk = VolatileDisk(path)
    work(BackupStore(path / "store", disk=disk))
    done = set(BackupStore(path / "store").ids())
    disk.cut_power(tmp_path / "after")
    assert_sound(tmp_path / "after" / "store", at_least=done, at_most=done)
    for number in range(1, disk.calls + 1):
        path = ground(name)
        dying = VolatileDisk(path, number)
        with pytest.raises(StoppedError):
            work(BackupStore(path / "store", disk=dying))
        dying.cut_power(tmp_path / "after")
        assert_sound(tmp_path / "after" / "store", at_least=at_least, at_most=at_most)


def test_a_blob_of_another_draft_is_on_the_disk_before_it_is_referred_to(ground: Ground, tmp_path: Path) -> None:
    """A backup that takes over what another process made a moment ago is whole, also where that one has not ended."""
    path = ground("a second backup")
    disk = VolatileDisk(path)
    store = BackupStore(path / "store", disk=disk)
    known = store.get("b1")
    with store.draft("b2") as maker:
        volume = making.add_volume(maker, "data", b"of another backup")
        with store.draft("b3") as draft:
            assert draft.adopt(volume.base)
            draft.commit(making.backup_of("b3", known.containers, [volume]))
            disk.cut_power(tmp_path / "after")
    assert_sound(tmp_path / "after" / "store", at_least={"b1", "b3"}, at_most={"b1", "b3"})


def test_what_was_let_go_does_not_come_back(ground: Ground, tmp_path: Path) -> None:
    """A hold and a note stay until they are removed, and once they are removed they are gone, power cut or not."""
    path = ground("a second backup")
    disk = VolatileDisk(path)
    store = BackupStore(path / "store", disk=disk)
    store.hold("b1", "rollback", "why")
    store.journal.put("note", {"written": "x"})
    disk.cut_power(tmp_path / "held")
    held = BackupStore(tmp_path / "held" / "store")
    assert held.prune(keep=0).spared == {"b1": "an unfinished rollback needs it"}
    assert held.journal.names() == ["note"]
    store.release("b1", "rollback")
    store.journal.remove("note")
    disk.cut_power(tmp_path / "let go")
    let_go = BackupStore(tmp_path / "let go" / "store")
    assert let_go.journal.names() == []
    assert let_go.prune(keep=0).spared == {"b1": "it is the newest backup of its containers that verifies"}
