"""A container as a check sees it, and what it means to run a check on it."""

from __future__ import annotations

import logging
import math
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
    """A container as a check sees it: always the one that bears the name now, whatever its id.

    Attributes:
        name: its name.
        before: what it was doing when the backup was taken.
        clock: the time that a check measures by, in seconds.
        sleep: how a check waits, in seconds. It does not come back where the check is not needed any more.

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
        """Return the container that was observed before an update, to be checked after it."""
        environment = container.inspection["Config"].get("Env") or ()
        return cls(engine, container.name, container.state, environment=environment, clock=clock, sleep=sleep)

    def hurried(self, *, clock: Callable[[], float], sleep: Callable[[float], None]) -> CheckedContainer:
        """Return the same container with another sense of time."""
        return CheckedContainer(
            self._engine, self.name, self.before, environment=self._environment, clock=clock, sleep=sleep
        )

    def inspect(self) -> Inspection:
        """Return the container's inspection; raises `ContainerNotFoundError` where it is gone."""
        return self._engine.inspect_container(self.name)

    def up_for(self, inspection: Inspection) -> float:
        """Return for how many seconds the container has been up, by its engine's own clock; 0 if that is not known."""
        try:
            started = datetime.fromisoformat(started_at(inspection))
            return max(0.0, (self._engine.now() - started).total_seconds())
        except (EngineError, ValueError) as error:
            logger.debug("%s: for how long it has been up is not known: %s", self.name, error)
            return 0.0

    def reject(self, reason: str) -> UpdateRejectedError:
        """Return the error that says the container is not well, with what helps to understand why.

        What the container's environment holds is replaced by the names of its variables, in `reason` as well.
        """
        try:
            inspection = self.inspect()
            logs = self._engine.container_logs(self.name, tail=_LOG_LINES)
        except EngineError as error:
            details = f"nothing more is known: {error}"
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
    """Run one check; whatever it raises means that the container is not well, and becomes an `UpdateRejectedError`."""
    try:
        check(container)
    except UpdateRejectedError:
        raise
    except Exception as error:
        raise container.reject(f"a check raised {type(error).__name__}: {error}") from error


def holds_now(check: Check, container: CheckedContainer) -> bool:
    """Whether a check holds at this moment, without waiting for it to turn good.

    Its waiting is cut short by a clock on which every sleep lasts forever: what has to stay well for a while counts as
    well, what has yet to turn well does not.
    """
    time_is_up = False

    def sleep(_seconds: float) -> None:
        nonlocal time_is_up
        time_is_up = True

    hurried = container.hurried(clock=lambda: math.inf if time_is_up else 0.0, sleep=sleep)
    try:
        run_check(check, hurried)
    except UpdateRejectedError as error:
        logger.info("%s: a check does not hold before the update: %s", container.name, error.reason)
        return False
    return True


def _said(probe: Inspection) -> str:
    return f"exit code {probe.get('ExitCode')}, {str(probe.get('Output', '')).strip()}"
