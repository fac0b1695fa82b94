"""GNU tar by our command lines: what it keeps, what it clears away, and what is made of how it ends."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_rollback._engine.port import Finished
from docker_rollback._volumes.access.direct import LocalProcess
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback.errors import ArchiveError
from tests.unit.volumes import awkward
from tests.unit.volumes.comparing import differences, picture


def archive(root: Path) -> tuple[bytes, Finished]:
    """Archive a folder as a capture does, and say how tar ended."""
    with LocalProcess(gnu_tar.create(str(root), f"{root}.snapshot")) as tar:
        data = b"".join(pieces(tar))
        return data, tar.finish()


def pieces(process: LocalProcess) -> Iterator[bytes]:
    """Yield what a process prints."""
    while data := process.read(1 << 20):
        yield data


def fill(root: Path, data: bytes) -> Finished:
    """Fill a folder as a restore does."""
    with LocalProcess(gnu_tar.extract(str(root)), stdin=True) as tar:
        tar.write(gnu_tar.emptying())
        tar.write(data)
        return tar.finish()


@pytest.fixture
def root(field: Path) -> Path:
    """Give a folder with the awkward set in it."""
    made = field / "root"
    made.mkdir()
    awkward.make(made)
    return made


def drop_strays(folder: Path) -> None:
    """Take the attributes off a root that an update left there; tar itself leaves them, `_root` does it for it."""
    for name in ("user.stray", "trusted.stray"):
        os.removexattr(folder, name)


def test_an_archive_holds_every_file_with_all_its_attributes(root: Path) -> None:
    """The awkward set comes back in an empty folder, byte for byte and attribute for attribute, but for sockets."""
    before = picture(root, sockets=False)
    assert len(before) > 450
    data, finished = archive(root)
    (gap,) = gnu_tar.check_created("vol", finished, at_rest=True)
    assert gap.what == r"socket ./special/socket\n1 in volume vol"
    empty = root.parent / "empty"
    empty.mkdir()
    gnu_tar.check_extracted("vol", fill(empty, data))
    assert differences(before, picture(empty)) == []


def test_archiving_changes_nothing(root: Path) -> None:
    """A folder is after its archiving what it was before."""
    before = picture(root)
    archive(root)
    assert differences(before, picture(root)) == []


def test_a_damaged_tree_is_put_back_in_place(root: Path) -> None:
    """Over links that lead out, changed kinds, swapped names and strays, all is as before; outside, nothing changed."""
    before = picture(root, sockets=False)
    data, _ = archive(root)
    outside = root.parent / "outside"
    outside.mkdir()
    awkward.damage(root, outside)
    untouched = picture(outside)
    assert len(differences(before, picture(root))) > 400
    gnu_tar.check_extracted("vol", fill(root, data))
    drop_strays(root)
    assert differences(before, picture(root)) == []
    # The name inside was one of its names; that it is gone is the only thing to be seen out there.
    assert [line for line in differences(untouched, picture(outside)) if "links was" not in line] == []


def test_filling_can_be_done_again_after_it_was_cut_off(root: Path) -> None:
    """Wherever a filling stops half way, the next one from the start puts everything right."""
    before = picture(root, sockets=False)
    data, _ = archive(root)
    for part in (0, 1000, len(data) // 3, len(data) - 100_000):
        with pytest.raises(ArchiveError, match="tar ended with 2"):
            gnu_tar.check_extracted("vol", fill(root, data[:part] + b"\xff" * 700))
        gnu_tar.check_extracted("vol", fill(root, data))
        assert differences(before, picture(root)) == []


def test_special_files_with_several_names_become_several(field: Path) -> None:
    """GNU tar separates the names of a FIFO; the documentation says so, and this tells when it no longer does."""
    root, empty = field / "root", field / "empty"
    root.mkdir()
    empty.mkdir()
    os.mkfifo(root / "fifo")
    os.link(root / "fifo", root / "again")
    fill(empty, archive(root)[0])
    assert (empty / "fifo").stat().st_nlink == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(0, 10**9), second=st.integers(0, 10**9))
def test_any_tree_is_put_back_over_any_other(field: Path, first: int, second: int) -> None:
    """Whatever a folder held, filling it makes it what was archived, and twice is as good as once."""
    with tempfile.TemporaryDirectory(dir=field) as folder:
        one, other = Path(folder, "one"), Path(folder, "other")
        for root, seed in ((one, first), (other, second)):
            root.mkdir()
            awkward.grow(root, seed)
        before = picture(one)
        data, finished = archive(one)
        assert gnu_tar.check_created("vol", finished, at_rest=True) == ()
        for _ in range(2):
            gnu_tar.check_extracted("vol", fill(other, data))
            assert differences(before, picture(other)) == []


def test_the_beginning_of_an_archive_empties_the_root(field: Path) -> None:
    """Followed by nothing, it leaves an empty folder, and follows no link out of it."""
    root, outside = field / "root", field / "outside"
    (root / "a" / "b").mkdir(parents=True)
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (root / "a" / "link").symlink_to(outside)
    assert fill(root, bytes(1024)).exit_code == 0
    assert list(root.iterdir()) == []
    assert (outside / "kept").read_text() == "kept"


def test_an_earlier_snapshot_file_does_not_make_an_increment(field: Path) -> None:
    """An archive is whole even where tar's record of an earlier pass lies in its way."""
    root = field / "root"
    root.mkdir()
    (root / "file").write_text("kept in every archive")
    first, _ = archive(root)
    second, _ = archive(root)
    assert b"kept in every archive" in first
    assert b"kept in every archive" in second


def test_a_file_that_changes_at_rest_is_an_error(field: Path) -> None:
    """A file that grows while it is read fails a capture at rest, and passes where changes were to be expected."""
    root = field / "root"
    root.mkdir()
    (root / "log").write_bytes(random.Random(1).randbytes(30_000_000))
    with LocalProcess(gnu_tar.create(str(root), f"{root}.snapshot")) as tar:
        tar.read(10)  # tar waits for its reader with the file open and most of it unread
        with (root / "log").open("ab") as log:
            log.write(b"one line more\n")
        finished = tar.finish()
    with pytest.raises(ArchiveError, match=r"changed while they were read: .*\./log"):
        gnu_tar.check_created("vol", finished, at_rest=True)
    assert gnu_tar.check_created("vol", finished, at_rest=False) == ()


def test_a_tree_too_deep_for_tar_is_refused(field: Path) -> None:
    """A path that tar could not put back fails the archive, not the restore."""
    (field / "root").mkdir()
    here = os.open(field / "root", os.O_RDONLY)
    for _ in range(18):
        os.mkdir("d" * 240, dir_fd=here)
        below = os.open("d" * 240, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(ArchiveError, match="File name too long"):
        gnu_tar.check_created("vol", archive(field / "root")[1], at_rest=True)


@pytest.mark.parametrize(
    "line",
    [
        "tar: setxattrat: Cannot set 'user.x' extended attribute for file './a': Operation not supported",
        "/opt/bin/tar: llistxattrat: Cannot llistxattr for file './a': Operation not permitted",
        "tar: acl_set_file_at: Cannot set POSIX ACLs for file './a': No space left on device",
    ],
)
def test_a_lost_attribute_is_an_error_though_tar_calls_it_a_warning(line: str) -> None:
    """What tar says of attributes that it could not keep fails the work, whatever its exit code."""
    with pytest.raises(ArchiveError, match="lost attributes"):
        gnu_tar.check_extracted("vol", Finished(0, line + "\n"))


def test_a_file_system_without_acls_loses_none() -> None:
    """Tar's complaint that it could not set the ACLs which say no more than the mode is none of ours."""
    said = "tar: acl_set_file_at: Cannot set POSIX ACLs for file './a': Operation not supported\n"
    gnu_tar.check_extracted("vol", Finished(0, said))


def test_an_error_says_what_tar_said_first_and_not_of_sockets() -> None:
    """The first words of tar are in the error, without the sockets that it passed over."""
    said = "tar: ./s: socket ignored\ntar: ./a: Cannot open: Input/output error\ntar: Exiting with failure status\n"
    with pytest.raises(ArchiveError, match=r"^volume 'vol': archiving it failed: tar ended with 2: tar: \./a: Cannot"):
        gnu_tar.check_created("vol", Finished(2, said), at_rest=False)


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ("tar: ./sub/file: Cannot open: Not a directory", "./sub/file"),
        ("/.docker-rollback/bin/tar: ./a: b: Cannot unlink: Is a directory", "./a: b"),
        ("tar: ./sub: Cannot remove: No such file or directory", "./sub"),
        ("tar: acl_set_file_at: Cannot set POSIX ACLs for file './it's': Not a directory", "./it's"),
        ("tar: ./x: Cannot open: Permission denied\ntar: ./y: Cannot mkdir: File exists", "./y"),
        ("tar: ./x: Cannot hard link to './y': No such file or directory", None),
        ("tar: ./x: Cannot open: File name too long", None),
        ("tar: ./x: Cannot open: Not a directory\ntar: ./y: Cannot write: No space left on device", None),
    ],
)
def test_a_file_that_somebody_moves_meanwhile_is_named(said: str, path: str | None) -> None:
    """It may be gone or of another kind by the next try; what an archive brings about by itself is none of that."""
    with pytest.raises(ArchiveError) as failed:
        gnu_tar.check_extracted("/srv/app", Finished(2, said + "\ntar: Exiting with failure status"))
    assert failed.value.permanent == (path is None)
    assert (f"somebody seems to change it while it is filled, at {path!r}" in str(failed.value)) == (path is not None)
    assert ("lsof +D '/srv/app'" in str(failed.value)) == (path is not None)


def test_the_attributes_of_an_archives_root_are_read_off_its_beginning(root: Path) -> None:
    """The names come from the first member alone; what is no archive has none."""
    data, _ = archive(root)
    names = {"system.posix_acl_default", "trusted.root", "user.root"}
    assert gnu_tar.attributes(iter([data[:100], data[100:50_000]])) == names
    assert gnu_tar.attributes(iter([b"nonsense" * 1000])) == frozenset()
    with LocalProcess(gnu_tar.show_root(str(root))) as tar:
        assert gnu_tar.attributes(pieces(tar)) == names
