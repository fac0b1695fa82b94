"""Whether a clock was set: told from two readings of it."""

from __future__ import annotations

import time

import pytest
from attrs import evolve

from docker_rollback._host.clock import ran_on, read_clock, was_set_back
from docker_rollback._model.backup import Clock

THEN = Clock("a boot", 1_700_000_000_000_000_000)


def test_a_clock_that_nobody_sets_runs_on() -> None:
    """Two readings of this machine's own clock agree, some time apart."""
    before = read_clock()
    time.sleep(0.05)
    assert ran_on(before, read_clock())
    assert not was_set_back(before, read_clock())


@pytest.mark.parametrize(
    ("boot", "set_by", "runs_on", "set_back"),
    [
        ("a boot", 0, True, False),
        ("a boot", 40_000, True, False),
        ("a boot", 1_000_000, False, False),
        ("a boot", -1_000_000, False, False),
        ("a boot", 3_600 * 10**9, False, False),
        ("a boot", -3_600 * 10**9, False, True),
        ("another boot", 0, False, True),
        ("", 0, False, True),
    ],
)
def test_a_clock_that_was_set_shows_it(boot: str, set_by: int, *, runs_on: bool, set_back: bool) -> None:
    """Forth or back, by a millisecond or an hour; of another start of the machine nothing is known."""
    now = Clock(boot, THEN.offset + set_by)
    assert ran_on(THEN, now) == runs_on
    assert was_set_back(THEN, now) == set_back


def test_a_kernel_that_does_not_tell_its_start_proves_nothing() -> None:
    """Two such readings may be of two machines."""
    unknown = evolve(THEN, boot="")
    assert not ran_on(unknown, unknown)
