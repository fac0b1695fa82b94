"""Checks that the host paths that containers bind exist, because an engine creates folders for missing ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from docker_rollback._host import folder_of
from docker_rollback._inspection import could_make
from docker_rollback._model import ContainerSnapshot, Mount, Observed, Resting
from docker_rollback.errors import EngineError


def asked_by_binds(container: ContainerSnapshot | Observed) -> list[Mount]:
    """Return the mounts requested by ``Binds``, except those that the engine shows under another path."""
    asked = [str(bind).split(":", 1)[0] for bind in container.inspection["HostConfig"].get("Binds") or ()]
    paths = {folder_of(path) for path in asked if path.startswith("/")}
    return [mount for mount in container.mounts if mount.kind == "bind" and mount.source in paths]


def can_be_made(
    path: str, container: ContainerSnapshot | Observed, group: Iterable[ContainerSnapshot | Observed]
) -> bool:
    """Return True if another running container of the group can create a path of the host."""
    makers = (one for one in group if one.name != container.name and one.state.alive)
    return any(could_make(mount, path) for maker in makers for mount in maker.mounts)


class BoundPaths:
    """Remembers the bound paths of a group that existed while it ran, and that others of the group can create.

    A socket disappears when its program ends. If a container that binds it starts before the program has created it
    again, Docker creates an empty folder instead, which then prevents the program from creating the socket.

    Args:
        missing: returns those of the given paths that are gone from the engine's host.
    """

    def __init__(self, missing: Callable[[Sequence[str]], Collection[str]]) -> None:
        self._missing = missing
        self._expected: dict[str, list[str]] = {}

    def expect(self, group: Sequence[ContainerSnapshot | Observed]) -> None:
        """Expect all paths that containers of a group bind and others of it can create."""
        self._expected = {
            one.id: [mount.source for mount in asked_by_binds(one) if can_be_made(mount.source, one, group)]
            for one in group
        }

    def forget_missing(self) -> None:
        """Expect only paths that exist now, while the group runs. Raises `EngineError` if the engine fails."""
        gone = self._missing(list(dict.fromkeys(path for paths in self._expected.values() for path in paths)))
        self._expected = {one: [path for path in paths if path not in gone] for one, paths in self._expected.items()}

    def check(self, container: Resting) -> None:
        """Raise `EngineError` if a path that a container needs has not been created again yet."""
        for path in self._missing(self._expected.get(container.id, ())):
            raise EngineError(
                f"resume container {container.name!r}",
                f"it binds {path!r} of the engine's host, which is gone; start the container that creates it, "
                "then this one",
            )
