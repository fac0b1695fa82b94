"""The labels that everything of ours in an engine bears."""

from __future__ import annotations

from typing import Final

ROLE_LABEL: Final = "docker-rollback.role"
"""What it is there for."""

OPERATION_LABEL: Final = "docker-rollback.operation"
"""What it serves."""

STORE_LABEL: Final = "docker-rollback.store"
"""The path, on the machine of its maker, of the store that the maker worked with."""

GUARD: Final = "guard"
"""The role of a container that keeps what a stopped container needs from being pruned."""
