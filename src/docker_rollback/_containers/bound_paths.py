"""Looks for the paths of the host that containers bind before the engine starts them, and may make folders there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from docker_rollback._host import folder_of
from docker_rollback._inspection import could_make
from docker_rollback._model import ContainerSnapshot, Mount, Observed, Resting
from docker_rollback.errors import EngineError


def asked_by_binds(container: ContainerSnapshot | Observed) -> list[Mount]:
    """Return the mounts that were asked for by ``Binds``; without those that the engine knows by another path."""
    asked = [str(bind).split(":", 1)[0] for bind in container.inspection["HostConfig"].get("Binds") or ()]
    paths = {folder_of(path) for path in asked if path.startswith("/")}
    return [mount for mount in container.mounts if mount.kind == "bind" and mount.source in paths]


def can_be_made(
    path: str, container: ContainerSnapshot | Observed, group: Iterable[ContainerSnapshot | Observed]
) -> bool:
    """Return True if another container of the group, which runs again with this one, can make a path of the host."""
    makers = (one for one in group if one.name != container.name and one.state.alive)
    return any(could_make(mount, path) for maker in makers for mount in maker.mounts)


class BoundPaths:
    """Knows which bound paths existed while a group ran, and that others of the group can remove and make.

    A socket goes when its program ends. A container that binds it, and starts before the program has made it again,
    gets an empty folder from Docker instead, which then keeps the program from making it.

    Args:
        missing: returns those of some paths of the engine's host that are gone.
    """

    def __init__(self, missing: Callable[[Sequence[str]], Collection[str]]) -> None:
        self._missing = missing
        self._expected: dict[str, list[str]] = {}

    def expect(self, group: Sequence[ContainerSnapshot | Observed]) -> None:
        """Expect all of the paths that containers of a group bind and others of it can make."""
        self._expected = {
            one.id: [mount.source for mount in asked_by_binds(one) if can_be_made(mount.source, one, group)]
            for one in group
        }

    def forget_missing(self) -> None:
        """Expect only what exists now, while the group runs; raises an `EngineError` if the engine does not answer."""
        gone = self._missing(list(dict.fromkeys(path for paths in self._expected.values() for path in paths)))
        self._expected = {one: [path for path in paths if path not in gone] for one, paths in self._expected.items()}

    def check(self, container: Resting) -> None:
        """Raise an `EngineError` if a path that a container needs to start has not been made again yet."""
        for path in self._missing(self._expected.get(container.id, ())):
            raise EngineError(
                f"resume container {container.name!r}",
                f"it binds {path!r} of the engine's host, which another container made before, and which is gone; have "
                "that container make it again, then start this one",
            )
