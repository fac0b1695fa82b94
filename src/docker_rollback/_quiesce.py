"""Bringing containers to rest for their capture, and back to what each was doing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from docker_rollback._engine.port import Engine
from docker_rollback._model import ContainerSnapshot, Observed, Quiesce, Resting
from docker_rollback._progress import Reporter
from docker_rollback._readiness import await_needed
from docker_rollback._spec import HELD, observe, restarts, started_at
from docker_rollback.errors import CaptureError, ContainerNotFoundError, EngineError, ResumeError

logger = logging.getLogger("docker_rollback")

_PATIENCE = 5
"""How many interruptions, such as Ctrl-C, wait until every container goes again."""

_TRIES = 3
_BETWEEN_TRIES = 0.5
"""How often, and seconds between, a container is set going that does not want to."""


def resting(container: Observed | ContainerSnapshot, quiesce: Quiesce) -> Resting:
    """Return how a container is brought to rest, and what it takes to set it going again. Pure.

    A container that does not run is at rest already, and so is a paused one. One that its engine removes when it stops
    (``--rm``) is paused instead: stopping it would destroy what is to be saved.
    """
    how = quiesce if container.state.status in ("running", "restarting") else "none"
    if how == "stop" and container.inspection["HostConfig"].get("AutoRemove"):
        how = "pause"
    return Resting(
        id=container.id,
        name=container.name,
        how=how,
        started=started_at(container.inspection),
        policy=container.inspection["HostConfig"].get("RestartPolicy") or {},
    )


class AtRest:
    """Containers brought to rest one by one, and resumed together when the ``with`` block ends, however it ends.

    Args:
        engine: where the containers are.
        quiesce: how: "stop" by the container's own signal and patience, "pause", or "none".
        held: whether they are kept from being started by their engine as well, also after a reboot.
        note: told of each before it is touched.
        after_errors: whether they are set going again after an error too; else whoever finds the note of them does it.
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
        held: bool = False,
        note: Callable[[Resting], None] | None = None,
        after_errors: bool = True,
        report: Reporter | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._report = report or Reporter()
        self._sleep = sleep
        self._quiesce: Quiesce = quiesce
        self._held = held
        self._note = note
        self._after_errors = after_errors
        self._resting: list[Resting] = []
        self._seen: dict[str, Observed] = {}
        self._keep = False

    def bring(self, container: Observed) -> None:
        """Bring one container to rest; raises an `EngineError` where the engine will not."""
        found = resting(container, self._quiesce)
        starts = self._held and restarts(container.inspection["HostConfig"])
        if found.how == "none" and not starts:
            return
        if self._note is not None:
            self._note(found)
        self._seen[found.id] = container
        # Noted first: a stop whose answer is lost may have stopped it all the same.
        self._resting.append(found)
        self._report.step("quiesce", found.name)
        if starts:
            self._engine.update_container(found.id, {"RestartPolicy": dict(HELD)})
        if found.how != "none":
            self._report.timeline.down(found.name)
        if found.how == "pause":
            self._engine.pause_container(found.id)
        elif found.how == "stop":
            self._engine.stop_container(found.id)

    def adopt(self, found: Resting) -> None:
        """Take over a container that another process brought to rest and then died.

        One that somebody set going since gets its restart policy back, and nothing else.

        Raises:
            EngineError: the engine does not answer.
        """
        try:
            standing = observe(self._engine.inspect_container(found.id))
        except ContainerNotFoundError:
            logger.warning("%s: it was brought to rest, and somebody removed it since", found.name)
            return
        if started_at(standing.inspection) != found.started:
            self._give_policy_back(found)
        elif self._held or found.how == "stop" or (found.how == "pause" and standing.state.status == "paused"):
            self._resting.append(found)

    def check_undisturbed(self) -> None:
        """Raise a `CaptureError` where somebody set a container going that should have been at rest."""
        for found in self._resting:
            now = observe(self._engine.inspect_container(found.id))
            going = now.state.status != "paused" if found.how == "pause" else now.state.alive
            if going or started_at(now.inspection) != found.started:
                raise CaptureError(
                    found.name,
                    f"it is {now.state.status} although it was brought to rest: somebody else started it meanwhile",
                )
            if now.name != found.name or (now.inspection["HostConfig"].get("RestartPolicy") or {}) != found.policy:
                raise CaptureError(found.name, "somebody else renamed it or changed its restart policy meanwhile")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Resume whatever rests; `keep` prevents it, but not after an error."""
        if self._keep and error is None:
            return
        if error is not None and not self._after_errors:
            if self._resting:
                names = ", ".join(found.name for found in self._resting)
                error.add_note(f"docker-rollback: {names} stay at rest until it is finished")
            return
        failures = self._resume()
        if failures:
            causes = [failure for _, failure in failures]
            raise ResumeError(
                [found.name for found, _ in failures], [error, *causes] if error is not None else causes
            ) from (error or causes[0])

    def keep(self) -> None:
        """Leave the containers at rest when the block ends well: whoever asked for it sets them going."""
        self._keep = True

    def _resume(self) -> list[tuple[Resting, Exception]]:
        """Set every container going again, last first, and return what failed; each one is tried."""
        failures: list[tuple[Resting, Exception]] = []
        interruptions: list[BaseException] = []
        while self._resting:
            found = self._resting[-1]
            try:
                self._report.step("resume", found.name)
                failure = self._set_going(found)
            except BaseException as error:
                interruptions.append(error)
                if len(interruptions) > _PATIENCE:
                    raise
                continue
            self._resting.pop()
            if failure is not None:
                failures.append((found, failure))
        if interruptions:
            raise interruptions[0]
        return failures

    def _set_going(self, found: Resting) -> EngineError | None:
        """Try until the container goes; return why it does not.

        Tried again also after an error that looks final: a service that stays down is worse than a call too many.
        """
        seen = self._seen.get(found.id)
        if seen is not None and found.how == "stop":
            await_needed(self._engine, seen, self._seen.values(), sleep=self._sleep)
        failure = None
        for attempt in range(_TRIES):
            if attempt:
                self._sleep(_BETWEEN_TRIES)
            try:
                self._give_policy_back(found)
                if found.how == "pause":
                    self._engine.unpause_container(found.id)
                elif found.how == "stop":
                    self._engine.start_container(found.id)
            except EngineError as error:
                logger.warning("%s: it could not be set going: %s", found.name, error)
                failure = error
            else:
                self._report.timeline.up(found.name)
                return None
        return failure

    def _give_policy_back(self, found: Resting) -> None:
        if self._held and found.policy:
            self._engine.update_container(found.id, {"RestartPolicy": dict(found.policy)})
