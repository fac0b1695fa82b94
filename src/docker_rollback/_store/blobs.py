"""Reads and writes blobs, which are named by their digests. They are written atomically, and verified at each read."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

from attrs import define, field

from docker_rollback._model import Descriptor
from docker_rollback._store.files import DISK, Disk, translated
from docker_rollback._store.oci import check_digest
from docker_rollback._store.streams import CHUNK
from docker_rollback._store.strict_json import MalformedError
from docker_rollback.errors import CorruptBackupError, StoreError, StoreFullError

# Nanoseconds: file times may lag this far behind, so a file can change twice within them and show the same times.
_TICK = 20_000_000

_Stamp = tuple[int, int, int, int, int]


class Blobs:
    """The blobs of a layout.

    It remembers the blobs that it has read whole and found intact, with their files' inodes, sizes and times. Writing,
    replacing or truncating a file changes one of these; bit rot does not.
    """

    def __init__(self, root: Path, *, disk: Disk = DISK) -> None:
        self._root = root
        self._disk = disk
        self._proven: dict[str, _Stamp] = {}
        self.folder: Path = root / "blobs" / "sha256"

    def path(self, digest: str) -> Path:
        """Return a blob's path; raises `CorruptBackupError` if the digest is malformed."""
        try:
            return self.folder / check_digest(digest).removeprefix("sha256:")
        except MalformedError as error:
            raise self.corrupt(digest, str(error)) from None

    def corrupt(self, blob: str, reason: str) -> CorruptBackupError:
        """Return the error for a damaged blob."""
        return CorruptBackupError(str(self._root), blob[:200], reason)

    def find(self, media_type: str, digest: str) -> Descriptor:
        """Look up a blob by its digest alone; raises `CorruptBackupError` if there is none."""
        try:
            found = self.path(digest).lstat()
        except OSError:
            raise self.corrupt(digest, "it is missing") from None
        return Descriptor(media_type, digest, found.st_size)

    def open(self, blob: Descriptor) -> Iterator[bytes]:
        """Yield a blob's content, verified while it is read.

        The last chunk is yielded only after the hash of the whole content was right, and never more bytes than the
        blob's size. So a caller that reaches the end has the content that was written. Raises `CorruptBackupError`, or
        `StoreError` if it cannot be read.
        """
        file = self.opened(self.path(blob.digest), blob.digest)
        if file is None:
            raise self.corrupt(blob.digest, "it is missing")
        hasher = hashlib.sha256()
        try:
            found = os.fstat(file)
            if found.st_size != blob.size:
                raise self.corrupt(blob.digest, f"it is {found.st_size} bytes long, not {blob.size}")
            stamp = _stamp(found)
            # A file that has changed within the last tick could change again and show the same times.
            settled = max(found.st_mtime_ns, found.st_ctime_ns) < time.time_ns() - _TICK
            held = b""
            left = blob.size
            while left:
                try:
                    data = os.read(file, min(CHUNK, left))
                except OSError as error:
                    raise self.corrupt(blob.digest, f"it cannot be read ({error.strerror})") from error
                if not data:
                    raise self.corrupt(blob.digest, "it is truncated")
                hasher.update(data)
                left -= len(data)
                if held:
                    yield held
                held = data
        finally:
            os.close(file)
        if "sha256:" + hasher.hexdigest() != blob.digest:
            raise self.corrupt(blob.digest, "its content is not what was written")
        if settled:
            self._proven[blob.digest] = stamp
        if held:
            yield held

    def is_proven(self, blob: Descriptor) -> bool:
        """Return True if this object has found the blob intact, and its file has not changed since."""
        try:
            found = self.path(blob.digest).lstat()
        except OSError:
            return False
        return found.st_size == blob.size and _stamp(found) == self._proven.get(blob.digest)

    def read(self, blob: Descriptor, limit: int) -> bytes:
        """Return a small blob's content; raises `CorruptBackupError` if its size is above `limit` bytes, too."""
        if blob.size > limit:
            raise self.corrupt(blob.digest, f"its size is given as {blob.size} bytes, and the limit is {limit}")
        return b"".join(self.open(blob))

    def prove(self, blob: Descriptor) -> None:
        """Read and verify a blob; raises as `open`."""
        for _ in self.open(blob):
            pass

    def opened(self, path: Path, name: str) -> int | None:
        """Open a regular file of the layout, and return its descriptor; None if it is missing.

        Raises a `CorruptBackupError` with the name if it is no regular file, and a `StoreError` if it cannot be opened.
        """
        try:
            # Follow no symlink and wait for no FIFO: a store may come from an untrusted source.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self.corrupt(name, "it is a symbolic link") from None
            raise StoreError(str(path), f"it cannot be read ({error.strerror})") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self.corrupt(name, "it is not a file")
        return fd


def _stamp(found: os.stat_result) -> _Stamp:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@define(eq=False)
class BlobWriter:
    """Writes a new blob to a temporary file, which becomes a blob of the store at `close`.

    Leaving its ``with`` block without `close` discards it. A writer belongs to one thread at a time; several writers of
    a draft may be used at once. Of many that wait for their `close`, each should `pause`: it has no open file then.
    """

    _path: Path
    _media_type: str
    _annotations: Mapping[str, str]
    _publish: Callable[[Path, Descriptor], None]
    _disk: Disk = field(default=DISK, kw_only=True)
    _hasher: Any = field(factory=hashlib.sha256, init=False)
    _fd: int | None = field(default=None, init=False)
    _state: Literal["paused", "synced"] | None = field(default=None, init=False)
    size: int = field(default=0, init=False)  # bytes written so far

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes; raises `StoreFullError` if there is too little free space."""
        if self._fd is None:
            raise ValueError("the blob is not open")
        length = data.nbytes if isinstance(data, memoryview) else len(data)
        try:
            with translated(self._path):
                self._disk.write(self._fd, data)
        except StoreFullError as error:
            # Discarding this file will free its space.
            free = None if error.free is None else error.free + os.fstat(self._fd).st_size
            reason = "a part of the backup does not fit"
            raise StoreFullError(error.path, reason, needed=self.size + length, free=free) from error.__cause__
        self._hasher.update(data)
        self.size += length
        return length

    def pause(self) -> Descriptor:
        """Write no more, and return the descriptor that `close` will; the file is closed, and not durable yet."""
        if self._fd is None:
            raise ValueError("the blob is not open")
        with translated(self._path):
            fd, self._fd = self._fd, None
            self._state = "paused"
            self._disk.close(fd)
        return self._blob()

    def sync(self) -> None:
        """Wait until what was written before `pause` is on the disk; several writers may do so at once.

        Raises:
            StoreError: it could not be written.
        """
        if self._state != "paused":
            raise ValueError("the blob is not paused")
        with translated(self._path):
            fd = self._disk.reopen(self._path)
            try:
                self._disk.sync(fd)
            finally:
                self._disk.close(fd)
        self._state = "synced"

    def close(self, *, digest: str | None = None) -> Descriptor:
        """Make it a blob of the store, durably, and return its descriptor.

        Raises:
            MalformedError: it does not have the expected digest; it is discarded.
            StoreError: it could not be stored.
        """
        if self._fd is None and self._state is None:
            raise ValueError("the blob is not open")
        blob = self._blob()
        if digest not in (None, blob.digest):
            self.discard()
            raise MalformedError(f"its content has the digest {blob.digest}")
        if self._fd is not None:
            with translated(self._path):
                self._disk.sync(self._fd)
                fd, self._fd = self._fd, None
                self._disk.close(fd)
        elif self._state == "paused":
            self.sync()
        self._state = None
        try:
            self._publish(self._path, blob)
        except BaseException:
            self._remove()
            raise
        return blob

    def discard(self) -> None:
        """Delete the temporary file; harmless after `close`."""
        fd, self._fd = self._fd, None
        state, self._state = self._state, None
        if fd is not None:
            with suppress(OSError):
                self._disk.close(fd)
        if fd is not None or state is not None:
            self._remove()

    def _blob(self) -> Descriptor:
        return Descriptor(self._media_type, "sha256:" + self._hasher.hexdigest(), self.size, dict(self._annotations))

    def _remove(self) -> None:
        with suppress(OSError):
            self._disk.remove(self._path)

    def __enter__(self) -> Self:
        with translated(self._path):
            self._fd = self._disk.create(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()
