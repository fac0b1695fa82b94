"""Retries work on a volume if its program was killed, its helper was removed, or its input was cut off."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from docker_rollback.errors import ArchiveError, EngineError

logger = logging.getLogger("docker_rollback")

_TRIES: Final = 3

T = TypeVar("T")


def tried(work: Callable[[], T], *, doing: str, given_up: Callable[[], bool] = lambda: False) -> T:
    """Do some work; after a temporary failure, repeat it from the start, at most twice.

    Args:
        work: the work, which can be repeated after a failure at any point.
        doing: its description for the log.
        given_up: returns True once the result is no longer needed.

    Raises:
        ArchiveError, EngineError: the last failure, or a permanent one.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            return work()
        except (ArchiveError, EngineError) as error:
            if not tries_left or error.permanent or given_up():
                raise
            logger.warning("%s again from the start: %s", doing, error)
    raise AssertionError("the last try returns or raises")
