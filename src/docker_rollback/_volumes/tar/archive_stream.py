"""Streams archives from tar to the store and back, a bounded number of bytes at a time."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final, Protocol

PIECE: Final = 1 << 20  # the size of a piece, in bytes
_WORTH: Final = 256 << 10  # the least number of bytes per call


class Source(Protocol):
    """A source of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; empty at the end."""


class Sink(Protocol):
    """A destination for bytes."""

    def write(self, data: bytes, /) -> object:
        """Write all of the data."""


def pieces_of(source: Source) -> Iterator[bytes]:
    """Yield all bytes of a source, a piece at a time."""
    while data := source.read(PIECE):
        yield data


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
