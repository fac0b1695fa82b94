"""Volumes of very many files: what is kept of each is little, and nothing is kept twice."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from attrs import define
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._volumes.capture.hash_set import Hashes
from docker_rollback._volumes.tar.archive_stream import pieces_of, whole
from docker_rollback._volumes.tar.members import Member
from docker_rollback._volumes.tar.snapshot_file import SnapshotFile

HASH = st.integers(-(1 << 63), (1 << 63) - 1)
MB = 1_000_000


@define
class Memory:
    """The most that was in use at any time of a block, beyond what was before it."""

    peak: int = 0


@contextmanager
def measured() -> Iterator[Memory]:
    """Measure what a block takes."""
    memory = Memory()
    tracemalloc.start()
    try:
        yield memory
    finally:
        memory.peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def listing(entries: int) -> bytes:
    """Return what a directory lists."""
    return b"".join(b"Yfile%d\0" % number for number in range(entries)) + b"\0"


def snapshot_file(folders: int, entries: int) -> bytes:
    """Return a snapshot file of so many directories, each with so many files."""
    records = (b"0\x001\x002\x003\x00%d\x00./%d\x00" % (n, n) + listing(entries) + b"\0" for n in range(1, folders + 1))
    return b"GNU tar-1.34-2\n5\x006\x00" + b"".join(records)


@given(first=st.lists(HASH), second=st.lists(HASH), others=st.lists(HASH))
def test_what_was_added_is_there_and_nothing_else(first: list[int], second: list[int], others: list[int]) -> None:
    """Also what comes once it was asked for something."""
    hashes = Hashes(first)
    assert [one in hashes for one in (*first, *others)] == [one in {*first} for one in (*first, *others)]
    for one in second:
        hashes.add(one)
    assert [one in hashes for one in (*first, *second, *others)] == [
        one in {*first, *second} for one in (*first, *second, *others)
    ]


def test_a_hash_takes_eight_bytes_and_few_more_while_they_are_sorted() -> None:
    """They come in no order, and many of them."""
    number = 300_000
    with measured() as memory:
        hashes = Hashes(hash((one,)) for one in range(number))
        assert all(hash((one,)) in hashes for one in range(0, number, 1000))
    assert hash((number,)) not in hashes
    # Those that came last are not packed yet.
    assert memory.peak < 8 * number * 1.3 + 2 * MB


@pytest.mark.parametrize(("folders", "entries"), [(1000, 100), (1, 100_000)])
def test_a_snapshot_file_is_copied_once(folders: int, entries: int) -> None:
    """And is what it was."""
    data = snapshot_file(folders, entries)
    with measured() as memory:
        read = SnapshotFile.parse(data)
    assert memory.peak < 1.5 * len(data)
    assert (read.written() == data, read.size, len(read.folders)) == (True, len(data), folders)


@pytest.mark.parametrize("moment", [b"5\x0006\x00", b"5\x001000000000\x00", b"05\x006\x00"])
def test_a_snapshot_file_that_is_written_otherwise_is_refused(moment: bytes) -> None:
    """It would not be written back as it was."""
    with pytest.raises(ValueError, match="shape of its own"):
        SnapshotFile.parse(b"GNU tar-1.34-2\n" + moment)


def test_the_entries_of_a_large_directory_come_one_by_one() -> None:
    """A list of all of them takes five times as much as they do."""
    listed = listing(300_000)
    member = Member(b".", b"5", 0, b"", {b"GNU.dumpdir": listed})
    with measured() as memory:
        count = sum(name.startswith(b"file") and letter == b"Y" for letter, name in member.entries)
    assert count == 300_000
    assert memory.peak < 2 * len(listed)


def test_what_comes_in_pieces_is_put_together_in_place() -> None:
    """It is not there twice at any time."""
    source = io.BytesIO(bytes(20 * MB))
    with measured() as memory:
        assert len(whole(pieces_of(source))) == 20 * MB
    assert memory.peak < 24 * MB
