"""The names under which an engine holds the images of backups."""

from __future__ import annotations

from typing import Final

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
