"""Waits for the health of the services that a compose service depends on, before it starts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from docker_rollback._engine import Engine
from docker_rollback._host import Timer
from docker_rollback._inspection import starts_once_healthy
from docker_rollback._model import ContainerSnapshot, Observed
from docker_rollback._threads import LateError, within
from docker_rollback.errors import EngineError

logger = logging.getLogger("docker_rollback")

_PATIENCE: Final = 60.0
_POLL: Final = 0.1
_PROBE: Final = 10.0
"""Seconds: the longest wait for a container, the pause between two inspections, and the limit of one probe."""


def await_needed(
    engine: Engine,
    one: Observed | ContainerSnapshot,
    others: Iterable[Observed | ContainerSnapshot],
    *,
    timer: Timer = time,
) -> None:
    """Wait until the containers are healthy that compose would wait for before it starts a container.

    Their probes are run here, without waiting for the engine's next one, because a service is down meanwhile. A
    container that was not healthy before, or does not run, is skipped. The wait has an end, and nothing is raised.

    Args:
        engine: the engine that has them.
        one: the container to start; if it did not run before, nothing is waited for.
        others: the containers that were started before it, as they were found.
        timer: measures the time and waits.
    """
    for other in others if one.state.alive else ():
        was_well = other.state.status == "running" and other.state.health == "healthy"
        if was_well and starts_once_healthy(one, other):
            try:
                _await(engine, other.name, timer.monotonic() + _PATIENCE, timer)
            except EngineError as error:
                logger.warning("%s is started although %s could not be asked: %s", one.name, other.name, error)


def _await(engine: Engine, name: str, deadline: float, timer: Timer) -> None:
    while True:
        inspection = engine.inspect_container(name)
        if inspection["State"]["Status"] != "running" or _is_well(engine, name, inspection):
            return
        if timer.monotonic() >= deadline:
            logger.warning(
                "%s is not healthy after %.0f s; what depends on it is started all the same", name, _PATIENCE
            )
            return
        timer.sleep(_POLL)


def _is_well(engine: Engine, name: str, inspection: Mapping[str, Any]) -> bool:
    if (inspection["State"].get("Health") or {}).get("Status") == "healthy":
        return True
    command = _probe((inspection["Config"].get("Healthcheck") or {}).get("Test") or ())
    if command is None:
        return True
    with engine.exec(name, command) as process:
        try:
            return within(_PROBE, process.finish, name=f"probe of container {name}").exit_code == 0
        except LateError:
            return False


def _probe(test: Sequence[str]) -> list[str] | None:
    """Return the program of a health check, or None."""
    match list(test):
        case ["CMD", *command] if command:
            return command
        case ["CMD-SHELL", command]:
            return ["/bin/sh", "-c", command]
        case _:
            return None
