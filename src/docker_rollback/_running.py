"""Containers that shall run: started in rounds, looked at again, and started again if they ended with their engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from attrs import evolve

from docker_rollback._engine.port import Engine
from docker_rollback._look import look_at
from docker_rollback._model import ContainerState, Observed
from docker_rollback._spec import restart_count, restarts, started_at
from docker_rollback._timer import Timer
from docker_rollback.errors import ContainerNotFoundError, EngineError

logger = logging.getLogger("docker_rollback")

T = TypeVar("T")

_ROUNDS: Final = 5
_BETWEEN_ROUNDS: Final = 0.5
"""How often, and seconds between, containers are started that fail to start."""

_STARTS: Final = 3
"""How often a container is started again that has ended."""

_PATIENCE: Final = 5.0
_POLL: Final = 0.1
"""Seconds: how long the state of a container is looked at again before it is an error, and between two looks."""

_BACK: Final = timedelta(seconds=2)
"""How long after its end a container may still be started again by its engine."""

_STABLE: Final = timedelta(seconds=10)
"""How long a run lasts that an engine takes for a good one (moby, restartmanager)."""


def in_rounds(
    items: Iterable[T], attempt: Callable[[T], None], *, sleep: Callable[[float], None] = time.sleep
) -> list[tuple[T, EngineError]]:
    """Attempt something with each item, and again with those that failed once the others are through.

    One container may need another to start: the log driver of the first sends to the second. Failures that look
    permanent are tried again too: a service that stays down is worse than a call too many.

    Returns:
        The items that failed in every round, each with its last error.
    """
    waiting, failures, final = list(items), list[tuple[T, EngineError]](), list[tuple[T, EngineError]]()
    for number in range(_ROUNDS):
        if number:
            sleep(_BETWEEN_ROUNDS)
        failures = []
        for item in waiting:
            try:
                attempt(item)
            except EngineError as error:
                (final if isinstance(error, ContainerNotFoundError) else failures).append((item, error))
        waiting = [item for item, _ in failures]
        if not waiting:
            break
    return final + failures


def ensure_state(
    engine: Engine,
    container: str,
    wanted: ContainerState,
    *,
    name: str | None = None,
    timer: Timer = time,
) -> str | None:
    """Have a container that was started do what it did before; start it again if it has ended.

    An engine that dies takes its containers along, and one that was just started again may first report a state
    that is no longer true. So a wrong state is looked at again for some seconds.

    Args:
        engine: where it is.
        container: its name or id.
        wanted: what it did; alive.
        name: what the log calls it.
        timer: measures the time and waits.

    Returns:
        None, or why it does not do that, a sentence.

    Raises:
        EngineError: the engine does not answer.
    """
    deadline, starts, refused = timer.monotonic() + _PATIENCE, 0, ""
    while True:
        try:
            inspection = engine.inspect_container(container)
        except ContainerNotFoundError:
            return "it is gone; somebody removed it"
        status = str(inspection["State"]["Status"])
        if _fits(status, wanted):
            return None
        code = int(inspection["State"].get("ExitCode") or 0)
        if starts and status == "exited" and code == 0 and not restarts(inspection["HostConfig"]):
            logger.info("%s: it was started and has done its work", name or container)
            return None
        if timer.monotonic() >= deadline:
            return refused or f"it does not run: it is {status}, its last exit code is {code}"
        try:
            if status in ("exited", "created", "dead") and starts < _STARTS:
                starts += 1
                logger.warning("%s: it is %s although it was started; starting it again", name or container, status)
                engine.start_container(container)
                continue
            if status == "paused":
                engine.unpause_container(container)
                continue
            if status == "running":
                engine.pause_container(container)
                continue
        except EngineError as error:
            refused = f"it is {status}: {error}"
        timer.sleep(_POLL)


def _fits(status: str, wanted: ContainerState) -> bool:
    if wanted.status == "paused":
        return status == "paused"
    return status == "running" or (wanted.loops and status == "restarting")


def all_run(engine: Engine, names: Iterable[str]) -> bool:
    """Return True if there is a container of each name, and its processes exist."""
    standing = [look_at(engine, name) for name in names]
    return all(one is not None and one.state.alive for one in standing)


def supervisor_of(inspection: Mapping[str, Any]) -> str:
    """Return who may start a container by itself, in words, with what stops that."""
    unit = (inspection["Config"].get("Labels") or {}).get("PODMAN_SYSTEMD_UNIT")
    if unit:
        return f"its systemd unit {unit}; stop the unit first: systemctl stop {unit}"
    return "a systemd unit, a quadlet or a program like autoheal; stop that first (a unit: systemctl stop UNIT)"


def loops(inspection: Mapping[str, Any], moment: datetime) -> bool:
    """Return True if a container ends again and again and is started again by its engine.

    Such a container waits to be started again, or was started by its restart policy seconds ago.

    Args:
        inspection: the container's.
        moment: when it was inspected.
    """
    if inspection["State"]["Status"] == "restarting":
        return True
    if not restarts(inspection["HostConfig"]) or not restart_count(inspection):
        return False
    started = moment_of(started_at(inspection))
    return started is not None and moment - started < _STABLE


def settled(
    engine: Engine,
    container: Observed,
    *,
    clock: Callable[[], datetime],
    sleep: Callable[[float], None] = time.sleep,
) -> Observed:
    """Return a container as it is once its engine has started it again, and whether it is in a crash loop.

    Podman shows a container as exited in the moment before it starts it again by its restart policy.

    Args:
        engine: where it is.
        container: as it was inspected a moment ago.
        clock: the time, in UTC.
        sleep: waits, in seconds.
    """
    for _ in range(round(_BACK.total_seconds() / _POLL)):
        ended = moment_of(str(container.inspection["State"].get("FinishedAt")))
        comes_back = container.state.status == "exited" and _restarts_after(container)
        if not comes_back or ended is None or clock() - ended >= _BACK:
            break
        sleep(_POLL)
        container = look_at(engine, container.id) or container
    looping = loops(container.inspection, clock())
    return evolve(container, state=evolve(container.state, looping=looping)) if looping else container


def _restarts_after(container: Observed) -> bool:
    """Return True if the restart policy of a container that has ended has it started again."""
    policy = container.inspection["HostConfig"].get("RestartPolicy") or {}
    if policy.get("Name") == "on-failure":
        most = int(policy.get("MaximumRetryCount") or 0)
        return container.state.exit_code != 0 and (not most or restart_count(container.inspection) < most)
    return restarts(container.inspection["HostConfig"])


def moment_of(text: str) -> datetime | None:
    """Return the time that an engine names; None if it names none."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
