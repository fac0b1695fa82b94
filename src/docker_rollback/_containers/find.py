"""A look at containers, of which one may go meanwhile."""

from __future__ import annotations

from collections.abc import Collection

from docker_rollback._engine import ContainerFilter, Engine
from docker_rollback._inspection import observe
from docker_rollback._model import Observed
from docker_rollback._names import is_guard
from docker_rollback.errors import ContainerNotFoundError


def look_at(engine: Engine, ref: str) -> Observed | None:
    """Return the container of a name or a full id, None where there is none."""
    try:
        found = observe(engine.inspect_container(ref))
    except ContainerNotFoundError:
        return None
    # An engine also takes the beginning of an id for a reference.
    return found if ref in (found.id, found.name) else None


def look_at_all(engine: Engine, where: ContainerFilter, *, but: Collection[str] = ()) -> list[Observed]:
    """Return the containers that `where` describes, but for some ids; one that goes meanwhile is left out.

    Guards are left out too: they use nothing that they mount.
    """
    found = [look_at(engine, container) for container in engine.list_containers(where) if container not in but]
    return [container for container in found if container is not None and not is_guard(container.name)]
