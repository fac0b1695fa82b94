"""Temporary files of a draft, for data that is compressed and hashed later, because writing it raw is faster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from docker_rollback._store.files import DISK, Disk, translated
from docker_rollback.errors import StoreError

# Bytes that are compared, and rewritten, at a time. It is small, because a database changes few, scattered pages.
_BLOCK: Final = 64 << 10
_STRETCH: Final = 8 << 20  # bytes that a thread compares in one task
_PIECE: Final = 1 << 20


class Spool:
    """A temporary file that is written, then read once, and removed when its block ends.

    Its data is neither synced nor hashed. A spool belongs to one thread at a time.
    """

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        self._path = path
        self._disk = disk
        self._written: int | None = None
        self._read: int | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; raises `StoreFullError` if there is too little free space."""
        if self._written is None:
            raise ValueError("the spool is not open, or was read already")
        with translated(self._path):
            self._disk.write(self._written, data)

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; ``b""`` at the end. After the first read, nothing can be written."""
        with translated(self._path):
            if self._read is None:
                self._read = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                self._close_written()
            return os.read(self._read, size)

    def __enter__(self) -> Self:
        with translated(self._path):
            self._written = self._disk.create(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        # A file that cannot be removed now is removed with its draft.
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


class FileCopy:
    """A temporary copy of a changing file, which is updated by writing only the changed blocks.

    Comparing a file with its copy takes a fraction of the time of copying it. The copy is not hashed, and is removed
    when its block ends. It belongs to one thread at a time. Its file is open only during a call, because there may be
    hundreds of copies.
    """

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        self._path = path
        self._disk = disk
        self._held = 0
        self.size: int = 0

    def update(self, source: int, size: int, check: Callable[[], object], *, threads: int = 1) -> int:
        """Make the copy equal to the first `size` bytes of an open file; return the number of bytes written.

        Several threads call `check` repeatedly; it raises to end the update early. Raises `StoreFullError`, and
        `OSError` if the file could not be read.
        """
        begins = range(0, size, _STRETCH)
        ends = [min(begin + _STRETCH, size) for begin in begins]
        with ThreadPoolExecutor(threads, thread_name_prefix="docker-rollback-copy") as pool:
            done = list(pool.map(lambda begin, end: self._update(source, begin, end, check), begins, ends))
        self.size = 0
        for end, (reached, _) in zip(ends, done, strict=True):
            self.size = reached
            if reached < end:
                # The file has become shorter, so later stretches do not count.
                break
        self._held = max(self._held, self.size)
        return sum(written for _, written in done)

    def _update(self, source: int, at: int, end: int, check: Callable[[], object]) -> tuple[int, int]:
        """Update one stretch; return the offset at which it, or the file, ends, and the number of bytes written."""
        ours, theirs = bytearray(_BLOCK), bytearray(_BLOCK)
        written = 0
        with self._opened(os.O_RDWR) as copy:
            while at < end:
                check()
                found = min(os.preadv(source, [theirs], at), end - at)
                if found == 0:
                    break
                with translated(self._path):
                    if at + found > self._held or not _is_same(copy, at, found, ours, theirs):
                        os.lseek(copy, at, os.SEEK_SET)
                        self._disk.write(copy, memoryview(theirs)[:found])
                        written += found
                at += found
        return at, written

    def flush(self) -> None:
        """Sync the copy now; else a later sync of another file would wait for it too (ext4's journal)."""
        with self._opened(os.O_RDWR) as copy, translated(self._path):
            self._disk.sync(copy)

    def pieces(self) -> Iterator[bytes]:
        """Yield its content."""
        at = 0
        with self._opened(os.O_RDONLY) as copy:
            while at < self.size:
                with translated(self._path):
                    data = os.pread(copy, min(_PIECE, self.size - at), at)
                if not data:
                    raise StoreError(str(self._path), "it is shorter than it was")
                yield data
                at += len(data)

    def __enter__(self) -> Self:
        with translated(self._path):
            self._disk.close(self._disk.create(self._path))
        return self

    def __exit__(self, *_: object) -> None:
        # A file that cannot be removed now is removed with its draft.
        with suppress(OSError):
            self._disk.remove(self._path)

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        with translated(self._path):
            copy = os.open(self._path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            yield copy
        finally:
            os.close(copy)


def _is_same(copy: int, at: int, size: int, ours: bytearray, theirs: bytearray) -> bool:
    os.preadv(copy, [ours], at)
    # Slicing copies, which takes as long as the comparison.
    return ours == theirs if size == _BLOCK else ours[:size] == theirs[:size]
