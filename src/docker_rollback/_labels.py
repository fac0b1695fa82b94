"""The labels that everything of ours in an engine bears."""

from __future__ import annotations

from typing import Final

ROLE_LABEL: Final = "docker-rollback.role"
"""What it is there for."""

OPERATION_LABEL: Final = "docker-rollback.operation"
"""What it serves."""
