"""Opens files below a folder through the folder's descriptor, and never through a symbolic link.

A user who may write below a folder can replace a part of a path by a link at any moment, so checking a path first
proves nothing. Here the kernel itself refuses to leave the folder: `openat2` with ``RESOLVE_BENEATH`` and
``RESOLVE_NO_SYMLINKS``. On a kernel without it (before 5.6), each part of the path is opened separately.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import weakref
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final, Self

_OPENAT2: Final = 437  # the system call's number, on all architectures but Alpha
_NO_MAGICLINKS: Final = 0x02
_NO_SYMLINKS: Final = 0x04
_BENEATH: Final = 0x08
_LEADS_NOWHERE: Final = (errno.ENOTDIR, errno.ELOOP)
_PATH: Final = getattr(os, "O_PATH", 0)
_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class _How(ctypes.Structure):
    """The kernel's `open_how`."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class NotAFileError(OSError):
    """The path is neither a regular file nor a folder, so opening it could block or have effects."""


class Tree:
    """Accesses the files below a folder, whose descriptor it closes.

    Paths are relative, in bytes, and may start with ``./``. A path through a symbolic link raises `FileNotFoundError`.
    """

    def __init__(self, folder: int) -> None:
        self.descriptor = folder
        self._closing = weakref.finalize(self, os.close, folder)

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Self:
        """Open a folder by its path, which may contain links; raises `OSError`."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder's descriptor."""
        self._closing()

    @property
    def identity(self) -> tuple[int, int]:
        """The folder's device and inode."""
        found = os.fstat(self.descriptor)
        return found.st_dev, found.st_ino

    @property
    def is_removed(self) -> bool:
        """True if the folder has been removed."""
        return os.fstat(self.descriptor).st_nlink == 0

    def below(self, path: bytes) -> Tree:
        """Return the tree of a folder below this one; raises `OSError`."""
        return Tree(self._open(path, _PATH | os.O_DIRECTORY))

    def status(self, path: bytes) -> os.stat_result:
        """Return the status of a file, or of a link itself; raises `OSError`."""
        if b"/" not in path and path != b"..":
            return os.stat(path, dir_fd=self.descriptor, follow_symlinks=False)
        with self._opened(path) as file:
            return os.fstat(file)

    def is_folder(self, path: bytes) -> bool:
        """Return True if the path is a folder; raises `OSError`."""
        try:
            return stat.S_ISDIR(self.status(path).st_mode)
        except FileNotFoundError:
            return False

    def names(self, path: bytes) -> list[bytes]:
        """Return the names in a folder; raises `OSError`."""
        with self._opened(path, os.O_RDONLY | os.O_DIRECTORY) as folder:
            return [os.fsencode(name) for name in os.listdir(folder)]  # noqa: PTH208 - of a descriptor

    def target(self, path: bytes) -> bytes:
        """Return the target of a symbolic link; raises `OSError`."""
        with self._opened(path) as link:
            return os.readlink(b"", dir_fd=link)

    def attributes(self, path: bytes) -> dict[str, bytes]:
        """Return the extended attributes of a file, or of a link itself; raises `OSError`."""
        with self._opened(path) as file:
            # Attributes cannot be read through an O_PATH descriptor itself.
            name = f"/proc/self/fd/{file}"
            return {key: os.getxattr(name, key) for key in os.listxattr(name)}

    @contextmanager
    def reading(self, path: bytes) -> Iterator[int]:
        """Open a regular file or a folder until the block ends; raises `OSError`, for anything else `NotAFileError`.

        The type is checked through an O_PATH descriptor before that same file is opened, because opening a device can
        have effects, and opening a FIFO can block.
        """
        with self._opened(path) as found:
            mode = os.fstat(found).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise NotAFileError(errno.EINVAL, "is neither a regular file nor a folder", path)
            file = os.open(f"/proc/self/fd/{found}", _READ)
        try:
            yield file
        finally:
            os.close(file)

    def unlink(self, path: bytes) -> None:
        """Remove a file that is not a folder; raises `OSError`."""
        folder, _, name = path.rpartition(b"/")
        with self.below(folder or b".") as above:
            os.unlink(name, dir_fd=above.descriptor)

    def walk(self, *, but: Collection[bytes] = ()) -> Iterator[bytes]:
        """Yield all paths in order, without `but` and everything in it; an unreadable folder counts as empty.

        It uses one descriptor at a time, at any depth.
        """
        waiting = [b"."]
        while waiting:
            path = waiting.pop()
            if path in but:
                continue
            yield path
            try:
                if path == b"." or self.is_folder(path):
                    waiting += [path + b"/" + name for name in sorted(self.names(path), reverse=True)]
            except OSError:
                continue

    def everything(self) -> Generator[bytes, bool | None, None]:
        """Yield all paths below; an unreadable folder counts as empty.

        It scans each folder once, and makes no call for each file. Send True to skip the contents of the last path.
        """
        waiting = [b"."]
        while waiting:
            folder = waiting.pop()
            try:
                with self._opened(folder, os.O_RDONLY | os.O_DIRECTORY) as opened, os.scandir(opened) as entries:
                    found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
            except OSError:
                continue
            for name, is_folder in found:
                path = folder + b"/" + name
                unwanted = yield path
                if is_folder and not unwanted:
                    waiting.append(path)

    @contextmanager
    def _opened(self, path: bytes, flags: int = _PATH) -> Iterator[int]:
        file = self._open(path, flags)
        try:
            yield file
        finally:
            os.close(file)

    def _open(self, path: bytes, flags: int) -> int:
        if path.startswith(b"/") or b"\0" in path or b".." in path.split(b"/"):
            raise OSError(errno.EXDEV, "is not a path below a folder", path)
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return open_beneath(self.descriptor, path, flags) if has_openat2() else self._walk_to(path, flags)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG and has_openat2():
                return self._walk_to(path, flags)
            if error.errno in _LEADS_NOWHERE:
                raise FileNotFoundError(errno.ENOENT, "a part of the path is a link, or not a folder", path) from error
            raise

    def _walk_to(self, path: bytes, flags: int) -> int:
        """Open each part of a path in turn, with two descriptors at a time, at any depth."""
        *folders, name = [part for part in path.split(b"/") if part not in (b"", b".")] or [b"."]
        above = os.dup(self.descriptor)
        try:
            for folder in folders:
                above, outer = os.open(folder, _PATH | _FOLDER, dir_fd=above), above
                os.close(outer)
            return os.open(name, flags, dir_fd=above)
        except OSError as error:
            if error.errno in _LEADS_NOWHERE:
                raise FileNotFoundError(errno.ENOENT, "a part of the path is a link, or not a folder", path) from error
            raise
        finally:
            os.close(above)


def leads_to(path: str | os.PathLike[str], descriptor: int) -> bool:
    """Return True if a path, which may be gone, still leads to an open file; a link itself is not that file."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def open_beneath(folder: int, path: bytes, flags: int) -> int:
    """Open a path below a folder with `openat2`, through no link; raises `OSError`."""
    how = _How(flags, 0, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)
    while True:
        file = int(libc().syscall(_OPENAT2, folder, ctypes.c_char_p(path), ctypes.byref(how), ctypes.sizeof(how)))
        if file >= 0:
            return file
        code = ctypes.get_errno()
        # EAGAIN: the kernel could not verify the path, because of a concurrent rename.
        if code not in (errno.EINTR, errno.EAGAIN):
            raise OSError(code, os.strerror(code), path)


@cache
def has_openat2() -> bool:
    """Return True if the kernel has `openat2`, and no system call filter blocks it."""
    folder = os.open("/", _PATH | _FOLDER)
    try:
        os.close(open_beneath(folder, b".", _PATH | _FOLDER))
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(folder)


@cache
def libc() -> ctypes.CDLL:
    """Return the C library."""
    return ctypes.CDLL(None, use_errno=True)
