"""File locks of the kernel, which releases them when their holder dies.

A lock file says who held the lock last. This is used for messages only, after the kernel has said that the lock is
held; the file alone means nothing.

Only the holder of a lock may remove its file. A process that was waiting for the removed file then holds a lock on a
file without a name, and starts again with the present file of that name.
"""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Self

from attrs import define, field
from filelock import lock_descriptor

from docker_rollback._host import Timer, leads_to, now
from docker_rollback._store.files import DISK, Disk, open_private, translated

# The length of the part of a lock file that describes the holder; the holder may write more after it.
HOLDER_BYTES = 512

# Seconds between two tries. With longer pauses, a process that locks again and again would starve the waiting one.
_PAUSE = 0.005

_A_MOMENT = 0.05  # seconds for which every lock is tried, because `is_held` and `remove_unheld` hold it for a moment


class LockedError(Exception):
    """The lock has another holder; the text describes it."""


@define(eq=False)
class FileLock:
    """An exclusive lock on a file, between processes and between threads of one process.

    It is held from `acquire` to `release`, or until this process and every child that was given its descriptor have
    died. Forked children do not inherit it. The file is created if it is missing. A `transient` one is removed on
    release, unless another process is waiting for it.
    """

    path: Path
    _transient: bool = field(default=False, kw_only=True)
    _disk: Disk = field(default=DISK, kw_only=True)
    _timer: Timer = field(default=time, kw_only=True)
    _fd: int | None = field(default=None, init=False)

    def acquire(self, timeout: float = 0, *, note: str = "") -> None:
        """Acquire the lock within `timeout` seconds; the note says what for, to others that find it held.

        Raises:
            LockedError: it had another holder all the time.
            StoreError: its file cannot be created, or its file system has no locks.
        """
        end = self._timer.monotonic() + max(timeout, _A_MOMENT)
        while True:
            with translated(self.path):
                fd = open_private(self.path, os.O_RDWR)
            try:
                self._wait(fd, end)
                if not leads_to(self.path, fd):
                    # Its last holder has removed the file, so nobody else would find our lock.
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
        while not self._try(fd):
            left = end - self._timer.monotonic()
            if left <= 0:
                raise LockedError(_read_holder(fd))
            self._timer.sleep(min(_PAUSE, left))

    def _try(self, fd: int) -> bool:
        with translated(self.path):
            return lock_descriptor(fd, blocking=False)

    def release(self) -> None:
        """Release the lock; harmless if it is not held."""
        if self.drop() and self._transient:
            remove_unheld(self.path, disk=self._disk)

    def drop(self) -> bool:
        """Close the file without removing it; return True if this process held the lock."""
        fd, self._fd = self._fd, None
        _HELD.discard(self)
        if fd is not None:
            os.close(fd)
        return fd is not None

    def fileno(self) -> int:
        """Return its descriptor, for a child process that has to keep the lock if this process dies first."""
        if self._fd is None:
            raise ValueError(f"{self.path} is not locked")
        return self._fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def remove_unheld(path: Path, *, disk: Disk = DISK) -> None:
    """Remove a lock file unless it is held, by a child that was given its descriptor included."""
    with suppress(OSError):
        fd = _open_to_ask(path)
        try:
            if lock_descriptor(fd, blocking=False) and leads_to(path, fd):
                disk.remove(path)
        finally:
            os.close(fd)


def is_held(path: Path) -> bool:
    """Return True if a process holds the lock on a file, False if the file is missing; nothing is created or written.

    Raises `StoreError` if this user may not read it.
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
        # NFS requires a writable descriptor for an exclusive lock.
        return os.open(path, os.O_RDWR | flags)
    except PermissionError:
        return os.open(path, os.O_RDONLY | flags)


def _write_holder(fd: int, note: str) -> None:
    began = now().isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "time": began, "note": note}
    # Best effort, for messages: on a full disk, a process that would free space still has to get the lock. Always of
    # the same length, because ext4 writes a file to the disk at close if it was truncated and rewritten.
    with suppress(OSError):
        os.pwrite(fd, json.dumps(holder).encode("ascii").ljust(HOLDER_BYTES)[:HOLDER_BYTES], 0)


def _read_holder(fd: int) -> str:
    try:
        holder = json.loads(os.pread(fd, HOLDER_BYTES, 0))
        note = f" ({holder['note']})" if holder["note"] else ""
        return f"process {holder['pid']} on {holder['host']} holds it since {holder['time']}{note}"
    except (OSError, ValueError, KeyError, TypeError):
        # The lock was just acquired, or the file is not ours; it is held in any case.
        return "another process holds it"


# A lock that a forked child inherited would outlive this process. A tar that has to keep one is given its descriptor.
_HELD: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _release_in_child() -> None:
    for lock in list(_HELD):
        lock.drop()


os.register_at_fork(after_in_child=_release_in_child)
