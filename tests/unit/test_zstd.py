"""What is compressed with zstd comes back, or is found to be broken."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._zstd import CHUNK, CorruptStreamError, Packer, can_be_needed, difference, frame, unpack

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """Yield bytes in pieces."""
    return (data[at : at + size] for at in range(0, len(data), size))


def whole(pieces: Iterable[bytes]) -> bytes:
    """Return what a stream holds."""
    return b"".join(unpack(pieces))


@given(st.binary(max_size=5000), st.integers(1, 600))
def test_what_is_packed_comes_back(data: bytes, size: int) -> None:
    """However a stream is cut, what it holds comes out."""
    assert whole(cut(zstd.compress(data), size)) == data


@given(st.binary(min_size=1, max_size=2000), st.data())
def test_a_broken_stream_is_an_error(data: bytes, choices: st.DataObject) -> None:
    """A stream that is cut short, or has a byte changed, or one more, never passes for the right one."""
    packed = zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})
    at = choices.draw(st.integers(0, len(packed) - 1))
    broken = bytearray(packed)
    broken[at] ^= choices.draw(st.integers(1, 255))
    for damaged in (packed[:at], bytes(broken), packed + b"\0"):
        try:
            assert whole([damaged]) == data
            # Some bits of a frame's header say nothing about its content.
            assert damaged == bytes(broken)
        except CorruptStreamError:
            pass


def test_an_end_that_comes_early_says_so() -> None:
    """A stream without its end is told from an empty one."""
    with pytest.raises(CorruptStreamError, match="cut short"):
        whole([])
    with pytest.raises(CorruptStreamError, match="cut short"):
        whole([zstd.compress(b"data")[:-1]])


def test_what_follows_the_end_is_an_error_wherever_a_chunk_ends() -> None:
    """A frame may end where a chunk does, and more come."""
    made = zstd.compress(b"data")
    for stream in ([made + b"more"], [made, b"more"], [made, made]):
        with pytest.raises(CorruptStreamError, match="follows its end"):
            whole(stream)


def test_a_small_stream_that_holds_much_comes_in_bounded_chunks() -> None:
    """However much a chunk unpacks to, no more than a megabyte comes at a time."""
    packed = zstd.compress(bytes(100 << 20))
    assert len(packed) < 20_000
    sizes = [len(piece) for piece in unpack([packed])]
    assert (sum(sizes), max(sizes)) == (100 << 20, CHUNK)


@given(st.lists(st.binary(max_size=3000), max_size=5), st.integers(0, 2))
def test_a_stream_and_a_frame_hold_the_same(parts: list[bytes], threads: int) -> None:
    """In however many parts it comes, and whether other threads compress or not."""
    packer = Packer(level=1, threads=threads)
    assert whole([*map(packer.add, parts), packer.end()]) == b"".join(parts)
    assert whole(frame(parts, level=1)) == b"".join(parts)


@given(st.binary(min_size=8, max_size=3000), st.lists(st.binary(max_size=3000), max_size=3), st.data())
def test_a_difference_is_read_with_what_it_is_to(known: bytes, parts: list[bytes], choices: st.DataObject) -> None:
    """And with nothing else: other data gives an error, never other content."""
    made = b"".join(difference(parts, known))
    assert b"".join(unpack([made], known)) == b"".join(parts)
    other = choices.draw(st.binary(max_size=3000) | st.none())
    with contextlib.suppress(CorruptStreamError):
        assert b"".join(unpack([made], other)) == b"".join(parts)


def test_a_difference_is_as_small_as_what_differs() -> None:
    """Also where a few bytes differ all over eight megabytes that shrink little."""
    known = random.Random(1).randbytes(8 << 20)
    changed = bytearray(known)
    for at in range(0, len(changed), 512 << 10):
        changed[at : at + 200] = bytes(200)
    assert len(b"".join(difference([bytes(changed)], known))) < 10_000
    assert len(b"".join(frame([bytes(changed)], level=1))) > 8_000_000


def test_what_is_too_short_cannot_be_needed() -> None:
    """Zstd refuses it."""
    assert [can_be_needed(bytes(size)) for size in (0, 7, 8)] == [False, False, True]
    with pytest.raises(CorruptStreamError, match="too short"):
        b"".join(unpack([], bytes(7)))
