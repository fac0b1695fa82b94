"""Runs the checks of an update on its containers, several containers at once."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from attrs import define, evolve, field

from docker_rollback._containers import members
from docker_rollback._engine import Engine
from docker_rollback._host import Timer
from docker_rollback._inspection import is_one_off
from docker_rollback._model import ContainerState, Observed, Project
from docker_rollback._rollback.checked_container import Check, CheckedContainer, passes_now, run_check
from docker_rollback.errors import RestoreError, UpdateRejectedError

logger = logging.getLogger("docker_rollback")

_AFTER_A_ROLLBACK: Final = 30.0
"""Seconds in which containers that have just been started, one after the other, can reconnect to each other."""

_POLL: Final = 0.5

_MOMENT: Final = 1.0
"""Seconds for which the checks before an update read what the preflight has seen."""

_Task: TypeAlias = tuple[CheckedContainer, Sequence[Check]]


@define(eq=False)
class Verdict:
    """Runs checks on containers: before an update, to learn which of them pass; after it; and after a rollback.

    The checks of one container run in the given order; several containers are checked in parallel.
    """

    _engine: Engine
    _checks: Sequence[Check]
    _timer: Timer = field(default=time, kw_only=True)
    _passing: list[_Task] = field(factory=list, init=False)
    _project: Project | None = field(default=None, init=False)
    _outside_project: set[str] = field(factory=set, init=False)

    def begin(self, containers: Sequence[Observed], project: Project | None = None) -> None:
        """Record the containers, and the checks that each passes now: only these are repeated after a rollback.

        The containers are those that a preflight inspected a moment ago.
        """
        self._project = project
        checked = [self._checked(container) for container in containers]
        within = project.containers if project is not None else ()
        self._outside_project = {container.name for container in containers if container.id not in within}
        begun = self._timer.monotonic()
        self._passing = [(one, self._passed(one, seen, begun)) for one, seen in zip(checked, containers, strict=True)]

    def _passed(self, checked: CheckedContainer, seen: Observed, begun: float) -> tuple[Check, ...]:
        """Return the checks that a container passes now; its inspection was fresh when these `begun`."""
        passed = list[Check]()
        # A container in a crash loop may pass a check in the moment in which it runs.
        for check in self._checks if not seen.state.loops else ():
            # Another check may have waited long for an answer.
            is_fresh = self._timer.monotonic() - begun < _MOMENT
            if passes_now(check, checked, seen.inspection if is_fresh else None):
                passed.append(check)
        return tuple(passed)

    def judge(self, checks: Sequence[Check] | None = None) -> None:
        """Raise `UpdateRejectedError` as soon as one container fails a check, and give up the others."""
        tasks = [(container, self._checks if checks is None else checks) for container in self._to_check()]
        for failure in _in_parallel(tasks, _pass, until_first=True):
            raise failure

    def _to_check(self) -> list[CheckedContainer]:
        if self._project is None:
            return [container for container, _ in self._passing]
        # The update may change which containers a project has, so those that it has now are checked.
        known = {container.name: container for container, _ in self._passing}
        now = [container for container in members(self._engine, self._project.name) if not is_one_off(container)]
        if not now:
            raise UpdateRejectedError(
                self._project.name, "the update left no container of the project", details="it was running before"
            )
        new = ContainerState("running")
        return [known[name] for name in self._outside_project] + [
            known.get(one.name) or self._checked(evolve(one, state=new))
            for one in now
            if one.name not in self._outside_project
        ]

    def _checked(self, container: Observed) -> CheckedContainer:
        return CheckedContainer.of(self._engine, container, timer=self._timer)

    def judge_again(self) -> None:
        """Raise `RestoreError` if containers fail checks that they passed before the update, after checking all."""
        failures = [
            RestoreError(
                failure.container,
                f"it was restored, but is not healthy: {failure.reason}\n{failure.details}",
                restored=True,
            )
            for failure in _in_parallel(self._passing, _pass_within_time, until_first=False)
        ]
        if len(failures) == 1:
            raise failures[0]
        if failures:
            names = ", ".join(failure.container for failure in failures)
            raise RestoreError(names, "they were restored, but are not healthy:", failures=failures, restored=True)


def _pass(container: CheckedContainer, checks: Sequence[Check]) -> None:
    for check in checks:
        run_check(check, container)


def _pass_within_time(container: CheckedContainer, checks: Sequence[Check]) -> None:
    # Nothing is gained by failing fast after a rollback, so a failing check is repeated.
    deadline = container.clock() + _AFTER_A_ROLLBACK
    while True:
        try:
            _pass(container, checks)
            return
        except UpdateRejectedError as error:
            if container.clock() >= deadline:
                raise
            logger.info("%s: not healthy yet after the rollback: %s", container.name, error.reason)
        container.sleep(_POLL)


def _in_parallel(
    tasks: Sequence[_Task], work: Callable[[CheckedContainer, Sequence[Check]], None], *, until_first: bool
) -> list[UpdateRejectedError]:
    """Return the rejections in the order of `tasks`, or only the first one; other exceptions propagate."""
    # In this thread, so that Ctrl-C interrupts the checks, and resources that are bound to a thread work.
    if len(tasks) == 1:
        return [failure for task in tasks if (failure := _outcome(task, work)) is not None]
    given_up = threading.Event()
    outcomes: queue.SimpleQueue[tuple[int, UpdateRejectedError | BaseException | None]] = queue.SimpleQueue()

    def run(number: int, task: _Task) -> None:
        container, checks = task
        try:
            outcomes.put((number, _outcome((container.until(given_up), checks), work)))
        except BaseException as error:
            outcomes.put((number, error))

    for number, task in enumerate(tasks):
        threading.Thread(
            target=run, args=(number, task), name=f"checks of container {task[0].name}", daemon=True
        ).start()
    rejected: dict[int, UpdateRejectedError] = {}
    try:
        for _ in tasks:
            number, outcome = outcomes.get()
            if isinstance(outcome, UpdateRejectedError):
                rejected[number] = outcome
                if until_first:
                    break
            elif outcome is not None:
                raise outcome
    finally:
        # A check that still runs ends at its next sleep; one that hangs ends with the program.
        given_up.set()
    return [rejected[number] for number in sorted(rejected)]


def _outcome(task: _Task, work: Callable[[CheckedContainer, Sequence[Check]], None]) -> UpdateRejectedError | None:
    try:
        work(*task)
    except UpdateRejectedError as error:
        return error
    return None
