"""Whatever call fails, or is the last before death: what is listed is whole, and what is half-done is swept up."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from docker_rollback._model.backup import Descriptor, VolumeArchive
from docker_rollback._store.files import DISK, store_error, write_atomic
from docker_rollback._store.oci import PIECES, VOLUME_ARCHIVE, Digest
from docker_rollback._store.pieces import Piece, write_pieces
from docker_rollback._store.store import BackupStore
from docker_rollback.errors import CorruptBackupError, StoreError, StoreFullError, StoreNotWritableError
from tests.unit.store import making
from tests.unit.store.making import FailingDisk, StoppedError, image, tree

Work = Callable[[BackupStore], object]

IMAGE = image(b"base" * 500, b"top")
OTHER = image(b"base" * 500, b"new")


def calls_of(path: Path, work: Work) -> list[str]:
    """Return what a piece of work does to the disk, call by call."""
    disk = FailingDisk()
    work(BackupStore(path, disk=disk))
    return disk.log


def assert_sound(path: Path, *, at_least: set[str], at_most: set[str]) -> None:
    """Hold a store to its promise: what it lists verifies, and a prune leaves nothing but that."""
    store = BackupStore(path, disk=FailingDisk())
    listed = set(store.ids())
    assert at_least <= listed <= at_most
    for backup_id in listed:
        store.verify(backup_id)
    store.check()
    store.prune()
    for backup_id in listed:
        store.verify(backup_id)
    needed = set[str]().union(*(making.blobs_of(path, backup_id) for backup_id in listed))
    assert {"sha256:" + file.name for file in making.blob_files(store)} == needed
    assert list((path / "drafts").iterdir()) == []
    ours = {"drafts", "holds", "journal", "locks"}
    assert {file.name for file in path.iterdir()} == {"oci-layout", "index.json", "blobs", *ours}


def begin(path: Path) -> BackupStore:
    """Make a store with one backup, by which each piece of work begins."""
    store = BackupStore(path)
    making.save(store, "b1", img=IMAGE)
    return store


def into_new(store: BackupStore) -> None:
    """Write the first backup of a store."""
    making.save(store, "b1", img=IMAGE)


def add(store: BackupStore) -> None:
    """Write a second backup, which shares a layer with the first."""
    making.save(store, "b2", img=OTHER)


def add_pieces(store: BackupStore) -> None:
    """Write a second backup, whose volume is in pieces; all of them are written before the first one is synced."""
    with store.draft("b2") as draft, ExitStack() as held:
        contents = [b"headers" * 99, b"content" * 99, b"the end" * 99]
        writers = [held.enter_context(draft.blob(VOLUME_ARCHIVE)) for _ in contents]
        for writer, content in zip(writers, contents, strict=True):
            writer.write(making.zstd_of(content))
            writer.pause()
        for writer in writers:
            writer.sync()
        blobs = [writer.close() for writer in writers]
        pieces = [Piece(Digest(one.digest), one.size, 7 * 99) for one in blobs]
        with draft.blob(PIECES) as writer:
            for data in write_pieces(pieces):
                writer.write(data)
            base = writer.close()
        archive = VolumeArchive("data", {"Name": "data"}, False, "direct", base, size=3 * 7 * 99)
        draft.commit(making.backup_of("b2", [], [archive]))


def delete(store: BackupStore) -> None:
    """Delete the first backup."""
    store.delete("b1")


def bring(store: BackupStore) -> None:
    """Import a second backup."""
    store.import_(store.path.parent / "b2.tar")


WORKS: dict[str, tuple[Work, set[str], set[str]]] = {
    "into a new store": (into_new, set(), {"b1"}),
    "a second backup": (add, {"b1"}, {"b1", "b2"}),
    "a backup in pieces": (add_pieces, {"b1"}, {"b1", "b2"}),
    "delete": (delete, set(), {"b1"}),
    "import": (bring, {"b1"}, {"b1", "b2"}),
}


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str], Path]:
    """Give a function that makes the store a piece of work begins with, anew each time."""
    begin(tmp_path / "begun")
    other = BackupStore(tmp_path / "other")
    making.save(other, "b2", img=OTHER)
    other.export("b2", tmp_path / "b2.tar")

    def make(work: str) -> Path:
        path = tmp_path / "store"
        shutil.rmtree(path, ignore_errors=True)
        if work != "into a new store":
            shutil.copytree(tmp_path / "begun", path)
        return path

    return make


@pytest.mark.parametrize("half", [False, True], ids=["before", "half way"])
@pytest.mark.parametrize("name", WORKS)
def test_death_at_any_call_leaves_whole_backups_only(start: Callable[[str], Path], name: str, *, half: bool) -> None:
    """A process that dies at the n-th effect on the disk, for every n, leaves a store that keeps its promise."""
    work, at_least, at_most = WORKS[name]
    log = calls_of(start(name), work)
    chosen = [number for number, call in enumerate(log, start=1) if not half or call == "write"]
    assert chosen
    for number in chosen:
        path = start(name)
        with pytest.raises(StoppedError):
            work(BackupStore(path, disk=FailingDisk(number, StoppedError(), half=half)))
        assert_sound(path, at_least=at_least, at_most=at_most)


FAILURES: dict[int, type[StoreError]] = {
    errno.ENOSPC: StoreFullError,
    errno.EROFS: StoreNotWritableError,
    errno.EIO: StoreError,
}


@pytest.mark.parametrize(
    ("name", "code"),
    [*((name, errno.ENOSPC) for name in WORKS), *(("a second backup", code) for code in (errno.EROFS, errno.EIO))],
)
def test_a_failure_of_any_call_is_an_error_that_says_so(start: Callable[[str], Path], name: str, code: int) -> None:
    """An effect that fails, whichever, is the matching error or is overcome; temporary files are gone at once."""
    work, at_least, at_most = WORKS[name]
    log = calls_of(start(name), work)
    failed = 0
    for number in range(1, len(log) + 1):
        path = start(name)
        try:
            work(BackupStore(path, disk=FailingDisk(number, OSError(code, "the disk says no"))))
        except FAILURES[code]:
            failed += 1
        if not log[number - 1].startswith("remove"):
            assert list((path / "drafts").glob("*/*.blob")) == []
            assert list(path.glob(".*.tmp")) == []
        assert_sound(path, at_least=at_least, at_most=at_most)
    assert failed > len(log) / 2


class Refusing:
    """Has one call of this process that opens, lists or changes something below a folder fail, once it is armed."""

    def __init__(self) -> None:
        self._left, self._below = 0, ""
        self.seen = 0
        sys.addaudithook(self._note)

    @contextmanager
    def below(self, path: Path, at: int) -> Iterator[None]:
        """Have the call of this number fail, from 1 on, none where 0, and count all of them."""
        self._below, self._left, self.seen = str(path), at, 0
        try:
            yield
        finally:
            self._below = ""

    def _note(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._below and event in _CALLS and str(arguments[0]).startswith(self._below):
            self.seen += 1
            if self.seen == self._left:
                raise OSError(errno.EIO, "the disk says no")


_CALLS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


@pytest.fixture(scope="module")
def refusing() -> Refusing:
    """Give the one of this process: such a hook stays."""
    return Refusing()


def look(store: BackupStore) -> None:
    """Read all that there is, and write nothing but what reading takes."""
    store.check()
    for found in store.list():
        store.verify(found.id)
        b"".join(store.open_blob(found.volumes[0].base))
        store.export(found.id, store.path.parent / "out.tar")


def note(store: BackupStore) -> None:
    """Hold a backup, keep and remove a record, and take and ask for a lock."""
    store.hold("b1", "rollback", "why")
    store.journal.put("note", {"written": "x"})
    assert store.journal.is_there()
    assert store.journal.names() == ["note"]
    store.journal.remove("note")
    store.prune(keep=1)
    store.release("b1", "rollback")
    with store.using("b1"), store.lock("c0ffee", container="web"):
        assert store.is_locked("c0ffee")
    assert not store.is_locked("c0ffee")


@pytest.mark.parametrize("name", [*WORKS, "look", "note"])
def test_whatever_the_system_refuses_is_an_error_of_the_store(
    start: Callable[[str], Path], refusing: Refusing, name: str
) -> None:
    """No other exception comes out where a file or folder of the store cannot be opened, listed or changed."""
    work: Work = {"look": look, "note": note}.get(name) or WORKS[name][0]
    path = start(name)
    with refusing.below(path, 0):
        work(BackupStore(path))
    calls, failed = refusing.seen, 0
    for number in range(1, calls + 1):
        path = start(name)
        with refusing.below(path, number):
            try:
                work(BackupStore(path))
            except StoreError as error:
                failed += 1
                said = str(error)
                assert "the disk says no" in said, said
    assert failed > calls / 3


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, StoreFullError),
        (errno.EDQUOT, StoreFullError),
        (errno.EACCES, StoreNotWritableError),
        (errno.EPERM, StoreNotWritableError),
        (errno.EROFS, StoreNotWritableError),
        (errno.EIO, StoreError),
    ],
)
def test_what_the_system_says_is_told_in_our_words(tmp_path: Path, code: int, error: type[StoreError]) -> None:
    """A full disk or quota, a missing right and a broken disk are told apart, with the path and the system's word."""
    with pytest.raises(error) as caught:
        write_atomic(tmp_path / "x", b"y", disk=FailingDisk(2, OSError(code, os.strerror(code))))
    assert type(caught.value) is error
    assert caught.value.path == str(tmp_path / "x")
    assert os.strerror(code) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_room_of_a_disk_is_told_where_it_is_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota may be used up on a disk with room, and a disk that is gone has no numbers."""
    room = DISK.room(tmp_path)
    missing = tmp_path / "missing" / "x"

    def free(code: int) -> int | None:
        error = store_error(OSError(code, os.strerror(code)), missing)
        assert isinstance(error, StoreFullError)
        return error.free

    assert free(errno.ENOSPC) == pytest.approx(room, rel=0.2)
    assert free(errno.EDQUOT) is None

    def refuse(_: object) -> NoReturn:
        raise OSError(errno.EIO, "the disk says no")

    monkeypatch.setattr(os, "statvfs", refuse)
    assert free(errno.ENOSPC) is None


def test_after_a_death_the_next_backup_goes_well(start: Callable[[str], Path]) -> None:
    """Where a process died in the middle of a backup, the same backup can be taken anew."""
    log = calls_of(start("a second backup"), add)
    for number in range(1, len(log), 7):
        path = start("a second backup")
        with pytest.raises(StoppedError):
            add(BackupStore(path, disk=FailingDisk(number, StoppedError())))
        if "b2" not in BackupStore(path).ids():
            add(BackupStore(path, disk=FailingDisk()))
        assert_sound(path, at_least={"b1", "b2"}, at_most={"b1", "b2"})


def test_a_failed_backup_gives_its_blobs_back(tmp_path: Path) -> None:
    """Blobs that were finished before the disk was full go as well, when their backup is given up."""
    store = begin(tmp_path / "store")
    before = tree(store.path / "blobs")
    with pytest.raises(StoreFullError), store.draft("b2") as draft:
        making.add_volume(draft, "data", b"x" * 5000)
        raise StoreFullError("x", "the caller found it full")
    assert tree(store.path / "blobs") == before
    assert list((store.path / "drafts").iterdir()) == []


def test_a_backup_is_listed_only_after_it_was_read_back(tmp_path: Path) -> None:
    """A disk that returns other bytes than it was given is found out before the backup is listed."""

    class LyingDisk(FailingDisk):
        """Changes the volume's archive behind the writer's back."""

        def forget(self, path: Path) -> None:
            data = path.read_bytes()
            if data.startswith(b"\x28\xb5\x2f\xfd"):
                path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    store = BackupStore(tmp_path / "store", disk=LyingDisk())
    with pytest.raises(CorruptBackupError):
        making.save(store, "b1")
    assert store.ids() == []


def test_index_json_is_the_last_thing_written(tmp_path: Path) -> None:
    """Every blob is renamed and its folder synced before index.json is replaced, and that folder is synced too."""
    log = calls_of(tmp_path / "store", into_new)
    last = len(log) - 1 - log[::-1].index("rename index.json")
    blobs = [number for number, call in enumerate(log) if call.startswith("rename ") and len(call) == 71]
    assert len(blobs) >= 10
    assert max(blobs) < log.index("sync_folder sha256", max(blobs)) < last < log.index("sync_folder store", last)


@pytest.mark.parametrize("old", [None, b"before"])
def test_write_atomic_leaves_the_old_or_the_new(tmp_path: Path, old: bytes | None) -> None:
    """A file that is replaced holds the old or the new content, whole, whichever call was the last."""
    path = tmp_path / "state.json"
    disk = FailingDisk()
    write_atomic(path, b"after", disk=disk)
    assert path.read_bytes() == b"after"
    for number in range(1, disk.calls + 1):
        for half in (False, True):
            path.unlink(missing_ok=True)
            if old is not None:
                path.write_bytes(old)
            with pytest.raises(StoppedError):
                write_atomic(path, b"after", disk=FailingDisk(number, StoppedError(), half=half))
            assert (path.read_bytes() if path.exists() else None) in (old, b"after")
    assert disk.log == ["create", "write", "sync", "rename state.json", f"sync_folder {tmp_path.name}"]


def test_a_draft_is_inert_until_entered_and_single_use(tmp_path: Path) -> None:
    """Making a store or a draft touches nothing; a draft that ended takes nothing more."""
    store = BackupStore(tmp_path / "store")
    draft = store.draft("b1")
    assert not store.path.exists()
    assert store.list() == []
    assert not store.path.exists()
    with draft:
        pass
    with pytest.raises(ValueError, match="once"), draft:
        pass
    with pytest.raises(ValueError, match="not open"):
        draft.blob("x/y")


def test_an_id_is_taken_once(tmp_path: Path) -> None:
    """A backup is immutable: its id is refused at the beginning of a draft, and at its end."""
    store = BackupStore(tmp_path / "store")
    with store.draft("b1") as slow:
        manifest = slow.add_image(making.pieces(making.legacy(IMAGE)), layers=IMAGE.diff_ids)
        making.save(store, "b1", img=OTHER)
        with pytest.raises(StoreError, match="already"):
            slow.commit(making.backup_of("b1", [making.snapshot("web", IMAGE, manifest)]))
    with pytest.raises(StoreError, match="already"), store.draft("b1"):
        pass
    assert store.get("b1").containers[0].image.layers == OTHER.diff_ids
    store.verify("b1")


def test_a_record_that_refers_to_what_is_not_there_is_not_listed(tmp_path: Path) -> None:
    """A backup that names a blob of nobody is refused at its commit."""
    store = BackupStore(tmp_path / "store")
    with store.draft("b1") as draft:
        manifest = draft.add_image(making.pieces(making.legacy(IMAGE)), layers=IMAGE.diff_ids)
        volume = making.add_volume(draft, "data", b"x")
        lost = VolumeArchive("lost", {}, False, "direct", Descriptor("a/b", making.digest(b"no"), 2))
        with pytest.raises(CorruptBackupError):
            draft.commit(making.backup_of("b1", [making.snapshot("web", IMAGE, manifest)], [volume, lost]))
    assert store.ids() == []
