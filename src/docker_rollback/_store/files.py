"""Changes files durably and atomically.

Every change of the disk goes through a `Disk`, so that a test can fail or stop it at any call. A file is always
replaced in the same order: temporary file, content, fsync, rename, fsync of the folder. At every point a reader finds
either the whole old file or the whole new one.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from docker_rollback.errors import StoreError, StoreFullError, StoreNotWritableError

FOLDER_MODE = 0o700
FILE_MODE = 0o600

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_ADVICE = "run as its owner, or use another folder for the store"
_UNLOCKABLE = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class Disk:
    """The operations that change a file system. Every method raises the system's own `OSError`."""

    def make_folder(self, path: Path) -> None:
        """Create a folder with private permissions, regardless of the umask; harmless if it exists."""
        with suppress(FileExistsError):
            path.mkdir(FOLDER_MODE)
            path.chmod(FOLDER_MODE)

    def create(self, path: Path) -> int:
        """Create a file with private permissions, regardless of the umask, and return its descriptor for writing."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            os.fchmod(fd, FILE_MODE)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def reopen(self, path: Path) -> int:
        """Open a file that `create` made, and return its descriptor for writing."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def write(self, fd: int, data: bytes | memoryview) -> None:
        """Write all of `data`."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]

    def sync(self, fd: int) -> None:
        """Wait until the written data is on the disk (fsync)."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor that `create` or `reopen` returned."""
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file atomically, replacing a file that has the name."""
        source.replace(target)

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder are on the disk (fsync)."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, path: Path) -> None:
        """Remove a file; harmless if it does not exist."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder; harmless if it does not exist."""
        with suppress(FileNotFoundError):
            path.rmdir()

    def room(self, path: Path) -> int:
        """Return the number of bytes that this user can still write to the file system of `path`."""
        return _room(os.statvfs(path))

    def inodes(self, path: Path) -> int | None:
        """Return the number of files that can still be created on the file system of `path`; None for no limit."""
        free = os.statvfs(path)
        return free.f_favail if free.f_files else None

    def forget(self, path: Path) -> None:
        """Ask the kernel to drop a file from the page cache, so that the next read comes from the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


DISK = Disk()


def open_private(path: Path, flags: int) -> int:
    """Open a file, created with private permissions if it is missing, and return its descriptor."""
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, FILE_MODE)
    # The permissions of another user's file cannot be changed.
    with suppress(PermissionError):
        os.fchmod(fd, FILE_MODE)
    return fd


def store_error(error: OSError, path: Path | str) -> StoreError:
    """Return the store error for a failed system call."""
    reason = error.strerror or str(error)
    found = _file_system_around(Path(path)) if error.errno in _FULL else None
    # Both numbers are 0 on a file system without a fixed number of inodes.
    if error.errno == errno.ENOSPC and found is not None and found.f_files > 0 and found.f_favail == 0:
        return StoreFullError(str(path), f"its file system has no inodes left for another file ({reason})")
    if error.errno in _UNLOCKABLE:
        return StoreError(
            str(path),
            f"its file system has no locks ({reason}), so two processes could damage a backup; enable locks (NFS needs "
            "its lock service), or move the store to a local disk",
        )
    if error.errno in _FULL:
        free = None if error.errno == errno.EDQUOT or found is None else _room(found)
        return StoreFullError(str(path), f"the disk is full ({reason})", free=free)
    if error.errno in _FORBIDDEN:
        return StoreNotWritableError(str(path), f"this user may not write to it ({reason}); {_ADVICE}")
    return StoreError(str(path), reason)


def _file_system_around(path: Path) -> os.statvfs_result | None:
    """Return the state of the file system of a path whose last parts may be missing; None if it is unknown."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            return os.statvfs(folder)
    return None


def _room(found: os.statvfs_result) -> int:
    # A part of the free space is reserved for root.
    return found.f_frsize * (found.f_bfree if os.geteuid() == 0 else found.f_bavail)


@contextmanager
def translated(path: Path | str) -> Iterator[None]:
    """Turn an `OSError` of the block into a `StoreError` about `path`."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path) from error


def make_folders(path: Path, *, disk: Disk = DISK) -> None:
    """Create `path` and its missing parents durably; existing folders are not changed."""
    with translated(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with translated(folder):
            disk.make_folder(folder)
            disk.sync_folder(folder.parent)


def write_atomic(path: Path, data: bytes, *, disk: Disk = DISK) -> None:
    """Replace a file durably and atomically: a reader finds the old content, or none, until it finds `data`.

    The file is private (0600), and its folder has to exist. A process that dies on the way leaves at most a file named
    ``.NAME.*.tmp`` next to it.

    Raises:
        StoreFullError: there is too little free space; the temporary file has been removed.
        StoreNotWritableError: this user may not write here.
        StoreError: the system refused for another reason.
    """
    write_stream(path, [data], disk=disk)


def temporary_for(path: Path) -> Path:
    """Return a unique name for the temporary file that replaces a file."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def write_stream(path: Path, pieces: Iterable[bytes], *, disk: Disk = DISK, temporary: Path | None = None) -> None:
    """Replace a file as `write_atomic` does, with content in chunks, whose exceptions are passed on.

    A caller that has to record the temporary file first gets its name from `temporary_for`.
    """
    temporary = temporary or temporary_for(path)
    try:
        with translated(path):
            fd = disk.create(temporary)
        try:
            for data in pieces:
                with translated(path):
                    disk.write(fd, data)
            with translated(path):
                disk.sync(fd)
        finally:
            disk.close(fd)
        with translated(path):
            disk.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            disk.remove(temporary)
        raise
    with translated(path):
        disk.sync_folder(path.parent)


def is_leftover(name: str) -> bool:
    """Return True if a file has the name of a temporary file of `write_atomic`."""
    return name.startswith(".") and name.endswith(".tmp")
