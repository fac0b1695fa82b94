"""A clock for tests, which moves only on request."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from attrs import define, field


@define
class FakeClock:
    """A clock that stands still until `advance` or `sleep` moves it, so that no test waits.

    Calling it returns the current time, in UTC. Give the engine and the code under test the same one.

    Attributes:
        now: the current time.

    Example:
        >>> clock = FakeClock()
        >>> fake = FakeEngine(clock=clock)
        >>> fake.run("shop", image="shop:1", command=["sleep", "60"])
        >>> clock.advance(60)
        >>> fake.container("shop").status
        'exited'
    """

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    _start: datetime = field(init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._start = self.now

    def __call__(self) -> datetime:
        """Return the current time."""
        return self.now

    def monotonic(self) -> float:
        """Return the seconds since the clock was made; stands in for `time.monotonic`."""
        return (self.now - self._start).total_seconds()

    def advance(self, seconds: float) -> None:
        """Move the clock on."""
        with self._lock:
            self.now += timedelta(seconds=seconds)

    def sleep(self, seconds: float) -> None:
        """Move the clock on instead of waiting; stands in for `time.sleep`."""
        self.advance(max(0.0, seconds))
