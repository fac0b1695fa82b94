"""Notices containers that somebody else starts during a capture or a restore, and repeats it then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, TypeVar

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

_ATTEMPTS: Final = 4
"""How often a restore or a capture is attempted while somebody starts or removes containers."""


class DisturbedError(RestoreError):
    """Somebody started a container while data was restored; everything is restored again."""


def disturbed(container: Observed, what: str) -> DisturbedError:
    """Return the error that names a container and who may have started it."""
    return DisturbedError(container.name, f"somebody {what}: {supervisor_of(container.inspection)}")


class DisturbedCaptureError(CaptureError):
    """Somebody started a container while it was stopped for its backup; the backup is taken again."""


def capture_until_undisturbed(
    engine: Engine, report: Report, take: Callable[[Report], Taken], *, has_time: Callable[[], bool]
) -> Taken:
    """Take a backup; retry a few times if somebody starts a container that is stopped for it.

    Args:
        engine: the engine that the containers are on.
        report: the containers, as they were found before.
        take: takes the backup; if it fails, everything is as before.
        has_time: returns whether the containers may be stopped once more.

    Raises:
        DisturbedCaptureError: somebody started one again and again, or one that ran no longer does.
        DockerRollbackError: as `take` raises it.
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
            # By their current starts, a further one is noticed.
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


class DataWatch:
    """Compares the runs of all containers on some volumes and folders at two moments.

    Args:
        engine: where they are.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._runs: Mapping[str, str] | None = None

    def begin(self, data: Collection[str]) -> None:
        """Record the last run of each container that uses `data`; harmless if repeated.

        Raises:
            DisturbedError: one of them runs.
        """
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
                raise disturbed(user, "started it while its data was put back")


def _refuse_running(users: Iterable[Observed]) -> None:
    for user in users:
        if user.state.alive:
            raise disturbed(user, "started it while its data was put back")


def put_back_until_undisturbed(put_back: Callable[[], None], wait: Callable[[], object]) -> None:
    """Restore a backup; retry if somebody starts or removes a container meanwhile, or if the engine was away.

    The next attempt stops what was started and restores everything again, which undoes what it wrote. It recreates what
    was removed, for example by a prune.

    Args:
        put_back: restores everything.
        wait: returns once the engine answers again, and raises if it does not.

    Raises:
        DisturbedError: somebody started a container again and again.
        DockerRollbackError: as raised by `put_back`.
    """
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
    """Return True if another attempt may help after one failure or several.

    That is so if the engine was away for a moment, or somebody has removed something.
    """
    failures = getattr(error, "failures", ())
    if failures:
        return all(may_pass(failure) for failure in failures)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, EngineError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None and (not cause.permanent or isinstance(cause, NotFoundError))
