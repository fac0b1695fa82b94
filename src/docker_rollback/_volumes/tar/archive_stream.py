"""Streams archives from tar through zstd to the store and back, in bounded pieces."""

from __future__ import annotations

import io
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import Final, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE: Final = 1 << 20  # the size of a piece, in bytes
_AHEAD: Final = 4  # how many pieces are read ahead
_LOOK: Final = 0.01
_WORTH: Final = 256 << 10  # the least number of bytes per call


class Source(Protocol):
    """A source of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; empty at the end."""


class Sink(Protocol):
    """A destination for bytes."""

    def write(self, data: bytes, /) -> object:
        """Write all of the data."""


class CorruptStreamError(Exception):
    """A zstd stream is truncated or malformed."""


def pieces_of(source: Source) -> Iterator[bytes]:
    """Yield all bytes of a source, a piece at a time."""
    while data := source.read(PIECE):
        yield data


def ahead(pieces: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Yield the pieces, while a thread reads ahead; an error in the thread is raised here."""
    waiting: queue.Queue[tuple[bytes | None, BaseException | None]] = queue.Queue(_AHEAD)
    over = threading.Event()

    def get() -> None:
        failure: BaseException | None = None
        source = iter(pieces)
        try:
            for piece in source:
                waiting.put((piece, None))
                if over.is_set():
                    break
        except BaseException as error:
            failure = error
        finally:
            if isinstance(source, Generator):
                source.close()
        waiting.put((None, failure))

    thread = threading.Thread(target=get, name="reading ahead", daemon=True)
    thread.start()
    try:
        while True:
            piece, failure = waiting.get()
            if failure is not None:
                raise failure
            if piece is None:
                return
            yield piece
    finally:
        over.set()
        while thread.is_alive():
            # The thread may be waiting for space in the queue.
            with suppress(queue.Empty):
                waiting.get(timeout=_LOOK)
        thread.join()


def whole(pieces: Iterable[bytes]) -> bytes:
    """Return all pieces joined; memory holds no more than the result."""
    gathered = io.BytesIO()
    for piece in pieces:
        gathered.write(piece)
    return gathered.getvalue()


def split(pieces: Iterable[bytes]) -> Generator[bytes, None, bytes]:
    """Yield the texts that each end with NUL; return the rest after the last NUL."""
    rest = b""
    for piece in pieces:
        *texts, rest = (rest + piece).split(b"\0")
        yield from texts
    return rest


def gathered(parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Yield the same bytes in fewer pieces."""
    waiting = bytearray()
    for part in parts:
        if len(waiting) + len(part) < _WORTH:
            waiting += part
            continue
        yield bytes(waiting)
        waiting.clear()
        yield bytes(part)
    yield bytes(waiting)


def carry(
    pieces: Iterable[bytes],
    sink: Sink,
    *,
    progress: Callable[[int], None] | None = None,
    look: Callable[[bytes], object] | None = None,
) -> int:
    """Copy bytes into `sink`, and return their number.

    Args:
        pieces: the bytes.
        sink: their destination.
        progress: called after each piece, with the bytes so far.
        look: called with each piece.
    """
    size = 0
    for data in pieces:
        size += len(data)
        sink.write(data)
        if look is not None:
            look(data)
        if progress is not None:
            progress(size)
    return size


def pack(
    pieces: Iterable[bytes],
    sink: Sink,
    *,
    level: int,
    threads: int,
    progress: Callable[[int], None] | None = None,
    look: Callable[[bytes], object] | None = None,
) -> int:
    """Compress bytes into `sink`, and return the number of uncompressed bytes.

    Args:
        pieces: the bytes.
        sink: the destination of the zstd stream.
        level: the compression level; 1 is the best trade of time for size with most data.
        threads: the number of threads for compression, in addition to the caller's.
        progress: called after each piece, with the bytes so far.
        look: called with each piece.
    """
    packer = Packer(level=level, threads=threads)
    size = carry(pieces, _Packing(packer, sink), progress=progress, look=look)
    sink.write(packer.end())
    return size


class Packer:
    """Compresses bytes into a zstd stream.

    Args:
        level: the compression level; None for zstd's default.
        threads: the number of threads for compression, in addition to the caller's.
    """

    def __init__(self, *, level: int | None = None, threads: int = 0) -> None:
        parameter = zstd.CompressionParameter
        options: dict[int, int] = {parameter.checksum_flag: 1, parameter.nb_workers: threads}
        if level is not None:
            options[parameter.compression_level] = level
        self._compressor = zstd.ZstdCompressor(options=options)

    def add(self, data: bytes) -> bytes:
        """Compress the next piece; return the output so far."""
        return self._compressor.compress(data)

    def end(self) -> bytes:
        """Return the rest of the stream."""
        return self._compressor.flush()


class _Packing:
    """A sink that compresses its input into another sink."""

    def __init__(self, packer: Packer, sink: Sink) -> None:
        self._packer = packer
        self._sink = sink

    def write(self, data: bytes, /) -> None:
        if packed := self._packer.add(data):
            self._sink.write(packed)


def packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a zstd stream of a small input."""
    packer = Packer()
    for piece in pieces:
        yield packer.add(piece)
    yield packer.end()


def unpack(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the content of a zstd stream; raises `CorruptStreamError` if it is broken.

    Errors of `pieces` are passed on unchanged.
    """
    decompressor = zstd.ZstdDecompressor()
    try:
        for piece in pieces:
            data = decompressor.decompress(piece, max_length=PIECE)
            while data or not decompressor.needs_input:
                if data:
                    yield data
                if decompressor.eof:
                    break
                data = decompressor.decompress(b"", max_length=PIECE)
            if decompressor.eof and decompressor.unused_data:
                raise CorruptStreamError("data follows its end")
    except zstd.ZstdError as error:
        raise CorruptStreamError(str(error)) from error
    if not decompressor.eof:
        raise CorruptStreamError("it is cut short")
