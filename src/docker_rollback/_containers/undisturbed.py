"""Notices containers that somebody else starts during a capture or a restore, and retries then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, TypeVar

from attrs import define, field

from docker_rollback._containers.find import find_container, users_of
from docker_rollback._containers.running import supervisor_of
from docker_rollback._engine import Engine
from docker_rollback._inspection import Report, started_at
from docker_rollback._model import Observed
from docker_rollback.errors import (
    CaptureError,
    DockerRollbackError,
    DowntimeExceededError,
    EngineError,
    NotFoundError,
    RestoreError,
)

logger = logging.getLogger("docker_rollback")

Taken = TypeVar("Taken")
Restored = TypeVar("Restored")

_ATTEMPTS: Final = 4
"""How often a restore or a capture is attempted while somebody starts or removes containers."""


class DisturbedError(RestoreError):
    """Somebody started a container while data was restored; everything is restored again."""


def disturbed(container: Observed, what: str) -> DisturbedError:
    """Return an error that names a container and the program that may have started it."""
    return DisturbedError(container.name, f"somebody {what}: {supervisor_of(container.inspection)}")


class DisturbedCaptureError(CaptureError):
    """Somebody started a container while it was stopped for its backup; the backup is taken again."""


def capture_until_undisturbed(
    engine: Engine, report: Report, take: Callable[[Report], Taken], *, has_time: Callable[[], bool]
) -> Taken:
    """Take a backup; retry a few times if somebody starts a container that is stopped for it.

    After a failed `take`, everything has to be as before. `has_time` says whether the containers may be stopped again.

    Raises:
        DisturbedCaptureError: somebody started one again and again, or one that ran no longer does.
        DockerRollbackError: as raised by `take`.
    """
    disturbances: list[DisturbedCaptureError] = []
    while True:
        try:
            return take(report)
        except DisturbedCaptureError as error:
            disturbances.append(error)
            found = {one.id: find_container(engine, one.id) for one in (*report.containers, *report.guests)}
            ended = _ended(report, found)
            if ended:
                # A second backup would record that as the state to restore.
                error.add_note(f"docker-rollback: not tried again, as these no longer run: {', '.join(ended)}")
                raise
            if len(disturbances) == _ATTEMPTS or not has_time() or None in found.values():
                error.add_note(f"docker-rollback: the backup was tried {len(disturbances)} times")
                raise
            logger.warning("retrying the backup: %s", error)
            # With their current start times, the next attempt notices a further start.
            report = report.with_now([one for one in found.values() if one is not None])
        except DowntimeExceededError as error:
            if not disturbances:
                raise
            # Without the disturbance there would have been enough time.
            disturbances[-1].add_note(f"docker-rollback: the backup was tried {len(disturbances) + 1} times: {error}")
            raise disturbances[-1] from error


def _ended(report: Report, found: Mapping[str, Observed | None]) -> list[str]:
    """Return the names of the containers that ran, outside of a crash loop, and no longer do."""
    ran = [one for one in (*report.containers, *report.guests) if one.state.alive and not one.state.loops]
    return [one.name for one in ran if (now := found[one.id]) is not None and not now.state.alive]


@define(eq=False)
class DataWatch:
    """Compares the runs of all containers that use some volumes and folders, at two moments."""

    _engine: Engine
    _runs: Mapping[str, str] | None = field(default=None, init=False)

    def begin(self, data: Collection[str]) -> None:
        """Record the last run of each container that uses `data`. Raises `DisturbedError` if one of them runs."""
        if self._runs is None:
            users = users_of(self._engine, data)
            _refuse_running(users)
            self._runs = {user.id: started_at(user.inspection) for user in users}

    def refuse_running(self, data: Collection[str]) -> None:
        """Raise `DisturbedError` if a container that uses `data` runs."""
        _refuse_running(users_of(self._engine, data))

    def check(self, data: Collection[str], *, ours: Collection[str] = ()) -> None:
        """Raise `DisturbedError` if a user of `data` other than `ours` runs, or has run since `begin`."""
        if self._runs is None:
            return
        users = [user for user in users_of(self._engine, data) if user.id not in ours]
        _refuse_running(users)
        for user in users:
            if started_at(user.inspection) != self._runs.get(user.id, ""):
                raise disturbed(user, "started it while its data was restored")


def _refuse_running(users: Iterable[Observed]) -> None:
    for user in users:
        if user.state.alive:
            raise disturbed(user, "started it while its data was restored")


def put_back_until_undisturbed(put_back: Callable[[], Restored], wait: Callable[[], object]) -> Restored:
    """Restore a backup; retry if somebody starts or removes a container meanwhile, or if the engine was away.

    Args:
        put_back: restores everything; its result is returned.
        wait: returns once the engine answers again, and raises if it does not.

    Raises:
        DisturbedError: somebody started a container again and again.
        DockerRollbackError: as raised by `put_back`.
    """
    # Each attempt stops the containers that were started, restores everything again, which undoes what they wrote, and
    # recreates those that were removed, for example by a prune.
    disturbances = waits = 0
    while True:
        try:
            return put_back()
        except DisturbedError as error:
            disturbances += 1
            if disturbances == _ATTEMPTS:
                raise
            logger.warning("retrying the restore: %s", error)
        except DockerRollbackError as error:
            waits += 1
            if waits == _ATTEMPTS or not may_pass(error):
                raise
            logger.warning("retrying the restore: %s", error)
            wait()


def may_pass(error: BaseException) -> bool:
    """Return True if another attempt may help: the engine was away for a moment, or an object was removed."""
    failures = getattr(error, "failures", ())
    if failures:
        return all(may_pass(failure) for failure in failures)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, EngineError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None and (not cause.permanent or isinstance(cause, NotFoundError))
