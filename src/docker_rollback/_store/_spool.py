"""Bytes put aside for a moment, as they are: quicker than making a blob of them, which is done when there is time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from docker_rollback._store._files import DISK, Disk, translated


class Spool:
    """A temporary file of a draft: written, then read once; gone when its block ends.

    Nothing of it is flushed or hashed. One spool belongs to one thread at a time.

    Args:
        path: where it lies.
        disk: what effects go through.
    """

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        self._path = path
        self._disk = disk
        self._written: int | None = None
        self._read: int | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes to its end; raises `StoreFullError` where there is no room."""
        if self._written is None:
            raise ValueError("the spool is not open, or was read already")
        with translated(self._path):
            self._disk.write(self._written, data)

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most so many; nothing at the end. What is read can be written no more."""
        with translated(self._path):
            if self._read is None:
                self._read = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                self._close_written()
            return os.read(self._read, size)

    def __enter__(self) -> Self:
        with translated(self._path):
            self._written = self._disk.create(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What cannot be removed goes with its draft.
        with suppress(OSError):
            self._close_written()
        if self._read is not None:
            os.close(self._read)
            self._read = None
        with suppress(OSError):
            self._disk.remove(self._path)

    def _close_written(self) -> None:
        fd, self._written = self._written, None
        if fd is not None:
            self._disk.close(fd)
