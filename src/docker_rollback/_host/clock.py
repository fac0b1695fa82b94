"""Reads this machine's clock and boot id, and tells whether the clock was set or the machine rebooted.

The time of day is the time since boot plus an offset that the kernel keeps. A slow correction of the clock moves both.
Setting the clock changes only the offset, which is read closely enough here that setting it back and forth again does
not give the same number.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from docker_rollback._model import Clock

BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"  # the file with the id of this boot of the machine
_SINCE_START: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_READINGS: Final = 50
# Nanoseconds that two readings of an unchanged offset may differ by: usually hundreds, thousands under load.
_CLOSE: Final = 50_000
_SET_BACK: Final = 1_000_000_000  # nanoseconds by which a clock that nobody set may appear to have gone back


class Timer(Protocol):
    """Measures time, and waits. The module `time` is one; `testing.FakeClock` is one that never waits."""

    def monotonic(self) -> float:
        """Return the time in seconds, of a clock that never goes back."""

    def sleep(self, seconds: float, /) -> None:
        """Wait for a number of seconds."""


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def read_clock() -> Clock:
    """Read this machine's clock."""
    best, offset = 1 << 62, 0
    for _ in range(_READINGS):
        before = time.clock_gettime_ns(_SINCE_START)
        real = time.clock_gettime_ns(time.CLOCK_REALTIME)
        took = time.clock_gettime_ns(_SINCE_START) - before
        if took < best:
            best, offset = took, real - before - took // 2
    return Clock(boot_id(), offset)


def was_set_back(before: Clock, after: Clock) -> bool:
    """Return True if the clock was set back between two readings, or if nothing tells because of a reboot."""
    return before.boot != after.boot or after.offset < before.offset - _SET_BACK


def ran_on(before: Clock, after: Clock) -> bool:
    """Return True if the machine was not rebooted and its clock not set between two readings."""
    return bool(before.boot) and before.boot == after.boot and abs(after.offset - before.offset) <= _CLOSE


def boot_id() -> str:
    """Return the id of this boot of the machine; empty if the kernel does not tell."""
    try:
        return Path(BOOT_ID).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
