"""One update, made transactional: capture, block, verdict, and back where that is needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from types import TracebackType
from typing import Self, Unpack

from attrs import evolve

from docker_rollback._arguments import ContainerArgument, flag, function, reference_of, seconds
from docker_rollback._capture import Capture, CaptureOptions, Hooks, Preflight
from docker_rollback._containers import now
from docker_rollback._engine import Engine
from docker_rollback._inspection import ChangeArguments, Changes, Report, observe, refers
from docker_rollback._model import Backup, Recovered
from docker_rollback._recovery import Operation, Recovery
from docker_rollback._reporting import Reporter
from docker_rollback._rollback.checked_container import Check
from docker_rollback._rollback.checks import stays_up
from docker_rollback._rollback.outcome import Account, Outcome, OutcomeListener, Status, note_on, tell
from docker_rollback._rollback.replace import Replacer
from docker_rollback._rollback.signals import Signals
from docker_rollback._rollback.update_image import Pull, UpdateImage
from docker_rollback._rollback.verdict import Verdict
from docker_rollback._store import BackupStore, Keep, KeepArgument
from docker_rollback.errors import RestoreError, RollbackFailedError, RollbackRequested

logger = logging.getLogger("docker_rollback")


class Rollback:
    """Backs containers up when its block is entered, and puts them back when the block raises or a check rejects it.

    Inert until entered, and good for one block. `rollback` builds one from plain arguments; take this class to pass
    parts of your own.

    Args:
        containers: names or ids; none where a project is given.
        engine: where they are.
        store: where the backup goes.
        preflight: what looks for everything that can be wrong beforehand.
        capture: what takes the backup, and prunes old ones.
        recovery: what notes how far this has come, puts the backup back, and finishes what an earlier one left undone.
        options: how the containers are captured.
        verify: the checks that the update has to pass.
        watch: for how many seconds the update is on probation after its checks; None for not at all.
        keep: which backups of these containers stay in the store when the block ends: so many, those no older than a
            `timedelta`, or both by `Keep`; None keeps all.
        keep_failed: whether the state of an update that failed is kept as a backup of its own before it is undone.
        project: a compose project all of whose containers, networks and volumes are meant as well.
        restore_tags: whether a rollback points the names of images back to the images that they named at the capture.
        on_outcome: is told the `Outcome` of the block once it stands, also where entering failed.
        reporter: is told what `replace` does, and measures the steps; the other parts had better have the same one.
        clock: the time, in UTC.
        monotonic: the time that checks measure by, in seconds.
        sleep: how checks wait, in seconds.

    Attributes:
        status: how far it has come.
        recovered: what earlier operations on these containers had left undone, and entering has finished.

    Example:
        >>> with Rollback(["web"], engine=engine, store=store, preflight=preflight, capture=capture, recovery=recovery):
        ...     update()
    """

    def __init__(
        self,
        containers: Sequence[str],
        *,
        engine: Engine,
        store: BackupStore,
        preflight: Preflight,
        capture: Capture,
        recovery: Recovery,
        options: CaptureOptions = CaptureOptions(),  # noqa: B008  (a frozen value)
        verify: Sequence[Check] = (),
        watch: float | None = None,
        keep: KeepArgument = 3,
        keep_failed: bool = False,
        project: str | None = None,
        restore_tags: bool = True,
        on_outcome: OutcomeListener | None = None,
        reporter: Reporter | None = None,
        clock: Callable[[], datetime] = now,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not containers and project is None:
            raise ValueError("rollback needs at least one container, or a compose project")
        flag("keep_failed", keep_failed)
        function("on_outcome", on_outcome, optional=True)
        seconds("watch", watch, above=True, optional=True)
        self._containers = tuple(containers)
        self._project = project
        self._engine = engine
        self._store = store
        self._preflight = preflight
        self._capture = capture
        self._recovery = recovery
        self._verdict = Verdict(engine, verify, clock=monotonic, sleep=sleep)
        self._watch = watch
        self._keep = Keep.of(keep)
        self._keep_failed = keep_failed
        self._hooks = options.hooks or Hooks(engine)
        self._options = evolve(options, hooks=self._hooks)
        self._restore_tags = restore_tags
        self._on_outcome = on_outcome
        self._reporter = reporter or Reporter()
        self._replacer: Replacer | None = None
        self._clock = clock
        self._account = Account(containers, store=str(store.path), reporter=self._reporter, clock=clock)
        self._outcome: Outcome | None = None
        self._held = ExitStack()
        self._signals = Signals()
        self.status: Status = Status.NOT_STARTED
        self.recovered: tuple[Recovered, ...] = ()
        self._operation: Operation | None = None
        self._backup: Backup | None = None

    def __repr__(self) -> str:
        """Return the containers or the project, the status and the backup's id, on one line."""
        project = () if self._project is None else (f"project {self._project!r}",)
        backup = "" if self._backup is None else f", backup {self._backup.id}"
        return f"<Rollback of {', '.join((*project, *map(repr, self._containers)))}: {self.status.value}{backup}>"

    @property
    def backup(self) -> Backup:
        """The backup that was taken; raises `RuntimeError` before."""
        if self._backup is None:
            raise RuntimeError("no backup has been taken: this Rollback has not been entered")
        return self._backup

    @property
    def _names(self) -> str:
        return ", ".join(container.name for container in self.backup.containers)

    @property
    def outcome(self) -> Outcome:
        """What became of the block, as `on_outcome` is told it; raises `RuntimeError` before that stands."""
        if self._outcome is None:
            raise RuntimeError(f"there is no outcome yet: this Rollback is {self.status.value}")
        return self._outcome

    def check(self) -> Report:
        """Return what entering would back up, what it would refuse and how much room it needs; touches nothing.

        Raises:
            ContainerNotFoundError, ProjectNotFoundError: one of the containers, or the project, is not there.
            EngineError: the engine does not answer.
            StoreError: the store cannot be written.
        """
        return self._preflight.run(self._containers, project=self._project, looks=True)

    def __enter__(self) -> Self:
        """Take the backup; what an earlier rollback of these containers left undone is finished before.

        Raises:
            UnfinishedRollbackError: an earlier one was cut off, and something was started or changed since.
            ContainerNotFoundError, ProjectNotFoundError: one of the containers, or the project, is not there.
            UnsupportedContainerError: one of them could not be put back exactly.
            ContainerBusyError: somebody else is at work on one of them.
            HookError: a hook before the capture failed.
            DowntimeExceededError: the containers had been at rest for `max_downtime`.
            StoreError, EngineError, VolumeError, CaptureError: the backup could not be taken; every container does
                what it did.
        """
        self._begin()
        self.status = Status.CAPTURING
        with self._entering():
            self._held.enter_context(self._signals)
            with self._reporter.during("preflight"):
                report, recovered = self._held.enter_context(
                    self._recovery.holding(self._containers, project=self._project)
                )
                self.recovered += recovered
                self._account.found(report.containers, self.recovered)
                self._verdict.begin(report.containers, report.project)
            self._operation, self._backup = self._recovery.begin(report, self._options, restore_tags=self._restore_tags)
        self.status = Status.UPDATING
        self._account.entered = True
        self._reporter.begin("update")
        return self

    def _begin(self) -> None:
        if self.status is not Status.NOT_STARTED:
            raise RuntimeError(f"a Rollback is good for one block, and this one is {self.status.value}")
        self._account.begin()

    @contextmanager
    def _entering(self) -> Iterator[None]:
        """Have an error be the end of it, with an outcome."""
        try:
            yield
        except BaseException as error:
            self.status = Status.FAILED
            self._account.because(error)
            self._held.close()
            self._conclude(error)
            raise

    def update(
        self,
        container: ContainerArgument,
        image: str | None = None,
        *,
        pull: Pull = "missing",
        platform: str | None = None,
        **changes: Unpack[ChangeArguments],
    ) -> Outcome:
        """Do the whole update, with `replace` as the block; the function `docker_rollback.replace` says more.

        The image is found or fetched, and its platform checked, before the backup is taken. If the container runs that
        very image and nothing else differs, nothing is done, and the status is `Status.UNCHANGED`.

        Raises:
            RuntimeError: this has been entered.
            ImageNotFoundError, ImagePlatformError, ValueError: nothing was touched.
            DockerRollbackError: as `__enter__`, `replace` and `__exit__` have them.
        """
        self._begin()
        reference, wanted, differ = reference_of(container), UpdateImage(image, pull, platform), Changes(**changes)
        with self._entering(), self._reporter.during("preflight"):
            # What a death has left half replaced may be gone until this is finished.
            self.recovered = self._recovery.finish_earlier([*self._containers, reference], project=self._project)
            old = observe(self._engine.inspect_container(reference))
            if self._project is None and not any(refers(one, old.name, old.id) for one in self._containers):
                raise ValueError(f"container {old.name!r} is not part of this rollback")
            self._account.found([old], self.recovered)
            found = wanted.find_ahead(self._engine, self._store, old, differ, reporter=self._reporter)
        if found is None:
            self.status = Status.UNCHANGED
            self._conclude(None)
            return self.outcome
        with self:
            self._replace(reference, found, differ)
        return self.outcome

    def replace(
        self,
        container: ContainerArgument,
        image: str | None = None,
        *,
        pull: Pull = "missing",
        platform: str | None = None,
        **changes: Unpack[ChangeArguments],
    ) -> str:
        """Do the update inside the block: replace a container by one of another image, and return the new one's id.

        The new one has the user's configuration on the new image's defaults, the same networks with their addresses and
        aliases, and the same volumes, anonymous ones included. What can fail without touching the service comes first:
        the image is found or fetched, its platform checked, the new container made. Then the old one is stopped and
        stays aside: a rollback puts that very container back, and it is removed when the block has ended well.
        Containers in its network or other namespaces, on its volumes or behind its links come along.

        Args:
            container: its name, its id, or an object with one; part of this rollback.
            image: what the new one is made from; by default what the old one was made from, by that name. It has to be
                given where an earlier rollback created the container by the id of its image (`outcome.not_exact`), and
                the store has no backup any more that knows the name.
            pull: when the image is fetched from its registry: where it is "missing", "always" or "never".
            platform: which of several platforms of the image ("linux/arm64"); by default as the engine chooses.
            changes: what else differs: `environment`, `labels` (None takes one away), `command`, `entrypoint`, `user`,
                `working_dir`, `healthcheck`, and raw fields of the API in `config` and `host_config`.

        Raises:
            RuntimeError: the block is not entered.
            ValueError: the container is not part of this rollback, or `image` is not given and cannot be known.
            ContainerNotFoundError, ImageNotFoundError, ImagePlatformError, UnsupportedContainerError: the service runs
                as before.
            EngineError, UpdateRejectedError: a step failed.

        Example:
            >>> with rollback("web") as tx:
            ...     tx.replace("web", image="web:2", environment={"MODE": "new"})
        """
        if self.status is not Status.UPDATING:
            raise RuntimeError(f"a container is replaced inside the block, and this Rollback is {self.status.value}")
        return self._replace(reference_of(container), UpdateImage(image, pull, platform), Changes(**changes))

    def _replace(self, reference: str, image: UpdateImage, changes: Changes) -> str:
        if self._replacer is None:
            self._replacer = Replacer(self._engine, self.backup, reporter=self._reporter)
        return self._replacer.replace(reference, image, changes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Check the update, and put everything back where it failed.

        Raises:
            UpdateRejectedError: a check did not pass; everything was put back.
            StoreError: that the update stands could not be noted, so that a death could still undo it; everything was
                put back.
            RollbackFailedError: the update failed, and so did putting things back.
        """
        leaving = error
        try:
            return self._leave(error)
        except BaseException as raised:
            leaving = raised
            raise
        finally:
            self._conclude(leaving)

    def _leave(self, error: BaseException | None) -> bool:
        with self._held:
            if error is not None:
                self._roll_back(error)
                self._signals.deliver(error)
                return isinstance(error, RollbackRequested)
            try:
                self._reporter.begin("verify")
                self._reporter.announce("verify", self._names)
                if self._replacer is not None:
                    self._replacer.check()
                self._verdict.judge()
                self._watch_it()
                with self._signals.deferring("the commit"):
                    self._commit()
            except BaseException as rejection:
                if self.status is not Status.COMMITTED:
                    self._roll_back(rejection)
                self._signals.deliver(rejection)
                raise
            self._signals.deliver(None)
            return False

    def _watch_it(self) -> None:
        """Have the update on probation; until that is over, it is not committed."""
        if self._watch is not None:
            self._reporter.begin("watch")
            self._reporter.announce("watch", self._names)
            logger.info("%s: on probation for %g s", self._names, self._watch)
            self._verdict.judge([stays_up(self._watch)])

    def _commit(self) -> None:
        if self._operation is not None:
            self._operation.commit()
        self.status = Status.COMMITTED
        self._finish()

    def _roll_back(self, error: BaseException) -> None:
        """Put everything back because of `error`, and say so in a note on it."""
        backup, operation = self.backup, self._operation
        if operation is None:
            raise RuntimeError("nothing has been begun: this Rollback has not been entered")
        self.status = Status.ROLLING_BACK
        self._account.because(error)
        names = [container.name for container in backup.containers]
        self._account.lost = lost = (self._clock() - backup.created).total_seconds()
        logger.info("rolling back %s: %s", ", ".join(names), type(error).__name__)
        try:
            with self._signals.deferring("the rollback"):
                self._reporter.begin("keep" if self._keep_failed else "restore")
                self._recovery.put_back(operation, backup, first=lambda: self._keep_what_failed(operation, error))
                self._reporter.begin("verify again")
                self._reporter.announce("verify again", self._names)
                self._verdict.judge_again()
                self._recovery.ensure_running(backup)
                self.status = Status.ROLLED_BACK
                self._hooks.after_rollback()
                self._finish()
        except Exception as failure:
            self.status = Status.FAILED
            failures = (isinstance(failure, RestoreError) and failure.failures) or (failure,)
            self._account.failed(failures, backup.id)
            raise RollbackFailedError(backup.id, names, failures, store=str(self._store.path)) from error
        except BaseException as interruption:
            self._account.interrupted()
            note_on(
                interruption,
                f"docker-rollback: the rollback of {', '.join(names)} was interrupted; finish it by "
                f"docker_rollback.recover(store={str(self._store.path)!r})",
            )
            raise
        note_on(
            error,
            f"docker-rollback: {', '.join(names)} rolled back to backup {backup.id}; "
            f"what was written in the {lost:.1f} s since then is discarded",
        )

    def _keep_what_failed(self, operation: Operation, error: BaseException) -> None:
        """Keep the state of the failed update, if that is wanted; where it cannot be, the rollback goes on without."""
        if self._keep_failed:
            try:
                with self._reporter.during("keep"):
                    self._account.kept = self._recovery.keep_failed(operation)
            except Exception as failure:
                self._account.problem(failure)
                logger.warning("the state of the failed update could not be kept: %s", failure)
                note_on(error, f"docker-rollback: the state of the failed update could not be kept: {failure}")
            else:
                note_on(
                    error, f"docker-rollback: the state of the failed update is kept as backup {self._account.kept}"
                )
        self._reporter.begin("restore")

    def _finish(self) -> None:
        """Tidy up; the outcome stands whatever happens here, and what is left over is for `recover`."""
        if self._operation is None:
            return
        self._reporter.begin("finish")
        try:
            self._recovery.settle(self._operation, self.backup, rolled_back=self.status is Status.ROLLED_BACK)
            if self._keep:
                self._capture.prune(self.backup, keep=self._keep)
        except RestoreError:
            # Rolled back means running.
            raise
        except Exception as error:
            self._account.problem(error, left_over=True)
            logger.exception("backup %s: tidying up failed; the outcome stands", self.backup.id)

    def _conclude(self, leaving: BaseException | None) -> None:
        for told in self._operation.told if self._operation is not None else ():
            self._account.note(told)
        for problem in self._hooks.problems:
            self._account.problem(problem)
        self._outcome = self._account.outcome(self.status, self._backup)
        logger.info("%s: %s", ", ".join(self._outcome.containers), self.status.value)
        tell(self._on_outcome, self._outcome, leaving=leaving)
