"""Large files that change while their service runs: copied before, brought up to date at rest, then archived whole."""

from __future__ import annotations

import mmap
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import HealthCheck, event, given, settings

from docker_rollback._store import spool
from docker_rollback._store.files import Disk
from docker_rollback._store.spool import FileCopy
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.access.running_programs import Crew
from docker_rollback._volumes.capture import base, earlier_base, increment, live_copies, live_pass, scan
from docker_rollback._volumes.capture.hot_files import MOST, at_work, largest
from docker_rollback._volumes.capture.increment import UnsoundError
from docker_rollback._volumes.capture.live_copies import Copies, Room
from docker_rollback._volumes.capture.scan import LARGE, Ground, Large, Look, ground
from docker_rollback._volumes.tar.members import END, Members
from docker_rollback.errors import ArchiveError, StoreFullError
from tests.unit.volumes.awkward import ACCESS, SECOND
from tests.unit.volumes.capture.test_increment_any import HISTORY, Deed, do
from tests.unit.volumes.live import capture, check, let_age, reach_of

History = Sequence[tuple[Deed, str, str, int]]
SIZE = LARGE + 5_000
TABLE = Large(b"./base/table", SIZE, 0)
IDLE = Large(b"./base/idle", SIZE, 0)


@pytest.fixture
def root(field: Path) -> Path:
    """Give a folder with a table that is at work, one that is not, and a small file."""
    made = field / "root"
    (made / "base").mkdir(parents=True)
    for name in ("table", "idle", "other"):
        (made / "base" / name).write_bytes(random.Random(name).randbytes(SIZE))
    (made / "small").write_text("small")
    return made


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Have the table alone count as at work, and an increment take what is a moment old, not seconds."""
    monkeypatch.setattr(base, "_rewritten", lambda *_: (TABLE,))
    monkeypatch.setattr(base, "MARGIN", 0.02)
    let_age(root)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Give the files that copies are taken of, as they come."""
    paths: list[bytes] = []
    take = Copies.take

    def told(self: Copies, wanted: Sequence[Large]) -> int:
        left = take(self, wanted)
        paths.extend(self.paths)
        return left

    monkeypatch.setattr(Copies, "take", told)
    return paths


def touch_page(path: Path, at: int = 8192) -> None:
    """Rewrite a page of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(os.urandom(4096))


def held(tar: bytes) -> list[bytes]:
    """Return the files that an archive holds."""
    return [member.name for member in Members().feed(tar) if not member.is_directory]


@pytest.mark.usefixtures("busy")
def test_what_is_at_work_is_in_the_increment_alone(root: Path, copied: list[bytes]) -> None:
    """A base passes over a large file that was changed a moment ago, and the increment holds it as it is at rest."""
    taken = capture(root, lambda: touch_page(root / "base/table"))
    assert taken.incremental
    assert b"./base/table" in copied
    assert b"./base/table" not in held(taken.tars[0])
    assert b"./base/idle" in held(taken.tars[0])
    assert held(taken.tars[1]).count(b"./base/table") == 1
    check(root, taken)


@pytest.mark.usefixtures("busy")
def test_what_was_at_work_and_has_come_to_rest_is_not_lost(root: Path, copied: list[bytes]) -> None:
    """What the base passed over is in the increment, also where nothing has changed it since."""
    taken = capture(root)
    assert b"./base/table" in copied
    check(root, taken)


@pytest.mark.usefixtures("busy")
def test_what_begins_to_change_while_the_base_is_read_is_copied_too(root: Path, copied: list[bytes]) -> None:
    """A file that the base holds, and that has changed since, is copied before the rest."""
    taken = capture(root, lambda: touch_page(root / "base/other"), during=lambda: touch_page(root / "base/other", 0))
    assert {b"./base/other", b"./base/table"} <= set(copied)
    assert b"./base/other" in held(taken.tars[0])
    check(root, taken)


ENDS: dict[str, Callable[[Path], object]] = {
    "grown": lambda path: path.write_bytes(path.read_bytes() + os.urandom(100_001)),
    "cut short": lambda path: os.truncate(path, 70_000),
    "emptied": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "renamed": lambda path: path.rename(path.with_name("moved")),
    "replaced": lambda path: (
        shutil.copy(path.with_name("idle"), path.with_name("new")) and path.with_name("new").rename(path)
    ),
    "its owner changed": lambda path: os.chown(path, 3_000_000, 2_100_000),
    "its mode changed": lambda path: path.chmod(0o4751),
    "its time set back": lambda path: os.utime(path, ns=(5, -1_500_000_001)),
    "an attribute set": lambda path: os.setxattr(path, "user.note", b"a\nb\0=c"),
    "an attribute with no plain name set": lambda path: os.setxattr(path, b"user.a=b%3D\xff\n%", b"c=d"),
    "an empty attribute set": lambda path: os.setxattr(path, "trusted.empty", b""),
}


def as_directory(path: Path) -> None:
    """Put a directory in a file's place."""
    path.unlink()
    path.mkdir()
    (path / "x").write_text("x")


def as_link(path: Path) -> None:
    """Put a symbolic link in a file's place."""
    path.unlink()
    path.symlink_to("/etc/passwd")


def as_fifo(path: Path) -> None:
    """Put a FIFO in a file's place."""
    path.unlink()
    os.mkfifo(path)


UNFIT: dict[str, Callable[[Path], object]] = {
    "a directory": as_directory,
    "a link": as_link,
    "a FIFO": as_fifo,
    "two names": lambda path: path.with_name("second").hardlink_to(path),
    "a hole": lambda path: os.truncate(path, 8 * SIZE),
    "an ACL": lambda path: os.setxattr(path, "system.posix_acl_access", ACCESS),
}


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_whatever_becomes_of_a_copied_file_is_captured(root: Path, end: Callable[[Path], object]) -> None:
    """A copied file that was changed, cut, replaced or removed comes back as it was at rest, by base and increment."""
    taken = capture(root, lambda: end(root / "base/table"))
    assert taken.incremental
    check(root, taken)


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("end", UNFIT.values(), ids=UNFIT)
def test_what_a_copy_cannot_tell_is_archived_whole(root: Path, end: Callable[[Path], object]) -> None:
    """Where a copied file has become something else, tar archives all of the volume at rest."""
    taken = capture(root, lambda: end(root / "base/table"))
    assert not taken.incremental
    check(root, taken)


@pytest.mark.usefixtures("busy")
def test_a_folder_that_became_a_link_leads_nowhere(root: Path, copied: list[bytes], field: Path) -> None:
    """A copy follows no link out of the volume: what lies behind it is not in the archive."""
    outside = field / "outside"
    outside.mkdir()
    (outside / "table").write_bytes(b"secret" * 1000)

    def replace() -> None:
        shutil.rmtree(root / "base")
        (root / "base").symlink_to(outside)

    taken = capture(root, replace)
    assert b"./base/table" in copied
    assert not any(b"secret" in tar for tar in taken.tars)
    check(root, taken)


@pytest.mark.usefixtures("busy")
def test_names_that_mean_something_to_tar_are_taken_at_their_word(
    root: Path, copied: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with the name of a pattern is passed over by itself, and not the ones that the pattern would mean."""
    names = [
        b"./base/" + name for name in (b"t*", b"t?[a]", b"i[d]le", b"back\\slash", b"new\nline", b"-x", "ü".encode())
    ]
    for name in names:
        Path(os.fsdecode(os.fsencode(root) + name[1:])).write_bytes(os.urandom(SIZE))
    let_age(root)
    monkeypatch.setattr(base, "_rewritten", lambda *_: [Large(name, SIZE, 0) for name in names])
    taken = capture(root, lambda: touch_page(root / "base/t*"))
    assert set(names) <= set(copied)
    assert sorted(held(taken.tars[0])) == [b"./base/idle", b"./base/other", b"./base/table", b"./small"]
    check(root, taken)


def test_what_was_changed_a_moment_ago_is_at_work() -> None:
    """Of the large files that a look finds, those are at work that were changed shortly before, the largest first."""
    files = [
        Large(b"./old", 9 * LARGE, 993 * SECOND),
        Large(b"./small", LARGE, 996 * SECOND),
        Large(b"./big", 2 * LARGE, 999 * SECOND),
        Large(b"./no\xffutf", LARGE, 999 * SECOND),
    ]
    found = Look(1, 1, linked=False, sockets=(), large=tuple(files))
    assert at_work(found, Ground("xfs", "1", "boot", 1000.0)) == (files[2], files[1])
    assert at_work(found, Ground("xfs", "1", "boot", 0.0)) == ()


def test_a_command_line_names_so_many_files() -> None:
    """Of very many large files, the largest are named."""
    files = [Large(b"./%d" % number, LARGE + number, 0) for number in range(1000)]
    named = largest(files)
    assert len(named) == MOST
    assert named[0] == files[999]


@pytest.mark.usefixtures("busy")
def test_where_there_is_no_room_tar_takes_the_file(
    root: Path, copied: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies take no more than half of the room in the store."""
    monkeypatch.setattr("docker_rollback._store.files.Disk.room", lambda *_: 2 * SIZE - 2)
    taken = capture(root, lambda: touch_page(root / "base/table"))
    assert copied == []
    assert taken.incremental
    check(root, taken)


def test_volumes_share_the_room(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copies of several volumes, taken at once, are not half of the room each."""
    monkeypatch.setattr("docker_rollback._store.files.Disk.room", lambda *_: 3 * SIZE)
    with BackupStore(root.parent / "store").draft("x") as draft, ExitStack() as held:
        room = Room(draft)
        first, second = (Copies(reach_of(root), draft, held, Crew(), room) for _ in range(2))
        assert first.take([TABLE]) == 0
        assert second.take([TABLE]) == SIZE
        assert second.paths == ()
        first.drop()
        assert second.take([TABLE]) == 0


@pytest.mark.usefixtures("busy")
def test_a_copy_for_which_the_disk_is_too_full_is_none(
    root: Path, copied: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others write to the disk meanwhile does not keep a backup from being taken without copies."""
    update = FileCopy.update

    def full(copy: FileCopy, source: int, size: int, check: Callable[[], object], *, threads: int) -> int:
        update(copy, source, size // 2, check, threads=threads)
        raise StoreFullError("store", "there is no room left", free=0)

    monkeypatch.setattr(FileCopy, "update", full)
    taken = capture(root, lambda: touch_page(root / "base/table"))
    assert copied == []
    assert taken.incremental
    check(root, taken)


def test_a_former_base_is_of_no_use_where_too_much_cannot_be_copied(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has changed, and has an ACL, would all go through tar at rest; a new base takes it while it is in use."""
    monkeypatch.setattr(earlier_base, "TOGETHER", 1e9)
    for module, name, value in (
        (earlier_base, "MOST", SIZE),
        (live_pass, "MOST_BY_TAR", SIZE),
        (earlier_base, "SHARE", 1e9),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(base, "MARGIN", 0.02)
    monkeypatch.setattr(base, "ground", lambda reach, crew: evolve(found := ground(reach, crew), now=found.now + 1))
    monkeypatch.setattr(base, "_rewritten", lambda *_: ())
    store = BackupStore(root.parent / "store")
    let_age(root)
    bases = []
    for number in range(3):
        taken = capture(root, store=store, number=number)
        bases.append(taken.archive.base)
        for name in ("table", "other"):
            if number == 1:
                os.setxattr(root / "base" / name, "system.posix_acl_access", ACCESS)
            touch_page(root / "base" / name)
        let_age(root)
    assert bases[0] == bases[1] != bases[2]


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("has_copies", [True, False])
def test_a_path_too_long_to_be_put_back_is_an_error_of_ours(
    root: Path, *, has_copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tar could not put back is told in words, wherever it is found."""
    if not has_copies:
        monkeypatch.setattr(Copies, "take", lambda *_: 0)

    def deepen() -> None:
        folder = os.open(root, os.O_RDONLY)
        for _ in range(20):
            os.mkdir("d" * 200, dir_fd=folder)
            folder, above = os.open("d" * 200, os.O_RDONLY, dir_fd=folder), folder
            os.close(above)
        os.close(os.open("f" * 100, os.O_WRONLY | os.O_CREAT, dir_fd=folder))
        os.close(folder)
        # All that is looked at while the service rests comes before it.
        (root / "a-file").touch()

    with pytest.raises(ArchiveError, match="too long to be restored"):
        capture(root, deepen)


def held_open() -> int:
    """Return how many descriptors this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_descriptor_is_held_open_for_a_copy(root: Path) -> None:
    """There may be hundreds of copies, of several volumes, and a process may often have 1,024 files open."""
    with BackupStore(root.parent / "store").draft("x") as draft, ExitStack() as held:
        copies = Copies(reach_of(root), draft, held, Crew())
        before = held_open()
        copies.take([TABLE, IDLE])
        assert len(copies.paths) == 2
        copies.update()
        assert held_open() == before


def test_a_file_that_lies_deep_takes_no_more_descriptors(root: Path) -> None:
    """A path may have two thousand folders in it."""
    depth = 200
    deep = root.joinpath(*["d"] * depth)
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    softly, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with BackupStore(root.parent / "store").draft("x") as draft, ExitStack() as held:
        copies = Copies(reach_of(root), draft, held, Crew())
        highest = max(int(one.name) for one in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + depth // 2, hard))
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (softly, hard))
        copies.take([Large(b"./" + b"d/" * depth + b"file", 1, 0)])
        assert len(copies.paths) == 1


def test_a_file_that_changes_at_rest_is_an_error(root: Path) -> None:
    """Who writes while all is to be at rest is noticed, as by tar."""
    with BackupStore(root.parent / "store").draft("x") as draft, ExitStack() as held:
        copies = Copies(reach_of(root), draft, held, Crew())
        copies.take([TABLE])
        update = FileCopy.update

        def meddled_with(copy: FileCopy, source: int, size: int, check: Callable[[], object], *, threads: int) -> int:
            touch_page(root / "base/table")
            return update(copy, source, size, check, threads=threads)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FileCopy, "update", meddled_with)
            with pytest.raises(ArchiveError, match="changed while they were read"):
                copies.update()


def test_an_end_ends_the_comparing(root: Path) -> None:
    """Where all is ended, a comparison under way ends too."""
    crew = Crew()
    with BackupStore(root.parent / "store").draft("x") as draft, ExitStack() as held:
        copies = Copies(reach_of(root), draft, held, crew)
        copies.take([TABLE])
        crew.stop()
        with pytest.raises(ArchiveError, match="ended"):
            copies.update()


@pytest.mark.usefixtures("busy")
def test_a_comparison_that_nobody_needs_any_more_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all is archived at rest after all, the service does not wait for gigabytes to be compared."""
    update, waited = FileCopy.update, []

    def slow(copy: FileCopy, source: int, size: int, check: Callable[[], object], *, threads: int) -> int:
        for _ in range(1000 if copy.size else 0):
            check()
            time.sleep(0.01)
        waited.append(copy.size)
        return update(copy, source, size, check, threads=threads)

    def unsound(*_: object) -> None:
        raise UnsoundError("directories were moved")

    monkeypatch.setattr(FileCopy, "update", slow)
    monkeypatch.setattr(increment, "places", unsound)
    taken = capture(root, lambda: touch_page(root / "base/table"))
    assert not taken.incremental
    assert not any(waited)
    check(root, taken)


def test_only_what_differs_is_written(root: Path) -> None:
    """Of a copy, those blocks are written that differ from the file."""
    with BackupStore(root.parent / "store").draft("x") as draft, draft.copy() as copy:
        path = root / "base/table"
        with path.open("rb") as file:
            assert copy.update(file.fileno(), SIZE, lambda: None) == SIZE
            assert copy.update(file.fileno(), SIZE, lambda: None) == 0
            touch_page(path)
            assert copy.update(file.fileno(), SIZE, lambda: None) == 64 << 10
        assert b"".join(copy.pieces()) == path.read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=HISTORY, after=HISTORY)
def test_any_file_may_be_copied(field: Path, before: History, after: History) -> None:
    """Whatever a tree was, and whatever was done to it: with every file copied, the archives give what was there."""
    with (
        tempfile.TemporaryDirectory(dir=field, ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(scan, "LARGE", 1)
        patch.setattr(base, "MARGIN", 0.02)
        root = Path(folder, "root")
        root.mkdir()
        for name in ("a/b", "b/c", "c"):
            (root / name).mkdir(parents=True)
            (root / name / "file").write_text(name)
        do(root, before)
        taken = capture(root, lambda: do(root, after))
        event("by increment" if taken.incremental else "whole")
        check(root, taken)


def test_copies_are_on_the_disk_before_the_rest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that flushes its files when it stops does not wait for ours."""
    flushed: list[str] = []
    monkeypatch.setattr(Disk, "sync", lambda _, fd: flushed.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    with BackupStore(root.parent / "store").draft("x") as draft, ExitStack() as held:
        Copies(reach_of(root), draft, held, Crew()).take([TABLE])
        assert [path for path in flushed if path.endswith(".copy")] != []


def test_what_was_written_once_is_not_at_work(root: Path, copied: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was made a moment ago may be done; one that is changed long after it was made will be again."""
    monkeypatch.setattr(base, "RECENT", 2.0)
    monkeypatch.setattr(base, "at_work", lambda found, _: found.large)
    monkeypatch.setattr(base, "MARGIN", 0.02)
    let_age(root, 3.1)
    (root / "base/new").write_bytes(os.urandom(SIZE))
    touch_page(root / "base/table")
    taken = capture(root)
    assert sorted(held(taken.tars[0])) == [b"./base/idle", b"./base/new", b"./base/other", b"./small"]
    assert b"./base/table" in copied
    check(root, taken)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[FileCopy]:
    """Give the copies that are compared with their files, as that comes."""
    found: list[FileCopy] = []
    update = FileCopy.update

    def told(copy: FileCopy, source: int, size: int, check: Callable[[], object], *, threads: int) -> int:
        found.append(copy)
        return update(copy, source, size, check, threads=threads)

    monkeypatch.setattr(FileCopy, "update", told)
    return found


def content(copies: Copies) -> bytes:
    """Return what the first of the copies holds, as an increment has it."""
    joined = b"".join(map(bytes, copies.joined([])))
    begin = len(joined) - len(END) - -SIZE % 512 - SIZE
    return joined[begin : begin + SIZE]


@pytest.mark.parametrize("age", [0.0, 0.1])
def test_a_file_that_had_been_quiet_when_it_was_copied_is_not_compared(
    root: Path, compared: list[FileCopy], monkeypatch: pytest.MonkeyPatch, age: float
) -> None:
    """Of a file that was written a moment ago, a write may still be under way: what it writes bears no later time."""
    monkeypatch.setattr(live_copies, "_LONGEST_WRITE", 100_000_000)
    touch_page(root / "base/table")
    time.sleep(2 * age)
    with BackupStore(root.parent / "store").draft("x") as draft, ExitStack() as held:
        copies = Copies(reach_of(root), draft, held, Crew())
        copies.take([TABLE])
        compared.clear()
        copies.update()
        assert len(compared) == (0 if age else 1)


def test_a_page_of_a_mapping_that_was_dirty_when_it_was_copied_is_not_missed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a page that is clean has its file stamped when it is written."""
    monkeypatch.setattr(live_copies, "_LONGEST_WRITE", 100_000_000)
    path = root / "base/table"
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as mapped:
        mapped[5000:5004] = b"once"
        time.sleep(0.2)
        with BackupStore(root.parent / "store").draft("x") as draft, ExitStack() as held:
            copies = Copies(reach_of(root), draft, held, Crew())
            copies.take([TABLE])
            mapped[5000:5004] = b"more"
            copies.update()
            assert content(copies)[5000:5004] == b"more"


@pytest.mark.parametrize("size", [0, 1, 3 << 16, (7 << 16) + 5])
def test_stretches_that_are_compared_at_once_make_one_file(
    root: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """However the file grows and shrinks in between."""
    monkeypatch.setattr(spool, "_STRETCH", 2 << 16)
    path = root / "base/table"
    with BackupStore(root.parent / "store").draft("x") as draft, draft.copy() as copy:
        for length in (SIZE, size, SIZE // 2, size):
            path.write_bytes(os.urandom(length))
            with path.open("rb") as file:
                # As it was said to be: by now it may be shorter.
                copy.update(file.fileno(), max(length, size), lambda: None, threads=3)
            assert copy.size == length
            assert b"".join(copy.pieces()) == path.read_bytes()


def test_a_file_that_every_increment_on_a_base_holds_is_copied_also_for_the_next_backup(
    root: Path, copied: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that was written a moment before it, tar does not know whether the base holds it as it is."""
    monkeypatch.setattr(base, "MARGIN", 5.0)
    monkeypatch.setattr(base, "_rewritten", lambda *_: ())
    monkeypatch.setattr(earlier_base, "SHARE", 1e9)
    let_age(root, 5.1)
    store = BackupStore(root.parent / "store")
    touch_page(root / "base/table")
    first = capture(root, store=store, number=1)
    copied.clear()
    second = capture(root, store=store, number=2)
    assert second.archive.base == first.archive.base
    assert copied == [b"./base/table"]
    check(root, second)
