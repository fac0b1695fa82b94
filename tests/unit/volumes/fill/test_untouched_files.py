"""A restore leaves alone what nobody has touched, and what comes out is what writing everything would give."""

from __future__ import annotations

import logging
import mmap
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import HealthCheck, Phase, event, given, settings

from docker_rollback._engine.port import Process
from docker_rollback._host.tree import Tree
from docker_rollback._model.backup import Clock, VolumeArchive
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.capture import base
from docker_rollback._volumes.fill import filling, untouched_files
from docker_rollback._volumes.fill.filling import Filling
from docker_rollback._volumes.fill.untouched_files import untouched
from docker_rollback._volumes.tar.snapshot_file import SnapshotFile
from tests.unit.volumes import awkward
from tests.unit.volumes.capture.test_increment import MOVES, move, tree
from tests.unit.volumes.capture.test_increment_any import HISTORY, PATHS, Deed, do
from tests.unit.volumes.comparing import differences, picture
from tests.unit.volumes.fill.test_file_flags import flag
from tests.unit.volumes.live import capture, let_age, reach_of, run


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the moment set back by a moment, not by seconds, so that a test has something that is older."""
    monkeypatch.setattr(base, "MARGIN", 0.02)


class Volume:
    """A folder with a store beside it, archived, changed and filled again."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.store = BackupStore(folder / "store")
        self.before = picture(self.root)
        self.archive: VolumeArchive | None = None

    def capture(self, change: Callable[[], object] = lambda: None) -> VolumeArchive:
        """Archive it, and note what there was at rest."""
        # Long enough for tar to begin, which the moment allows for.
        let_age(self.root, 0.3)
        taken = capture(self.root, change, store=self.store)
        self.before = picture(self.root, sockets=False)
        self.archive = taken.archive
        return taken.archive

    @property
    def moment(self) -> int:
        """The moment before which a file has not been touched; 0 where there is none."""
        if self.archive is None or self.archive.snapshot is None:
            return 0
        return SnapshotFile.parse(b"".join(self.store.open_tar(self.archive.snapshot))).began

    def fill(self, reach: Reach | None = None, archive: VolumeArchive | None = None) -> int:
        """Fill it again, and see that it is what it was; return how many bytes tar was given."""
        given = archive or self.archive
        assert given is not None
        counted = _Counted()
        reach = evolve(reach or reach_of(self.root), run=counted)
        assert Filling(reach, given, self.store, None).fill() > 0
        assert differences(self.before, picture(self.root)) == []
        return counted.bytes


class _Counted:
    """Starts programs of this machine, and counts what they are given."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, words: Sequence[str], /, *, stdin: bool = False) -> Process:
        process = run(words, stdin=stdin)
        write = process.write

        def counted(data: bytes | memoryview, /) -> None:
            self.bytes += len(data)
            write(data)

        process.write = counted  # type: ignore[method-assign]
        return process


@pytest.fixture
def volume(field: Path) -> Volume:
    """Give a volume with a megabyte in a file of its own, beside a few small ones."""
    made = Volume(field)
    tree(made.root)
    (made.root / "big").write_bytes(os.urandom(1_000_000))
    return made


OLD = b"never touched" * 100_000

ALL = 1_000_000
"""More bytes than are given to tar where the large file is left alone, and fewer than where it is written."""


@settings(
    max_examples=40,
    phases=(Phase.reuse, Phase.generate),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(before=HISTORY, between=HISTORY, after=HISTORY)
def test_what_comes_out_is_what_there_was(
    field: Path,
    before: Sequence[tuple[Deed, str, str, int]],
    between: Sequence[tuple[Deed, str, str, int]],
    after: Sequence[tuple[Deed, str, str, int]],
) -> None:
    """Whatever a tree was, and whatever was done to it before and after its capture, it is what it was then."""
    with tempfile.TemporaryDirectory(dir=field, ignore_cleanup_errors=True) as folder:
        volume = Volume(Path(folder))
        root = volume.root
        (root / "kept").mkdir()
        (root / "kept/old").write_bytes(OLD)
        for name in PATHS[3:12]:
            (root / name / "c").mkdir(parents=True)
            (root / name / "b").write_text(name)
            (root / name / "a").write_text(name)
        do(root, before)
        volume.capture(lambda: do(root, between))
        provable = volume.moment > (root / "kept/old").stat().st_ctime_ns
        do(root, after)
        given = volume.fill()
        event("left alone" if provable else "written")
        assert (given < len(OLD)) == provable


@pytest.mark.parametrize("steps", MOVES.values(), ids=MOVES)
def test_directories_that_moved_are_put_back(volume: Volume, steps: str) -> None:
    """A file in a directory that moved has an old time, and lies elsewhere."""
    volume.capture()
    move(volume.root, steps)
    assert volume.fill() < ALL


@pytest.mark.parametrize("steps", [MOVES["turned"], MOVES["swapped-below"], MOVES["swapped-at-the-top"]])
def test_directories_that_had_moved_before_the_capture_are_where_they_were_then(volume: Volume, steps: str) -> None:
    """Back where they were when the base was taken, they hold what they held then, and not what was there at rest."""
    archive = volume.capture(lambda: move(volume.root, steps))
    assert archive.increment is not None
    move(volume.root, steps)
    assert volume.fill() < ALL


def test_every_kind_of_file_is_put_back(volume: Volume) -> None:
    """The awkward set, damaged, comes back; what was not damaged is left alone."""
    awkward.make(volume.root)
    outside = volume.root.parent / "outside"
    outside.mkdir()
    volume.capture()
    awkward.damage(volume.root, outside)
    inode = (volume.root / "big").stat().st_ino
    volume.fill()
    assert (volume.root / "big").stat().st_ino == inode


def test_a_second_time_there_is_nothing_left_to_do(volume: Volume) -> None:
    """Run again, it writes the same again, and leaves the same alone; cut off half way, it does no harm."""
    volume.capture()
    (volume.root / "l/0/which").write_text("changed")
    assert volume.fill() < ALL
    assert volume.fill() < ALL


def test_a_file_that_is_changed_and_looks_the_same_is_put_back(volume: Volume) -> None:
    """Size, mode and time of modification are what they were; the change time nobody can set."""
    volume.capture()
    big = volume.root / "big"
    seen = big.stat()
    with big.open("r+b") as file:
        file.write(b"changed")
    os.utime(big, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert volume.fill() > ALL


def test_a_mapped_page_that_was_dirty_before_is_put_back(volume: Volume) -> None:
    """The flush before the base makes the next write to it show."""
    big = volume.root / "big"
    with big.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as mapped:
        mapped[0:6] = b"before"
        let_age(volume.root)
        archive = volume.capture()
        assert archive.increment is not None
        mapped[0:6] = b"after!"
        assert volume.fill() > ALL


def test_a_file_with_several_names_is_put_back_with_all_of_them(volume: Volume) -> None:
    """One of its names is in a directory that moved; the other lies where it lay."""
    (volume.root / "big2").hardlink_to(volume.root / "big")
    (volume.root / "a/big3").hardlink_to(volume.root / "big")
    volume.capture()
    (volume.root / "a").rename(volume.root / "moved")
    assert volume.fill() > ALL


def test_attributes_of_directories_are_put_back(volume: Volume) -> None:
    """Those that came go, also from a directory in which nothing else has changed, and a default ACL too."""
    os.setxattr(volume.root / "a", "user.kept", b"1")
    volume.capture()
    os.setxattr(volume.root / "a", "user.stray", b"1")
    os.setxattr(volume.root / "b/x", "trusted.stray", b"1")
    os.setxattr(volume.root / "l/0", "system.posix_acl_default", awkward.ACCESS)
    os.removexattr(volume.root / "a", "user.kept")
    (volume.root / "l/0/which").write_text("changed")
    assert volume.fill() < ALL


def test_attributes_of_a_root_that_tar_spells_otherwise_go(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """An equals sign and a per cent sign stand in an archive as numbers, and are the same attribute on a disk."""
    monkeypatch.setattr(filling, "untouched", lambda *_: None)
    os.setxattr(volume.root, "user.kept=%3D", b"1")
    volume.capture()
    os.setxattr(volume.root, "user.stray=%3D", b"1")
    assert volume.fill() > ALL


def test_what_stands_where_a_socket_was_goes(volume: Volume) -> None:
    """No archive holds sockets, and a restore leaves none and nothing in their places."""
    paths = [volume.root / name for name in ("a/kept", "a/gone", "b/stray")]
    for path in paths:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    assert volume.capture().not_covered
    paths[1].unlink()
    paths[2].unlink()
    paths[2].mkdir()
    (paths[2] / "stray").write_text("stray")
    assert volume.fill() < ALL


# Where nothing is proven


def another_root(volume: Volume) -> tuple[Reach, VolumeArchive]:
    """Make the volume anew, with the same content and old times."""
    aside = volume.root.with_name("aside")
    volume.root.rename(aside)
    shutil.copytree(aside, volume.root)
    return given_of(volume)


def given_of(volume: Volume) -> tuple[Reach, VolumeArchive]:
    """Return what a restore is given."""
    assert volume.archive is not None
    return reach_of(volume.root), volume.archive


def without_a_clock(volume: Volume) -> tuple[Reach, VolumeArchive]:
    """Return the same as an older version wrote it."""
    reach, archive = given_of(volume)
    return reach, evolve(archive, clock=None)


def without_a_snapshot_file(volume: Volume) -> tuple[Reach, VolumeArchive]:
    """Return the same without a record of the directories."""
    reach, archive = given_of(volume)
    return reach, evolve(archive, snapshot=None)


def by_clock(boot: str = "", by: int = 0) -> Callable[[Volume], tuple[Reach, VolumeArchive]]:
    """Return what has an archive be of another start of the machine, or the clock be set since."""

    def set_since(volume: Volume) -> tuple[Reach, VolumeArchive]:
        reach, archive = given_of(volume)
        assert archive.clock is not None
        return reach, evolve(archive, clock=Clock(boot or archive.clock.boot, archive.clock.offset + by))

    return set_since


def captured_by_a_helper(volume: Volume) -> tuple[Reach, VolumeArchive]:
    """Return the same as if a helper had archived it."""
    reach, archive = given_of(volume)
    return reach, evolve(archive, way="helper")


def restored_by_a_helper(volume: Volume) -> tuple[Reach, VolumeArchive]:
    """Return the same as if a helper were to restore it."""
    reach, archive = given_of(volume)
    return evolve(reach, way="helper", tree=None), archive


def another_volume(volume: Volume) -> tuple[Reach, VolumeArchive]:
    """Return the same to be filled into another volume."""
    reach, archive = given_of(volume)
    other = volume.root.with_name("other")
    other.mkdir()
    return evolve(reach, root=str(other), tree=Tree.at(other)), archive


REASONS: dict[str, Callable[[Volume], tuple[Reach, VolumeArchive]]] = {
    "no-clock": without_a_clock,
    "no-snapshot-file": without_a_snapshot_file,
    "another-start": by_clock(boot="another"),
    "set-forth": by_clock(by=-3600 * 10**9),
    "set-back": by_clock(by=3600 * 10**9),
    "set-by-a-millisecond": by_clock(by=10**6),
    "made-anew": another_root,
    "another-volume": another_volume,
    "captured-by-a-helper": captured_by_a_helper,
    "restored-by-a-helper": restored_by_a_helper,
}


@pytest.mark.parametrize("reason", REASONS.values(), ids=REASONS)
def test_where_nothing_is_proven_all_is_written(
    volume: Volume, reason: Callable[[Volume], tuple[Reach, VolumeArchive]]
) -> None:
    """Without the record, on another machine, with a clock that was set: everything is written."""
    volume.capture()
    assert untouched(*given_of(volume), volume.store) is not None
    reach, archive = reason(volume)
    assert untouched(reach, archive, volume.store) is None


@pytest.mark.parametrize("reason", ["no-clock", "set-back", "another-start", "captured-by-a-helper"])
def test_all_that_is_written_is_what_there_was(volume: Volume, reason: str) -> None:
    """A file that hides its change from every look is put back where nothing was to be proven."""
    volume.capture()
    reach, archive = REASONS[reason](volume)
    assert volume.fill(reach, archive) > ALL


def test_a_base_that_was_never_taken_leaves_nothing_alone(volume: Volume) -> None:
    """A small volume is archived at rest alone."""
    let_age(volume.root)
    volume.archive = capture(volume.root, live_from=1 << 40, store=volume.store).archive
    volume.before = picture(volume.root)
    assert untouched(*given_of(volume), volume.store) is None
    assert volume.fill() > ALL


def test_flags_that_came_with_the_update_have_all_written(volume: Volume) -> None:
    """Tar can replace nothing that has them, so they are taken off, everywhere; and then it all is written again."""
    volume.capture()
    (volume.root / "l/0/which").write_text("changed")
    flag("+i", volume.root / "l/0/which", volume.root / "b")
    assert volume.fill() > ALL


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Give what the library warns of."""
    with caplog.at_level(logging.WARNING, "docker_rollback"):
        yield caplog


def test_what_goes_wrong_on_the_way_has_all_written(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    """Whatever it is, the volume is filled without it."""
    volume.capture()

    def broken(*_: object) -> bool:
        raise PermissionError("no look at it")

    monkeypatch.setattr(untouched_files.Untouched, "holds", broken)
    (volume.root / "l/0/which").write_text("changed")
    assert volume.fill() > ALL
    assert "no look at it" in said.text
