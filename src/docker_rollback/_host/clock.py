"""This machine's clock: whether anybody has set it since, and whether the machine has been started anew.

The time of day is the time since the start of the machine and a number that the kernel keeps beside it. What corrects a
clock slowly moves both; the number alone changes when the clock is set. It is read so closely here that whoever sets a
clock back and forth again does not meet it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from docker_rollback._model import Clock

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_SINCE_START: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_READINGS: Final = 50
_CLOSE: Final = 50_000
"""Nanoseconds between two readings of a number that has not changed: some hundred are usual, and some thousand under
load."""
_SET_BACK: Final = 1_000_000_000
"""Nanoseconds by which a clock that nobody set may seem to have gone back."""


def read_clock() -> Clock:
    """Read this machine's clock."""
    best, offset = 1 << 62, 0
    for _ in range(_READINGS):
        before = time.clock_gettime_ns(_SINCE_START)
        now = time.clock_gettime_ns(time.CLOCK_REALTIME)
        took = time.clock_gettime_ns(_SINCE_START) - before
        if took < best:
            best, offset = took, now - before - took // 2
    return Clock(_boot(), offset)


def was_set_back(before: Clock, now: Clock) -> bool:
    """Whether a clock shows less than it should by now, or there is no telling."""
    return before.boot != now.boot or now.offset < before.offset - _SET_BACK


def ran_on(before: Clock, now: Clock) -> bool:
    """Whether this is the same start of the same machine, and nobody has set its clock in between."""
    return bool(before.boot) and before.boot == now.boot and abs(now.offset - before.offset) <= _CLOSE


def _boot() -> str:
    """Return which start of the machine this is; empty where the kernel does not tell."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
