"""How the in-memory engine says no: the errors that the real door raises for the same answer."""

from __future__ import annotations

from docker_rollback.errors import EngineConflictError, EngineError, EngineForbiddenError


def refusal(action: str, status: int | None, reason: str) -> EngineError:
    """Return the error that an answer of this HTTP status becomes; what is not found has errors of its own."""
    if status == 409:
        return EngineConflictError(action, reason, status=status)
    if status == 403:
        return EngineForbiddenError(action, reason, status=status)
    return EngineError(action, reason, status=status)
