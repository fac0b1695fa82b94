"""How long each step of an operation takes, and how long its containers are down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias

from attrs import evolve, frozen

logger = logging.getLogger("docker_rollback")

OutcomeStep: TypeAlias = Literal[
    "look",
    "live pass",
    "before_quiesce",
    "rest",
    "capture",
    "resume",
    "after_resume",
    "seal",
    "block",
    "verify",
    "watch",
    "keep",
    "roll back",
    "verify again",
    "after_rollback",
    "finish",
]
"""What is done from entering a block to leaving it, in this order; what does not happen is left out.

"look" looks for everything that can go wrong and finishes what an earlier operation left undone; "live pass" archives
large volumes while they are in use; "rest", "capture" and "resume" are the time in which the service is down; "seal"
makes the backup durable; "block" is the caller's own; "watch" is the probation of the update; "keep" saves the state of
a failed update; "finish" tidies up. The others are checks and hooks.
"""

_ROLLBACK: Final = frozenset({"keep", "roll back", "verify again"})


@frozen
class StepTime:
    """One step of an operation, and how long it took, in seconds."""

    step: OutcomeStep
    seconds: float


@frozen
class Downtime:
    """How long one container was down, from its stop to running again, in seconds.

    What the block itself did to it is not in here, unless by `Rollback.replace`.

    Attributes:
        capture: for its backup. With ``resume=False`` it ends where the block begins, which starts it itself.
        update: for being replaced.
        rollback: for being put back; where that failed, until the end of the rollback.
    """

    capture: float = 0.0
    update: float = 0.0
    rollback: float = 0.0


class Timeline:
    """Measures one operation, step by step.

    Args:
        clock: the time, in seconds.

    Example:
        >>> timeline = Timeline()
        >>> with timeline.during("look"):
        ...     report = preflight.run(["web"])
        >>> timeline.end()
        >>> timeline.steps
        (StepTime(step='look', seconds=0.0412),)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: OutcomeStep | None = None
        self._since = 0.0
        self._within = False
        self._steps: list[StepTime] = []
        self._down: dict[str, tuple[str, float]] = {}
        self._downtime: dict[str, Downtime] = {}

    @property
    def step(self) -> OutcomeStep | None:
        """What is being done; None before the first step and after the last."""
        return self._now

    @property
    def steps(self) -> tuple[StepTime, ...]:
        """The steps that have ended, in order."""
        return tuple(self._steps)

    @property
    def downtime(self) -> Mapping[str, Downtime]:
        """How long each container was down, by its name; only those that were."""
        return dict(self._downtime)

    def begin(self, step: OutcomeStep) -> None:
        """Begin a step, which ends the one before it; harmless where it has begun already, or within `during`."""
        if self._within or step == self._now:
            return
        self._close()
        logger.info("step: %s", step)
        self._now, self._since = step, self._clock()
        if step == "block":
            for container in list(self._down):
                self.up(container)

    @contextmanager
    def during(self, step: OutcomeStep) -> Iterator[None]:
        """Have everything in a block be one step, whatever begins within it."""
        self.begin(step)
        before, self._within = self._within, True
        try:
            yield
        finally:
            self._within = before

    def end(self) -> None:
        """End the last step; what is down yet counts until now."""
        self._close()
        for container in list(self._down):
            self.up(container)

    def down(self, container: str) -> None:
        """Note that a container, by its name, is about to be brought to rest; harmless where that was noted."""
        kind = "rollback" if self._now in _ROLLBACK else "update" if self._now == "block" else "capture"
        # What an earlier operation left down was not down for this one.
        if self._now != "look":
            self._down.setdefault(container, (kind, self._clock()))

    def up(self, container: str) -> None:
        """Note that a container runs again; harmless where it was not down."""
        if container in self._down:
            kind, since = self._down.pop(container)
            known = self._downtime.get(container, Downtime())
            seconds = float(getattr(known, kind)) + self._clock() - since
            self._downtime[container] = evolve(known, **{kind: seconds})

    def _close(self) -> None:
        if self._now is not None:
            self._steps.append(StepTime(self._now, self._clock() - self._since))
            self._now = None
