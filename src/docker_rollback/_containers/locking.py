"""Locks containers against other operations on the same store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from docker_rollback._model import ContainerSnapshot, Observed, Resting
from docker_rollback._store import BackupStore

_LONGEST_KEY = 120
"""The maximum length of a lock's key, which is a file name."""

PROJECT_MARK = "_project."
"""The prefix of a compose project in the name of a lock volume; no container's name begins like that."""


@contextmanager
def locked(
    store: BackupStore, containers: Iterable[ContainerSnapshot | Observed | Resting], *, project: str | None = None
) -> Iterator[None]:
    """Lock containers against other operations on the same store.

    They are locked by id and by name, because an update gives a container another id, and a compose project by its name
    as well, because an update may replace all of its containers. Raises `ContainerBusyError`.
    """
    with ExitStack() as held:
        if project is not None:
            held.enter_context(store.lock(project_key(project), container=f"project {project}"))
        for container in containers:
            for key in (container.id, f"name.{container.name}"[:_LONGEST_KEY]):
                held.enter_context(store.lock(key, container=container.name))
        yield


def project_key(project: str) -> str:
    """Return the lock key of a compose project, short enough for a file name."""
    return f"project.{project}"[:_LONGEST_KEY]
