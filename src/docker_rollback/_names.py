"""The labels that everything of ours in an engine bears."""

from __future__ import annotations

from collections.abc import Iterable
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


IMAGE_REPOSITORY: Final = "docker-rollback"
"""Under this name the engine holds the images of backups while they are needed to be at hand."""

KEPT_REPOSITORY: Final = "docker-rollback-kept"
"""Under this name the engine holds the images of backups that are in no store, as long as there is the backup."""


def image_tag(backup: str, number: int, container: str, *, stored: bool = True) -> str:
    """Return the name under which an engine holds the image of one container of a backup.

    It tells whose image it is: a tag may have 128 characters, and a container's name more than are left.

    Args:
        backup: the backup's id.
        number: which of its containers.
        container: that one's name.
        stored: whether the store holds the image as well, so that the name may go.
    """
    return f"{IMAGE_REPOSITORY if stored else KEPT_REPOSITORY}:{backup}.{number}.{part_of(container)}"


def again(tag: str) -> str:
    """Return the name that a second commit of the same container has, for the moment in which it is there."""
    return f"{tag}-again"


def named(tag: str) -> str:
    """Return the name of ours for the image that the user's name of a container's image led to at its capture."""
    return f"{tag}-named"


def live(tag: str) -> str:
    """Return the name of what is committed of a container while it still runs."""
    return f"{tag}-live"


def names_of(tag: str) -> tuple[str, ...]:
    """Return all names that images of one container of a backup may have; the one that stays for long is the last."""
    return (again(tag), live(tag), tag)


def part_of(container: str) -> str:
    """Return as much of a container's name as has room in the name of its image."""
    return container[:50]


_ASIDE = "-docker-rollback-aside-"


TEMPORARY_ASIDE = f"{_ASIDE}new"
"""What ends the name of a container until all data is back: nobody else starts it by a name that nobody else knows."""


SHORT_ID = 12
"""How many characters of an id the engine uses where it wants a short one."""


def aside_name(name: str, container_id: str) -> str:
    """Return the name of a container that has to give up its own for a while."""
    return f"{name}{_ASIDE}{container_id[:SHORT_ID]}"


def is_aside(name: str) -> bool:
    """Whether a container of that name was put aside."""
    return _ASIDE in name


def name_before_aside(name: str) -> str:
    """Return the name that a container had before it was put aside; its own where it was not."""
    return name.partition(_ASIDE)[0]


def is_aside_of(name: str, containers: Iterable[str]) -> bool:
    """Return True for the name of a container that stood in the place of one of some containers."""
    return any(name.startswith(one + _ASIDE) for one in containers)
