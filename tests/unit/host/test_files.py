"""Single files of this machine: read through no link, refused if they could not be put back, and put back whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._host import UNUSABLE, FileState, check_replaceable, files, read_file, replace_file
from docker_rollback.testing import Killed
from tests.unit.mortal import Fault, Life

OLD = b"image: app:1\n"
ROOT = os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a file."""
    found = tmp_path / "compose.yml"
    found.write_bytes(OLD)
    return found


def put(path: Path, state: FileState) -> tuple[bool, list[bytes]]:
    """Put a file back; return whether it was written, and the contents that were kept."""
    kept: list[bytes] = []
    return replace_file(str(path), state, temporary=".ours.tmp", keep=kept.append), kept


def identity(path: Path) -> tuple[int, int, int]:
    """Return what changes with each write; a read may change its time of access."""
    found = path.lstat()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(found.name for found in folder.iterdir())


def test_a_changed_file_is_put_back_and_its_content_kept(path: Path) -> None:
    """With mode and owner; nothing else is in the folder then."""
    path.chmod(0o640)
    before = check_replaceable(str(path))
    assert names(path.parent) == ["compose.yml"]
    path.write_bytes(b"image: app:2\n")
    path.chmod(0o600)
    assert put(path, before) == (True, [b"image: app:2\n"])
    assert read_file(str(path)) == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(path.parent) == ["compose.yml"]


def test_an_equal_file_is_left_alone(path: Path) -> None:
    """Its times and its inode stay."""
    before, status = read_file(str(path)), identity(path)
    assert put(path, before) == (False, [])
    assert identity(path) == status


def test_a_missing_file_is_made(path: Path) -> None:
    """There is nothing to keep."""
    before = read_file(str(path))
    path.unlink()
    assert put(path, before) == (True, [])
    assert path.read_bytes() == OLD


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_owner_group_and_mode_come_back_together(path: Path) -> None:
    """The mode after the owner, whose change clears set-id bits."""
    os.chown(path, 12, 34)
    path.chmod(0o4755)
    before = check_replaceable(str(path))
    path.unlink()
    put(path, before)
    assert (before.uid, before.gid, before.mode) == (12, 34, 0o4755)
    assert read_file(str(path)) == before


@given(content=st.binary(max_size=300), other=st.binary(max_size=300))
def test_any_content_comes_back(tmp_path_factory: pytest.TempPathFactory, content: bytes, other: bytes) -> None:
    """What was there is kept if it was another one."""
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    before = read_file(str(path))
    path.write_bytes(other)
    assert put(path, before) == ((False, []) if content == other else (True, [other]))
    assert path.read_bytes() == content


def become(path: Path, kind: str) -> None:
    """Replace a file by something else."""
    path.unlink()
    if kind == "a link":
        path.symlink_to(path.with_name("victim"))
        path.with_name("victim").write_bytes(b"mine")
    elif kind == "a fifo":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.write_bytes(bytes(files.LARGEST + 1))


@pytest.mark.parametrize("kind", ["a link", "a fifo", "a folder", "too large"])
def test_what_is_no_small_regular_file_is_neither_read_nor_replaced(path: Path, kind: str) -> None:
    """A link is not followed, a pipe is not waited for, and what has taken the place stays."""
    before = read_file(str(path))
    become(path, kind)
    for use in (read_file, check_replaceable):
        with pytest.raises(OSError, match=r"symbolic link|regular file|larger"):
            use(str(path))
    status = identity(path)
    with pytest.raises(OSError, match=r"symbolic link|regular file|larger"):
        put(path, before)
    assert identity(path) == status
    if kind == "a link":
        assert path.with_name("victim").read_bytes() == b"mine"


def test_a_folder_that_has_become_a_link_is_not_followed(tmp_path: Path) -> None:
    """The error says where it leads."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_bytes(OLD)
    (tmp_path / "link").symlink_to("real")
    before = read_file(str(tmp_path / "real/file"))
    for use in (read_file, check_replaceable, lambda path: put(Path(path), evolve(before, content=b"new"))):
        with pytest.raises(FileNotFoundError, match=r"symbolic link is in its path, which leads to .*/real/file"):
            use(str(tmp_path / "link/file"))
    assert (tmp_path / "real/file").read_bytes() == OLD


@pytest.mark.parametrize(
    "path", ["relative", "/", "/a/..", "/a/../b", "/\0", "/\udcff", "/" + "x" * 300, "/" + "x/" * 3000]
)
def test_a_path_that_no_system_knows_is_refused(path: str) -> None:
    """With an error of those that callers expect."""
    for use in (read_file, check_replaceable):
        with pytest.raises(UNUSABLE):
            use(path)


@pytest.mark.parametrize("change", [{"uid": 1 << 70}, {"mode": 1 << 70}, {"gid": -(1 << 70)}])
def test_an_owner_that_no_system_knows_is_refused(path: Path, change: dict[str, Any]) -> None:
    """The file stays as it is, and nothing is left next to it."""
    state = evolve(read_file(str(path)), content=b"new", **change)
    with pytest.raises(UNUSABLE):
        put(path, state)
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["compose.yml"]


def test_hard_links_are_refused(path: Path) -> None:
    """Another name would keep the update's content."""
    before = read_file(str(path))
    os.link(path, path.with_name("other"))
    with pytest.raises(OSError, match="hard links"):
        check_replaceable(str(path))
    with pytest.raises(OSError, match="hard links"):
        put(path, evolve(before, content=b"new"))
    assert path.read_bytes() == OLD


def test_attributes_that_a_new_file_lacks_are_refused(path: Path) -> None:
    """Such as an access control list."""
    before = read_file(str(path))
    try:
        os.setxattr(path, "user.note", b"mine")
    except OSError:
        pytest.skip("this file system has no attributes")
    with pytest.raises(OSError, match=r"other attributes \(user\.note\)"):
        check_replaceable(str(path))
    with pytest.raises(OSError, match="other attributes"):
        put(path, evolve(before, content=b"new"))
    assert os.getxattr(path, "user.note") == b"mine"


def test_an_immutable_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the flags that the kernel returns."""

    def ioctl(_: int, request: int, flags: Any) -> None:
        assert request == files._GET_FLAGS
        flags[0] = 0x10

    monkeypatch.setattr("docker_rollback._host.files.fcntl.ioctl", ioctl)
    with pytest.raises(OSError, match="immutable"):
        check_replaceable(str(path))


def test_a_file_that_is_mounted_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rename can replace a mount point."""
    mounts = f"36 35 98:0 /f {path} rw - ext4 /dev/sda rw\n"
    monkeypatch.setattr("docker_rollback._host.files._text", lambda _: mounts)
    with pytest.raises(OSError, match="mounted by itself"):
        check_replaceable(str(path))


def test_a_folder_that_takes_no_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a try, so whatever the reason is."""
    real = os.open

    def forbid(name: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return real(name, flags, *rest, **more)

    monkeypatch.setattr("docker_rollback._host.files.os.open", forbid)
    with pytest.raises(PermissionError, match=r"made in its folder \(Permission denied"):
        check_replaceable(str(path))


def test_an_owner_that_this_user_cannot_give_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another user would become ours."""

    def forbid(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    other = evolve(read_file(str(path)), uid=os.geteuid() + 1)
    monkeypatch.setattr("docker_rollback._host.files.os.fchown", forbid)
    monkeypatch.setattr("docker_rollback._host.files._find", lambda *_: files._Opened(other, path.stat(), {}, False))
    with pytest.raises(PermissionError, match=f"owner {other.uid} and group"):
        check_replaceable(str(path))
    assert names(path.parent) == ["compose.yml"]


def during(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], *, times: int = 1) -> None:
    """Let somebody act after a file was read, and before it is replaced."""
    real, left = files._fill, [act] * times

    def fill(file: int, state: FileState) -> None:
        real(file, state)
        if left:
            left.pop()()

    monkeypatch.setattr(files, "_fill", fill)


def test_what_somebody_writes_meanwhile_is_kept_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read again if it has changed since."""
    before = read_file(str(path))
    path.write_bytes(b"update")
    during(monkeypatch, lambda: path.write_bytes(b"repair"))
    assert put(path, before) == (True, [b"update", b"repair"])


def test_a_file_that_somebody_creates_meanwhile_is_kept_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was missing a moment ago."""
    before = read_file(str(path))
    path.unlink()
    during(monkeypatch, lambda: path.write_bytes(b"repair"))
    assert put(path, before) == (True, [b"repair"])


def test_a_file_that_is_written_all_the_time_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few tries."""
    before, count = read_file(str(path)), iter(range(100))
    path.write_bytes(b"update")
    during(monkeypatch, lambda: path.write_bytes(b"%d" % next(count)), times=100)
    with pytest.raises(OSError, match="else is writing it"):
        put(path, before)
    assert path.read_bytes() == b"2"
    assert names(path.parent) == ["compose.yml"]


def test_nothing_is_replaced_unless_its_content_is_kept(path: Path) -> None:
    """Such as with a full store."""

    def fail(_: bytes) -> None:
        raise RuntimeError("full")

    state = evolve(read_file(str(path)), content=b"new")
    with pytest.raises(RuntimeError):
        replace_file(str(path), state, temporary=".ours.tmp", keep=fail)
    assert path.read_bytes() == OLD


def test_the_temporary_file_of_a_killed_process_is_removed(path: Path) -> None:
    """Also if there is nothing else to do; a link by that name is not followed."""
    before = read_file(str(path))
    path.with_name(".ours.tmp").write_bytes(b"torn")
    assert put(path, before) == (False, [])
    assert names(path.parent) == ["compose.yml"]
    path.with_name(".ours.tmp").symlink_to(path)
    path.write_bytes(b"update")
    assert put(path, before) == (True, [b"update"])
    assert names(path.parent) == ["compose.yml"]


def test_the_probe_of_a_killed_process_is_removed(path: Path) -> None:
    """By the next one in the folder."""
    path.with_name(os.fsdecode(files._PROBE)).write_bytes(b"")
    check_replaceable(str(path))
    assert names(path.parent) == ["compose.yml"]


class DyingSystem:
    """The system's calls, which have no effect any more once the process has died at one of them."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def __getattr__(self, name: str) -> Any:
        """Return a call; those that change something are counted."""
        real = getattr(os, name)
        if name not in ("write", "fchown", "fchmod", "fsync", "replace", "unlink", "open"):
            return real

        def call(*args: Any, **more: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **more)
            return self._life.effect(lambda: real(*args, **more), OSError, None)

        return call


@pytest.mark.parametrize("fault", ["die before", "die after", "fail"])
@pytest.mark.parametrize("gone", [False, True], ids=["changed", "gone"])
def test_whenever_a_process_dies_the_file_is_whole_and_the_next_one_ends_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, *, gone: bool
) -> None:
    """It has the content of before or of after; what it had is kept; nothing is left next to it."""
    before, at = read_file(str(path)), 0
    while True:
        at += 1
        path.unlink()
        if not gone:
            path.write_bytes(b"update")
        life, kept = Life(fault, at), list[bytes]()
        with monkeypatch.context() as patch, suppress(Killed, OSError):
            patch.setattr(files, "os", DyingSystem(life))
            replace_file(str(path), before, temporary=".ours.tmp", keep=kept.append)
        if gone:
            assert not path.exists() or path.read_bytes() == OLD
        else:
            assert path.read_bytes() in (b"update", OLD)
        replace_file(str(path), before, temporary=".ours.tmp", keep=kept.append)
        assert read_file(str(path)) == before
        assert set(kept) == (set() if gone else {b"update"})
        assert names(path.parent) == ["compose.yml"]
        if not life.struck:
            assert at > 5
            break
