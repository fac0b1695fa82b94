"""Names and labels of everything of ours in an engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

SHORT_ID: Final = 12
"""The length of an engine's short ids."""

# Labels

ROLE_LABEL: Final = "docker-rollback.role"
"""The label that says what an object is for."""

OPERATION_LABEL: Final = "docker-rollback.operation"
"""The label that names the operation an object belongs to."""

STORE_LABEL: Final = "docker-rollback.store"
"""The label with the store's path, on the machine of the process that created the object."""

GUARD: Final = "guard"
"""The role of a container that protects the image and volumes of a stopped container from a prune."""

# Container names

HELPER_NAME: Final = "docker-rollback-helper-"
"""The prefix of every helper container's name. A name is proof, because an image can set labels but no names."""

GUARD_NAME: Final = "docker-rollback-guard-"
"""The prefix of every guard container's name."""


def is_helper(name: str) -> bool:
    """Return True if a container's name is that of a helper."""
    return name.startswith(HELPER_NAME)


def is_guard(name: str) -> bool:
    """Return True if a container's name is that of a guard."""
    return name.startswith(GUARD_NAME)


# Image names

IMAGE_REPOSITORY: Final = "docker-rollback"
"""The repository of backup images that the engine holds while an operation needs them."""

KEPT_REPOSITORY: Final = "docker-rollback-kept"
"""The repository of backup images that are in no store, so that the engine holds them as long as the backup exists."""


def image_tag(backup: str, number: int, container: str, *, stored: bool = True) -> str:
    """Return the engine's name for the image of one container of a backup.

    Args:
        backup: the backup's id.
        number: the container's index in the backup.
        container: the container's name, so that people see whose image it is.
        stored: True if the store has the image too, so that the name may be removed.
    """
    return f"{IMAGE_REPOSITORY if stored else KEPT_REPOSITORY}:{backup}.{number}.{part_of(container)}"


def part_of(container: str) -> str:
    """Return the part of a container's name that fits its image's tag, which has at most 128 characters."""
    return container[:50]


def again(tag: str) -> str:
    """Return the short-lived name of a second commit of the same container."""
    return f"{tag}-again"


def named(tag: str) -> str:
    """Return our name for the image that the user's image name led to at the capture."""
    return f"{tag}-named"


def live(tag: str) -> str:
    """Return the name of an image that is committed while its container still runs."""
    return f"{tag}-live"


def names_of(tag: str) -> tuple[str, ...]:
    """Return all names that the images of one captured container may have; the long-lived one is last."""
    return (again(tag), live(tag), tag)


# Names of renamed containers. The text "aside" is in engines of earlier versions, and stays.

ASIDE: Final = "-docker-rollback-aside-"
"""Separates a renamed container's own name from its short id."""

TEMPORARY_ASIDE: Final = f"{ASIDE}new"
"""The suffix of a recreated container's name until its data is restored, so that nobody starts it by its own name."""


def aside_name(name: str, container_id: str) -> str:
    """Return the name that a container gets while another one has its own."""
    return f"{name}{ASIDE}{container_id[:SHORT_ID]}"


def is_aside(name: str) -> bool:
    """Return True if a container was renamed by us."""
    return ASIDE in name


def name_before_aside(name: str) -> str:
    """Return the name that a container had before it was renamed; its present one if it was not."""
    return name.partition(ASIDE)[0]


def is_aside_of(name: str, containers: Iterable[str]) -> bool:
    """Return True if a container was renamed by us and had one of these names before."""
    return any(name.startswith(container + ASIDE) for container in containers)
