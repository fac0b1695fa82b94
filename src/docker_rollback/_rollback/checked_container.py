"""Provides the container that a check receives, and runs a check on it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeAlias

from docker_rollback._engine import Engine, Inspection
from docker_rollback._inspection import hide, started_at
from docker_rollback._model import ContainerState, Observed
from docker_rollback.errors import EngineError, UpdateRejectedError

logger = logging.getLogger("docker_rollback")

_LOG_LINES = 20


class CheckedContainer:
    """The container that a check receives: always the one that has the name now, even under another id.

    Attributes:
        name: its name.
        before: its state at the time of the backup.
        clock: returns the time in seconds.
        sleep: waits for some seconds. It does not return if the result of the check is no longer needed.

    Example:
        >>> def is_unchanged(container):
        ...     if container.inspect()["RestartCount"]:
        ...         container.reject("its engine had to start it again")
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        before: ContainerState,
        *,
        environment: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._environment = tuple(environment)
        self.name = name
        self.before = before
        self.clock = clock
        self.sleep = sleep

    @classmethod
    def of(
        cls,
        engine: Engine,
        container: Observed,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> CheckedContainer:
        """Return the container to check after an update, from its inspection before the update."""
        environment = container.inspection["Config"].get("Env") or ()
        return cls(engine, container.name, container.state, environment=environment, clock=clock, sleep=sleep)

    def with_time(self, *, clock: Callable[[], float], sleep: Callable[[float], None]) -> CheckedContainer:
        """Return the same container with another clock and sleep."""
        return CheckedContainer(
            self._engine, self.name, self.before, environment=self._environment, clock=clock, sleep=sleep
        )

    def until(self, given_up: threading.Event) -> CheckedContainer:
        """Return the same container with a sleep that ends its thread once `given_up` is set."""

        def sleep(seconds: float) -> None:
            self.sleep(seconds)
            if given_up.is_set():
                raise SystemExit  # not caught by `except Exception` in a check

        return self.with_time(clock=self.clock, sleep=sleep)

    def inspect(self) -> Inspection:
        """Return the container's inspection. Raises `ContainerNotFoundError` if it is gone."""
        return self._engine.inspect_container(self.name)

    def up_for(self, inspection: Inspection) -> float:
        """Return the uptime of the container in seconds, by its engine's clock; 0 if unknown."""
        try:
            started = datetime.fromisoformat(started_at(inspection))
            return max(0.0, (self._engine.now() - started).total_seconds())
        except (EngineError, ValueError) as error:
            logger.debug("%s: its uptime is unknown: %s", self.name, error)
            return 0.0

    def reject(self, reason: str) -> UpdateRejectedError:
        """Return the error that rejects the container, with its state, its last health probe and its log.

        Values of the container's environment are replaced by the names of their variables, also in `reason`.
        """
        try:
            inspection = self.inspect()
            logs = self._engine.container_logs(self.name, tail=_LOG_LINES)
        except EngineError as error:
            details = f"its state and log are unknown: {error}"
            return UpdateRejectedError(self.name, hide(reason, self._environment), details=details)
        environment = [*self._environment, *(inspection["Config"].get("Env") or ())]
        known = self._image_environment(str(inspection.get("Image")))
        state = inspection["State"]
        probes = (state.get("Health") or {}).get("Log") or []
        return UpdateRejectedError(
            self.name,
            hide(reason, environment, known=known),
            state=str(state["Status"]),
            exit_code=int(state.get("ExitCode") or 0),
            probe=hide(_said(probes[-1]), environment, known=known) if probes else None,
            log=tuple(hide(logs, environment, known=known).rstrip().splitlines()),
        )

    def _image_environment(self, image: str) -> Sequence[str]:
        try:
            return (self._engine.inspect_image(image).get("Config") or {}).get("Env") or ()
        except EngineError:
            return ()


Check: TypeAlias = Callable[[CheckedContainer], None]


def run_check(check: Check, container: CheckedContainer) -> None:
    """Run one check; every exception that it raises becomes an `UpdateRejectedError`."""
    try:
        check(container)
    except UpdateRejectedError:
        raise
    except Exception as error:
        raise container.reject(f"a check raised {type(error).__name__}: {error}") from error


def passes_now(check: Check, container: CheckedContainer) -> bool:
    """Return True if a check passes at this moment, without waiting."""
    # On this clock the first sleep lasts forever. So a container that has to stay up for a while passes, and one that
    # has yet to turn healthy does not.
    time_is_up = False

    def sleep(_seconds: float) -> None:
        nonlocal time_is_up
        time_is_up = True

    hurried = container.with_time(clock=lambda: math.inf if time_is_up else 0.0, sleep=sleep)
    try:
        run_check(check, hurried)
    except UpdateRejectedError as error:
        logger.info("%s: a check fails before the update: %s", container.name, error.reason)
        return False
    return True


def _said(probe: Inspection) -> str:
    return f"exit code {probe.get('ExitCode')}, {str(probe.get('Output', '')).strip()}"
