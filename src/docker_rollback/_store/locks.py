"""Kernel locks on files: released by the holder's death, and by nothing else.

A lock file says who held it last. That is read for a message only after the kernel has said that somebody holds it;
a file alone means nothing.

A file may be removed by whoever holds the lock on it, and by nobody else. Whoever waited for that file then has a lock
on one that no name leads to any more, and begins again with the one that has the name by now.
"""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import lock_descriptor

from docker_rollback._store.files import DISK, Disk, open_private, translated

HOLDER_BYTES = 512
"""How long the part of a lock file is that says who holds it; what follows is up to the holder."""

_LONGEST_PAUSE = 0.01
"""Seconds between two tries: short, or who takes a lock again and again would starve who waits for it."""

_A_MOMENT = 0.05
"""Seconds for which a lock is tried at least: whoever asks about it, or removes its file, holds it for a moment."""


class LockedError(Exception):
    """Somebody else holds the lock; the text says who."""


class FileLock:
    """An exclusive lock on one file, between processes and between threads of one process.

    It is held from `acquire` to `release`, or to the death of this process and of every child that was given its
    descriptor. Forked children do not keep it.

    Args:
        path: the file, which is made where it is missing.
        transient: whether the file goes when the lock is let go, unless somebody else wants it.
        disk: what effects on the file system go through.
        sleep: waits, in seconds.
        clock: tells seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        transient: bool = False,
        disk: Disk = DISK,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._transient = transient
        self._disk = disk
        self._sleep = sleep
        self._clock = clock
        self._fd: int | None = None

    def acquire(self, timeout: float = 0, *, note: str = "") -> None:
        """Take the lock.

        Args:
            timeout: how long to wait for it, in seconds.
            note: what it is taken for, in words; shown to those who find it taken.

        Raises:
            LockedError: somebody else held it all that time.
            StoreError: its file cannot be made, or its file system has no locks.
        """
        end = self._clock() + max(timeout, _A_MOMENT)
        while True:
            with translated(self.path):
                fd = open_private(self.path, os.O_RDWR)
            try:
                self._wait(fd, end)
                if not _is_current(fd, self.path):
                    # Its holder has removed it, and nobody would see that we hold it.
                    os.close(fd)
                    continue
                _write_holder(fd, note)
            except BaseException:
                os.close(fd)
                raise
            break
        self._fd = fd
        _HELD.add(self)

    def _wait(self, fd: int, end: float) -> None:
        pause = 0.001
        while not self._try(fd):
            left = end - self._clock()
            if left <= 0:
                raise LockedError(_read_holder(fd))
            self._sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _try(self, fd: int) -> bool:
        with translated(self.path):
            return lock_descriptor(fd, blocking=False)

    def release(self) -> None:
        """Let it go; harmless where it is not held."""
        if self.drop() and self._transient:
            remove_unheld(self.path, disk=self._disk)

    def drop(self) -> bool:
        """Close its file and leave that where it is; tell whether it was held by this process."""
        fd, self._fd = self._fd, None
        _HELD.discard(self)
        if fd is not None:
            os.close(fd)
        return fd is not None

    def fileno(self) -> int:
        """Return its descriptor, for a child that must keep the lock if this process dies before it."""
        if self._fd is None:
            raise ValueError(f"{self.path} is not locked")
        return self._fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def remove_unheld(path: Path, *, disk: Disk = DISK) -> None:
    """Remove a lock file that nobody holds, a child that was given its descriptor included; else leave it."""
    with suppress(OSError):
        fd = _open_to_ask(path)
        try:
            if lock_descriptor(fd, blocking=False) and _is_current(fd, path):
                disk.remove(path)
        finally:
            os.close(fd)


def _is_current(fd: int, path: Path) -> bool:
    """Whether a path still leads to an open file."""
    held = os.fstat(fd)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino)


def is_held(path: Path) -> bool:
    """Return True if a process holds the lock on a file; nothing is made or written. No file is held by nobody.

    Raises:
        StoreError: this user may not read it.
    """
    with translated(path):
        try:
            fd = _open_to_ask(path)
        except FileNotFoundError:
            return False
        try:
            return not lock_descriptor(fd, blocking=False)
        finally:
            os.close(fd)


def _open_to_ask(path: Path) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        # NFS gives an exclusive lock on nothing less.
        return os.open(path, os.O_RDWR | flags)
    except PermissionError:
        return os.open(path, os.O_RDONLY | flags)


def _write_holder(fd: int, note: str) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "time": _now(), "note": note}
    # A word for others, no more: on a full disk, whoever would make room there must get the lock all the same. Always
    # of one length: a file that is cut and written anew makes ext4 go to the disk at every close.
    with suppress(OSError):
        os.pwrite(fd, json.dumps(holder).encode("ascii").ljust(HOLDER_BYTES)[:HOLDER_BYTES], 0)


def _read_holder(fd: int) -> str:
    try:
        holder = json.loads(os.pread(fd, HOLDER_BYTES, 0))
        note = f" ({holder['note']})" if holder["note"] else ""
        return f"process {holder['pid']} on {holder['host']} holds it since {holder['time']}{note}"
    except (OSError, ValueError, KeyError, TypeError):
        # It was just taken, or its file is older than this library: there is a holder all the same.
        return "another process holds it"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# A lock that a forked child inherits would outlive this process's death; tar, which must keep one, is given it by name.
_HELD: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _release_in_child() -> None:
    for lock in list(_HELD):
        lock.drop()


os.register_at_fork(after_in_child=_release_in_child)
