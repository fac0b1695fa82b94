"""Steps and downtimes, measured on a clock that moves when it is told to."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._reporting.timeline import OutcomeStep
from docker_rollback.parts import Timeline
from docker_rollback.reports import Downtime, StepTime
from docker_rollback.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def timeline(clock: FakeClock) -> Timeline:
    """A timeline on that clock."""
    return Timeline(clock.monotonic)


def test_a_step_ends_where_the_next_begins(timeline: Timeline, clock: FakeClock) -> None:
    """Nothing is counted twice, and what comes after the end is counted nowhere."""
    taken: list[tuple[OutcomeStep, float]] = [("look", 1.0), ("rest", 2.0)]
    for step, seconds in taken:
        timeline.begin(step)
        clock.advance(seconds)
    timeline.end()
    clock.advance(5.0)
    timeline.end()
    assert timeline.steps == (StepTime("look", 1.0), StepTime("rest", 2.0))
    assert timeline.step is None


def test_a_step_within_another_is_part_of_it(timeline: Timeline, clock: FakeClock) -> None:
    """A capture that keeps a failed state is one step, and the next step is counted again."""
    with timeline.during("keep"):
        clock.advance(1.0)
        timeline.begin("rest")
        clock.advance(1.0)
    timeline.begin("roll back")
    clock.advance(3.0)
    timeline.end()
    assert timeline.steps == (StepTime("keep", 2.0), StepTime("roll back", 3.0))


def test_a_container_is_down_from_its_stop_to_its_start(timeline: Timeline, clock: FakeClock) -> None:
    """By what it was down for; what runs already, and what was down already, changes nothing."""
    timeline.begin("rest")
    timeline.down("web")
    clock.advance(1.0)
    timeline.down("web")
    timeline.up("db")
    timeline.begin("capture")
    clock.advance(1.0)
    timeline.up("web")
    timeline.begin("block")
    timeline.down("web")
    clock.advance(4.0)
    timeline.up("web")
    timeline.begin("roll back")
    timeline.down("web")
    clock.advance(8.0)
    timeline.end()
    assert timeline.downtime == {"web": Downtime(capture=2.0, update=4.0, rollback=8.0)}


def test_what_the_block_starts_itself_is_counted_up_to_it(timeline: Timeline, clock: FakeClock) -> None:
    """Of a capture that leaves its containers at rest nobody here sees their start."""
    timeline.begin("rest")
    timeline.down("web")
    clock.advance(1.0)
    timeline.begin("block")
    clock.advance(60.0)
    timeline.end()
    assert timeline.downtime == {"web": Downtime(capture=1.0)}


def test_an_earlier_operation_is_none_of_ours(timeline: Timeline, clock: FakeClock) -> None:
    """What recovery stops and starts on entry was down for another operation."""
    with timeline.during("look"):
        timeline.down("web")
        clock.advance(1.0)
        timeline.up("web")
    assert timeline.downtime == {}


def test_each_step_is_logged_as_it_begins(timeline: Timeline, caplog: pytest.LogCaptureFixture) -> None:
    """One line at INFO, under the one logger."""
    with caplog.at_level(logging.INFO, "docker_rollback"):
        timeline.begin("verify")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("docker_rollback", "step: verify")]


STEPS = st.sampled_from(["look", "rest", "capture", "resume", "seal", "block", "verify", "roll back", "finish"])


@given(st.lists(st.tuples(STEPS, st.integers(0, 50), st.booleans())))
def test_no_second_is_lost_or_counted_twice(taken: list[tuple[OutcomeStep, int, bool]]) -> None:
    """Whatever comes in whatever order, the steps add up to the whole, and nobody was down for longer than that."""
    clock = FakeClock()
    timeline = Timeline(clock.monotonic)
    for step, seconds, down in taken:
        timeline.begin(step)
        (timeline.down if down else timeline.up)("web")
        clock.advance(seconds)
    timeline.end()
    whole = clock.monotonic()
    assert sum(step.seconds for step in timeline.steps) == pytest.approx(whole)
    known = timeline.downtime.get("web", Downtime())
    assert 0.0 <= known.capture + known.update + known.rollback <= whole + 1e-6
