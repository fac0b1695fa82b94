"""A base taken from a volume in use, and an increment at rest: together they are what was there at rest."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve

from docker_rollback._engine.port import Process
from docker_rollback._host.clock import read_clock
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.capture import base, increment
from docker_rollback._volumes.capture.scan import Look, ground
from docker_rollback._volumes.tar.members import Members
from docker_rollback._volumes.tar.snapshot_file import SnapshotFile
from docker_rollback.errors import ArchiveError, CorruptBackupError
from tests.unit.volumes import awkward
from tests.unit.volumes.comparing import picture
from tests.unit.volumes.live import capture, check, let_age, plain_increment, reach_of, run


@pytest.fixture
def root(field: Path) -> Path:
    """Give an empty folder on a file system that keeps everything."""
    made = field / "root"
    made.mkdir()
    return made


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an increment take what is a moment old, not seconds, so that a test has something that is older."""
    monkeypatch.setattr(base, "MARGIN", 0.02)


def tree(root: Path) -> None:
    """Make directories that can be moved, each with files, some of which have several names."""
    for name in ("l/0", "l/1", "l/2", "p/q/r", "a/x", "b/x"):
        (root / name).mkdir(parents=True)
        (root / name / "which").write_text(name)
        (root / name / f"only-{name.replace('/', '-')}").write_text(name)


def move(root: Path, steps: str) -> None:
    """Do what each word says: ``a>b`` renames, ``+a`` makes a directory, ``-a`` removes one with all below it."""
    for step in steps.split():
        source, _, target = step.partition(">")
        if target:
            (root / source).rename(root / target)
        elif step[0] == "+":
            (root / step[1:]).mkdir()
        else:
            shutil.rmtree(root / step[1:])


MOVES = {
    "rotated": "l/2>l/3 l/1>l/2 l/0>l/1",
    "turned": "l/0>l/t l/1>l/0 l/t>l/1",
    "swapped-below": "a/x>t b/x>a/x t>b/x",
    "swapped-at-the-top": "a>t b>a t>b",
    "child-becomes-parent": "p/q>q p>q/p",
    "grandchild-becomes-root": "p/q/r>r p>r/p",
    "over-an-empty-one": "+e a/x>e",
    "into-the-name-of-one-that-went": "-a b>a",
    "away-and-another-made": "a>gone +a",
    "emptied-into-another": "a>t +a t/x>a/x",
}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("steps", MOVES.values(), ids=MOVES)
def test_moved_directories_come_back_where_they_are(root: Path, steps: str) -> None:
    """However directories changed places, base and increment give what there was, in an empty folder and in place."""
    tree(root)
    let_age(root)
    taken = capture(root, lambda: move(root, steps))
    assert taken.incremental
    check(root, taken)


@pytest.mark.usefixtures("exact")
def test_tar_alone_writes_renames_that_it_cannot_extract(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what closes it, the fault is there, and is found out in time: all is archived at rest instead."""
    tree(root)
    monkeypatch.setattr(increment, "moved", lambda *_: set())
    let_age(root)
    taken = capture(root, lambda: move(root, MOVES["turned"]))
    assert not taken.incremental
    check(root, taken)


@pytest.mark.usefixtures("exact")
def test_names_of_one_file_in_and_out_of_a_moved_directory_stay_one_file(root: Path) -> None:
    """An increment would make two files of it, so all is archived at rest; a directory that went does no harm."""
    tree(root)
    (root / "l/name").hardlink_to(root / "a/x/which")
    let_age(root)
    gone = capture(root, lambda: shutil.rmtree(root / "p"))
    assert gone.incremental
    check(root, gone)
    let_age(root)
    taken = capture(root, lambda: move(root, "a>moved"))
    assert not taken.incremental
    check(root, taken)


@pytest.mark.usefixtures("exact")
def test_names_of_one_file_stay_one_file_where_nobody_can_tell_what_moved(root: Path) -> None:
    """Where the look for directories elsewhere fails, they may be there, so all is archived at rest."""
    tree(root)
    (root / "l/name").hardlink_to(root / "a/x/which")
    let_age(root)

    def failing(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        if words[0] == "find" and "%i\\n" in words:
            words = ("sh", "-c", '"$@"; exit 1', "sh", *words)
            asked.append(words)
        return run(words, stdin=stdin)

    asked: list[Sequence[str]] = []
    taken = capture(root, lambda: shutil.rmtree(root / "p"), run=failing)
    assert asked
    assert not taken.incremental
    check(root, taken)


def test_a_change_while_the_increment_is_taken_is_told_as_that(root: Path) -> None:
    """The volume was not at rest: to archive all of it instead would hide that somebody wrote to it."""
    tree(root)
    let_age(root)

    def disturbed(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        if "--create" in words and "--level=0" not in words:
            words = ("sh", "-c", '"$@"; echo "tar: ./a: file changed as we read it" >&2; exit 1', "sh", *words)
        return run(words, stdin=stdin)

    with pytest.raises(ArchiveError, match=r"changed while they were read: tar: \./a"):
        capture(root, (root / "a/x/more").touch, run=disturbed)


def test_an_increment_that_was_not_made_ready_is_a_mistake_of_the_callers(root: Path) -> None:
    """It has no programs to take it with."""
    base: Any = SimpleNamespace(snapshot=None)
    nothing: Any = None
    with pytest.raises(ValueError, match="ready first"):
        increment.Increment(reach_of(root), base, nothing, nothing).take(nothing, progress=None)


@pytest.mark.usefixtures("exact")
def test_unchanged_files_are_not_archived_again(root: Path) -> None:
    """The increment has what changed, not what did not."""
    tree(root)
    (root / "big").write_bytes(random.Random(1).randbytes(3_000_000))
    let_age(root)
    taken = capture(root, lambda: (root / "new").write_text("new"))
    assert len(taken.tars[0]) > 3_000_000
    assert len(taken.tars[1]) < 100_000
    check(root, taken)


@pytest.mark.usefixtures("exact")
def test_what_changed_is_put_aside_as_it_is_and_compressed_later(root: Path) -> None:
    """While the service is at rest nothing is compressed: that waits until it runs again, and leaves nothing over."""
    tree(root)
    let_age(root)
    sizes: list[list[int]] = []

    def look(store: Path) -> None:
        sizes.append([path.stat().st_size for path in (store / "drafts").rglob("*.spool")])
        sizes.append([path.stat().st_size for path in (store / "blobs").rglob("*") if path.is_file()])

    taken = capture(root, lambda: (root / "zeros").write_bytes(bytes(3_000_000)), captured=look)
    check(root, taken)
    (aside,), (base,) = sizes
    assert aside == len(taken.tars[1]) > 3_000_000
    assert taken.archive.increment is not None
    assert taken.archive.increment.size < 100_000
    assert base == taken.archive.base.size


# Races


@pytest.mark.usefixtures("exact")
def test_a_base_that_the_disk_does_not_give_back_as_it_was_is_noticed(root: Path) -> None:
    """Before the update starts, and not when it is to be restored."""
    (root / "file").write_bytes(os.urandom(100_000))
    let_age(root)

    def rot(store: Path) -> None:
        (base,) = (path for path in (store / "blobs").rglob("*") if path.is_file() and path.stat().st_size > 100_000)
        data = bytearray(base.read_bytes())
        data[50_000] ^= 1
        base.chmod(0o600)
        base.write_bytes(data)

    with pytest.raises(CorruptBackupError):
        capture(root, captured=rot)


def test_without_a_record_of_tars_all_is_taken_at_rest(root: Path) -> None:
    """Nobody knows then what the base holds."""
    (root / "file").write_text("x")

    def rubbish(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        if words[0] == "cat" and words[1].endswith("/snapshot"):
            Path(words[1]).write_bytes(b"no such thing")
        return run(words, stdin=stdin)

    taken = capture(root, run=rubbish)
    assert not taken.incremental
    check(root, taken)


def test_a_file_written_within_a_tick_of_the_clock_for_files_is_taken(root: Path) -> None:
    """Its times lie before the moment that tar notes for its base: tar alone leaves it out, we do not.

    Newer kernels stamp files by a clock that is not behind; so the moment is put forward by what it would be.
    """
    (root / "file").write_text("before")
    (root / "more").write_bytes(bytes(1_000_000))
    raw = root.parent / "raw"

    def behind(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        if words[0] == "cat" and words[1].endswith("/snapshot"):
            path = Path(words[1])
            written = (root / "file").stat().st_ctime_ns
            path.write_bytes(evolve(SnapshotFile.parse(path.read_bytes()), began=written + 4_000_000).written())
            shutil.copy(path, raw)
        return run(words, stdin=stdin)

    taken = capture(root, during=lambda: (root / "file").write_text("after!"), run=behind)
    assert taken.incremental
    assert b"before" in taken.tars[0]
    assert b"after!" not in plain_increment(root, raw)
    check(root, taken)


@pytest.mark.usefixtures("exact")
def test_a_mapped_page_that_stays_dirty_is_taken(root: Path) -> None:
    """Written before the base and once more after it, the page stamps no time by itself; a flush before makes it."""
    path = root / "mapped"
    path.write_bytes(b"-" * 8192)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:
        for _ in range(50):
            mapped[0:6] = b"before"
            stamped = path.stat().st_ctime_ns
            let_age(root, 0.2)
            mapped[0:6] = b"dirty!"
            if path.stat().st_ctime_ns == stamped:
                break  # else something else flushed the file system meanwhile
        else:
            pytest.fail("no page stayed dirty")

        def change() -> None:
            mapped[0:6] = b"after!"

        taken = capture(root, change)
        assert taken.incremental
        assert b"after!" in taken.tars[1]
        check(root, taken)


@pytest.mark.usefixtures("exact")
def test_directories_that_change_places_while_they_are_read_and_back_are_taken_whole(root: Path) -> None:
    """What the base has of one under the other's name is replaced, though no file of theirs has a new time."""
    (root / "0-first").write_bytes(random.Random(1).randbytes(20_000_000))
    for name in ("p", "q"):
        (root / name / "deep").mkdir(parents=True)
        (root / name / "deep/which").write_text(name)
    let_age(root)

    swap = "p>t q>p t>q"
    taken = capture(root, lambda: move(root, swap), during=lambda: move(root, swap))
    assert taken.incremental
    assert (root / "p/deep/which").read_text() == "p"
    check(root, taken)


@pytest.mark.usefixtures("exact")
def test_directories_that_had_changed_places_look_like_any_others_once_something_is_made_in_them(root: Path) -> None:
    """Their times are then those of directories that stayed where they were; the files in the base are not theirs."""
    (root / "0-first").write_bytes(random.Random(1).randbytes(20_000_000))
    for age, name in enumerate("pq"):
        (root / name / "deep").mkdir(parents=True)
        (root / name / "deep/which").write_text(name)
        (root / name / "deep/link").symlink_to(name)
        for file in ("which", "link"):
            os.utime(root / name / "deep" / file, (age, age), follow_symlinks=False)
    let_age(root)

    swap = "p>t q>p t>q"

    def change() -> None:
        move(root, swap)
        for name in "pq":
            (root / name / "news").touch()
            (root / name / "deep/news").touch()

    taken = capture(root, change, during=lambda: move(root, swap))
    assert taken.incremental
    assert (root / "p/deep/which").read_text() == "p"
    check(root, taken)


@pytest.mark.usefixtures("exact")
def test_a_directory_that_came_before_it_was_read_is_taken_whole(root: Path) -> None:
    """The look saw other files under its name."""
    for name in "pq":
        (root / name).mkdir()
        (root / name / "which").write_text(name)
        os.utime(root / name / "which", (1, 1))
    let_age(root)
    swap = "p>t q>p t>q"

    def swapping(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        if words[0] == "sync":
            move(root, swap)
        return run(words, stdin=stdin)

    taken = capture(root, (root / "p/news").touch, run=swapping)
    assert taken.incremental
    assert b"./p/which" in taken.tars[1]
    check(root, taken)


@pytest.mark.usefixtures("exact")
def test_a_directory_that_was_away_while_it_was_to_be_read_is_taken(root: Path) -> None:
    """The base has nothing of it, and it came back as it was."""
    (root / "0-first").write_bytes(random.Random(1).randbytes(20_000_000))
    (root / "p").mkdir()
    (root / "p/file").write_text("here again")
    let_age(root)
    away = root.parent / "away"
    taken = capture(root, lambda: away.rename(root / "p"), during=lambda: (root / "p").rename(away))
    assert taken.incremental
    check(root, taken)


@pytest.mark.usefixtures("exact")
def test_files_that_vanish_or_change_while_they_are_read_do_no_harm(root: Path) -> None:
    """It is in the nature of a volume in use; a name that comes back with another file is taken."""
    (root / "0-first").write_bytes(random.Random(1).randbytes(20_000_000))
    (root / "odd \n\\ name\xff").write_text("goes")
    (root / "comes back").write_text("goes")
    kept = root.parent / "kept"
    kept.write_text("old, but under a new name")
    let_age(root)

    def during() -> None:
        (root / "odd \n\\ name\xff").unlink()
        (root / "comes back").unlink()
        with (root / "0-first").open("ab") as file:
            file.write(b"more")

    taken = capture(root, lambda: kept.rename(root / "comes back"), during=during)
    assert taken.incremental
    check(root, taken)


def test_a_clock_that_was_set_back_makes_no_increment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written since bears times from before; all is archived at rest."""
    tree(root)

    def change() -> None:
        now = read_clock()
        monkeypatch.setattr(increment, "read_clock", lambda: evolve(now, offset=now.offset - 5 * 10**9))

    taken = capture(root, change)
    assert not taken.incremental
    check(root, taken)


def test_an_attribute_taken_off_a_directory_makes_no_increment(root: Path) -> None:
    """Tar would leave it on the directory that the base brought; all is archived at rest."""
    (root / "d").mkdir()
    os.setxattr(root / "d", "user.note", b"1")
    os.setxattr(root, "user.note", b"1")
    taken = capture(root, lambda: os.removexattr(root / "d", "user.note"))
    assert not taken.incremental
    check(root, taken)


def test_what_is_small_is_archived_at_rest_alone(root: Path) -> None:
    """Below the limit there is no base of a volume in use; from it on there is."""
    (root / "file").write_bytes(b"x" * 100_000)
    weight = 3 * (16 << 10) + 100_000
    small = capture(root, lambda: (root / "late").write_text("late"), live_from=2 * weight)
    assert not small.incremental
    assert b"late" in small.tars[0]
    check(root, small)
    assert capture(root, live_from=weight // 2).incremental


def test_every_kind_of_file_goes_by_base_and_increment(root: Path) -> None:
    """The awkward set in the base, damaged before the increment, comes back damaged as it was."""
    awkward.make(root)
    outside = root.parent / "outside"
    outside.mkdir()
    taken = capture(root, lambda: awkward.damage(root, outside))
    before = picture(root, sockets=False)
    assert before
    for data in taken.tars:
        assert data
    check(root, taken)


def test_much_that_was_written_a_moment_ago_is_left_to_age_before_its_base(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each increment on this base would hold all of it, and no restore could prove that it was left alone."""
    monkeypatch.setattr(base, "MARGIN", 0.3)
    monkeypatch.setattr(base, "_YOUNG_FROM", 0)
    for number in range(20):
        (root / f"young{number}").write_bytes(os.urandom(5000))
    taken = capture(root, lambda: (root / "young7").write_text("changed"))
    assert {one.name for one in Members().feed(taken.tars[1]) if b"young" in one.name} == {b"./young7"}
    check(root, taken)


@pytest.mark.parametrize(
    ("age", "size", "expected"),
    [(0, 16 << 10, True), (9, 16 << 10, False), (0, 16 << 20, False)],
    ids=["young", "old", "large"],
)
def test_what_has_aged_is_not_waited_for_and_nothing_large(age: int, size: int, *, expected: bool) -> None:
    """Of large files there are copies."""
    seconds = int(time.time()) - age
    small = base._Small()
    for number in range((32 << 20) // size):
        small.file(b"7 %d.5 0.0 %d file%d" % (seconds, size, number), size)
    assert small.are_young(Look(200_000_000, 0, linked=False, sockets=())) == expected


def test_what_changes_while_a_volume_ages_does_not_cost_the_next_backup_its_base(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A base goes with a look that was taken after the waiting, and not with the one that led to it."""
    monkeypatch.setattr(base, "MARGIN", 0.3)
    # It tells whole seconds; no backup follows another so closely.
    monkeypatch.setattr(base, "ground", lambda reach, crew: evolve(found := ground(reach, crew), now=found.now + 1))
    (root / "file").write_bytes(os.urandom(5000))
    (root / "other").write_bytes(os.urandom(5_000_000))
    let_age(root, 0.4)

    def are_young(*_: object) -> bool:
        (root / "file").chmod(0o600)
        # A little longer ago than the margin, once that is over.
        time.sleep(0.5)
        return True

    store = BackupStore(root.parent / "store")
    with monkeypatch.context() as patch:
        patch.setattr(base._Small, "are_young", are_young)
        first = capture(root, store=store, number=1)
    with caplog.at_level("INFO", logger="docker_rollback"):
        second = capture(root, store=store, number=2)
    # Of equal content, a new base would have the same digest.
    assert "a new base is taken" not in caplog.text
    assert second.archive.base == first.archive.base
    check(root, second)
