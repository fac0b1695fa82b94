"""Bringing containers to rest for their capture, and back to what each was doing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from types import TracebackType
from typing import Self

from attrs import evolve

from docker_rollback._containers.find import look_at
from docker_rollback._containers.readiness import await_needed
from docker_rollback._containers.running import ensure_state, in_rounds, supervisor_of
from docker_rollback._containers.undisturbed import DisturbedCaptureError
from docker_rollback._engine import Engine
from docker_rollback._host import Timer
from docker_rollback._inspection import HELD, is_same_start, observe, restart_count, restarts, started_at
from docker_rollback._model import ContainerSnapshot, ContainerState, Observed, Quiesce, Resting
from docker_rollback._reporting import Reporter
from docker_rollback.errors import CaptureError, ContainerNotFoundError, EngineError, ResumeError

logger = logging.getLogger("docker_rollback")

_PATIENCE = 5
"""How many interruptions, such as Ctrl-C, wait until every container goes again."""

_STOPS = 5
_COMES_BACK = 1.0
"""How often a container in a crash loop is stopped, and seconds after which it would be back.

Podman does not take a stop for one that has just ended and that it is about to start again.
"""


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
        restarted=restart_count(container.inspection),
    )


def with_runs(engine: Engine, containers: Iterable[Resting]) -> tuple[Resting, ...]:
    """Return the same with the present run of each container that is alive."""
    found = []
    for one in containers:
        now = look_at(engine, one.id)
        runs = now is not None and now.state.alive
        found.append(evolve(one, started=started_at(now.inspection)) if now and runs else one)
    return tuple(found)


class AtRest:
    """Containers brought to rest one by one, and resumed together when the ``with`` block ends, however it ends.

    Args:
        engine: where the containers are.
        quiesce: how: "stop" by the container's own signal and patience, "pause", or "none".
        held: whether they are kept from being started by their engine as well, also after a reboot.
        note: told of each before it is touched.
        after_errors: whether they are set going again after an error too; else whoever finds the note of them does it.
        before_start: raises an `EngineError` if a container that was stopped cannot be started yet.
        reporter: is told what is done.
        timer: measures the time and waits.

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
        before_start: Callable[[Resting], None] | None = None,
        reporter: Reporter | None = None,
        timer: Timer = time,
    ) -> None:
        self._engine = engine
        self._before_start = before_start
        self._reporter = reporter or Reporter()
        self._timer = timer
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
        self._reporter.announce("quiesce", found.name)
        if starts:
            self._engine.update_container(found.id, {"RestartPolicy": dict(HELD)})
        if found.how != "none":
            self._reporter.down(found.name)
        if found.how == "pause":
            self._engine.pause_container(found.id)
        elif found.how == "stop":
            self._stop(container)

    def _stop(self, container: Observed) -> None:
        self._engine.stop_container(container.id)
        for _ in range(_STOPS if container.state.loops else 0):
            self._timer.sleep(_COMES_BACK)
            if not observe(self._engine.inspect_container(container.id)).state.alive:
                return
            self._engine.stop_container(container.id)

    @property
    def resting(self) -> tuple[Resting, ...]:
        """The containers that are stopped, or were until the block ended."""
        return tuple(self._resting)

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
        if not is_same_start(standing.inspection, found.started, found.restarted):
            self._give_policy_back(found)
        elif self._held or found.how == "stop" or (found.how == "pause" and standing.state.status == "paused"):
            self._resting.append(found)

    def check_undisturbed(self, *, watched: bool = False) -> None:
        """Raise a `CaptureError` if somebody started a container that should have been stopped.

        Args:
            watched: whether the processes of the containers were watched, so that their end counted as the stop. Then
                no other process may have come after them, not even by the restart policy.
        """
        for found in self._resting:
            now = self._still_there(found)
            going = now.state.status != "paused" if found.how == "pause" else now.state.alive
            if going or not is_same_start(now.inspection, found.started, found.restarted):
                raise DisturbedCaptureError(
                    found.name,
                    f"it is {now.state.status} although it was stopped: somebody else started it meanwhile, "
                    f"such as {supervisor_of(now.inspection)}",
                )
            if watched and started_at(now.inspection) != found.started:
                raise DisturbedCaptureError(
                    found.name, "it ended by itself and was started again by its restart policy meanwhile; try again"
                )
            if now.name != found.name or (now.inspection["HostConfig"].get("RestartPolicy") or {}) != found.policy:
                raise CaptureError(found.name, "somebody else renamed it or changed its restart policy meanwhile")

    def check_there(self) -> None:
        """Raise a `CaptureError` if somebody removed a container that should have been stopped."""
        for found in self._resting:
            self._still_there(found)

    def _still_there(self, found: Resting) -> Observed:
        try:
            return observe(self._engine.inspect_container(found.id))
        except ContainerNotFoundError as error:
            raise CaptureError(found.name, "somebody removed it while it was stopped for the backup") from error

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
        raise_failures(self._resume(), error)

    def keep(self) -> None:
        """Leave the containers at rest when the block ends well: whoever asked for it sets them going."""
        self._keep = True

    def _resume(self) -> list[tuple[Resting, Exception]]:
        """Resume every container, last first, and return what failed.

        A container that does not start is tried again after the others, which it may need.
        """
        interruptions: list[BaseException] = []

        def uninterrupted(work: Callable[[], None]) -> None:
            while True:
                try:
                    return work()
                except EngineError:
                    raise
                except BaseException as error:
                    interruptions.append(error)
                    if len(interruptions) > _PATIENCE:
                        raise

        def sleep(seconds: float) -> None:
            uninterrupted(lambda: self._timer.sleep(seconds))

        failures: list[tuple[Resting, Exception]] = []
        failures += in_rounds(
            reversed(self._resting), lambda found: uninterrupted(lambda: self._set_going(found)), sleep=sleep
        )
        for found, error in failures:
            logger.warning("%s: it could not be resumed: %s", found.name, error)
        failed = {found.id for found, _ in failures}
        uninterrupted(lambda: failures.extend(self._look_again(but=failed)))
        if interruptions:
            raise interruptions[0]
        return failures

    def _look_again(self, but: Collection[str]) -> list[tuple[Resting, Exception]]:
        resumed = [found for found in reversed(self._resting) if found.id not in but]
        looping = {found for found, seen in self._seen.items() if seen.state.loops}
        return look_again(self._engine, resumed, looping=looping, timer=self._timer)

    def _set_going(self, found: Resting) -> None:
        self._reporter.announce("resume", found.name)
        seen = self._seen.get(found.id)
        if seen is not None and found.how == "stop":
            await_needed(self._engine, seen, self._seen.values(), timer=self._timer)
        try:
            self._give_policy_back(found)
            if found.how == "pause":
                self._engine.unpause_container(found.id)
            elif found.how == "stop":
                if self._before_start is not None:
                    self._before_start(found)
                self._engine.start_container(found.id)
        except EngineError as error:
            # It may start after the others.
            logger.info("%s: it could not be resumed: %s", found.name, error)
            raise
        self._reporter.up(found.name)

    def _give_policy_back(self, found: Resting) -> None:
        if self._held and found.policy:
            self._engine.update_container(found.id, {"RestartPolicy": dict(found.policy)})


def ensure_running(
    engine: Engine,
    containers: Iterable[Resting],
    *,
    timer: Timer = time,
) -> None:
    """Look at containers that were resumed once more, and start again those that have ended with their engine.

    One that is gone is left alone.

    Raises:
        ResumeError: one of them does not run; every one was tried.
    """
    standing = [found for found in containers if look_at(engine, found.id) is not None]
    raise_failures(look_again(engine, standing, timer=timer))


def look_again(
    engine: Engine,
    containers: Iterable[Resting],
    *,
    looping: Collection[str] = (),
    timer: Timer,
) -> list[tuple[Resting, Exception]]:
    """Start again the containers that have ended since they were resumed; return those that do not run, with why."""
    failures: list[tuple[Resting, Exception]] = []
    for found in containers:
        if found.how == "none":
            continue
        wanted = ContainerState("running", looping=found.restarted > 0 or found.id in looping)
        try:
            reason = ensure_state(engine, found.id, wanted, name=found.name, policy=found.policy, timer=timer)
        except EngineError as error:
            failures.append((found, error))
        else:
            if reason is not None:
                failures.append((found, EngineError(f"resume container {found.name!r}", reason)))
    return failures


def raise_failures(failures: Sequence[tuple[Resting, Exception]], first: BaseException | None = None) -> None:
    """Raise a `ResumeError` if there are failures; `first` is the error that came before them."""
    if failures:
        causes = [failure for _, failure in failures]
        raise ResumeError(
            [found.name for found, _ in failures], [first, *causes] if first is not None else causes
        ) from (first or causes[0])
