"""Removes what this library made in an engine; one failure alone leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable

from docker_rollback.errors import EngineConflictError, EngineError


def removal_error(remove: Callable[[], object]) -> EngineError | None:
    """Call `remove`, and once more if it fails; return why nothing was removed, None if all went well.

    What an engine refuses because something else needs it is refused again, so that is not tried twice.
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
