"""Compresses with zstd and back: streams, single frames, and frames that hold the difference to known data."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK: Final = 1 << 20  # the most bytes that `unpack` yields at a time

Bytes: TypeAlias = bytes | memoryview

_P: Final = zstd.CompressionParameter
_LEAST: Final = 8
"""A shorter prefix is refused by zstd."""
_DIFFERENCE_LEVEL: Final = 3
"""With long-distance matching, level 3 finds more in less time than level 1."""
_WINDOWS: Final = range(10, 28)
"""The logarithms of the windows that are used; zstd's own command reads no larger ones without being asked to."""


class CorruptStreamError(Exception):
    """A zstd stream is truncated or malformed."""


class Packer:
    """Compresses bytes into a zstd stream.

    Args:
        level: the compression level; None for zstd's default.
        threads: the number of threads for compression, in addition to the caller's.
    """

    def __init__(self, *, level: int | None = None, threads: int = 0) -> None:
        options: dict[int, int] = {_P.checksum_flag: 1, _P.nb_workers: threads}
        if level is not None:
            options[_P.compression_level] = level
        self._compressor = zstd.ZstdCompressor(options=options)

    def add(self, data: Bytes) -> bytes:
        """Compress the next chunk; return the output so far."""
        return self._compressor.compress(data)

    def end(self) -> bytes:
        """Return the rest of the stream."""
        return self._compressor.flush()


def packed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a zstd stream of a small input."""
    packer = Packer()
    for chunk in chunks:
        yield packer.add(chunk)
    yield packer.end()


def frame(parts: Sequence[Bytes], *, level: int) -> Iterator[bytes]:
    """Yield one zstd frame that holds the parts, in this thread alone."""
    yield from _framed(zstd.ZstdCompressor(options={_P.compression_level: level, _P.checksum_flag: 1}), parts)


def difference(parts: Sequence[Bytes], to: bytes) -> Iterator[bytes]:
    """Yield one zstd frame that holds the parts, and needs the data `to` to be read; ``zstd --patch-from`` reads it.

    It is small if the parts differ from that data in a few places.

    Raises:
        ValueError: `can_be_needed` is false of the data.
    """
    window = (sum(map(len, parts)) + len(to) - 1).bit_length()
    options: dict[int, int] = {
        _P.compression_level: _DIFFERENCE_LEVEL,
        _P.checksum_flag: 1,
        # Both the data and the parts have to be in reach, and without the search for distant matches none is found.
        _P.window_log: min(max(window, _WINDOWS[0]), _WINDOWS[-1]),
        _P.enable_long_distance_matching: 1,
    }
    yield from _framed(zstd.ZstdCompressor(options=options, zstd_dict=_prefix(to)), parts)


def unpack(chunks: Iterable[bytes], needed: bytes | None = None) -> Iterator[bytes]:
    """Yield the content of a zstd stream of one frame; raises `CorruptStreamError` if it is broken.

    Errors of `chunks` are passed on unchanged.

    Args:
        chunks: the stream.
        needed: the data that a `difference` was made to; None for any other stream.
    """
    if needed is None:
        decompressor = zstd.ZstdDecompressor()
    elif len(needed) < _LEAST:
        raise CorruptStreamError("the data that it needs is too short")
    else:
        decompressor = zstd.ZstdDecompressor(zstd_dict=_prefix(needed))
    try:
        for chunk in chunks:
            ended = decompressor.eof
            if ended:
                raise CorruptStreamError("data follows its end")
            data = decompressor.decompress(chunk, max_length=CHUNK)
            while data or not decompressor.needs_input:
                if data:
                    yield data
                if decompressor.eof:
                    break
                data = decompressor.decompress(b"", max_length=CHUNK)
            if decompressor.eof and decompressor.unused_data:
                raise CorruptStreamError("data follows its end")
    except zstd.ZstdError as error:
        raise CorruptStreamError(str(error)) from error
    if not decompressor.eof:
        raise CorruptStreamError("it is cut short")


def can_be_needed(data: bytes) -> bool:
    """Return True if a `difference` to this data can be made."""
    return len(data) >= _LEAST


def _framed(compressor: zstd.ZstdCompressor, parts: Sequence[Bytes]) -> Iterator[bytes]:
    # The size lets zstd take less memory for small parts, and tells it to whoever reads the frame.
    compressor.set_pledged_input_size(sum(map(len, parts)))
    for part in parts:
        yield compressor.compress(part)
    yield compressor.flush()


def _prefix(data: bytes) -> tuple[zstd.ZstdDict, int]:
    return zstd.ZstdDict(data, is_raw=True).as_prefix
