"""Archives on their way: from tar through zstd to the store and back, a bounded piece at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from docker_rollback._engine.port import Process

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE: Final = 1 << 20
"""Bytes that are handled at a time."""


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> object:
        """Take them all."""


class CorruptStreamError(Exception):
    """A zstd stream is broken: cut short, or not what its first bytes say."""


def pack(
    process: Process,
    sink: Sink,
    *,
    level: int,
    threads: int,
    progress: Callable[[int], None] | None = None,
    look: Callable[[bytes], object] | None = None,
) -> int:
    """Compress all that a process prints into `sink`, and return how many bytes it printed.

    Args:
        process: what prints.
        sink: where the zstd stream goes.
        level: of zstd; 1 is the knee between time and size for most data.
        threads: how many compress, beside the one that calls.
        progress: told the bytes so far, after each piece.
        look: given each piece, to look at.
    """
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {
        parameter.compression_level: level,
        parameter.nb_workers: threads,
        parameter.checksum_flag: 1,
    }
    compressor = zstd.ZstdCompressor(options=options)
    size = 0
    while data := process.read(PIECE):
        size += len(data)
        if packed := compressor.compress(data):
            sink.write(packed)
        if look is not None:
            look(data)
        if progress is not None:
            progress(size)
    sink.write(compressor.flush())
    return size


class Packer:
    """Makes a zstd stream of what comes, for what is small."""

    def __init__(self) -> None:
        self._compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})

    def add(self, data: bytes) -> bytes:
        """Take in the next piece; return what is ready."""
        return self._compressor.compress(data)

    def end(self) -> bytes:
        """Return the rest."""
        return self._compressor.flush()


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
