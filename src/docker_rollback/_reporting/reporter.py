"""Reports the steps of an operation to its log and listener, and measures them and the downtime."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from attrs import evolve, frozen

from docker_rollback._reporting.progress import Listener, Progress, StepName

logger = logging.getLogger("docker_rollback")

_ROLLBACK: Final = frozenset({"keep", "restore", "verify again"})


@frozen
class StepTime:
    """One step of an operation, and how long it took, in seconds."""

    step: StepName
    seconds: float


@frozen
class Downtime:
    """How long one container was down, from its stop until it runs again, in seconds.

    Downtime caused by the block itself does not count, except by `Rollback.replace`.

    Attributes:
        capture: during its backup. With ``resume=False`` this ends when the block begins.
        update: during its replacement.
        rollback: during its restore; if that failed, until the end of the rollback.
    """

    capture: float = 0.0
    update: float = 0.0
    rollback: float = 0.0

    def __str__(self) -> str:
        """Return the phases in which it was down, with their seconds."""
        phases = {"capture": self.capture, "update": self.update, "rollback": self.rollback}
        return ", ".join(f"{seconds:.1f} s ({phase})" for phase, seconds in phases.items() if seconds) or "0.0 s"


class Reporter:
    """Reports an operation: progress events to a listener, steps to the log, times to its outcome.

    A listener that raises is not called again: a broken display must not keep a service down.

    Args:
        listener: receives the progress events, from any thread, one event at a time.
        clock: returns the time in seconds.

    Example:
        >>> reporter = Reporter(print)
        >>> with reporter.during("preflight"):
        ...     report = preflight.run(["web"])
        >>> reporter.end()
        >>> reporter.steps
        (StepTime(step='preflight', seconds=0.0412),)
    """

    def __init__(self, listener: Listener | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener
        # Several threads report at once. A listener that causes another event does not wait for itself.
        self._telling = threading.RLock()
        self._clock = clock
        self._expected: dict[str, int] = {}
        self._current: StepName | None = None
        self._since = 0.0
        self._nested = False
        self._steps: list[StepTime] = []
        self._down: dict[str, tuple[str, float]] = {}
        self._downtime: dict[str, Downtime] = {}

    @property
    def current(self) -> StepName | None:
        """The current step; None before the first and after the last."""
        return self._current

    @property
    def steps(self) -> tuple[StepTime, ...]:
        """The steps that have ended, in order."""
        return tuple(self._steps)

    @property
    def downtime(self) -> Mapping[str, Downtime]:
        """The downtime of each container by its name; a container that was never down is not listed."""
        return dict(self._downtime)

    def begin(self, step: StepName) -> None:
        """Begin a step and end the one before it; do nothing if it is the current step, or inside `during`."""
        if self._nested or step == self._current:
            return
        self._close()
        logger.info("step: %s", step)
        self._current, self._since = step, self._clock()
        if step == "update":
            for container in list(self._down):
                self.up(container)

    @contextmanager
    def during(self, step: StepName) -> Iterator[None]:
        """Measure a block as one step: `begin` does nothing inside it."""
        self.begin(step)
        before, self._nested = self._nested, True
        try:
            yield
        finally:
            self._nested = before

    def end(self) -> None:
        """End the last step; the downtime of a container that is still down ends here."""
        self._close()
        for container in list(self._down):
            self.up(container)

    def announce(self, step: StepName, subject: str) -> None:
        """Tell the listener and the log that something is about to be done to a subject."""
        logger.info("%s: %s", step, subject)
        self._tell(Progress(step, subject))

    def data(self, volume: str, done: int) -> None:
        """Tell the listener how many bytes of a volume have been transferred."""
        self._tell(Progress("data", volume, done, self._expected.get(volume)))

    def expect(self, volume: str, size: int | None) -> None:
        """Set how many bytes of a volume will be transferred; None if unknown."""
        if size:
            self._expected[volume] = size
        else:
            self._expected.pop(volume, None)

    def down(self, container: str) -> None:
        """Record that a container, by its name, is about to stop; do nothing if it is down already."""
        kind = "rollback" if self._current in _ROLLBACK else "update" if self._current == "update" else "capture"
        # A container that an earlier operation left stopped is not down because of this one.
        if self._current != "preflight":
            self._down.setdefault(container, (kind, self._clock()))

    def up(self, container: str) -> None:
        """Record that a container runs again; do nothing if it was not down."""
        if container in self._down:
            kind, since = self._down.pop(container)
            known = self._downtime.get(container, Downtime())
            seconds = float(getattr(known, kind)) + self._clock() - since
            self._downtime[container] = evolve(known, **{kind: seconds})

    def _close(self) -> None:
        if self._current is not None:
            self._steps.append(StepTime(self._current, self._clock() - self._since))
            self._current = None

    def _tell(self, event: Progress) -> None:
        with self._telling:
            if self._listener is None:
                return
            try:
                self._listener(event)
            except Exception:
                self._listener = None
                logger.exception("the progress listener raised and is not called again")
