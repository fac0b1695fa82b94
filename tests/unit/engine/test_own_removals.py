"""What this library made in an engine goes also where one request fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from docker_rollback._engine.removal import removal_error
from docker_rollback.errors import EngineConflictError, EngineError


def failing(*errors: Exception) -> tuple[Callable[[], None], list[Exception]]:
    """Return a removal that fails once for each error, and the errors that are still to come."""
    left = list(errors)

    def remove() -> None:
        if left:
            raise left.pop(0)

    return remove, left


def test_one_failure_is_tried_again() -> None:
    """A second call removes it, and nobody hears of the first."""
    remove, left = failing(EngineError("remove", "no"))
    assert removal_error(remove) is None
    assert left == []


def test_a_second_failure_is_returned() -> None:
    """Whoever called decides what to say of what is left over."""
    last = EngineError("remove", "still no")
    assert removal_error(failing(EngineError("remove", "no"), last)[0]) is last


def test_a_refusal_is_not_tried_again() -> None:
    """What something else needs is not asked for a second time."""
    refused = EngineConflictError("remove", "in use")
    remove, left = failing(refused, EngineError("remove", "no"))
    assert removal_error(remove) is refused
    assert len(left) == 1


def test_other_errors_come_out() -> None:
    """An interruption is no failure to remove."""
    with pytest.raises(KeyboardInterrupt):
        removal_error(_interrupted)


def _interrupted() -> None:
    raise KeyboardInterrupt
