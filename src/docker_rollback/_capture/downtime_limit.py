"""Enforces `max_downtime`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from docker_rollback.errors import DowntimeExceededError, ResumeError

_LOOK: Final = 0.05
"""Seconds between two readings of the clock."""


class DowntimeLimit:
    """Limits the time of a block in which containers are stopped or paused.

    After that time, `stop` ends what can be ended, and the block fails at its next `check` or at its end. A request
    that the engine is working on is waited for: neither a stop nor a commit can be cancelled.

    Args:
        seconds: the limit; None for none.
        containers: the names of the containers, for the error.
        step: returns the current step.
        stop: ends it; called from another thread.
        clock: the time, in seconds.

    Raises:
        DowntimeExceededError: by `check`, and at the end of the block.
    """

    def __init__(
        self,
        seconds: float | None,
        containers: Sequence[str],
        *,
        step: Callable[[], str | None],
        stop: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._containers = tuple(containers)
        self._step = step
        self._stop = stop
        self._clock = clock
        self._deadline = 0.0
        self._over_in: str | None = None
        self._ended = threading.Event()
        self._watching = ExitStack()

    def check(self) -> None:
        """Raise an error if the time is over."""
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
        """Raise a `DowntimeExceededError` if the block took too long, or failed because it was ended for that."""
        self._watching.close()
        if error is None:
            self.check()
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
