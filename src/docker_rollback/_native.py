"""What Podman's own API says of containers that Docker's API leaves out; nothing on another engine."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from docker_rollback._engine.port import Engine
from docker_rollback._model import NotCovered, Observed
from docker_rollback._podman import Loss, loss_of, requires
from docker_rollback.errors import ContainerNotFoundError


class Losses:
    """Keeps what each of some containers loses if it is recreated, as it was while the container was well.

    Args:
        engine: where the containers are.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._found: dict[str, Loss] = {}

    def expect(self, container: Observed) -> None:
        """Look at a container; raises as `native_loss` does."""
        self._found[container.id] = native_loss(self._engine, container)

    def of(self, container: Observed) -> tuple[NotCovered, ...]:
        """Return what a backup of a container has to list; nothing of one that was not looked at."""
        return self._found.get(container.id, Loss()).not_covered(container.name, refusals=True)


def native_loss(engine: Engine, container: Observed) -> Loss:
    """Return what a container loses if it is recreated.

    Raises:
        ContainerNotFoundError: it is gone.
        EngineError: the engine does not answer, or a proxy before it hides Podman's own API.
    """
    native = engine.inspect_natively(container.id)
    return Loss() if native is None else loss_of(native, runtime=engine.info().default_runtime)


def requiring(engine: Engine, others: Iterable[Observed], ids: Collection[str]) -> dict[str, str]:
    """Return the containers among `others` that were created to run after one of `ids`, by the id of that one."""
    found: dict[str, str] = {}
    for other in others:
        try:
            native = engine.inspect_natively(other.id)
        except ContainerNotFoundError:
            continue
        if native is None:
            break
        found.update(dict.fromkeys(requires(native) & set(ids), other.name))
    return found
