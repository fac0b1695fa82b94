"""What became of a block, told once and as a whole, to people and to programs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Final, TypeAlias

from attrs import field, frozen
from cattrs.preconf.json import make_converter

from docker_rollback._inspection import called, hide
from docker_rollback._model import Backup, LedBack, NotCovered, Observed, Recovered, Way
from docker_rollback._reporting import Downtime, Reporter, StepName, StepTime
from docker_rollback.errors import (
    HookError,
    RestoreError,
    ResumeError,
    RollbackRequested,
    UnfinishedRollbackError,
    UpdateRejectedError,
)

logger = logging.getLogger("docker_rollback")

FORMAT: Final = 1
"""The format of the JSON; it grows when a key goes or changes its meaning, not when one is added."""

_CONVERTER = make_converter()


class Status(Enum):
    """How far a rollback has come; set after the fact, never before."""

    NOT_STARTED = "not started"
    CAPTURING = "capturing"
    UPDATING = "updating"
    COMMITTED = "committed"
    UNCHANGED = "unchanged"
    ROLLING_BACK = "rolling back"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"


@frozen
class ArchivedVolume:
    """A volume, or a folder by its path, in a backup.

    Attributes:
        name: its name.
        way: how its data was reached.
        size: bytes of its data, as tar.
        stored: bytes that they take in the store, what it shares with other backups included.
    """

    name: str
    way: Way
    size: int
    stored: int


@frozen
class BackedUp:
    """What was backed up.

    Attributes:
        id: the backup's id.
        store: the path of the store that has it.
        created: the moment of the capture, in UTC.
        durable: whether the store alone is enough to restore it.
        project: the compose project that it is of; None where it is of containers alone.
        containers: the names of its containers, in the order in which they start.
        volumes: its volumes and folders.
        networks: the names of its networks.
        not_covered: what it does not hold.
    """

    id: str
    store: str
    created: datetime
    durable: bool
    project: str | None
    containers: tuple[str, ...]
    volumes: tuple[ArchivedVolume, ...]
    networks: tuple[str, ...]
    not_covered: tuple[NotCovered, ...]


@frozen
class Trouble:
    """An error, as text. Values of the containers' environments are replaced by the names of their variables.

    Attributes:
        type: the name of its class.
        text: what it says.
        step: what was being done; None where that was before the first step.
    """

    type: str
    text: str
    step: StepName | None

    def __str__(self) -> str:
        """Return the type, the step and the text."""
        step = f" in step {self.step!r}" if self.step is not None else ""
        return f"{self.type}{step}: {self.text}"


@frozen
class RejectedCheck:
    """A check that did not pass, with the fields of its `UpdateRejectedError`."""

    container: str
    reason: str
    state: str | None
    exit_code: int | None
    probe: str | None
    log: tuple[str, ...]


@frozen
class Outcome:
    """What became of a block of `rollback`.

    Attributes:
        status: "committed", "rolled back", "failed"; "unchanged" if `replace` found that the container runs the wanted
            image already; "rolling back" where a second signal broke the rollback off.
        entered: whether the block was entered. Where it was not, "failed" means that there was no update, and every
            container does what it did unless `to_do` says otherwise.
        containers: the names of the containers; as they were given, where entering failed before they were found.
        begun: when the block was to be entered, in UTC.
        ended: when all was over.
        steps: how long each step took, in order.
        downtime: how long each container was down, by its name; those that never were are left out.
        backup: what was backed up; None where nothing was.
        reason: why the update was rolled back, or why entering failed; None where it stands.
        rejected: the checks that the update failed.
        rolled_back: what is as it was at its capture again, in words; empty unless everything is.
        names: the names of images that were led back to the images that they led to at the capture. The image that
            lost such a name, that of the failed update, stays in the engine.
        not_exact: what is not exactly as it was, a sentence each.
        lost: the loss window: seconds from the capture to the rollback; what was written in them is discarded.
        failures: why the rollback failed.
        kept: the id of the backup of the failed update's state, with ``keep_failed=True``.
        problems: what went wrong and changed nothing about the outcome: a hook, keeping that state, tidying up.
        to_do: what is left for somebody to do, a sentence each.
        recovered: what earlier operations on these containers had left undone, and entering has finished.
    """

    status: Status
    entered: bool
    containers: tuple[str, ...]
    begun: datetime
    ended: datetime
    steps: tuple[StepTime, ...] = ()
    downtime: Mapping[str, Downtime] = field(factory=dict)
    backup: BackedUp | None = None
    reason: Trouble | None = None
    rejected: tuple[RejectedCheck, ...] = ()
    rolled_back: tuple[str, ...] = ()
    names: tuple[LedBack, ...] = ()
    not_exact: tuple[str, ...] = ()
    lost: float | None = None
    failures: tuple[Trouble, ...] = ()
    kept: str | None = None
    problems: tuple[Trouble, ...] = ()
    to_do: tuple[str, ...] = ()
    recovered: tuple[Recovered, ...] = ()

    def to_json(self) -> str:
        """Return it as a JSON object, on one line.

        Its keys are the attributes, all the way down, and ``format``: the number 1, until a key goes or changes its
        meaning. Moments are texts in ISO 8601, in UTC, and times are seconds.

        Example:
            >>> json.loads(tx.outcome.to_json())["status"]
            'committed'
        """
        return str(_CONVERTER.dumps({"format": FORMAT, **_CONVERTER.unstructure(self)}))

    def __repr__(self) -> str:
        """Return the containers, the status and the time that it took, on one line."""
        return f"<Outcome of {self._headline}>"

    def __str__(self) -> str:
        """Return a summary for a deployment's log: one line, then one indented line for each fact worth knowing.

        Example:
            >>> print(tx.outcome)
            web: rolled back after 14.2 s
              reason: UpdateRejectedError in step 'verify': container 'web': it ended with exit code 1
              backup: 20260102T030405Z-web-a1b2c3 in /var/backups
              downtime: web 1.3 s (capture), 0.4 s (update), 2.1 s (rollback)
              restored: container 'web', volume 'web-data'
              discarded: what was written in the 9.8 s since the backup
        """
        lines = [self._headline]
        for topic, text in self._facts():
            first, *more = text.splitlines() or [""]
            lines += [f"  {topic}: {first}", *(f"    {line}" for line in more)]
        return "\n".join(lines)

    @property
    def _headline(self) -> str:
        seconds = (self.ended - self.begun).total_seconds()
        return f"{', '.join(self.containers)}: {self.status.value} after {seconds:.1f} s"

    def _facts(self) -> Iterator[tuple[str, str]]:
        if self.reason is not None:
            yield "reason", str(self.reason)
        if self.backup is not None:
            yield "backup", f"{self.backup.id} in {self.backup.store}"
        for name, downtime in self.downtime.items():
            yield "downtime", f"{name} {downtime}"
        if self.rolled_back:
            yield "restored", ", ".join(self.rolled_back)
        if self.lost is not None:
            yield "discarded", f"what was written in the {self.lost:.1f} s since the backup"
        if self.kept is not None:
            yield "failed state", f"kept as backup {self.kept}"
        for led_back in self.names:
            yield "image name", f"{led_back.name} restored to {led_back.image}"
        yield from (("not exact", sentence) for sentence in self.not_exact)
        yield from (("failure", str(failure)) for failure in self.failures)
        yield from (("problem", str(problem)) for problem in self.problems)
        for earlier in self.recovered:
            yield "recovered", f"operation {earlier.operation} on {', '.join(earlier.containers)}: {earlier.outcome}"
        yield from (("to do", sentence) for sentence in self.to_do)


OutcomeListener: TypeAlias = Callable[[Outcome], Any]
"""Told the outcome of a block once it stands. What it returns is not looked at."""


def tell(listener: OutcomeListener | None, outcome: Outcome, *, leaving: BaseException | None) -> None:
    """Tell the outcome of a block. What happens here changes neither it nor the exception that leaves it."""
    if listener is None:
        return
    try:
        listener(outcome)
    except Exception:
        logger.exception("what was to be told the outcome raised; the outcome stands")
    except BaseException:
        if leaving is None or isinstance(leaving, RollbackRequested):
            raise
        logger.exception("what was to be told the outcome was interrupted; the outcome stands")


def note_on(error: BaseException, words: str) -> None:
    """Add a note to an exception that is not ours; one that refuses notes comes out all the same."""
    try:
        error.add_note(words)
    except Exception:
        logger.exception("%s", words)


class Account:
    """Gathers what an outcome tells, while it comes about.

    Args:
        containers: what the caller named.
        store: the path of the store.
        reporter: measures the steps.
        clock: the time, in UTC.
    """

    def __init__(
        self, containers: Sequence[str], *, store: str, reporter: Reporter, clock: Callable[[], datetime]
    ) -> None:
        self._containers = tuple(containers)
        self._environment: list[str] = []
        self._reporter = reporter
        self._clock = clock
        self._begun: datetime | None = None
        self._reason: Trouble | None = None
        self._rejected: tuple[RejectedCheck, ...] = ()
        self._failures: tuple[Trouble, ...] = ()
        self._problems: list[Trouble] = []
        self._to_do: list[str] = []
        self._recover = f"docker_rollback.recover(store={store!r})"
        self._store = store
        self.entered = False
        self.lost: float | None = None
        self.kept: str | None = None
        self._recovered: tuple[Recovered, ...] = ()
        self._names: list[LedBack] = []
        self._not_exact: list[str] = []

    def begin(self) -> None:
        """Note that the operation begins now; harmless if that was noted."""
        self._begun = self._begun or self._clock()

    def found(self, containers: Sequence[Observed], recovered: tuple[Recovered, ...]) -> None:
        """Note which containers the operation is on, and what was finished of earlier ones."""
        self._recovered = recovered
        self._containers = tuple(container.name for container in containers)
        self._environment += [str(entry) for one in containers for entry in one.inspection["Config"].get("Env") or ()]

    def because(self, error: BaseException) -> None:
        """Note why there is no update, or no longer."""
        self._reason = self._trouble(error, self._reporter.current)
        if isinstance(error, UpdateRejectedError):
            self._rejected = (
                RejectedCheck(
                    error.container, error.reason, error.state, error.exit_code, error.probe, tuple(error.log)
                ),
            )
        if isinstance(error, ResumeError):
            self._to_do.append(f"{', '.join(map(repr, error.containers))} could not be set going again: start by hand")
        notes = getattr(error, "__notes__", ())
        if isinstance(error, UnfinishedRollbackError) or any(self._recover in str(note) for note in notes):
            self._to_do.append(f"something is left over: call {self._recover}")

    def failed(self, failures: Sequence[BaseException], backup: str) -> None:
        """Note that the rollback failed."""
        self._failures = tuple(self._trouble(failure, self._reporter.current) for failure in failures)
        restore = f", or docker_rollback.restore({backup!r}, store={self._store!r})"
        if all(isinstance(failure, RestoreError) and failure.restored for failure in failures):
            restore = ""
        self._to_do.append(f"the rollback failed: mend the cause, then call {self._recover}{restore}")

    def note(self, told: LedBack | str) -> None:
        """Note an image's name that was led back, or in a sentence what could not be put back exactly."""
        if isinstance(told, LedBack):
            self._names.append(told)
        elif told not in self._not_exact:
            self._not_exact.append(told)

    def interrupted(self) -> None:
        """Note that the rollback was broken off."""
        self._to_do.append(f"the rollback was broken off: call {self._recover}")

    def problem(self, error: BaseException, *, left_over: bool = False) -> None:
        """Note what went wrong and changes nothing, and whether something is left over in the engine or the store."""
        step = error.hook if isinstance(error, HookError) else self._reporter.current
        self._problems.append(self._trouble(error, step))
        if left_over:
            self._to_do.append(f"something is left over, which the next rollback removes, or {self._recover}")

    def outcome(self, status: Status, backup: Backup | None) -> Outcome:
        """Return what there is to tell."""
        self._reporter.end()
        ended = self._clock()
        return Outcome(
            status=status,
            entered=self.entered,
            containers=self._containers,
            begun=self._begun or ended,
            ended=ended,
            steps=self._reporter.steps,
            downtime=self._reporter.downtime,
            backup=None if backup is None else _backed_up(backup, self._store),
            reason=self._reason,
            rejected=self._rejected,
            rolled_back=tuple(_things(backup)) if backup is not None and status is Status.ROLLED_BACK else (),
            names=tuple(self._names),
            not_exact=tuple(self._not_exact),
            lost=self.lost,
            failures=self._failures,
            kept=self.kept,
            problems=tuple(self._problems),
            to_do=tuple(self._to_do),
            recovered=self._recovered,
        )

    def _trouble(self, error: BaseException, step: StepName | None) -> Trouble:
        try:
            text = str(error)
        except Exception:
            # It is not ours, and need not be good at telling what it is.
            text = "(it does not say)"
        return Trouble(type(error).__name__, hide(text, self._environment), step)


def _backed_up(backup: Backup, store: str) -> BackedUp:
    return BackedUp(
        id=backup.id,
        store=store,
        created=backup.created,
        durable=backup.durable,
        project=backup.project.name if backup.project is not None else None,
        containers=tuple(container.name for container in backup.containers),
        volumes=tuple(
            ArchivedVolume(
                name=volume.name,
                way=volume.way,
                size=volume.size,
                stored=volume.base.size + (volume.increment.size if volume.increment is not None else 0),
            )
            for volume in backup.volumes
        ),
        networks=tuple(network.name for network in backup.networks),
        not_covered=backup.not_covered,
    )


def _things(backup: Backup) -> Iterator[str]:
    yield from (f"container {container.name!r}" for container in backup.containers)
    yield from (f"network {network.name!r}" for network in backup.networks)
    yield from (called(volume.name) for volume in backup.volumes)
