"""The labels that everything of ours in an engine bears."""

from __future__ import annotations

from typing import Final

ROLE_LABEL: Final = "docker-rollback.role"
"""What it is there for."""

OPERATION_LABEL: Final = "docker-rollback.operation"
"""What it serves."""

STORE_LABEL: Final = "docker-rollback.store"
"""The path, on the machine of its maker, of the store that the maker worked with."""

HELPER_NAME: Final = "docker-rollback-helper-"
"""How the name of each helper container begins. No image can give it, as it can give a label."""

GUARD_NAME: Final = "docker-rollback-guard-"
"""How the name of each guard begins."""

GUARD: Final = "guard"
"""The role of a container that keeps what a stopped container needs from being pruned."""


def is_helper(name: str) -> bool:
    """Return True if a container of that name is one of our helpers."""
    return name.startswith(HELPER_NAME)


def is_guard(name: str) -> bool:
    """Return True if a container of that name is one of our guards."""
    return name.startswith(GUARD_NAME)
