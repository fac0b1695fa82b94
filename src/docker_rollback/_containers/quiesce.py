"""Quiesces containers and resumes them: stops or pauses them, and brings each back to its previous state."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from types import TracebackType
from typing import Literal, Self

from attrs import define, evolve, field

from docker_rollback._containers.find import find_container
from docker_rollback._containers.readiness import await_needed
from docker_rollback._containers.running import GONE, ensure_state, in_rounds, supervisor_of
from docker_rollback._containers.undisturbed import DisturbedCaptureError
from docker_rollback._engine import Engine
from docker_rollback._host import Timer
from docker_rollback._inspection import (
    HELD,
    StartOrder,
    is_same_start,
    observe,
    restart_count,
    restarts,
    started_at,
)
from docker_rollback._model import ContainerSnapshot, ContainerState, Observed, Quiesce, Resting
from docker_rollback._reporting import Reporter
from docker_rollback._threads import each_at_once, raise_first
from docker_rollback.errors import CaptureError, ContainerNotFoundError, EngineError, ResumeError

logger = logging.getLogger("docker_rollback")

_PATIENCE = 5
"""How many interruptions, such as Ctrl-C, are deferred until every container is resumed."""

_STOPS = 5
_COMES_BACK = 1.0
"""How often to stop a container in a crash loop, and the seconds after which it would run again."""


def quiesced_container(container: Observed | ContainerSnapshot, quiesce: Quiesce) -> Resting:
    """Return how a container is quiesced, and the facts that are needed to resume it. Pure.

    A container that does not run, or is paused, stays as it is.
    """
    how = quiesce if container.state.status in ("running", "restarting") else "none"
    # Stopping a container with --rm would remove it, and its data.
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


def find_each(engine: Engine, containers: Iterable[Resting]) -> list[Observed]:
    """Look up containers by their ids; those that are gone are skipped."""
    found = [find_container(engine, one.id) for one in containers]
    return [one for one in found if one is not None]


def with_runs(containers: Iterable[Resting], standing: Iterable[Observed]) -> tuple[Resting, ...]:
    """Return the containers, each with its run if it is alive among those that stand. Pure."""
    runs = {now.id: started_at(now.inspection) for now in standing if now.state.alive}
    return tuple(evolve(one, started=runs.get(one.id, one.started)) for one in containers)


@define(eq=False)
class QuiescedContainers:
    """Quiesces containers, and resumes all of them when the ``with`` block ends, even after an error.

    They are resumed at once, each after those that it depends on.

    Args:
        engine: the engine that the containers are on.
        how: "stop", with the container's own signal and time-out; "pause"; "none"; or "hold", which is "stop", and also
            keeps the engine from starting the container again, even after a reboot.
        record: called with each container before it is touched.
        after_errors: whether to resume after an error as well; otherwise recovery does, from the record.
        before_start: raises `EngineError` if a stopped container cannot be started yet.
        reporter: progress and timing sink.
        timer: measures time and waits.

    Raises:
        ResumeError: on leaving the block, a container could not be resumed; every one was tried.
    """

    _engine: Engine
    _how: Quiesce | Literal["hold"]
    _record: Callable[[Resting], None] | None = field(default=None, kw_only=True)
    _after_errors: bool = field(default=True, kw_only=True)
    _before_start: Callable[[Resting], None] | None = field(default=None, kw_only=True)
    _reporter: Reporter = field(factory=Reporter, kw_only=True)
    _timer: Timer = field(default=time, kw_only=True)
    _quiesced: list[Resting] = field(factory=list, init=False)
    _seen: dict[str, Observed] = field(factory=dict, init=False)
    _known: dict[str, Observed] = field(factory=dict, init=False)  # those of `adopt` too
    _keep: bool = field(default=False, init=False)
    _beginning: threading.Lock = field(factory=threading.Lock, init=False)

    def quiesce(self, *containers: Observed, check: Callable[[], object] = lambda: None) -> None:
        """Quiesce containers at once, each after those that depend on it.

        After an error no further one is touched. Raises that error, with a note about each other one.

        Args:
            containers: the containers.
            check: called before each one is touched; raises an error if it must not be.

        Raises:
            EngineError: the engine refused or failed.
        """
        order = StartOrder.of(containers)

        def quiesce(container: Observed) -> None:
            check()
            with self._beginning:
                found = self._begin(container)
            if found is not None:
                self._quiesce(found)

        raise_first(each_at_once(containers, quiesce, order.stops_after, after_error=False))

    def _begin(self, container: Observed) -> Resting | None:
        """Record a container that is about to be quiesced; return None if it stays as it is."""
        found = quiesced_container(container, "stop" if self._how == "hold" else self._how)
        before = next((one for one in self._quiesced if one.id == found.id), None)
        if before is not None:
            # It is held already, so the policy that it has now is not its own.
            found = before if found.how == "none" else evolve(found, policy=before.policy)
            self._quiesced.remove(before)
        elif found.how == "none" and not self._is_held(container):
            return None
        if self._record is not None:
            self._record(found)
        self._seen[found.id] = self._known[found.id] = container
        # Added before the call: a stop whose answer is lost may have taken effect.
        self._quiesced.append(found)
        self._reporter.announce("quiesce", found.name)
        return found

    def _is_held(self, container: Observed) -> bool:
        return self._how == "hold" and restarts(container.inspection["HostConfig"])

    def _quiesce(self, found: Resting) -> None:
        container = self._seen[found.id]
        if self._is_held(container):
            self._engine.update_container(found.id, {"RestartPolicy": dict(HELD)})
        if found.how != "none":
            self._reporter.down(found.name)
        if found.how == "pause":
            self._engine.pause_container(found.id)
        elif found.how == "stop":
            self._stop(container)

    def _stop(self, container: Observed) -> None:
        self._engine.stop_container(container.id)
        # Podman ignores a stop of a container that has just ended and that it is about to start again.
        for _ in range(_STOPS if container.state.loops else 0):
            self._timer.sleep(_COMES_BACK)
            if not observe(self._engine.inspect_container(container.id)).state.alive:
                return
            self._engine.stop_container(container.id)

    @property
    def containers(self) -> tuple[Resting, ...]:
        """The containers that are stopped, or were until the block ended."""
        return tuple(self._quiesced)

    def adopt(self, found: Resting) -> None:
        """Take over a container that a dead process quiesced; one that was started since only gets its policy back."""
        standing = find_container(self._engine, found.id)
        if standing is None:
            logger.warning("%s: it was quiesced, and somebody removed it since", found.name)
            return
        if not is_same_start(standing.inspection, found.started, found.restarted):
            self._give_policy_back(found)
        elif self._how == "hold" or found.how == "stop" or (found.how == "pause" and standing.state.status == "paused"):
            self._known[found.id] = standing
            self._quiesced.append(found)

    def check_undisturbed(self, *, watched: Collection[str] = ()) -> None:
        """Raise `CaptureError` if somebody started a container that should have been stopped.

        The end of the main processes of `watched` containers, by their ids, counted as the stop, so no run of theirs
        may have followed, not even one by the restart policy.
        """
        for found in self._quiesced:
            now = self._still_there(found)
            going = now.state.status != "paused" if found.how == "pause" else now.state.alive
            if going or not is_same_start(now.inspection, found.started, found.restarted):
                raise DisturbedCaptureError(
                    found.name,
                    f"it is {now.state.status} although it was stopped: somebody else started it meanwhile, "
                    f"such as {supervisor_of(now.inspection)}",
                )
            if found.id in watched and started_at(now.inspection) != found.started:
                raise DisturbedCaptureError(
                    found.name, "it ended by itself and was started again by its restart policy meanwhile; try again"
                )
            if now.name != found.name or (now.inspection["HostConfig"].get("RestartPolicy") or {}) != found.policy:
                raise CaptureError(found.name, "somebody else renamed it or changed its restart policy meanwhile")

    def check_there(self) -> None:
        """Raise `CaptureError` if somebody removed a container that should have been stopped."""
        for found in self._quiesced:
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
        """Resume the quiesced containers; `keep` prevents that, except after an error."""
        if self._keep and error is None:
            return
        if error is not None and not self._after_errors:
            if self._quiesced:
                names = ", ".join(found.name for found in self._quiesced)
                error.add_note(f"docker-rollback: {names} stay stopped until it is finished")
            return
        raise_failures(self._resume(), error)

    def keep(self) -> None:
        """Leave the containers quiesced when the block ends without an error; the caller resumes them."""
        self._keep = True

    def _resume(self) -> list[tuple[Resting, Exception]]:
        """Resume every container, each after those that it depends on, and return the failures."""
        patience = _Patience()
        # The last one that was quiesced comes first, where nothing else decides.
        quiesced = self._quiesced[::-1]
        # A container that fails to start is retried after the others, because it may need one of them.
        failures: list[tuple[Resting, Exception]] = [
            *in_rounds(
                quiesced,
                self._resume_one,
                after=StartOrder.of(self._known[found.id] for found in quiesced).starts_after,
                sleep=lambda seconds: patience.through(lambda: self._timer.sleep(seconds)),
                each=patience.each,
            )
        ]
        for found, error in failures:
            logger.warning("%s: it could not be resumed: %s", found.name, error)
        failed = {found.id for found, _ in failures}
        resumed = [found for found in quiesced if found.id not in failed]
        looping = {found for found, seen in self._seen.items() if seen.state.loops}
        patience.through(
            lambda: failures.extend(check_again(self._engine, resumed, looping=looping, timer=self._timer))
        )
        patience.deliver()
        return failures

    def _resume_one(self, found: Resting) -> None:
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
        if self._how == "hold" and found.policy:
            self._engine.update_container(found.id, {"RestartPolicy": dict(found.policy)})


@define(eq=False)
class _Patience:
    """Defers interruptions, up to a limit, so that every container is resumed first."""

    _interruptions: list[BaseException] = field(factory=list, init=False)

    def through(self, work: Callable[[], object]) -> None:
        """Call `work`, again after an interruption."""
        while True:
            try:
                work()
            except Exception:
                raise
            except BaseException as error:
                self._interruptions.append(error)
                if len(self._interruptions) > _PATIENCE:
                    raise
            else:
                return

    def each(
        self,
        some: Sequence[Resting],
        attempt: Callable[[Resting], None],
        after: Callable[[Resting, Resting], bool],
    ) -> list[Exception | None]:
        """Do as `each_at_once`, but attempt each container to its end in spite of interruptions."""
        errors: dict[str, Exception | None] = {}

        def note(found: Resting) -> None:
            try:
                attempt(found)
            except Exception as error:
                errors[found.id] = error
            else:
                errors[found.id] = None

        self.through(lambda: each_at_once([found for found in some if found.id not in errors], note, after))
        return [errors[found.id] for found in some]

    def deliver(self) -> None:
        """Raise the first interruption, if there was one."""
        if self._interruptions:
            raise self._interruptions[0]


def ensure_running(engine: Engine, containers: Iterable[Resting], *, timer: Timer = time) -> None:
    """Check resumed containers once more, and start those again that have ended with their engine.

    Containers that are gone are skipped. Raises `ResumeError` if one does not run, after every one was tried.
    """
    raise_failures(check_again(engine, containers, spare_gone=True, timer=timer))


def check_again(
    engine: Engine,
    containers: Iterable[Resting],
    *,
    looping: Collection[str] = (),
    spare_gone: bool = False,
    timer: Timer,
) -> list[tuple[Resting, Exception]]:
    """Start containers again that have ended since they were resumed; return those that do not run, with the error.

    With `spare_gone`, one that somebody has removed is not a failure.
    """
    alive = [found for found in containers if found.how != "none"]

    def check(found: Resting) -> None:
        wanted = ContainerState("running", looping=found.restarted > 0 or found.id in looping)
        reason = ensure_state(engine, found.id, wanted, name=found.name, policy=found.policy, timer=timer)
        if reason is not None and not (spare_gone and reason == GONE):
            raise EngineError(f"resume container {found.name!r}", reason)

    failures: list[tuple[Resting, Exception]] = []
    for found, error in zip(alive, each_at_once(alive, check), strict=True):
        if isinstance(error, EngineError):
            failures.append((found, error))
        elif error is not None:
            raise error
    return failures


def raise_failures(failures: Sequence[tuple[Resting, Exception]], first: BaseException | None = None) -> None:
    """Raise `ResumeError` if there are failures; `first` is the error that ended the block, if any."""
    if failures:
        causes = [failure for _, failure in failures]
        raise ResumeError(
            [found.name for found, _ in failures], [first, *causes] if first is not None else causes
        ) from (first or causes[0])
