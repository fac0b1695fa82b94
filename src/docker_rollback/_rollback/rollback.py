"""Runs one update as a transaction: backup, block, checks, and the rollback if one is needed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self, Unpack

from attrs import evolve

from docker_rollback._arguments import ContainerArgument, reference_of
from docker_rollback._capture import CaptureOptions, Hooks
from docker_rollback._inspection import ChangeArguments, Changes, Report, observe, refers
from docker_rollback._model import Backup, Observed, Recovered
from docker_rollback._recovery import Operation
from docker_rollback._rollback.checks import stays_up
from docker_rollback._rollback.options import RollbackOptions, RollbackParts
from docker_rollback._rollback.outcome import Outcome, OutcomeBuilder, Status, add_note, notify
from docker_rollback._rollback.replace import Replacer
from docker_rollback._rollback.signals import Signals
from docker_rollback._rollback.update_image import Pull, UpdateImage
from docker_rollback._rollback.verdict import Verdict
from docker_rollback.errors import RestoreError, RollbackFailedError, RollbackRequested

logger = logging.getLogger("docker_rollback")


class Rollback:
    """Backs up containers on entry, and restores them if the block raises or a check fails.

    It does nothing until it is entered, and can be entered once. `rollback` builds one from plain arguments; use this
    class to pass your own parts.

    Args:
        containers: names or ids; may be empty if a project is given.
        parts: the parts to compose.
        options: how the update is checked, and what remains of it.
        capture: how the containers are captured.
        project: a compose project, with all its containers, networks and volumes.

    Attributes:
        status: the current state.
        recovered: unfinished earlier operations on these containers, which entering finished.

    Example:
        >>> with Rollback(["web"], parts, RollbackOptions(verify=healthy(), keep=5)):
        ...     update()
    """

    def __init__(
        self,
        containers: Sequence[str],
        parts: RollbackParts,
        options: RollbackOptions = RollbackOptions(),  # noqa: B008  (a frozen value)
        *,
        capture: CaptureOptions = CaptureOptions(),  # noqa: B008  (a frozen value)
        project: str | None = None,
    ) -> None:
        if not containers and project is None:
            raise ValueError("rollback needs at least one container, or a compose project")
        self._containers = tuple(containers)
        self._project = project
        self._engine = parts.engine
        self._store = parts.store
        self._parts = parts
        self._recovery = parts.recovery
        self._reporter = parts.reporter
        self._options = options
        self._verdict = Verdict(parts.engine, options.verify, timer=parts.timer)
        self._hooks = capture.hooks or Hooks(parts.engine)
        self._capture = evolve(capture, hooks=self._hooks)
        self._replacer: Replacer | None = None
        self._builder = OutcomeBuilder(
            containers, store=str(parts.store.path), reporter=parts.reporter, clock=parts.clock
        )
        self._outcome: Outcome | None = None
        self._resources = ExitStack()
        self._signals = Signals()
        self.status: Status = Status.NOT_STARTED
        self.recovered: tuple[Recovered, ...] = ()
        self._operation: Operation | None = None
        self._backup: Backup | None = None

    def __repr__(self) -> str:
        project = () if self._project is None else (f"project {self._project!r}",)
        backup = "" if self._backup is None else f", backup {self._backup.id}"
        return f"<Rollback of {', '.join((*project, *map(repr, self._containers)))}: {self.status.value}{backup}>"

    @property
    def backup(self) -> Backup:
        """The backup; raises `RuntimeError` if none has been taken yet."""
        if self._backup is None:
            raise RuntimeError("no backup has been taken: this Rollback has not been entered")
        return self._backup

    @property
    def _names(self) -> str:
        return ", ".join(container.name for container in self.backup.containers)

    @property
    def outcome(self) -> Outcome:
        """The outcome, as passed to `on_outcome`; raises `RuntimeError` while there is none."""
        if self._outcome is None:
            raise RuntimeError(f"there is no outcome yet: this Rollback is {self.status.value}")
        return self._outcome

    def check(self) -> Report:
        """Return what entering would back up and refuse, and the space that it needs; change nothing.

        Raises:
            ContainerNotFoundError, ProjectNotFoundError: a container or the project does not exist.
            EngineError: the engine does not answer.
            StoreError: the store is not writable.
        """
        return self._parts.preflight.run(self._containers, project=self._project, looks=True)

    def __enter__(self) -> Self:
        """Finish unfinished earlier rollbacks of these containers, then take the backup.

        Raises:
            UnfinishedRollbackError: an earlier rollback was interrupted, and a container was started or changed since.
            ContainerNotFoundError, ProjectNotFoundError: a container or the project does not exist.
            UnsupportedContainerError: a container could not be restored exactly.
            ContainerBusyError: another operation is working on one of the containers.
            HookError: a hook before the capture failed.
            DowntimeExceededError: the containers were down for `max_downtime`.
            StoreError, EngineError, VolumeError, CaptureError: the backup failed; every container is in its previous
                state.
        """
        self._begin()
        self.status = Status.CAPTURING
        with self._entering():
            # First of all, so that a signal during the capture resumes the containers before this process ends.
            self._resources.enter_context(self._signals)
            with self._reporter.during("preflight"):
                report, recovered = self._resources.enter_context(
                    self._recovery.holding(self._containers, project=self._project)
                )
                self.recovered += recovered
                self._builder.found(report.containers, self.recovered)
                self._verdict.begin(report.containers, report.project)
            self._operation, self._backup = self._recovery.begin(
                report, self._capture, restore_tags=self._options.restore_tags
            )
        self.status = Status.UPDATING
        self._builder.entered = True
        self._reporter.begin("update")
        return self

    def _begin(self) -> None:
        if self.status is not Status.NOT_STARTED:
            raise RuntimeError(f"a Rollback can be entered once, and this one is {self.status.value}")
        self._builder.begin()

    @contextmanager
    def _entering(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.status = Status.FAILED
            self._builder.because(error)
            self._resources.close()
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
        """Run the whole update, with `replace` as its block; see the function `docker_rollback.replace`.

        The image is found or pulled, and its platform checked, before the backup is taken. If the container already
        runs that image and nothing else differs, nothing is done, and the status is `Status.UNCHANGED`.

        Raises:
            RuntimeError: the rollback has been entered before.
            ImageNotFoundError, ImagePlatformError, ValueError: nothing was changed.
            DockerRollbackError: as raised by `__enter__`, `replace` and `__exit__`.
        """
        self._begin()
        reference, wanted, differ = reference_of(container), UpdateImage(image, pull, platform), Changes(**changes)
        with self._entering(), self._reporter.during("preflight"):
            # A container whose replacement was interrupted may be missing until recovery has restored it.
            self.recovered = self._recovery.finish_earlier([*self._containers, reference], project=self._project)
            old = observe(self._engine.inspect_container(reference))
            if self._project is None and not any(refers(one, old.name, old.id) for one in self._containers):
                raise ValueError(f"container {old.name!r} is not part of this rollback")
            self._builder.found([old], self.recovered)
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
        """Replace a container by one of another image, inside the block; return the new container's id.

        The new container has the user's configuration on the new image's defaults, the same networks with their
        addresses and aliases, and the same volumes, including anonymous ones. Everything that can fail without touching
        the service comes first: the image is found or pulled, its platform checked, the new container created. Then
        the old container is stopped and renamed: a rollback restores that very container, and it is removed when the
        block has succeeded. Containers that share its namespaces, use its volumes or link to it are recreated too.

        The arguments are those of the function `docker_rollback.replace`; the container is part of this rollback. Among
        `changes`, None removes a variable or a label, and `config` and `host_config` have raw fields of the API.

        Raises:
            RuntimeError: the block has not been entered.
            ValueError: the container is not part of this rollback, or `image` is required.
            ContainerNotFoundError, ImageNotFoundError, ImagePlatformError, UnsupportedContainerError: the service runs
                as before.
            EngineError, UpdateRejectedError: the replacement failed.

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
        """Check the update, and restore everything if it failed.

        Raises:
            UpdateRejectedError: a check failed; everything was restored.
            StoreError: the commit could not be written to the journal, so recovery could still have undone the update;
                everything was restored.
            RollbackFailedError: the update failed, and so did the rollback, or a file of `include_files` could not be
                written back.
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
        with self._resources:
            if error is not None:
                self._roll_back(error)
                self._signals.deliver(error)
                return isinstance(error, RollbackRequested)
            try:
                self._reporter.begin("verify")
                self._reporter.announce("verify", self._names)
                # The block may have caught the error of a replacement that stopped half way.
                if self._replacer is not None:
                    self._replacer.check()
                self._verdict.judge()
                self._watch_it()
                # A signal between the record and the status would make both contradict each other.
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
        if self._options.watch is not None:
            self._reporter.begin("watch")
            self._reporter.announce("watch", self._names)
            logger.info("%s: on probation for %g s", self._names, self._options.watch)
            self._verdict.judge([stays_up(self._options.watch)])

    def _commit(self) -> None:
        if self._operation is not None:
            self._operation.commit()
        self.status = Status.COMMITTED
        self._finish()

    def _roll_back(self, error: BaseException) -> None:
        """Restore everything because of `error`, and add a note to it."""
        backup, operation = self.backup, self._operation
        if operation is None:
            raise RuntimeError("there is nothing to roll back: this Rollback has not been entered")
        self.status = Status.ROLLING_BACK
        self._builder.because(error)
        names = [container.name for container in backup.containers]
        self._builder.lost = lost = (self._parts.clock() - backup.created).total_seconds()
        logger.info("rolling back %s: %s", ", ".join(names), type(error).__name__)
        try:
            with self._signals.deferring("the rollback"):
                self._reporter.begin("keep" if self._options.keep_failed else "restore")
                seen = self._recovery.put_back(
                    operation, backup, first=lambda: self._keep_what_failed(operation, error)
                )
                self._reporter.begin("verify again")
                self._reporter.announce("verify again", self._names)
                self._verdict.judge_again()
                if self._hooks.has_after_rollback:
                    # The checks of others may have taken long, and a hook needs containers that run.
                    self._recovery.ensure_running(backup)
                self.status = Status.ROLLED_BACK
                self._hooks.after_rollback()
                self._finish(seen)
        except Exception as failure:
            self.status = Status.FAILED
            failures = (isinstance(failure, RestoreError) and failure.failures) or (failure,)
            failures = (*failures, *operation.unwritten.values())
            self._builder.failed(failures, backup.id)
            raise RollbackFailedError(backup.id, names, failures, store=str(self._store.path)) from error
        except BaseException as interruption:
            self._builder.interrupted()
            add_note(
                interruption,
                f"docker-rollback: the rollback of {', '.join(names)} was interrupted; finish it by "
                f"docker_rollback.recover(store={str(self._store.path)!r})",
            )
            raise
        if operation.unwritten:
            self.status = Status.FAILED
            unwritten = tuple(operation.unwritten.values())
            self._builder.files_failed(unwritten)
            raise RollbackFailedError(backup.id, names, unwritten, store=str(self._store.path)) from error
        add_note(
            error,
            f"docker-rollback: {', '.join(names)} rolled back to backup {backup.id}; "
            f"what was written in the {lost:.1f} s since then is discarded",
        )

    def _keep_what_failed(self, operation: Operation, error: BaseException) -> None:
        """Keep the state of the failed update if requested; if that fails, the rollback goes on without it."""
        if self._options.keep_failed:
            try:
                with self._reporter.during("keep"):
                    self._builder.kept = self._recovery.keep_failed(operation)
            except Exception as failure:
                self._builder.problem(failure)
                logger.warning("the state of the failed update could not be kept: %s", failure)
                add_note(error, f"docker-rollback: the state of the failed update could not be kept: {failure}")
            else:
                add_note(
                    error, f"docker-rollback: the state of the failed update is kept as backup {self._builder.kept}"
                )
        self._reporter.begin("restore")

    def _finish(self, seen: Sequence[Observed] = ()) -> None:
        """Tidy up; an error does not change the outcome, because `recover` can tidy up later.

        `seen` has the containers that were inspected since they were restored.
        """
        if self._operation is None:
            return
        self._reporter.begin("finish")
        try:
            rolled_back = self.status is Status.ROLLED_BACK
            self._recovery.settle(self._operation, self.backup, rolled_back=rolled_back, seen=seen)
            if self._options.keep:
                self._parts.capture.prune(self.backup, keep=self._options.keep)
        except RestoreError:
            # A restored container no longer runs, so the rollback has failed after all.
            raise
        except Exception as error:
            self._builder.problem(error, left_over=True)
            logger.exception("backup %s: tidying up failed; the outcome stands", self.backup.id)

    def _conclude(self, leaving: BaseException | None) -> None:
        if self._operation is not None:
            for fact in self._operation.notes:
                self._builder.restored(fact)
            self._builder.files = tuple(self._operation.files.values())
        for problem in self._hooks.problems:
            self._builder.problem(problem)
        self._outcome = self._builder.outcome(self.status, self._backup)
        logger.info("%s: %s", ", ".join(self._outcome.containers), self.status.value)
        notify(self._options.on_outcome, self._outcome, leaving=leaving)
