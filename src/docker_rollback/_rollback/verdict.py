"""The verdict on an update: every check on every container, side by side for a group."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from attrs import evolve

from docker_rollback._containers import members
from docker_rollback._engine import Engine
from docker_rollback._inspection import is_one_off
from docker_rollback._model import ContainerState, Observed, Project
from docker_rollback._rollback.checked_container import Check, CheckedContainer, holds_now, run_check
from docker_rollback.errors import RestoreError, UpdateRejectedError

logger = logging.getLogger("docker_rollback")

_AFTER_A_ROLLBACK: Final = 30.0
"""Seconds for containers that were started a moment ago, one after the other, to find each other again."""

_POLL: Final = 0.5

_Task: TypeAlias = tuple[CheckedContainer, Sequence[Check]]


class Verdict:
    """Runs checks on containers: before an update to know what holds, after it, and after a rollback.

    The checks of one container run one after the other, in the order given; those of several containers side by side,
    each container in a thread of its own.

    Args:
        engine: where the containers are.
        checks: what each of them has to pass.
        clock: the time that checks measure by, in seconds.
        sleep: how checks wait, in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        checks: Sequence[Check],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._checks = tuple(checks)
        self._clock = clock
        self._sleep = sleep
        self._held: list[_Task] = []
        self._project: Project | None = None
        self._beside: set[str] = set()

    def begin(self, containers: Sequence[Observed], project: Project | None = None) -> None:
        """Note the containers, and which checks hold of each now: after a rollback no more is asked.

        Args:
            containers: what the backup is of.
            project: the compose project that it is of. Which containers that has is for the update to say.
        """
        self._project = project
        checked = [self._checked(container) for container in containers]
        within = project.containers if project is not None else ()
        self._beside = {container.name for container in containers if container.id not in within}
        # One in a crash loop is not well, whatever a check finds in the moment in which it runs.
        self._held = [
            (one, () if one.before.loops else tuple(check for check in self._checks if holds_now(check, one)))
            for one in checked
        ]

    def judge(self, checks: Sequence[Check] | None = None) -> None:
        """Raise an `UpdateRejectedError` as soon as one check fails on one container; the others are given up.

        Args:
            checks: what each of them has to pass; by default the checks of this verdict.
        """
        tasks = [(container, self._checks if checks is None else checks) for container in self._standing()]
        for failure in _side_by_side(tasks, _pass, until_first=True):
            raise failure

    def _standing(self) -> list[CheckedContainer]:
        """Return what is to be well after the update: the containers, of a project those that it has now."""
        if self._project is None:
            return [container for container, _ in self._held]
        known = {container.name: container for container, _ in self._held}
        now = [container for container in members(self._engine, self._project.name) if not is_one_off(container)]
        if not now:
            raise UpdateRejectedError(
                self._project.name, "the update left no container of the project", details="it was running before"
            )
        new = ContainerState("running")
        return [known[name] for name in self._beside] + [
            known.get(one.name) or self._checked(evolve(one, state=new)) for one in now if one.name not in self._beside
        ]

    def _checked(self, container: Observed) -> CheckedContainer:
        return CheckedContainer.of(self._engine, container, clock=self._clock, sleep=self._sleep)

    def judge_again(self) -> None:
        """Raise a `RestoreError` where a check fails that held before; every container is asked.

        There is nothing left to save by haste, so a check that fails is tried again for a while.
        """
        failures = [
            RestoreError(
                failure.container,
                f"it was restored, but is not well: {failure.reason}\n{failure.details}",
                restored=True,
            )
            for failure in _side_by_side(self._held, _pass_patiently, until_first=False)
        ]
        if len(failures) == 1:
            raise failures[0]
        if failures:
            names = ", ".join(failure.container for failure in failures)
            raise RestoreError(names, "they were restored, but are not well:", failures=failures, restored=True)


def _pass(container: CheckedContainer, checks: Sequence[Check]) -> None:
    for check in checks:
        run_check(check, container)


def _pass_patiently(container: CheckedContainer, checks: Sequence[Check]) -> None:
    deadline = container.clock() + _AFTER_A_ROLLBACK
    while True:
        try:
            _pass(container, checks)
            return
        except UpdateRejectedError as error:
            if container.clock() >= deadline:
                raise
            logger.info("%s: not well yet after the rollback: %s", container.name, error.reason)
        container.sleep(_POLL)


def _side_by_side(
    tasks: Sequence[_Task], work: Callable[[CheckedContainer, Sequence[Check]], None], *, until_first: bool
) -> list[UpdateRejectedError]:
    """Return what was rejected, in the order of `tasks`, or the first alone; anything else that is raised comes out.

    One task runs right here, so that its checks can be interrupted and find the thread that they know.
    """
    if len(tasks) == 1:
        return [failure for task in tasks if (failure := _outcome(task, work)) is not None]
    given_up = threading.Event()
    outcomes: queue.SimpleQueue[tuple[int, UpdateRejectedError | BaseException | None]] = queue.SimpleQueue()

    def run(number: int, task: _Task) -> None:
        container, checks = task
        try:
            outcomes.put((number, _outcome((_until(container, given_up), checks), work)))
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
        # Whoever still waits ends at its next sleep; a call that hangs ends with the program.
        given_up.set()
    return [rejected[number] for number in sorted(rejected)]


def _outcome(task: _Task, work: Callable[[CheckedContainer, Sequence[Check]], None]) -> UpdateRejectedError | None:
    try:
        work(*task)
    except UpdateRejectedError as error:
        return error
    return None


def _until(container: CheckedContainer, given_up: threading.Event) -> CheckedContainer:
    """Return the same container, whose sleep ends the thread once the verdict has been given."""

    def sleep(seconds: float) -> None:
        container.sleep(seconds)
        if given_up.is_set():
            raise SystemExit  # no handler of errors holds it up

    return container.hurried(clock=container.clock, sleep=sleep)
