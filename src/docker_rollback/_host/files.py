"""Reads single files of this machine whole, and replaces them by files that differ in their content alone."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import field, frozen

from docker_rollback._host.mounts import mounted
from docker_rollback._host.tree import NotAFileError, Tree

LARGEST: Final = 16 << 20
"""The maximum size of a file, in bytes: it is read into memory."""

UNUSABLE: Final = (OSError, ValueError, OverflowError)
"""What the functions of this module raise, for paths and owners that no system knows too."""

_PROBE: Final = b".docker-rollback.tmp"
FIXED: Final = 0x10 | 0x20
"""The flags of files that nobody can replace: FS_IMMUTABLE_FL, FS_APPEND_FL."""

_GET_FLAGS: Final = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1  # FS_IOC_GETFLAGS
_TRIES: Final = 3


@frozen
class FileState:
    """A file's content, permissions and owners."""

    content: bytes = field(repr=False)  # may hold secrets
    mode: int
    uid: int
    gid: int


@frozen
class _Opened:
    """A file as it was found, with the facts that decide whether another one can take its place."""

    state: FileState
    status: os.stat_result
    attributes: dict[str, bytes]
    is_fixed: bool


def reason_of(error: Exception) -> str:
    """Return why a file could not be used, in words without its path."""
    return getattr(error, "strerror", None) or str(error)


def machine_id() -> str:
    """Return the machine id; empty if there is none."""
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def this_machine() -> str:
    """Return a text that distinguishes this machine, or this container, from others."""
    # Clones of a virtual machine may share a machine id, and only the host name distinguishes them.
    return f"{socket.gethostname()} {machine_id()}".strip()


def flags_of(file: int) -> int:
    """Return the flags of an open file, as chattr sets them; raises `OSError` if its file system has none."""
    # The kernel writes an int, although the request has the size of a long.
    flags = array.array("i", [0, 0])
    fcntl.ioctl(file, _GET_FLAGS, flags)
    return flags[0]


def read_file(path: str) -> FileState:
    """Read a regular file through no symbolic link; raises `UNUSABLE`, and for a missing file `FileNotFoundError`."""
    with _folder_of(path) as (folder, name):
        found = _find(folder, name)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return found.state


def check_replaceable(path: str) -> FileState:
    """Read a file, and try whether `replace_file` could put it back; raises `UNUSABLE`.

    The new file that this makes in its folder loses its name at once.
    """
    with _folder_of(path) as (folder, name):
        found = _find(folder, name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if any(mount.target == path for mount in mounted(_text("/proc/self/mountinfo"))):
            raise OSError(errno.EBUSY, "it is mounted by itself, so no other file can take its place")
        with _created(folder, _PROBE) as file:
            _remove(folder, _PROBE)
            _fill(file, found.state)
            _check_alike(found, file)
            _sync(folder)
    return found.state


def replace_file(path: str, state: FileState, *, temporary: str, keep: Callable[[bytes], None]) -> bool:
    """Make a file what it was, atomically; return False if it is so already.

    Nothing but a regular file is replaced, and no symbolic link is followed.

    Args:
        path: the absolute path of the file.
        state: what it was.
        temporary: the name in its folder of the file that takes its place. One that an interrupted call left is
            removed, so no other process may use the name.
        keep: called with the present content, if there is any, before that is replaced.

    Raises:
        UNUSABLE: it could not be replaced, and is as it was found. `keep` may raise anything else.
    """
    with _folder_of(path) as (folder, name):
        _remove(folder, os.fsencode(temporary))
        for _ in range(_TRIES):
            found = _find(folder, name)
            if found is not None and found.state == state:
                return False
            if found is not None:
                keep(found.state.content)
            with _created(folder, os.fsencode(temporary)) as file:
                _fill(file, state)
                if found is not None:
                    _check_alike(found, file)
                if _is_still(folder, name, found):
                    os.replace(temporary, name, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor)
                    _sync(folder)
                    return True
        raise OSError(errno.EBUSY, "somebody else is writing it")


@contextmanager
def _folder_of(path: str) -> Iterator[tuple[Tree, bytes]]:
    """Open the folder of a file through no symbolic link; yield it, and the file's name in it."""
    folder, _, name = os.fsencode(path).rpartition(b"/")
    if not path.startswith("/") or name in (b"", b".", b".."):
        raise OSError(errno.EINVAL, "it is not the absolute path of a file")
    try:
        with Tree.at("/") as root, root.below(folder.lstrip(b"/") or b".") as tree:
            yield tree, name
    except (FileNotFoundError, NotAFileError) as error:
        if (real := os.path.realpath(path)) == path:
            raise
        raise FileNotFoundError(errno.ENOENT, f"a symbolic link is in its path, which leads to {real!r}") from error


def _find(folder: Tree, name: bytes) -> _Opened | None:
    """Read a file of a folder; return None if it is missing."""
    try:
        folder.status(name)
    except FileNotFoundError:
        return None
    with folder.reading(name) as file:
        before = os.fstat(file)
        if not stat.S_ISREG(before.st_mode):
            raise NotAFileError(errno.EINVAL, "it is not a regular file")
        if before.st_size > LARGEST:
            raise OSError(errno.EFBIG, f"it is larger than {LARGEST >> 20} MiB")
        content = _read(file, before.st_size + 1)
        after = os.fstat(file)
        if _stamp(before) != _stamp(after) or len(content) != after.st_size:
            raise OSError(errno.EBUSY, "somebody else is writing it")
        state = FileState(content, stat.S_IMODE(after.st_mode), after.st_uid, after.st_gid)
        return _Opened(state, after, _attributes(file), _is_fixed(file))


def _check_alike(found: _Opened, file: int) -> None:
    """Raise `OSError` if a file would lose more than its content to a new file that takes its place."""
    if found.is_fixed:
        raise OSError(errno.EPERM, "it is immutable or append-only (chattr)")
    if found.status.st_nlink > 1:
        raise OSError(errno.EMLINK, "it has hard links, which would keep another content")
    here = _attributes(file)
    differ = sorted(key for key in {*here, *found.attributes} if here.get(key) != found.attributes.get(key))
    if differ:
        raise OSError(errno.ENOTSUP, f"a new file would have other attributes ({', '.join(differ)})")


@contextmanager
def _created(folder: Tree, name: bytes) -> Iterator[int]:
    """Create a file in a folder, and remove its name at the end, if it still has that."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            file = os.open(name, flags, 0o600, dir_fd=folder.descriptor)
        except FileExistsError:  # another process is trying the same folder, or was killed
            _remove(folder, name)
            file = os.open(name, flags, 0o600, dir_fd=folder.descriptor)
    except OSError as error:
        raise OSError(error.errno, f"no other file can be made in its folder ({error.strerror})") from error
    try:
        yield file
    finally:
        os.close(file)
        with suppress(OSError):
            _remove(folder, name)


def _fill(file: int, state: FileState) -> None:
    rest = memoryview(state.content)
    while rest:
        rest = rest[os.write(file, rest) :]
    made = os.fstat(file)
    if (made.st_uid, made.st_gid) != (state.uid, state.gid):
        try:
            os.fchown(file, state.uid, state.gid)
        except OSError as error:
            reason = f"this user cannot give a file its owner {state.uid} and group {state.gid} ({error.strerror})"
            raise OSError(error.errno, reason) from error
    # After the owner, whose change clears bits.
    os.fchmod(file, state.mode)
    os.fsync(file)
    made = os.fstat(file)
    if (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid) != (state.mode, state.uid, state.gid):
        raise OSError(errno.EPERM, "this user cannot give a file its owner, group and mode")


def _is_still(folder: Tree, name: bytes, found: _Opened | None) -> bool:
    try:
        status = folder.status(name)
    except FileNotFoundError:
        return found is None
    return found is not None and _stamp(status) == _stamp(found.status)


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(file: int, size: int) -> bytes:
    pieces = []
    while size and (data := os.read(file, size)):
        pieces.append(data)
        size -= len(data)
    return b"".join(pieces)


def _attributes(file: int) -> dict[str, bytes]:
    try:
        return {key: os.getxattr(file, key) for key in os.listxattr(file)}
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise


def _is_fixed(file: int) -> bool:
    try:
        return bool(flags_of(file) & FIXED)
    except OSError:  # this file system has none
        return False


def _remove(folder: Tree, name: bytes) -> None:
    with suppress(FileNotFoundError):
        folder.unlink(name)


def _sync(folder: Tree) -> None:
    names = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder.descriptor)
    try:
        os.fsync(names)
    finally:
        os.close(names)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
