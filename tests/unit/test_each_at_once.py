"""One thing is done for several items at once: all are tried, and no error and no call is lost."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._threads import AT_ONCE, both_at_once, each_at_once, raise_first
from tests.unit.gauge import Gauge


def test_all_are_at_work_together() -> None:
    """Up to the limit; there is no error then, and the items may be fewer than the threads."""
    meeting = threading.Barrier(AT_ONCE, timeout=30)
    assert each_at_once(range(AT_ONCE), lambda _: meeting.wait()) == [None] * AT_ONCE
    assert each_at_once([], lambda _: meeting.wait()) == []


@pytest.mark.parametrize("most", [1, 3])
def test_never_more_at_once_than_is_allowed(most: int) -> None:
    """Yet every item has its turn."""
    gauge, done = Gauge(), set[int]()

    def work(item: int) -> None:
        with gauge:
            time.sleep(0.002)
            done.add(item)

    each_at_once(range(20), work, most=most)
    assert gauge.highest <= most
    assert done == set(range(20))


@pytest.mark.parametrize("most", [1, 8])
def test_every_one_is_tried_and_has_its_own_error(most: int) -> None:
    """In the order of the items, whatever ended first."""
    done: list[int] = []

    def work(item: int) -> None:
        time.sleep((8 - item) / 1000)
        done.append(item)
        if item % 2:
            raise ValueError(item)

    errors = each_at_once(range(8), work, most=most)
    assert [None if error is None else error.args for error in errors] == [(n,) if n % 2 else None for n in range(8)]
    assert sorted(done) == list(range(8))
    with pytest.raises(ValueError, match="1") as raised:
        raise_first(errors)
    assert raised.value.__notes__ == [f"besides, ValueError: {number}" for number in (3, 5, 7)]
    raise_first([None, None])


def test_a_single_one_is_done_here() -> None:
    """So that an interruption reaches it at once."""
    found: list[threading.Thread] = []
    each_at_once(["one"], lambda _: found.append(threading.current_thread()))
    assert found == [threading.current_thread()]


@pytest.mark.parametrize("most", [1, 2])
def test_what_is_no_error_is_raised(most: int) -> None:
    """Such as the end of the process, which a test plays."""

    def work(item: int) -> None:
        if item == 1:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        each_at_once(range(4), work, most=most)


def test_an_interruption_waits_for_the_calls_at_work_and_begins_no_other() -> None:
    """A stop that is under way would otherwise stop a container that was started again meanwhile."""
    begun, ended, interrupted = list[int](), list[int](), threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.wait(30)
        time.sleep(0.05)
        ended.append(item)

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            each_at_once(range(50), work, most=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(ended) == sorted(begun)
    assert 2 <= len(begun) < 50


def test_further_interruptions_wait_too() -> None:
    """Whoever interrupts twice still finds no call in progress afterwards."""
    ended, begun = list[int](), threading.Barrier(2, timeout=30)

    def work(item: int) -> None:
        if begun.wait() == 0:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.02)
        time.sleep(0.1)
        ended.append(item)

    # A process that was started in the background may ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            each_at_once(range(2), work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(ended) == [0, 1]


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_process_that_may_have_no_more_threads_does_everything(monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    """A limit of processes, or the end of the interpreter, must not leave containers stopped."""
    start, started = threading.Thread.start, list[threading.Thread]()

    def limited(self: threading.Thread) -> None:
        if len(started) == allowed:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    done: list[int] = []
    assert each_at_once(range(5), done.append) == [None] * 5
    assert sorted(done) == list(range(5))
    assert both_at_once(lambda: "side", lambda: "main", lambda: None) == ("side", "main")


def test_no_further_call_begins_after_an_error_where_that_is_asked() -> None:
    """The containers are down meanwhile, for a backup that has failed."""
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise ValueError(item)

    errors = each_at_once(range(50), work, most=2, after_error=False)
    assert len(begun) <= 2
    assert [item for item, error in enumerate(errors) if error is not None] == sorted(begun)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25), st.integers(1, 10))
def test_a_call_waits_for_those_before_it_and_for_no_other(edges: list[tuple[int, int]], most: int) -> None:
    """Each begins once all that it waits for have ended."""
    waits = {(max(pair), min(pair)) for pair in edges if pair[0] != pair[1]}
    lock, ended = threading.Lock(), list[int]()

    def work(item: int) -> None:
        with lock:
            assert {other for one, other in waits if one == item} <= set(ended)
            ended.append(item)
        if item % 3 == 0:
            raise ValueError(item)

    errors = each_at_once(range(10), work, after=lambda one, other: (one, other) in waits, most=most)
    assert sorted(ended) == list(range(10))
    assert [error is not None for error in errors] == [item % 3 == 0 for item in range(10)]
    assert all(isinstance(error, ValueError) for error in errors if error is not None)


def test_those_that_wait_hold_nobody_up() -> None:
    """Each of these begins although the one before it in the list waits for the last one."""
    meeting = threading.Barrier(3, timeout=30)
    done: list[int] = []

    def work(item: int) -> None:
        if item != 0:
            meeting.wait()
        done.append(item)

    assert each_at_once(range(4), work, after=lambda one, other: one == 0 and other == 3, most=4) == [None] * 4
    assert done.index(0) > done.index(3)


def test_one_that_waits_does_not_begin_after_an_interruption() -> None:
    """Nor after an error, where that is asked."""
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise SystemExit(3) if interrupts else ValueError

    for interrupts in (False, True):
        begun.clear()
        if interrupts:
            with pytest.raises(SystemExit):
                each_at_once(range(3), work, after=lambda one, other: one == other + 1)
        else:
            each_at_once(range(3), work, after=lambda one, other: one == other + 1, after_error=False)
        assert begun == [0]
