"""Describes how a rollback block ended, for people and for programs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Final, TypeAlias

from attrs import define, field, frozen
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
"""The version of the JSON format: increased when a key is removed or changes its meaning, not when one is added."""

_CONVERTER = make_converter()


class Status(Enum):
    """The state of a rollback; it changes after the fact, never before."""

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
    """A volume or a host folder in a backup.

    Attributes:
        name: the name of the volume or the path of the folder.
        way: the access method.
        size: the size of its data as tar, in bytes.
        stored: the size in the store, in bytes, including data shared with other backups.
    """

    name: str
    way: Way
    size: int
    stored: int


@frozen
class BackedUp:
    """The backup of a block, in short.

    Attributes:
        id: the backup's id.
        store: the path of its store.
        created: the time of the capture, in UTC.
        durable: True if the store alone is enough to restore it.
        project: the name of the compose project; None if single containers were backed up.
        containers: the names of the containers, in start order.
        volumes: the volumes and host folders.
        networks: the names of the networks.
        not_covered: the parts that the backup does not contain.
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
    """An error as text; values of environment variables are replaced by the names of the variables.

    Attributes:
        type: the name of the error's class.
        text: its message.
        step: the step in which it was raised; None if that was before the first step.
    """

    type: str
    text: str
    step: StepName | None

    def __str__(self) -> str:
        step = f" in step {self.step!r}" if self.step is not None else ""
        return f"{self.type}{step}: {self.text}"


@frozen
class RejectedCheck:
    """A failed check, with the fields of its `UpdateRejectedError`."""

    container: str
    reason: str
    state: str | None
    exit_code: int | None
    probe: str | None
    log: tuple[str, ...]


@frozen
class Outcome:
    """The result of a `rollback` block.

    Attributes:
        status: "committed", "rolled back" or "failed"; "unchanged" if the container already ran the image that
            `replace` was given; "rolling back" if a second signal interrupted the rollback.
        entered: True if the block was entered. If not, a failed status means that there was no update; every container
            is in its previous state unless `to_do` says otherwise.
        containers: the names of the containers; as the caller gave them if entering failed before they were found.
        begun: when entering began, in UTC.
        ended: when the last step ended, in UTC.
        steps: the duration of each step, in order.
        downtime: the downtime of each container by name; a container that was never down is not listed.
        backup: the backup; None if none was taken.
        reason: why the update was rolled back or entering failed; None if the update stands.
        rejected: the checks that failed.
        rolled_back: the restored containers, volumes, networks and files, in words; empty unless everything was
            restored.
        files: a sentence for each file of `include_files` that was written back, with the place of the content that it
            had, or that could not be written.
        names: the image names that point to their captured images again. The image of the failed update, which lost
            its name, stays in the engine.
        not_exact: the inexact results of the rollback, one sentence each.
        lost: the loss window: seconds from the capture to the rollback. Data written in it is discarded.
        failures: why the rollback failed.
        kept: the id of the backup of the failed update's state, with ``keep_failed=True``.
        problems: errors that did not change the outcome: of a hook, of keeping the failed state, of tidying up.
        to_do: the tasks left to the user, one sentence each.
        recovered: unfinished earlier operations on these containers, which entering finished.
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
    files: tuple[str, ...] = ()
    lost: float | None = None
    failures: tuple[Trouble, ...] = ()
    kept: str | None = None
    problems: tuple[Trouble, ...] = ()
    to_do: tuple[str, ...] = ()
    recovered: tuple[Recovered, ...] = ()

    def to_json(self) -> str:
        """Return the outcome as a JSON object on one line.

        Its keys are the attributes, recursively, and ``format``: the number 1, until a key is removed or changes its
        meaning. Points in time are ISO 8601 in UTC, durations are seconds.

        Example:
            >>> json.loads(tx.outcome.to_json())["status"]
            'committed'
        """
        return str(_CONVERTER.dumps({"format": FORMAT, **_CONVERTER.unstructure(self)}))

    def __repr__(self) -> str:
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
        yield from (("files", sentence) for sentence in self.files)
        yield from (("failure", str(failure)) for failure in self.failures)
        yield from (("problem", str(problem)) for problem in self.problems)
        for earlier in self.recovered:
            yield "recovered", f"operation {earlier.operation} on {', '.join(earlier.containers)}: {earlier.outcome}"
            yield from (("recovered", sentence) for sentence in earlier.files)
        yield from (("to do", sentence) for sentence in self.to_do)


OutcomeListener: TypeAlias = Callable[[Outcome], Any]
"""Receives the outcome of a block once it is final; the return value is ignored."""


def notify(listener: OutcomeListener | None, outcome: Outcome, *, leaving: BaseException | None) -> None:
    """Call the listener; its errors change neither the outcome nor the exception that leaves the block."""
    if listener is None:
        return
    try:
        listener(outcome)
    except Exception:
        logger.exception("on_outcome raised; the outcome stands")
    except BaseException:
        if leaving is None or isinstance(leaving, RollbackRequested):
            raise
        logger.exception("on_outcome was interrupted; the outcome stands")


def add_note(error: BaseException, words: str) -> None:
    """Add a note to an exception; log the note if a foreign exception class refuses it."""
    try:
        error.add_note(words)
    except Exception:
        logger.exception("%s", words)


@define(eq=False)
class OutcomeBuilder:
    """Collects the facts of an outcome while the operation runs."""

    _containers: Sequence[str]  # by the names that the caller gave, until `found`
    _store: str = field(kw_only=True)
    _reporter: Reporter = field(kw_only=True)
    _clock: Callable[[], datetime] = field(kw_only=True)
    _environment: list[str] = field(factory=list, init=False)
    _begun: datetime | None = field(default=None, init=False)
    _reason: Trouble | None = field(default=None, init=False)
    _rejected: tuple[RejectedCheck, ...] = field(default=(), init=False)
    _failures: tuple[Trouble, ...] = field(default=(), init=False)
    _problems: list[Trouble] = field(factory=list, init=False)
    _to_do: list[str] = field(factory=list, init=False)
    _recovered: tuple[Recovered, ...] = field(default=(), init=False)
    _names: list[LedBack] = field(factory=list, init=False)
    _not_exact: list[str] = field(factory=list, init=False)
    entered: bool = field(default=False, init=False)
    lost: float | None = field(default=None, init=False)
    kept: str | None = field(default=None, init=False)
    files: tuple[str, ...] = field(default=(), init=False)

    @property
    def _recover(self) -> str:
        return f"docker_rollback.recover(store={self._store!r})"

    def begin(self) -> None:
        """Record the start of the operation, the first time."""
        self._begun = self._begun or self._clock()

    def found(self, containers: Sequence[Observed], recovered: tuple[Recovered, ...]) -> None:
        """Record the containers of the operation, and the earlier operations that were finished."""
        self._recovered = recovered
        self._containers = tuple(container.name for container in containers)
        self._environment += [str(entry) for one in containers for entry in one.inspection["Config"].get("Env") or ()]

    def because(self, error: BaseException) -> None:
        """Record why entering failed, or why the update is rolled back."""
        self._reason = self._trouble(error, self._reporter.current)
        if isinstance(error, UpdateRejectedError):
            self._rejected = (
                RejectedCheck(
                    error.container, error.reason, error.state, error.exit_code, error.probe, tuple(error.log)
                ),
            )
        if isinstance(error, ResumeError):
            self._to_do.append(f"{', '.join(map(repr, error.containers))} could not be started again: start by hand")
        notes = getattr(error, "__notes__", ())
        if isinstance(error, UnfinishedRollbackError) or any(self._recover in str(note) for note in notes):
            self._to_do.append(f"something is left over: call {self._recover}")

    def failed(self, failures: Sequence[BaseException], backup: str) -> None:
        """Record that the rollback failed."""
        self._failures = tuple(self._trouble(failure, self._reporter.current) for failure in failures)
        restore = f", or docker_rollback.restore({backup!r}, store={self._store!r})"
        if all(isinstance(failure, RestoreError) and failure.restored for failure in failures):
            restore = ""
        self._to_do.append(f"the rollback failed: fix the cause, then call {self._recover}{restore}")

    def files_failed(self, failures: Sequence[BaseException]) -> None:
        """Record that everything was restored but files."""
        self._failures = tuple(self._trouble(failure, self._reporter.current) for failure in failures)
        self._to_do.append("files could not be written back: copy them from where the failures say")

    def restored(self, fact: LedBack | str) -> None:
        """Record an image name that was restored, or a sentence about an inexact result."""
        if isinstance(fact, LedBack):
            self._names.append(fact)
        elif fact not in self._not_exact:
            self._not_exact.append(fact)

    def interrupted(self) -> None:
        """Record that the rollback was interrupted."""
        self._to_do.append(f"the rollback was interrupted: call {self._recover}")

    def problem(self, error: BaseException, *, left_over: bool = False) -> None:
        """Record an error that does not change the outcome; `left_over` if it left an object in engine or store."""
        step = error.hook if isinstance(error, HookError) else self._reporter.current
        self._problems.append(self._trouble(error, step))
        if left_over:
            self._to_do.append(f"something is left over; the next rollback removes it, or call {self._recover}")

    def outcome(self, status: Status, backup: Backup | None) -> Outcome:
        """End the last step and return the outcome."""
        self._reporter.end()
        ended = self._clock()
        return Outcome(
            status=status,
            entered=self.entered,
            containers=tuple(self._containers),
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
            files=self.files,
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
            # The __str__ of a foreign exception may raise.
            text = "(no message)"
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
                stored=sum(volume.stored),
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
    yield from (f"file {file.path!r}" for file in backup.files)
