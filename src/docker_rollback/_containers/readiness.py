"""Waits for the services that a compose service depends on, before that service starts."""

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
"""The most seconds to wait for one container."""

_POLL: Final = 0.1
"""Seconds between two inspections."""

_PROBE: Final = 10.0
"""The time-out of one probe, in seconds."""


def await_needed(
    engine: Engine,
    one: Observed | ContainerSnapshot,
    others: Iterable[Observed | ContainerSnapshot],
    *,
    timer: Timer = time,
) -> None:
    """Wait until the containers are healthy that compose would wait for before it starts `one`.

    A container that was not healthy before, or does not run, is skipped. After a minute, or if the engine fails, `one`
    is started all the same.
    """
    for other in others if one.state.alive else ():
        was_well = other.state.status == "running" and other.state.health == "healthy"
        if was_well and starts_once_healthy(one, other):
            try:
                _await(engine, other.name, timer.monotonic() + _PATIENCE, timer)
            except EngineError as error:
                logger.warning("%s: starting it although the health of %s is unknown: %s", one.name, other.name, error)


def _await(engine: Engine, name: str, deadline: float, timer: Timer) -> None:
    while True:
        inspection = engine.inspect_container(name)
        if inspection["State"]["Status"] != "running" or _is_well(engine, name, inspection):
            return
        if timer.monotonic() >= deadline:
            logger.warning("%s is not healthy after %.0f s; starting its dependents all the same", name, _PATIENCE)
            return
        timer.sleep(_POLL)


def _is_well(engine: Engine, name: str, inspection: Mapping[str, Any]) -> bool:
    if (inspection["State"].get("Health") or {}).get("Status") == "healthy":
        return True
    command = _probe((inspection["Config"].get("Healthcheck") or {}).get("Test") or ())
    if command is None:
        return True
    # Run here rather than awaited from the engine, whose next probe may be far off: a service is down meanwhile.
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
