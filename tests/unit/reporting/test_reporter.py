"""Steps and downtimes, measured on a clock that moves when it is told to."""

from __future__ import annotations

import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback import Progress
from docker_rollback._reporting import StepName
from docker_rollback._threads import each_at_once
from docker_rollback.parts import Reporter
from docker_rollback.reports import Downtime, StepTime
from docker_rollback.testing import FakeClock
from tests.unit.gauge import Gauge


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def reporter(clock: FakeClock) -> Reporter:
    """A reporter on that clock."""
    return Reporter(clock=clock.monotonic)


def test_a_step_ends_where_the_next_begins(reporter: Reporter, clock: FakeClock) -> None:
    """Nothing is counted twice, and what comes after the end is counted nowhere."""
    taken: list[tuple[StepName, float]] = [("preflight", 1.0), ("quiesce", 2.0)]
    for step, seconds in taken:
        reporter.begin(step)
        clock.advance(seconds)
    reporter.end()
    clock.advance(5.0)
    reporter.end()
    assert reporter.steps == (StepTime("preflight", 1.0), StepTime("quiesce", 2.0))
    assert reporter.current is None


def test_a_step_within_another_is_part_of_it(reporter: Reporter, clock: FakeClock) -> None:
    """A capture that keeps a failed state is one step, and the next step is counted again."""
    with reporter.during("keep"):
        clock.advance(1.0)
        reporter.begin("quiesce")
        clock.advance(1.0)
    reporter.begin("restore")
    clock.advance(3.0)
    reporter.end()
    assert reporter.steps == (StepTime("keep", 2.0), StepTime("restore", 3.0))


def test_a_container_is_down_from_its_stop_to_its_start(reporter: Reporter, clock: FakeClock) -> None:
    """By what it was down for; what runs already, and what was down already, changes nothing."""
    reporter.begin("quiesce")
    reporter.down("web")
    clock.advance(1.0)
    reporter.down("web")
    reporter.up("db")
    reporter.begin("capture")
    clock.advance(1.0)
    reporter.up("web")
    reporter.begin("update")
    reporter.down("web")
    clock.advance(4.0)
    reporter.up("web")
    reporter.begin("restore")
    reporter.down("web")
    clock.advance(8.0)
    reporter.end()
    assert reporter.downtime == {"web": Downtime(capture=2.0, update=4.0, rollback=8.0)}


def test_what_the_block_starts_itself_is_counted_up_to_it(reporter: Reporter, clock: FakeClock) -> None:
    """Of a capture that leaves its containers at rest nobody here sees their start."""
    reporter.begin("quiesce")
    reporter.down("web")
    clock.advance(1.0)
    reporter.begin("update")
    clock.advance(60.0)
    reporter.end()
    assert reporter.downtime == {"web": Downtime(capture=1.0)}


def test_an_earlier_operation_is_none_of_ours(reporter: Reporter, clock: FakeClock) -> None:
    """What recovery stops and starts on entry was down for another operation."""
    with reporter.during("preflight"):
        reporter.down("web")
        clock.advance(1.0)
        reporter.up("web")
    assert reporter.downtime == {}


def test_each_step_is_logged_as_it_begins(reporter: Reporter, caplog: pytest.LogCaptureFixture) -> None:
    """One line at INFO, under the one logger."""
    with caplog.at_level(logging.INFO, "docker_rollback"):
        reporter.begin("verify")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("docker_rollback", "step: verify")]


STEPS = st.sampled_from(["preflight", "quiesce", "capture", "resume", "store", "update", "verify", "restore", "finish"])


@given(st.lists(st.tuples(STEPS, st.integers(0, 50), st.booleans())))
def test_no_second_is_lost_or_counted_twice(taken: list[tuple[StepName, int, bool]]) -> None:
    """Whatever comes in whatever order, the steps add up to the whole, and nobody was down for longer than that."""
    clock = FakeClock()
    reporter = Reporter(clock=clock.monotonic)
    for step, seconds, down in taken:
        reporter.begin(step)
        (reporter.down if down else reporter.up)("web")
        clock.advance(seconds)
    reporter.end()
    whole = clock.monotonic()
    assert sum(step.seconds for step in reporter.steps) == pytest.approx(whole)
    known = reporter.downtime.get("web", Downtime())
    assert 0.0 <= known.capture + known.update + known.rollback <= whole + 1e-6


def test_a_listener_is_told_one_event_at_a_time() -> None:
    """Containers stop, and volumes are read, in several threads."""
    gauge = Gauge()

    def listen(_: Progress) -> None:
        with gauge:
            time.sleep(0.001)

    reporter = Reporter(listen)
    each_at_once(range(20), lambda item: reporter.data("rows", item))
    assert gauge.highest == 1


def test_a_listener_may_cause_another_event() -> None:
    """It does not wait for itself."""
    told: list[str] = []

    def listen(event: Progress) -> None:
        told.append(event.subject)
        if len(told) < 3:
            ours.announce("restore", f"{event.subject}+")

    ours = Reporter(listen)
    ours.announce("restore", "one")
    assert told == ["one", "one+", "one++"]
