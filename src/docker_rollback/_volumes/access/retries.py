"""More tries for work on a volume whose program was killed, whose helper was removed, or whose input was cut off."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from docker_rollback.errors import ArchiveError, EngineError

logger = logging.getLogger("docker_rollback")

_TRIES: Final = 3

T = TypeVar("T")


def tried(work: Callable[[], T], *, doing: str, given_up: Callable[[], bool] = lambda: False) -> T:
    """Do some work; do it again from the start, twice at most, where it failed by something that may pass.

    Args:
        work: the work; safe to do again after a failure at any point.
        doing: what it is, for the log.
        given_up: tells whether nobody waits for it any more.

    Raises:
        ArchiveError, EngineError: the last failure, or one that would come again.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            return work()
        except (ArchiveError, EngineError) as error:
            if not tries_left or error.permanent or given_up():
                raise
            logger.warning("%s once more from the start: %s", doing, error)
    raise AssertionError("the last try returns or raises")
