"""Blobs, named by their digests: written whole or not at all, hashed whenever they are read."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from docker_rollback._model import Descriptor
from docker_rollback._store.files import DISK, Disk, translated
from docker_rollback._store.oci import MalformedError, check_digest
from docker_rollback._store.streams import CHUNK
from docker_rollback.errors import CorruptBackupError, StoreError, StoreFullError

_TICK = 20_000_000
"""Nanoseconds: more than the clock of a file's times may lag behind, so that a change within them may not show."""

_Stamp = tuple[int, int, int, int, int]


class Blobs:
    """The blobs of one layout.

    It remembers which blobs it has read whole and found right, each with its file's inode, size and times. Whatever
    writes to a file, replaces it or cuts it short changes one of these; a disk that rots does not.

    Args:
        root: the layout's folder.
        disk: what effects go through.
    """

    def __init__(self, root: Path, *, disk: Disk = DISK) -> None:
        self._root = root
        self._disk = disk
        self._proven: dict[str, _Stamp] = {}
        self.folder: Path = root / "blobs" / "sha256"

    def path(self, digest: str) -> Path:
        """Return where a blob lives; raises `CorruptBackupError` for a digest of a kind that is not known."""
        try:
            return self.folder / check_digest(digest).removeprefix("sha256:")
        except MalformedError as error:
            raise self.corrupt(digest, str(error)) from None

    def corrupt(self, blob: str, reason: str) -> CorruptBackupError:
        """Make the error that says that a blob is damaged."""
        return CorruptBackupError(str(self._root), blob[:200], reason)

    def has(self, blob: Descriptor) -> bool:
        """Whether there is a file of this blob's name and size; only reading it tells more."""
        try:
            found = self.path(blob.digest).lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == blob.size

    def find(self, media_type: str, digest: str) -> Descriptor:
        """Return a blob by its digest alone; raises `CorruptBackupError` where there is none."""
        try:
            found = self.path(digest).lstat()
        except OSError:
            raise self.corrupt(digest, "it is missing") from None
        return Descriptor(media_type, digest, found.st_size)

    def open(self, blob: Descriptor) -> Iterator[bytes]:
        """Yield a blob's content, hashed on the way.

        The last piece is held back until the hash of the whole is known to be right, and never is more yielded than
        the blob's size: who gets to the end got what was written.

        Raises:
            CorruptBackupError: it is missing, of another size, or of other content.
            StoreError: it cannot be read.
        """
        hasher = hashlib.sha256()
        with self._file(blob) as file:
            stamp = _stamp(os.fstat(file.fd))
            # A file that was changed within this moment could be changed once more and bear the same times.
            settled = max(stamp[-2:]) < time.time_ns() - _TICK
            held = b""
            left = blob.size
            while left:
                data = self._read(file, min(CHUNK, left), blob)
                if not data:
                    raise self.corrupt(blob.digest, "it is cut short")
                hasher.update(data)
                left -= len(data)
                if held:
                    yield held
                held = data
        if "sha256:" + hasher.hexdigest() != blob.digest:
            raise self.corrupt(blob.digest, "its content is not what was written")
        if settled:
            self._proven[blob.digest] = stamp
        if held:
            yield held

    def is_proven(self, blob: Descriptor) -> bool:
        """Whether this object has read the blob whole and found it right, and nobody has touched its file since."""
        known = self._proven.get(blob.digest)
        if known is None or not self.has(blob):
            return False
        try:
            return _stamp(self.path(blob.digest).lstat()) == known
        except OSError:
            return False

    def read(self, blob: Descriptor, limit: int) -> bytes:
        """Return a small blob whole; raises `CorruptBackupError` also where it says to be longer than `limit` bytes."""
        if blob.size > limit:
            raise self.corrupt(blob.digest, f"it says to be {blob.size} bytes long, and no more than {limit} are read")
        return b"".join(self.open(blob))

    def prove(self, blob: Descriptor) -> None:
        """Read and hash a blob whole; raises as `open`."""
        for _ in self.open(blob):
            pass

    def _file(self, blob: Descriptor) -> _File:
        path = self.path(blob.digest)
        try:
            # Never through a symlink, and never waiting for a FIFO: a store may come from anywhere.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise self.corrupt(blob.digest, "it is missing") from None
            if error.errno == errno.ELOOP:
                raise self.corrupt(blob.digest, "it is a symbolic link") from None
            raise StoreError(str(path), f"it cannot be read ({error.strerror})") from error
        file = _File(fd)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            file.close()
            raise self.corrupt(blob.digest, "it is not a file")
        if found.st_size != blob.size:
            file.close()
            raise self.corrupt(blob.digest, f"it is {found.st_size} bytes long, not {blob.size}")
        return file

    def _read(self, file: _File, size: int, blob: Descriptor) -> bytes:
        try:
            return os.read(file.fd, size)
        except OSError as error:
            raise self.corrupt(blob.digest, f"it cannot be read ({error.strerror})") from error


def _stamp(found: os.stat_result) -> _Stamp:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class _File:
    """A descriptor that is closed at the end of a block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BlobWriter:
    """A blob in the making: a temporary file that becomes a blob at `close`, and nothing before.

    Leaving its ``with`` block without `close` discards it. One writer belongs to one thread; several writers of one
    draft may be at work at once.
    """

    def __init__(
        self,
        path: Path,
        media_type: str,
        annotations: Mapping[str, str],
        publish: Callable[[Path, Descriptor], None],
        *,
        disk: Disk = DISK,
    ) -> None:
        self._path = path
        self._media_type = media_type
        self._annotations = dict(annotations)
        self._publish = publish
        self._disk = disk
        self._hasher = hashlib.sha256()
        self._fd: int | None = None
        self.size: int = 0
        """Bytes written so far."""

    def write(self, data: bytes | memoryview) -> int:
        """Add bytes to its end; raises `StoreFullError` where there is no room."""
        if self._fd is None:
            raise ValueError("the blob is not open")
        length = data.nbytes if isinstance(data, memoryview) else len(data)
        try:
            with translated(self._path):
                self._disk.write(self._fd, data)
        except StoreFullError as error:
            # What this file took goes back with it.
            free = None if error.free is None else error.free + os.fstat(self._fd).st_size
            reason = "a part of the backup does not fit"
            raise StoreFullError(error.path, reason, needed=self.size + length, free=free) from error.__cause__
        self._hasher.update(data)
        self.size += length
        return length

    def close(self, *, digest: str | None = None) -> Descriptor:
        """Make it a blob of the store, durably, and return what it is.

        Args:
            digest: what its digest must be, where that is known beforehand.

        Raises:
            MalformedError: its digest is another; it is discarded.
            StoreError: it could not be kept.
        """
        if self._fd is None:
            raise ValueError("the blob is not open")
        blob = Descriptor(self._media_type, "sha256:" + self._hasher.hexdigest(), self.size, self._annotations)
        if digest not in (None, blob.digest):
            self.discard()
            raise MalformedError(f"its content has the digest {blob.digest}")
        with translated(self._path):
            self._disk.sync(self._fd)
            fd, self._fd = self._fd, None
            self._disk.close(fd)
        try:
            self._publish(self._path, blob)
        except BaseException:
            self._remove()
            raise
        return blob

    def discard(self) -> None:
        """Drop it, and give its room back; harmless after `close`."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                self._disk.close(fd)
            self._remove()

    def _remove(self) -> None:
        with suppress(OSError):
            self._disk.remove(self._path)

    def __enter__(self) -> Self:
        with translated(self._path):
            self._fd = self._disk.create(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()
