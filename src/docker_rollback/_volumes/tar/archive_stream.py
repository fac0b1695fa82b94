"""Archives on their way: from tar through zstd to the store and back, a bounded piece at a time."""

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

PIECE: Final = 1 << 20
"""Bytes that are handled at a time."""
_AHEAD: Final = 4
"""How many pieces are got before somebody wants them."""
_LOOK: Final = 0.01
_WORTH: Final = 256 << 10
"""How many bytes are worth a call."""


class Source(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Return the next ones, at most so many; nothing at the end."""


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> object:
        """Take them all."""


class CorruptStreamError(Exception):
    """A zstd stream is broken: cut short, or not what its first bytes say."""


def pieces_of(source: Source) -> Iterator[bytes]:
    """Yield all that comes from `source`, a piece at a time."""
    while data := source.read(PIECE):
        yield data


def ahead(pieces: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Yield the same, while a thread of its own gets the next ones; what they raise comes out here."""
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
            # It may be waiting for room.
            with suppress(queue.Empty):
                waiting.get(timeout=_LOOK)
        thread.join()


def whole(pieces: Iterable[bytes]) -> bytes:
    """Return all of it in one piece; no more of it is in memory than that."""
    gathered = io.BytesIO()
    for piece in pieces:
        gathered.write(piece)
    return gathered.getvalue()


def split(pieces: Iterable[bytes]) -> Generator[bytes, None, bytes]:
    """Yield the texts that end with NUL each; return what follows the last of them."""
    rest = b""
    for piece in pieces:
        *texts, rest = (rest + piece).split(b"\0")
        yield from texts
    return rest


def gathered(parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Yield the same in fewer pieces."""
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
    """Carry bytes into `sink`, and return how many those were.

    Args:
        pieces: the bytes.
        sink: where they go.
        progress: told the bytes so far, after each piece.
        look: given each piece, to look at.
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
    """Compress bytes into `sink`, and return how many came.

    Args:
        pieces: the bytes.
        sink: where the zstd stream goes.
        level: of zstd; 1 is the knee between time and size for most data.
        threads: how many compress, beside the one that calls.
        progress: told the bytes so far, after each piece.
        look: given each piece, to look at.
    """
    packer = Packer(level=level, threads=threads)
    size = carry(pieces, _Packing(packer, sink), progress=progress, look=look)
    sink.write(packer.end())
    return size


class Packer:
    """Makes a zstd stream of what comes.

    Args:
        level: of zstd; None for its own.
        threads: how many compress, beside the one that calls.
    """

    def __init__(self, *, level: int | None = None, threads: int = 0) -> None:
        parameter = zstd.CompressionParameter
        options: dict[int, int] = {parameter.checksum_flag: 1, parameter.nb_workers: threads}
        if level is not None:
            options[parameter.compression_level] = level
        self._compressor = zstd.ZstdCompressor(options=options)

    def add(self, data: bytes) -> bytes:
        """Take in the next piece; return what is ready."""
        return self._compressor.compress(data)

    def end(self) -> bytes:
        """Return the rest."""
        return self._compressor.flush()


class _Packing:
    """A sink that hands on what comes, packed."""

    def __init__(self, packer: Packer, sink: Sink) -> None:
        self._packer = packer
        self._sink = sink

    def write(self, data: bytes, /) -> None:
        if packed := self._packer.add(data):
            self._sink.write(packed)


def packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a zstd stream of what comes, for what is small."""
    packer = Packer()
    for piece in pieces:
        yield packer.add(piece)
    yield packer.end()


def unpack(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what a zstd stream holds; raises `CorruptStreamError` for a broken one.

    What `pieces` raises comes out untouched.
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
                raise CorruptStreamError("something follows its end")
    except zstd.ZstdError as error:
        raise CorruptStreamError(str(error)) from error
    if not decompressor.eof:
        raise CorruptStreamError("it is cut short")
