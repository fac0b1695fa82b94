"""The effects that durable storage has on a file system, and the one way in which a file is replaced.

Everything that changes the disk goes through a `Disk`, so that a test can fail or stop it at any call. The order is
always the same: a temporary file, its content, fsync, rename, fsync of the folder. At every point in it a reader finds
the old file or the new one, whole.
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
_AS_WHO = "run as its owner, or give the store another place"
_UNLOCKABLE = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class Disk:
    """What this library does to a file system; every method raises `OSError` as the system gives it."""

    def make_folder(self, path: Path) -> None:
        """Make one folder, private whatever the umask; harmless where it is there."""
        with suppress(FileExistsError):
            path.mkdir(FOLDER_MODE)
            path.chmod(FOLDER_MODE)

    def create(self, path: Path) -> int:
        """Make a new file for writing, private whatever the umask, and return its descriptor."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            os.fchmod(fd, FILE_MODE)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> None:
        """Write all of `data`."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]

    def sync(self, fd: int) -> None:
        """Return once what was written is on the disk itself."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor that `create` returned."""
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its name in one step, taking it from the file that has it."""
        source.replace(target)

    def sync_folder(self, path: Path) -> None:
        """Return once the names in a folder are on the disk itself."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, path: Path) -> None:
        """Remove a file; harmless where there is none."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder; harmless where there is none."""
        with suppress(FileNotFoundError):
            path.rmdir()

    def room(self, path: Path) -> int:
        """Return the bytes that this user may still write to the file system of `path`."""
        free = os.statvfs(path)
        return free.f_frsize * (free.f_bfree if os.geteuid() == 0 else free.f_bavail)

    def inodes(self, path: Path) -> int | None:
        """Return how many files may still be made on the file system of `path`; None where it sets no limit."""
        free = os.statvfs(path)
        return free.f_favail if free.f_files else None

    def forget(self, path: Path) -> None:
        """Drop a file from the page cache, so that the next read of it asks the disk; a hint, no more."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


DISK = Disk()


def open_private(path: Path, flags: int) -> int:
    """Open a file that is made where it is missing, private whatever the umask; return its descriptor."""
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, FILE_MODE)
    # Somebody else's file stays as it is.
    with suppress(PermissionError):
        os.fchmod(fd, FILE_MODE)
    return fd


def store_error(error: OSError, path: Path | str) -> StoreError:
    """Say what a failed system call means for a store."""
    reason = error.strerror or str(error)
    if error.errno == errno.ENOSPC and _has_no_inodes(Path(path)):
        return StoreFullError(str(path), f"its file system has no inodes left for another file ({reason})")
    if error.errno in _UNLOCKABLE:
        return StoreError(
            str(path),
            f"its file system gives no locks ({reason}), without which two processes could spoil a backup; have it "
            "give locks (NFS needs its lock service), or give the store a place on a local disk",
        )
    if error.errno in _FULL:
        free = None if error.errno == errno.EDQUOT else _room_around(Path(path))
        return StoreFullError(str(path), f"there is no room left ({reason})", free=free)
    if error.errno in _FORBIDDEN:
        return StoreNotWritableError(str(path), f"this user may not write it ({reason}); {_AS_WHO}")
    return StoreError(str(path), reason)


def _room_around(path: Path) -> int | None:
    """Return the room on the file system of a path, of which the last parts may be missing; None where nobody says."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            return DISK.room(folder)
    return None


def _has_no_inodes(path: Path) -> bool:
    """Whether the file system of a path, of which the last parts may be missing, can hold no more files."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            found = os.statvfs(folder)
            # Where there is no fixed number of them, both are 0.
            return found.f_files > 0 and found.f_favail == 0
    return False


@contextmanager
def translated(path: Path | str) -> Iterator[None]:
    """Turn an `OSError` of the block into the `StoreError` that says what happened to `path`."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path) from error


def make_folders(path: Path, *, disk: Disk = DISK) -> None:
    """Make `path` and the folders above it that are missing, durably; those that are there are left as they are."""
    with translated(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with translated(folder):
            disk.make_folder(folder)
            disk.sync_folder(folder.parent)


def write_atomic(path: Path, data: bytes, *, disk: Disk = DISK) -> None:
    """Replace a file durably: after this it holds `data`; at any moment before, what it held, or nothing.

    The file is private (0600). A process that dies on the way leaves at most a file named ``.NAME.*.tmp`` beside it.

    Args:
        path: the file; its folder must be there.
        data: its whole new content.
        disk: what the effects go through.

    Raises:
        StoreFullError: there is no room; the temporary file is gone again.
        StoreNotWritableError: this user may not write here.
        StoreError: the system refused in another way.

    Example:
        >>> write_atomic(Path("/var/lib/app/state.json"), b"{}")
    """
    write_stream(path, [data], disk=disk)


def temporary_for(path: Path) -> Path:
    """Return a name for the temporary file from which a file is replaced; no two are equal."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def write_stream(path: Path, pieces: Iterable[bytes], *, disk: Disk = DISK, temporary: Path | None = None) -> None:
    """Replace a file durably, as `write_atomic` does, by content that comes in pieces; what they raise comes out.

    Args:
        path: the file.
        pieces: its content.
        disk: what the effects go through.
        temporary: what `temporary_for` returned, for a caller that notes it first.
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
    """Whether a file's name is one that `write_atomic` gives to its temporary files."""
    return name.startswith(".") and name.endswith(".tmp")
