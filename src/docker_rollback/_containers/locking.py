"""Holds containers against other operations on the same store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from docker_rollback._model import ContainerSnapshot, Observed, Resting
from docker_rollback._store import BackupStore


@contextmanager
def locked(
    store: BackupStore, containers: Iterable[ContainerSnapshot | Observed | Resting], *, project: str | None = None
) -> Iterator[None]:
    """Hold containers against other operations on the same store, by id and by name: an update gives it another id.

    A compose project is held by its name as well: an update may leave it none of its containers.

    Raises:
        ContainerBusyError: somebody else holds one of them.
    """
    with ExitStack() as held:
        if project is not None:
            held.enter_context(store.lock(project_key(project), container=f"project {project}"))
        for container in containers:
            for key in (container.id, f"name.{container.name}"[:LONGEST_KEY]):
                held.enter_context(store.lock(key, container=container.name))
        yield


LONGEST_KEY = 120
"""How long the key of a lock may be, so that it makes the name of a file."""


PROJECT_MARK = "_project."
"""How the name begins under which a compose project is marked: no container's name does."""


def project_key(project: str) -> str:
    """Return the key under which a compose project is locked: short enough to make the name of a file."""
    return f"project.{project}"[:LONGEST_KEY]
