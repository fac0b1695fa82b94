"""Removes objects of ours from an engine, and retries once."""

from __future__ import annotations

from collections.abc import Callable

from docker_rollback.errors import EngineConflictError, EngineError


def removal_error(remove: Callable[[], object]) -> EngineError | None:
    """Call `remove`, once more if it fails, and return the last error; None on success.

    A conflict is not retried: an object that something else needs is refused again.
    """
    try:
        remove()
    except EngineConflictError as error:
        return error
    except EngineError:
        try:
            remove()
        except EngineError as error:
            return error
    return None
