"""What Podman's own API says of containers that Docker's API leaves out; nothing on another engine."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from docker_rollback._engine import Engine
from docker_rollback._inspection import Loss, loss_of, requires
from docker_rollback._model import Observed


def native_loss(engine: Engine, container: Observed) -> Loss:
    """Return what a container loses if it is recreated; raises `EngineError` if the engine does not answer."""
    if container.native is None:
        return Loss()
    return loss_of(container.native, runtime=engine.info().default_runtime)


def requiring(others: Iterable[Observed], ids: Collection[str]) -> dict[str, str]:
    """Return the containers among `others` that were created to run after one of `ids`, by the id of that one."""
    found: dict[str, str] = {}
    for other in others:
        if other.native is not None:
            found.update(dict.fromkeys(requires(other.native) & set(ids), other.name))
    return found
