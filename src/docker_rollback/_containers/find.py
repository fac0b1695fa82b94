"""Looks up containers, images, networks and volumes; one that disappears meanwhile counts as missing."""

from __future__ import annotations

from collections.abc import Collection

from docker_rollback._engine import EVERY, ContainerFilter, Engine, Inspection
from docker_rollback._inspection import observe, uses
from docker_rollback._model import Observed, is_folder
from docker_rollback._names import is_guard, is_helper
from docker_rollback.errors import (
    ContainerNotFoundError,
    ImageNotFoundError,
    NetworkNotFoundError,
    VolumeNotFoundError,
)


def find_container(engine: Engine, ref: str) -> Observed | None:
    """Return the container with this name or full id, or None if there is none."""
    try:
        found = observe(engine.inspect_container(ref))
    except ContainerNotFoundError:
        return None
    # An engine also accepts an id prefix as a reference.
    return found if ref in (found.id, found.name) else None


def find_containers(engine: Engine, where: ContainerFilter, *, but: Collection[str] = ()) -> list[Observed]:
    """Return the containers that match `where`, except those with the ids in `but`, and except guards."""
    return find_listed(engine, engine.list_containers(where), but=but)


def find_listed(engine: Engine, ids: Collection[str], *, but: Collection[str] = ()) -> list[Observed]:
    """Return the containers with these ids, except those in `but`, and except guards."""
    found = [find_container(engine, container) for container in ids if container not in but]
    # Guards mount volumes, and use nothing in them.
    return [container for container in found if container is not None and not is_guard(container.name)]


def find_image(engine: Engine, reference: str) -> Inspection | None:
    """Return the inspection of the image that a reference names now, or None if there is none."""
    try:
        return engine.inspect_image(reference)
    except ImageNotFoundError:
        return None


def find_network(engine: Engine, name: str) -> Inspection | None:
    """Return the inspection of a network, or None if there is none."""
    try:
        return engine.inspect_network(name)
    except NetworkNotFoundError:
        return None


def find_volume(engine: Engine, name: str) -> Inspection | None:
    """Return the inspection of a volume, or None if there is none."""
    try:
        return engine.inspect_volume(name)
    except VolumeNotFoundError:
        return None


def users_of(engine: Engine, data: Collection[str], *, but: Collection[str] = ()) -> list[Observed]:
    """Return the containers, in any state, that use one of these volumes and host folders.

    Helpers are skipped, and the containers with the ids in `but`.
    """
    # An engine does not filter by host folder.
    where = EVERY if any(map(is_folder, data)) else ContainerFilter(volume=tuple(data))
    found = find_containers(engine, where, but=but) if data else []
    return [
        one
        for one in found
        if not is_helper(one.name) and any(uses(mount, name) for mount in one.mounts for name in data)
    ]
