"""A thread reads ahead, and what it reads comes in its order."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._threads import ahead


def threads() -> list[str]:
    """Return the names of the threads that read ahead."""
    return [one.name for one in threading.enumerate() if one.name == "reading ahead"]


@given(items=st.lists(st.binary(max_size=3) | st.none(), max_size=20))
def test_what_is_read_ahead_is_the_same(items: list[bytes | None]) -> None:
    """In its order, and nothing of it is left over."""
    assert list(ahead(items)) == items
    assert threads() == []


def test_the_next_item_is_got_before_it_is_wanted() -> None:
    """While somebody is at work on the last one."""
    got = threading.Event()

    def source() -> Iterator[bytes]:
        yield b"first"
        got.set()
        yield b"second"

    items = ahead(source())
    assert next(items) == b"first"
    assert got.wait(60)
    assert list(items) == [b"second"]


def test_an_error_comes_out_in_its_place() -> None:
    """After all that came before it."""

    def source() -> Iterator[bytes]:
        yield b"first"
        raise ValueError("broken")

    items = ahead(source())
    assert next(items) == b"first"
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_who_has_seen_enough_ends_the_source() -> None:
    """It is closed where it is, and its thread has ended by then."""
    ended = []

    def source() -> Iterator[bytes]:
        try:
            while True:
                yield b"more"
        finally:
            ended.append(True)

    items = ahead(source())
    next(items)
    items.close()
    assert ended == [True]
    assert threads() == []
