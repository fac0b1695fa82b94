"""Keeps started containers running: starts them in rounds, checks them, and restarts those that ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from attrs import evolve

from docker_rollback._containers.find import find_container
from docker_rollback._engine import Engine, Inspection
from docker_rollback._host import Timer
from docker_rollback._inspection import HELD, moment_of, restart_count, restart_policy, restarts, started_at
from docker_rollback._model import ContainerState, Observed
from docker_rollback._threads import each_at_once, raise_first
from docker_rollback.errors import ContainerNotFoundError, EngineError, RestoreError

logger = logging.getLogger("docker_rollback")

T = TypeVar("T")

_ROUNDS: Final = 5
_BETWEEN_ROUNDS: Final = 0.5
"""How often containers that fail to start are tried, and the seconds between two tries."""

_STARTS: Final = 3
"""How often a container that has ended is started again."""

_PATIENCE: Final = 5.0
_POLL: Final = 0.1
"""Seconds after which a wrong state is an error, and seconds between two checks of it."""

GONE: Final = "it is gone; somebody removed it"
"""The reason why a container that was removed does not run."""

_KILLED: Final = 137
"""The exit code of a program that was killed."""

_LOST: Final = 3
"""How often a run that its engine has lost is replaced by another one."""

_SHOWS: Final = 3.0
"""Seconds after which an engine that has lost a new run shows it."""

_BACK: Final = timedelta(seconds=2)
"""How long after its end a container may still be started again by its engine."""

_STABLE: Final = timedelta(seconds=10)
"""The run time after which an engine considers a restarted program stable (moby, restartmanager)."""


def in_rounds(
    items: Iterable[T],
    attempt: Callable[[T], None],
    *,
    after: Callable[[T, T], bool] = lambda *_: False,
    sleep: Callable[[float], None] = time.sleep,
    each: Callable[
        [Sequence[T], Callable[[T], None], Callable[[T, T], bool]], Sequence[Exception | None]
    ] = each_at_once,
) -> list[tuple[T, EngineError | RestoreError]]:
    """Attempt something with each item, and retry the failed ones after the others.

    Args:
        items: the items.
        attempt: what to do with an item.
        after: returns True if its first item waits for its second one, as for `each_at_once`.
        sleep: waits between two rounds.
        each: does what `each_at_once` does.

    Returns:
        The items that failed in every round, each with its last error.
    """
    waiting = list(items)
    failures, final = list[tuple[T, EngineError | RestoreError]](), list[tuple[T, EngineError | RestoreError]]()
    # One container may need another to start: its log driver sends to the other, or it binds a socket of the other.
    # Failures that look permanent are retried too, because a service that stays down is worse than a call too many.
    for number in range(_ROUNDS):
        if number:
            sleep(_BETWEEN_ROUNDS)
        failures, unexpected = [], list[Exception]()
        for item, error in zip(waiting, each(waiting, attempt, after), strict=True):
            if error is None:
                continue
            if not isinstance(error, EngineError | RestoreError):
                unexpected.append(error)
            elif _is_removed(error):
                final.append((item, error))
            else:
                failures.append((item, error))
        raise_first(unexpected)
        waiting = [item for item, _ in failures]
        if not waiting:
            break
    return final + failures


def _is_removed(error: BaseException) -> bool:
    """Return True if a container could not be started because somebody has removed it."""
    return isinstance(error, ContainerNotFoundError) or isinstance(error.__cause__, ContainerNotFoundError)


def ensure_state(
    engine: Engine,
    container: str,
    wanted: ContainerState,
    *,
    name: str | None = None,
    policy: Mapping[str, Any] | None = None,
    seen: Inspection | None = None,
    timer: Timer = time,
) -> str | None:
    """Bring a started container to its previous state; start it again if it has ended.

    A run that the engine has lost is stopped, and the container is started again.

    Args:
        engine: the engine.
        container: the container's name or id.
        wanted: its previous state; alive.
        name: its name in the log.
        policy: its own restart policy, which it has in the end; None leaves a held container held.
        seen: its inspection from after the last start; if that shows the state, the engine is not asked again.
        timer: measures time and waits.

    Returns:
        None, or a sentence that says why the container is not in that state.
    """
    if seen is not None and _is_settled(engine, seen, wanted):
        return None
    name = name or container
    replaced: list[str] = []
    try:
        return _ensure_state(engine, container, wanted, replaced, name=name, policy=policy, timer=timer)
    except BaseException:
        if replaced and policy is not None:
            _resume(engine, container, policy, name=name)
        raise


def _ensure_state(
    engine: Engine,
    container: str,
    wanted: ContainerState,
    replaced: list[str],
    *,
    name: str,
    policy: Mapping[str, Any] | None,
    timer: Timer,
) -> str | None:
    """Do the work of `ensure_state`; add each run to `replaced` before it is stopped."""
    reason, inspection = _brought_to(engine, container, wanted, replaced, name=name, timer=timer)
    if wanted.loops and inspection is not None and is_lost(engine, inspection):
        # The engine alone may cause its restart loop, and may have caused it at the capture.
        runs = ContainerState("running")
        reason, inspection = _brought_to(engine, container, runs, replaced, name=name, timer=timer)
        if reason is not None:
            logger.info("%s: it ends by itself again and again, as it did before", name)
            _give_back(engine, inspection, policy)
            engine.start_container(container)
            reason, inspection = _brought_to(engine, container, wanted, replaced, name=name, timer=timer)
    _give_back(engine, inspection, policy)
    return reason


def _give_back(engine: Engine, inspection: Inspection | None, policy: Mapping[str, Any] | None) -> None:
    """Give a held container its own restart policy, if it has one."""
    if inspection is not None and policy and restart_policy(inspection) == HELD != policy:
        engine.update_container(str(inspection["Id"]), {"RestartPolicy": dict(policy)})


def _resume(engine: Engine, container: str, policy: Mapping[str, Any], *, name: str) -> None:
    """Start a container whose run was stopped, with its own policy; only log an error of the engine."""
    try:
        if policy:
            engine.update_container(container, {"RestartPolicy": dict(policy)})
        engine.start_container(container)
    except EngineError as error:
        logger.warning("%s: it may be stopped, without its restart policy: %s", name, error)


def _brought_to(
    engine: Engine,
    container: str,
    wanted: ContainerState,
    replaced: list[str],
    *,
    name: str,
    timer: Timer,
    most: int = _STARTS,
) -> tuple[str | None, Inspection | None]:
    """Do the work of `ensure_state`; return its result and the last inspection, None for a container that is gone."""
    # An engine that dies ends its containers, and one that has just started may first report an outdated state. So a
    # wrong state is checked again for some seconds.
    deadline, starts, lost, refused = timer.monotonic() + _PATIENCE, 0, 0, ""
    seen: list[str] = []
    while True:
        try:
            inspection = engine.inspect_container(container)
        except ContainerNotFoundError:
            return GONE, None
        status = str(inspection["State"]["Status"])
        code = int(inspection["State"].get("ExitCode") or 0)
        try:
            if not wanted.loops and is_lost(engine, inspection):
                if lost == _LOST:
                    return _LOST_REASON, inspection
                lost += 1
                logger.warning("%s: its engine has lost its run; stopping it and starting it again", name)
                replaced.append(started_at(inspection))
                _hold(engine, container, inspection)
                # The stop may have taken the container's whole stop time-out.
                starts, deadline = 0, timer.monotonic() + _PATIENCE
                continue
            if _fits(status, wanted):
                run = started_at(inspection)
                if wanted.loops or not restart_count(inspection) or run in seen or len(seen) == _LOST:
                    return None, inspection
                # The engine started it by itself, as it does after its own death. It may be about to lose this run.
                seen.append(run)
                timer.sleep(_SHOWS)
                continue
            if starts and status == "exited" and code == 0 and not restarts(inspection["HostConfig"]):
                logger.info("%s: it was started and has done its work", name)
                return None, inspection
            if timer.monotonic() >= deadline:
                return refused or f"it does not run: it is {status}, its last exit code is {code}", inspection
            if status in ("exited", "created", "dead") and starts < most:
                starts += 1
                logger.warning("%s: it is %s although it was started; starting it again", name, status)
                engine.start_container(container)
                continue
            if status in ("paused", "running"):
                change = engine.unpause_container if status == "paused" else engine.pause_container
                change(container)
                continue
        except EngineError as error:
            refused = f"it is {status}: {error}"
        timer.sleep(_POLL)


_LOST_REASON: Final = (
    "its engine has lost its run: after a death of its own, Docker before 29.2.1 can take the end of an earlier run of "
    "a container for the end of each new one, whose processes go on without network and log; stop the container, "
    "restart the engine, then call recover()"
)


def is_lost(engine: Engine, inspection: Mapping[str, Any]) -> bool:
    """Return True if a container's processes may run although its engine has cleaned up after them.

    Docker kills a run that it finds left over when it starts the container (ReplaceContainer), and then takes the exit
    of that run for the exit of the new one: it releases the network, and starts a container with a restart policy again
    and again, each time with 137. Without such a policy, it notices some moments later that the container runs, now
    without a network (daemon/monitor.go; from 29.2.1 on such an exit is ignored).
    """
    state, networks = inspection["State"], inspection["NetworkSettings"].get("Networks") or {}
    bare = state["Status"] in ("running", "paused") and networks
    bare = bare and not any((endpoint or {}).get("EndpointID") for endpoint in networks.values())
    ended = state["Status"] == "restarting" and state.get("ExitCode") == _KILLED and not state.get("OOMKilled")
    # Podman names no endpoints.
    return bool(bare or ended) and engine.info().flavour != "podman"


def end_lost_run(engine: Engine, container: Observed, *, timer: Timer = time) -> None:
    """End the processes that may still run in a container that was stopped after its engine had lost its run."""
    runs = ContainerState("running")
    # Docker ends such processes when it starts the container, and shows the new run some moments later. A program that
    # kills itself again and again looks the same, so it is started only once.
    reason, _ = _brought_to(engine, container.id, runs, [], name=container.name, timer=timer, most=1)
    if reason is not None:
        logger.warning("%s: a process of an earlier run may still be there: %s", container.name, reason)
    engine.stop_container(container.id)


def _hold(engine: Engine, container: str, inspection: Mapping[str, Any]) -> None:
    if restarts(inspection["HostConfig"]):
        engine.update_container(container, {"RestartPolicy": dict(HELD)})
    engine.stop_container(container)


def _is_settled(engine: Engine, inspection: Inspection, wanted: ContainerState) -> bool:
    """Return True if a container is in its previous state, and its engine may not be about to lose its run."""
    fits = _fits(str(inspection["State"]["Status"]), wanted) and not is_lost(engine, inspection)
    return fits and (wanted.loops or not restart_count(inspection))


def _fits(status: str, wanted: ContainerState) -> bool:
    if wanted.status == "paused":
        return status == "paused"
    return status == "running" or (wanted.loops and status == "restarting")


def all_run(engine: Engine, names: Iterable[str]) -> bool:
    """Return True if every named container runs, and its engine has not lost its run."""
    standing = [find_container(engine, name) for name in names]
    return all(one is not None and one.state.alive and not is_lost(engine, one.inspection) for one in standing)


def supervisor_of(inspection: Mapping[str, Any]) -> str:
    """Return a phrase that names the program that may start a container by itself, and says how to stop it."""
    unit = (inspection["Config"].get("Labels") or {}).get("PODMAN_SYSTEMD_UNIT")
    if unit:
        return f"its systemd unit {unit}; stop the unit first: systemctl stop {unit}"
    return "a systemd unit, a quadlet or a program like autoheal; stop that first (a unit: systemctl stop UNIT)"


def loops(inspection: Mapping[str, Any], moment: datetime) -> bool:
    """Return True if a container was in a crash loop at the moment of its inspection: its engine restarts it."""
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
    """Return a container once its engine has restarted it, if it is about to, with a crash loop noted in its state."""
    # Podman shows a container as exited in the moment before it starts it again by its restart policy.
    for _ in range(round(_BACK.total_seconds() / _POLL)):
        ended = moment_of(str(container.inspection["State"].get("FinishedAt")))
        comes_back = container.state.status == "exited" and _restarts_after(container)
        if not comes_back or ended is None or clock() - ended >= _BACK:
            break
        sleep(_POLL)
        container = find_container(engine, container.id) or container
    looping = loops(container.inspection, clock())
    return evolve(container, state=evolve(container.state, looping=looping)) if looping else container


def _restarts_after(container: Observed) -> bool:
    """Return True if the restart policy of a container that has ended makes its engine start it again."""
    policy = container.inspection["HostConfig"].get("RestartPolicy") or {}
    if policy.get("Name") == "on-failure":
        most = int(policy.get("MaximumRetryCount") or 0)
        return container.state.exit_code != 0 and (not most or restart_count(container.inspection) < most)
    return restarts(container.inspection["HostConfig"])
