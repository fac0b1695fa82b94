"""Provides the container that a check receives, and runs a check on it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeAlias

from attrs import define, evolve, field, frozen

from docker_rollback._engine import Engine, Inspection
from docker_rollback._host import Timer
from docker_rollback._inspection import hide, started_at
from docker_rollback._model import ContainerState, Observed
from docker_rollback.errors import EngineError, UpdateRejectedError

logger = logging.getLogger("docker_rollback")

_LOG_LINES = 20


@frozen(eq=False)
class CheckedContainer:
    """The container that a check receives: always the one that has the name now, even under another id.

    Attributes:
        name: its name.
        before: its state at the time of the backup.

    Example:
        >>> def is_unchanged(container):
        ...     if container.inspect()["RestartCount"]:
        ...         container.reject("its engine had to start it again")
    """

    _engine: Engine = field(repr=False)
    name: str
    before: ContainerState
    _environment: Sequence[str] = field(default=(), kw_only=True, repr=False)
    _seen: list[Inspection] = field(factory=list, kw_only=True, repr=False)
    _timer: Timer = field(default=time, kw_only=True, repr=False)

    @classmethod
    def of(cls, engine: Engine, container: Observed, *, timer: Timer = time) -> CheckedContainer:
        """Return the container to check after an update, from its inspection before the update."""
        environment = container.inspection["Config"].get("Env") or ()
        return cls(engine, container.name, container.state, environment=environment, timer=timer)

    def until(self, given_up: threading.Event) -> CheckedContainer:
        """Return the same container with a sleep that ends its thread once `given_up` is set."""
        return evolve(self, timer=_UntilGivenUp(self._timer, given_up))

    def clock(self) -> float:
        """Return the time in seconds."""
        return self._timer.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for some seconds. It does not return if the result of the check is no longer needed."""
        self._timer.sleep(seconds)

    def inspect(self) -> Inspection:
        """Return the container's inspection. Raises `ContainerNotFoundError` if it is gone."""
        return self._seen.pop() if self._seen else self._engine.inspect_container(self.name)

    def up_for(self, inspection: Inspection) -> float:
        """Return the uptime of the container in seconds, by its engine's clock; 0 if unknown."""
        try:
            started = datetime.fromisoformat(started_at(inspection))
            return max(0.0, (self._engine.now() - started).total_seconds())
        except (EngineError, ValueError) as error:
            logger.debug("%s: its uptime is unknown: %s", self.name, error)
            return 0.0

    def up_so_far(self, inspection: Inspection) -> float:
        """Return the uptime, or infinity for a check that does not wait: the engine is not asked for its time then."""
        return math.inf if isinstance(self._timer, _FirstSleepLastsForever) else self.up_for(inspection)

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


@frozen
class _UntilGivenUp:
    """Ends the thread of a check in its next sleep, once its result is no longer needed."""

    _timer: Timer
    _given_up: threading.Event

    def monotonic(self) -> float:
        return self._timer.monotonic()

    def sleep(self, seconds: float) -> None:
        self._timer.sleep(seconds)
        if self._given_up.is_set():
            raise SystemExit  # not caught by `except Exception` in a check


@define
class _FirstSleepLastsForever:
    """Lets a container pass that has to stay up for a while, and not one that has yet to turn healthy."""

    _now: float = 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, _seconds: float) -> None:
        self._now = math.inf


Check: TypeAlias = Callable[[CheckedContainer], None]


def run_check(check: Check, container: CheckedContainer) -> None:
    """Run one check; every exception that it raises becomes an `UpdateRejectedError`."""
    try:
        check(container)
    except UpdateRejectedError:
        raise
    except Exception as error:
        raise container.reject(f"a check raised {type(error).__name__}: {error}") from error


def passes_now(check: Check, container: CheckedContainer, seen: Inspection | None = None) -> bool:
    """Return True if a check passes at this moment, without waiting.

    The first inspection that the check asks for is `seen`, if there is one; it is a moment old.
    """
    hurried = evolve(container, timer=_FirstSleepLastsForever(), seen=[seen] if seen is not None else [])
    try:
        run_check(check, hurried)
    except UpdateRejectedError as error:
        logger.info("%s: a check fails before the update: %s", container.name, error.reason)
        return False
    return True


def _said(probe: Inspection) -> str:
    return f"exit code {probe.get('ExitCode')}, {str(probe.get('Output', '')).strip()}"
