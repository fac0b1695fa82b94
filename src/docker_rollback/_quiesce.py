"""Bringing containers to rest for their capture, and back to what each was doing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from docker_rollback._engine.port import Engine
from docker_rollback._model import Observed, Quiesce
from docker_rollback._progress import Reporter
from docker_rollback._spec import observe
from docker_rollback.errors import CaptureError, EngineError, ResumeError

logger = logging.getLogger("docker_rollback")

_PATIENCE = 5
"""How many interruptions, such as Ctrl-C, wait until every container goes again."""

_TRIES = 3
_BETWEEN_TRIES = 0.5
"""How often, and seconds between, a container is set going that does not want to."""


class AtRest:
    """Containers brought to rest one by one, and resumed together when the ``with`` block ends, however it ends.

    A container that does not run is at rest already, and so is a paused one. One that its engine removes when it stops
    (``--rm``) is paused instead: stopping it would destroy what is to be saved.

    Args:
        engine: where the containers are.
        quiesce: how: "stop" by the container's own signal and patience, "pause", or "none".
        report: is told what is done.
        sleep: waits, in seconds.

    Raises:
        ResumeError: on leaving, where a container could not be set going again; every one was tried.
    """

    def __init__(
        self,
        engine: Engine,
        quiesce: Quiesce,
        *,
        report: Reporter | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._report = report or Reporter()
        self._sleep = sleep
        self._quiesce = quiesce
        self._resting: list[tuple[Observed, Quiesce]] = []
        self._keep = False

    def bring(self, container: Observed) -> None:
        """Bring one container to rest; raises an `EngineError` where the engine will not."""
        how = self._how(container)
        if how == "none":
            return
        # Noted first: a stop whose answer is lost may have stopped it all the same.
        self._resting.append((container, how))
        self._report.step("quiesce", container.name)
        if how == "pause":
            self._engine.pause_container(container.id)
        else:
            self._engine.stop_container(container.id)

    def check_undisturbed(self) -> None:
        """Raise a `CaptureError` where somebody set a container going that should have been at rest."""
        for container, how in self._resting:
            state = observe(self._engine.inspect_container(container.id)).state
            if state.status != "paused" if how == "pause" else state.alive:
                raise CaptureError(
                    container.name,
                    f"it is {state.status} although it was brought to rest: somebody else started it meanwhile",
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Resume whatever rests; `keep` prevents it, but not after an error."""
        if self._keep and error is None:
            return
        failures = self._resume()
        if failures:
            causes = [failure for _, failure in failures]
            raise ResumeError(
                [container.name for container, _ in failures], [error, *causes] if error is not None else causes
            ) from (error or causes[0])

    def keep(self) -> None:
        """Leave the containers at rest when the block ends well: whoever asked for it sets them going."""
        self._keep = True

    def _resume(self) -> list[tuple[Observed, Exception]]:
        """Set every container going again, last first, and return what failed; each one is tried."""
        failures: list[tuple[Observed, Exception]] = []
        interruptions: list[BaseException] = []
        while self._resting:
            container, how = self._resting[-1]
            try:
                self._report.step("resume", container.name)
                failure = self._set_going(container, how)
            except BaseException as error:
                interruptions.append(error)
                if len(interruptions) > _PATIENCE:
                    raise
                continue
            self._resting.pop()
            if failure is not None:
                failures.append((container, failure))
        if interruptions:
            raise interruptions[0]
        return failures

    def _set_going(self, container: Observed, how: Quiesce) -> EngineError | None:
        """Try until the container goes; return why it does not.

        Tried again also after an error that looks final: a service that stays down is worse than a call too many.
        """
        failure = None
        for attempt in range(_TRIES):
            if attempt:
                self._sleep(_BETWEEN_TRIES)
            try:
                if how == "pause":
                    self._engine.unpause_container(container.id)
                else:
                    self._engine.start_container(container.id)
            except EngineError as error:
                logger.warning("%s: it could not be set going: %s", container.name, error)
                failure = error
            else:
                return None
        return failure

    def _how(self, container: Observed) -> Quiesce:
        if container.state.status not in ("running", "restarting"):
            return "none"
        removed_by_stop = bool(container.inspection["HostConfig"].get("AutoRemove"))
        return "pause" if removed_by_stop and self._quiesce == "stop" else self._quiesce
