"""Archives on their way through zstd."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._volumes.access.direct import LocalProcess
from docker_rollback._volumes.tar.archive_stream import PIECE, CorruptStreamError, ahead, pack, pieces_of, unpack

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class Sink:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes, /) -> None:
        """Take it."""
        self.data += data


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


def test_a_small_stream_that_holds_much_comes_in_bounded_pieces() -> None:
    """However much a piece unpacks to, no more than a megabyte comes at a time."""
    packed = zstd.compress(bytes(100 << 20))
    assert len(packed) < 20_000
    sizes = [len(piece) for piece in unpack([packed])]
    assert (sum(sizes), max(sizes)) == (100 << 20, PIECE)


def test_packing_counts_and_tells() -> None:
    """All that a program prints goes into the sink, its size is returned, and the progress ends with it."""
    sink, told = Sink(), list[int]()
    with LocalProcess((sys.executable, "-c", "print('x' * 4_000_000, end='')")) as process:
        assert pack(pieces_of(process), sink, level=1, threads=2, progress=told.append) == 4_000_000
    assert whole([sink.data]) == b"x" * 4_000_000
    assert told[-1] == 4_000_000
    assert told == sorted(told)


def threads() -> list[str]:
    """Return the names of the threads that read ahead."""
    return [one.name for one in threading.enumerate() if one.name == "reading ahead"]


@given(pieces=st.lists(st.binary(max_size=3), max_size=20))
def test_what_is_read_ahead_is_the_same(pieces: list[bytes]) -> None:
    """In its order, and nothing of it is left over."""
    assert list(ahead(pieces)) == pieces
    assert threads() == []


def test_the_next_piece_is_got_before_it_is_wanted() -> None:
    """While somebody is at work on the last one."""
    got = threading.Event()

    def source() -> Iterator[bytes]:
        yield b"first"
        got.set()
        yield b"second"

    pieces = ahead(source())
    assert next(pieces) == b"first"
    assert got.wait(60)
    assert list(pieces) == [b"second"]


def test_an_error_comes_out_in_its_place() -> None:
    """After all that came before it."""

    def source() -> Iterator[bytes]:
        yield b"first"
        raise CorruptStreamError("broken")

    pieces = ahead(source())
    assert next(pieces) == b"first"
    with pytest.raises(CorruptStreamError, match="broken"):
        next(pieces)


def test_who_has_seen_enough_ends_the_source() -> None:
    """It is closed where it is, and its thread has ended by then."""
    ended = []

    def source() -> Iterator[bytes]:
        try:
            while True:
                yield b"more"
        finally:
            ended.append(True)

    pieces = ahead(source())
    next(pieces)
    pieces.close()
    assert ended == [True]
    assert threads() == []
