"""Converts streams of bytes: iterators to files, compressed to uncompressed data, files to a tar."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import IO, TYPE_CHECKING, BinaryIO, Self, cast

from isal import igzip, igzip_threaded, isal_zlib

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 20  # bytes that are read, hashed and written at a time

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# A zstd file may start with a skippable frame, of any of sixteen kinds.
_SKIPPABLE = tuple(bytes([0x50 + kind]) + b"\x2a\x4d\x18" for kind in range(16))

LEVEL = 1  # the level of igzip, with the best balance of time and size for image layers

# isal's type stubs declare its error as a value of type Exception.
_ISAL_ERROR = cast(type[Exception], isal_zlib.error)


class CompressionError(Exception):
    """A compressed stream is truncated or malformed."""


class IteratorFile(io.RawIOBase):
    """Reads an iterator of bytes as a file; `read` raises the iterator's exceptions."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        target = memoryview(buffer).cast("B")
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def buffered(pieces: Iterable[bytes]) -> BinaryIO:
    """Return a buffered file over an iterator of bytes; `read(n)` returns n bytes, or fewer at the end."""
    return cast(BinaryIO, io.BufferedReader(IteratorFile(pieces), CHUNK))


def compression(head: bytes) -> str | None:
    """Return the compression of a stream that starts with `head`: "gzip", "zstd", or None."""
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    if head.startswith(ZSTD_MAGIC) or head.startswith(_SKIPPABLE):
        return "zstd"
    return None


def decompressed(pieces: Iterable[bytes], kind: str) -> Iterator[bytes]:
    """Decompress a stream in bounded chunks; raises `CompressionError` if it is broken."""
    source = buffered(pieces)
    file: IO[bytes]
    if kind == "gzip":
        # isal's type stubs lack this class.
        file = cast(IO[bytes], igzip.IGzipFile(fileobj=source, mode="rb"))  # type: ignore[no-untyped-call]
    else:
        file = cast(IO[bytes], zstd.ZstdFile(source, "rb"))
    with file:
        while True:
            try:
                data = file.read(CHUNK)
            except (EOFError, gzip.BadGzipFile, zlib.error, _ISAL_ERROR, zstd.ZstdError) as error:
                raise CompressionError(f"its {kind} stream is broken ({error})") from error
            if not data:
                return
            yield data


def plain(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a stream's uncompressed content; raises `CompressionError` if it is broken."""
    first = next(pieces, b"")
    kind = compression(first)
    whole = chain([first], pieces)
    yield from whole if kind is None else decompressed(whole, kind)


class GzipWriter:
    """Compresses data deterministically, in several threads.

    One of them calls `write` with the compressed data; the next call here raises its exceptions.
    """

    def __init__(self, write: Callable[[bytes], object], threads: int) -> None:
        self._write = write
        self._failure: BaseException | None = None
        sink = _Sink(self._take)
        # isal's type stubs lack this function.
        packer = igzip_threaded.open(sink, "wb", compresslevel=LEVEL, threads=threads)  # type: ignore[no-untyped-call]
        self._packer = cast(IO[bytes], packer)

    def write(self, data: bytes) -> None:
        """Queue `data` for compression."""
        self._packer.write(data)
        self._check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._packer.close()
        if error is None:
            self._check()

    def _take(self, data: bytes) -> None:
        # An exception would end the packer's own thread, and its queues would never empty.
        if self._failure is None:
            try:
                self._write(data)
            except BaseException as failure:
                self._failure = failure

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


class _Sink:
    """The file that the packer writes to."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def write(self, data: bytes) -> int:
        self._write(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass


def tar_member(name: str, pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield a tar member: header, content, padding."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    # Every engine understands GNU's extension for sizes above 8 GiB.
    yield info.tobuf(tarfile.GNU_FORMAT)
    yield from pieces
    if size % tarfile.BLOCKSIZE:
        yield bytes(tarfile.BLOCKSIZE - size % tarfile.BLOCKSIZE)


def tar_end() -> Iterator[bytes]:
    """Yield the end of a tar."""
    yield bytes(2 * tarfile.BLOCKSIZE)
