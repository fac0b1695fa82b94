"""A look at several containers at once."""

from __future__ import annotations

from collections.abc import Collection

from docker_rollback._engine.port import ContainerFilter, Engine
from docker_rollback._model import Observed
from docker_rollback._spec import observe
from docker_rollback.errors import ContainerNotFoundError


def look_at_all(engine: Engine, where: ContainerFilter, *, but: Collection[str] = ()) -> list[Observed]:
    """Return the containers that `where` describes, but for some ids; one that goes meanwhile is left out."""
    found = []
    for container in engine.list_containers(where):
        if container in but:
            continue
        try:
            found.append(observe(engine.inspect_container(container)))
        except ContainerNotFoundError:
            continue
    return found
