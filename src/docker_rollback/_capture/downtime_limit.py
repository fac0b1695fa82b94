"""Enforces `max_downtime`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from attrs import define, field

from docker_rollback.errors import DowntimeExceededError, ResumeError

_LOOK: Final = 0.05
"""Seconds between two readings of the clock."""


@define(eq=False)
class DowntimeLimit:
    """Limits the time of a block in which containers are stopped or paused.

    After that time, `stop` is called, and the block fails with `DowntimeExceededError` at its next `check`, or at its
    end. A request that the engine is working on is waited for: neither a stop nor a commit can be cancelled.

    Args:
        seconds: the limit; None for none.
        containers: the names of the containers, for the error.
        step: returns the current step, for the error.
        stop: ends the current step early; called from another thread.
        clock: returns the time, in seconds.
    """

    _seconds: float | None
    _containers: Sequence[str]
    _step: Callable[[], str | None] = field(kw_only=True)
    _stop: Callable[[], object] = field(kw_only=True)
    _clock: Callable[[], float] = field(default=time.monotonic, kw_only=True)
    _deadline: float = field(default=0.0, init=False)
    _over_in: str | None = field(default=None, init=False)
    _ended: threading.Event = field(factory=threading.Event, init=False)
    _watching: ExitStack = field(factory=ExitStack, init=False)

    def check(self) -> None:
        """Raise `DowntimeExceededError` if the time is over."""
        if self._seconds is not None and (self._over_in is not None or self._clock() > self._deadline):
            raise self._error(self._seconds)

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._deadline = self._clock() + self._seconds
            watcher = threading.Thread(target=self._watch, name="limit of downtime", daemon=True)
            watcher.start()
            self._watching.callback(watcher.join)
            self._watching.callback(self._ended.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise `DowntimeExceededError` if the block took too long, or failed because `stop` ended it."""
        self._watching.close()
        if error is None:
            self.check()
        # A container that does not start again is worse news than the limit, so a ResumeError stays.
        ended_by_us = self._over_in is not None and isinstance(error, Exception)
        if ended_by_us and self._seconds is not None and not isinstance(error, DowntimeExceededError | ResumeError):
            raise self._error(self._seconds) from error

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK):
            if self._clock() > self._deadline:
                self._over_in = self._step() or ""
                self._stop()
                return

    def _error(self, allowed: float) -> DowntimeExceededError:
        return DowntimeExceededError(self._containers, allowed, self._over_in or self._step() or "")
