"""Sees whether anything runs on the data of a backup while that is put back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from docker_rollback._engine.port import ContainerFilter, Engine
from docker_rollback._engine_errors import DockerRollbackError, may_pass
from docker_rollback._folders import uses
from docker_rollback._labels import HELPER_NAME
from docker_rollback._look import look_at_all
from docker_rollback._model import Observed, is_folder
from docker_rollback._running import supervisor_of
from docker_rollback._spec import started_at
from docker_rollback.errors import RestoreError

logger = logging.getLogger("docker_rollback")

_ATTEMPTS: Final = 4
"""How often everything is put back while somebody starts or removes something meanwhile, until that is an error."""


class DisturbedError(RestoreError):
    """Somebody started a container while data was put back; all of it is put back again."""


def disturbed(container: Observed, what: str) -> DisturbedError:
    """Return the error that names a container and who may have started it."""
    return DisturbedError(container.name, f"somebody {what}: {supervisor_of(container.inspection)}")


class DataWatch:
    """Compares the runs of all containers on some volumes and folders at two moments.

    Args:
        engine: where they are.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._runs: Mapping[str, str] | None = None

    def begin(self, data: Collection[str]) -> None:
        """Note the last run of each container that uses `data`; harmless if that is done.

        Raises:
            DisturbedError: one of them runs.
        """
        if self._runs is None:
            users = self._users(data)
            _refuse_running(users)
            self._runs = {user.id: started_at(user.inspection) for user in users}

    def refuse_running(self, data: Collection[str]) -> None:
        """Raise a `DisturbedError` if one of them runs."""
        _refuse_running(self._users(data))

    def check(self, data: Collection[str], *, ours: Collection[str] = ()) -> None:
        """Raise a `DisturbedError` if one of them runs or has run since it was noted, but for some ids."""
        if self._runs is None:
            return
        users = [user for user in self._users(data) if user.id not in ours]
        _refuse_running(users)
        for user in users:
            if started_at(user.inspection) != self._runs.get(user.id, ""):
                raise disturbed(user, "started it while its data was put back")

    def _users(self, data: Collection[str]) -> list[Observed]:
        found: dict[str, Observed] = {}
        for name in data:
            where = ContainerFilter(volume=None if is_folder(name) else name)
            for user in look_at_all(self._engine, where, but=found.keys()):
                helper = user.name.startswith(HELPER_NAME)
                if not helper and any(uses(mount, name) for mount in user.mounts):
                    found[user.id] = user
        return list(found.values())


def _refuse_running(users: Iterable[Observed]) -> None:
    for user in users:
        if user.state.alive:
            raise disturbed(user, "started it while its data was put back")


def put_back_until_undisturbed(put_back: Callable[[], None], wait: Callable[[], object]) -> None:
    """Put a backup back; begin again if somebody starts or removes something meanwhile, or the engine was away.

    What was started is stopped by the next attempt, and what it wrote is undone, as everything is put back then. What
    was removed, as by a prune, is created again.

    Args:
        put_back: puts all of it back.
        wait: returns once the engine answers again, and raises if it does not.

    Raises:
        DisturbedError: somebody started one again and again.
        DockerRollbackError: whatever `put_back` raises.
    """
    disturbances = waits = 0
    while True:
        try:
            return put_back()
        except DisturbedError as error:
            disturbances += 1
            if disturbances == _ATTEMPTS:
                raise
            logger.warning("all of it is put back once more: %s", error)
        except DockerRollbackError as error:
            waits += 1
            if waits == _ATTEMPTS or not may_pass(error):
                raise
            logger.warning("all of it is put back once more: %s", error)
            wait()
