"""The in-memory engine's refusals: the errors that the real engine's client raises for the same answers."""

from __future__ import annotations

from docker_rollback.errors import EngineConflictError, EngineError, EngineForbiddenError


def refusal(action: str, status: int | None, reason: str) -> EngineError:
    """Return the error for an answer with this HTTP status; objects that are not found have errors of their own."""
    if status == 409:
        return EngineConflictError(action, reason, status=status)
    if status == 403:
        return EngineForbiddenError(action, reason, status=status)
    return EngineError(action, reason, status=status)
