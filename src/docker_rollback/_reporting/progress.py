"""What is being done, told to whoever listens, and to the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

from attrs import frozen

from docker_rollback._reporting.timeline import Timeline

logger = logging.getLogger("docker_rollback")

StepName: TypeAlias = Literal[
    "hook", "quiesce", "commit", "resume", "store", "restore", "data", "pull", "replace", "verify", "watch"
]
"""What can be going on: the hooks of one name, three steps of a capture and the storing of its images, a step of a
restore's plan, the data of a volume on its way into the store or back, an image on its way into the engine, a container
being replaced, the checks of some, and the probation of these."""


@frozen
class Progress:
    """A piece of news from a backup or a restore.

    Attributes:
        step: what is being done.
        subject: to which container, volume or image; for "restore", the step of the plan in words; for "hook", which.
        done: bytes so far; for "data" alone.
        expected: how many there will be, about so many where a volume is archived; for "data" alone, and None where
            nobody knows.
    """

    step: StepName
    subject: str
    done: int | None = None
    expected: int | None = None


Listener: TypeAlias = Callable[[Progress], None]
"""Told every piece of news, also from other threads; it had better be quick, for a service may be waiting."""


class Reporter:
    """Passes news on to a listener, and steps to the log.

    A listener that raises is not asked again: nobody's display may keep a service down.

    Args:
        listener: who listens.
        timeline: measures the operation that is told of.

    Attributes:
        timeline: the same.

    Example:
        >>> Capture(engine, store, snapshotter, archiver, report=Reporter(print))
    """

    def __init__(self, listener: Listener | None = None, *, timeline: Timeline | None = None) -> None:
        self.timeline = timeline or Timeline()
        self._listener = listener
        self._expected: dict[str, int] = {}

    def step(self, step: StepName, subject: str) -> None:
        """Tell that a step begins."""
        logger.info("%s: %s", step, subject)
        self._tell(Progress(step, subject))

    def data(self, volume: str, done: int) -> None:
        """Tell how many bytes of a volume are on their way so far."""
        self._tell(Progress("data", volume, done, self._expected.get(volume)))

    def expect(self, volume: str, size: int | None) -> None:
        """Note how many bytes of a volume will be on their way; None where that is not known."""
        if size:
            self._expected[volume] = size
        else:
            self._expected.pop(volume, None)

    def _tell(self, news: Progress) -> None:
        if self._listener is None:
            return
        try:
            self._listener(news)
        except Exception:
            self._listener = None
            logger.exception("the listener to progress raised and is not told any more")
