"""The protocol of a timer, which components are given through their constructors."""

from __future__ import annotations

from typing import Protocol


class Timer(Protocol):
    """Measures time, and waits. The module `time` is one; `testing.FakeClock` is one that never waits."""

    def monotonic(self) -> float:
        """Return the time in seconds, of a clock that never goes back."""

    def sleep(self, seconds: float, /) -> None:
        """Wait for a number of seconds."""
