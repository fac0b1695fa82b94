"""Restores under the journal, and finishes operations whose process died."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from docker_rollback._capture import Capture, CaptureOptions, Preflight
from docker_rollback._containers import ContainerSnapshotter, put_back_until_undisturbed
from docker_rollback._engine import ContainerFilter, Engine
from docker_rollback._host import Timer, now
from docker_rollback._inspection import Report
from docker_rollback._model import Backup, Observed, Project, Recovered
from docker_rollback._recovery.files_back import write_files_back
from docker_rollback._recovery.journalled_capture import JournalledCapture
from docker_rollback._recovery.keeper import Keeper
from docker_rollback._recovery.leftovers import LeftOver
from docker_rollback._recovery.operation_record import Phase, interference
from docker_rollback._recovery.operations import Operation, Operations
from docker_rollback._recovery.revival import Revival, removed_part
from docker_rollback._reporting import Reporter
from docker_rollback._restore import DetachedContainers, Restorer
from docker_rollback._store import BackupStore
from docker_rollback._volumes import VolumeArchiver
from docker_rollback.errors import (
    ContainerBusyError,
    DockerRollbackError,
    EngineError,
    RecoveryFailedError,
    StoreError,
    UnfinishedElsewhereError,
    UnfinishedRollbackError,
)

logger = logging.getLogger("docker_rollback")


class Recovery:
    """Restores backups under the journal, and finishes operations whose process died.

    Args:
        engine: the engine that has the containers.
        store: the store that has the backups and the journal.
        operations: the operations in the journal.
        preflight: checks the containers before a capture.
        capture: takes backups.
        restorer: restores backups.
        archiver: gives access to volumes.
        reporter: progress and timing sink.
        clock: returns the time, in UTC.
        timer: measures time and waits.

    Example:
        >>> with recovery.holding(["web"]) as (report, _):
        ...     operation, taken = recovery.begin(report, then="committed")
        ...     recovery.settle(operation, taken, rolled_back=False)
    """

    def __init__(
        self,
        engine: Engine,
        store: BackupStore,
        operations: Operations,
        *,
        preflight: Preflight,
        capture: Capture,
        restorer: Restorer,
        archiver: VolumeArchiver,
        reporter: Reporter | None = None,
        clock: Callable[[], datetime] = now,
        timer: Timer = time,
    ) -> None:
        self._engine = engine
        self._store = store
        self._operations = operations
        self._preflight = preflight
        self._capture = capture
        self._restorer = restorer
        self._archiver = archiver
        self._reporter = reporter or Reporter()
        self._timer = timer
        self._revival = Revival(
            engine, ContainerSnapshotter(engine, store), restorer, reporter=self._reporter, timer=timer
        )
        self._journalled = JournalledCapture(
            engine=engine,
            store=store,
            operations=operations,
            capture=capture,
            archiver=archiver,
            revival=self._revival,
            reporter=self._reporter,
            clock=clock,
            timer=timer,
        )
        self._keeper = Keeper(
            engine=engine,
            store=store,
            preflight=preflight,
            capture=capture,
            archiver=archiver,
            revival=self._revival,
            clock=clock,
        )

    # Before the update

    @contextmanager
    def holding(
        self, references: Sequence[str], *, project: str | None = None
    ) -> Iterator[tuple[Report, tuple[Recovered, ...]]]:
        """Lock containers for an operation, after finishing earlier operations on them.

        Args:
            references: names and ids of containers.
            project: a compose project to lock as a whole.

        Yields:
            The report of `Preflight.holding`, and the operations that were finished before.

        Raises:
            UnfinishedRollbackError: something was started or changed since an earlier operation was interrupted.
            DockerRollbackError: as raised by `Preflight.holding`.
        """
        concerned, recovered = list(references), self.finish_earlier(references, project=project)
        while True:
            with self._preflight.holding(references, project=project) as report:
                # Further containers may have joined, and another process may just have died.
                concerned += [word for container in report.containers for word in (container.id, container.name)]
                if not self._operations.unfinished(concerned, project=project):
                    yield report, recovered
                    return
            recovered += self.finish_earlier(concerned, project=project)

    def begin(
        self,
        report: Report,
        options: CaptureOptions = CaptureOptions(),  # noqa: B008  (a frozen value)
        *,
        restore_tags: bool = True,
        then: Phase = "updating",
    ) -> tuple[Operation, Backup]:
        """Take a backup under the journal and record the next phase; retry if somebody starts a stopped container.

        Args:
            report: the containers that are locked.
            options: how they are captured; `max_downtime` is for all attempts together.
            restore_tags: whether a rollback moves image names back.
            then: "updating" if the backup is restored unless the operation commits, else "committed".

        Raises:
            ContainerBusyError, UnfinishedRollbackError: another host or store has an operation on one of them.
            HookError, CaptureError, ResumeError, EngineError, VolumeError, StoreError: as raised by `Capture.take`.
        """
        return self._journalled.begin(report, options, restore_tags=restore_tags, then=then)

    # Rolling back

    def restore(self, backup: Backup, *, restore_tags: bool = True) -> None:
        """Restore a backup outside an update, without its files; the caller holds the locks of its containers.

        Raises:
            UnsupportedContainerError: this program runs in one of them; nothing was touched.
            RestoreError, EngineError, VolumeError, StoreError: the restore failed and can be repeated.
        """
        self._preflight.refuse_own(backup.containers)
        self._restorer.check(backup)
        if backup.files:
            logger.warning("a restore leaves files alone: %s", ", ".join(file.path for file in backup.files))
        operation = self._operations.restoring(backup, restore_tags=restore_tags)
        seen = self._put_back(operation, backup)
        self.settle(operation, backup, rolled_back=True, seen=seen)

    def put_back(
        self, operation: Operation, backup: Backup, *, first: Callable[[], None] | None = None
    ) -> Sequence[Observed]:
        """Restore the backup of an update that failed; containers in the way stay renamed away until `settle`.

        Args:
            operation: the operation.
            backup: its backup.
            first: called once the checks have passed, before anything is touched.

        Returns:
            What `Restorer.put_back` returns, for `settle`.

        Raises:
            RestoreError, EngineError, VolumeError, StoreError: as raised by `Restorer.restore`.
        """
        self._restorer.check(backup, deep=False)
        if first is not None:
            first()
        return self._put_back(operation, backup)

    def keep_failed(self, operation: Operation) -> str | None:
        """Keep the state of a failed update as a backup and leave it stopped; return its id, None if nothing is there.

        Raises:
            UnsupportedContainerError, CaptureError, EngineError, VolumeError, StoreError: it could not be kept.
        """
        return self._keeper.keep_failed(operation)

    def _put_back(self, operation: Operation, backup: Backup) -> Sequence[Observed]:
        seen = put_back_until_undisturbed(
            lambda: self._put_back_once(operation, backup),
            # Waits until the engine answers again, or raises.
            lambda: self._engine.list_containers(ContainerFilter(running=True)),
        )
        self._restorer.ensure_running(backup, seen)
        return seen

    def ensure_running(self, backup: Backup) -> None:
        """Start restored containers again that have ended since; raises as `Restorer.ensure_running`."""
        self._restorer.ensure_running(backup)

    def _put_back_once(self, operation: Operation, backup: Backup) -> Sequence[Observed]:
        def before_resume(seen: Sequence[Observed]) -> None:
            # A container may bind one of the files.
            write_files_back(operation, backup, self._store)
            operation.try_enter("restored", seen=seen)

        operation.try_enter("rolling back")
        self._archiver.remove_left_over()
        with operation.reopening_after_errors(), operation.stopping_others(self._reporter, self._timer) as others:
            return self._restorer.put_back(
                backup,
                others=others,
                detached=DetachedContainers(
                    self._engine, known=operation.record.detached, record=operation.note_detached
                ),
                before_resume=before_resume,
                restore_tags=operation.record.restore_tags,
                note=operation.notes.append,
            )

    def settle(
        self,
        operation: Operation,
        backup: Backup,
        *,
        rolled_back: bool,
        only: Project | None = None,
        seen: Iterable[Observed] = (),
    ) -> None:
        """Clean up after an operation whose outcome is final, and remove its record.

        Args:
            operation: the operation.
            backup: its backup.
            rolled_back: whether the backup was restored.
            only: the additions to its project that may be removed; None for all.
            seen: its containers that were inspected since they were restored.

        Raises:
            RestoreError: a container no longer runs; the record stays.
            EngineError, StoreError: something could not be removed; `recover` finishes the clean-up.
        """
        if rolled_back:
            record = operation.record
            # Only a record of the phase "restored" says which containers were restored.
            standing = record.standing if record.phase == "restored" else ()
            back = {container.id for container in standing if container.name in record.names}
            self._restorer.clean_up(backup, spare_volumes=record.spares, only=only, back=back)
        else:
            self._restorer.remove_originals(backup)
        self._capture.release(backup, seen=seen)
        if operation.record.kept in self._store.ids():
            # The image of the update has lost its name in the rollback, and this may be the only copy.
            self._capture.release(self._store.get(operation.record.kept), spare=True)
        # The engine may have died since the last check, and its containers with it.
        operation.end(last=lambda: self._restorer.ensure_running(backup) if rolled_back else None)

    # After a process died

    def recover(self, *, keep_found: bool = True) -> tuple[Recovered, ...]:
        """Finish every operation on this engine whose process died; operations of live processes are skipped.

        Args:
            keep_found: keep the state that is found as a backup before anything is rolled back.

        Raises:
            StoreNotFoundError: there is no store; none is created.
            RecoveryFailedError: operations could not be finished, or a record cannot be read; each was tried.
            UnfinishedElsewhereError: everything in this store is finished, but a lock volume names an operation that
                another store has to finish.
        """
        self._operations.require_store()
        done: list[Recovered] = []
        failures: list[DockerRollbackError] = []
        # Even without a record, a dead process may have left helpers. Their lock files are swept after them.
        self._remove_left_over(failures)
        self._operations.sweep()
        for operation in self._operations.unfinished(on_damage=failures.append):
            try:
                done += self._take_over(operation, asked=True, keep_found=keep_found)
            except ContainerBusyError as error:
                logger.info("operation %s is in progress: %s", operation.record.operation, error)
            except DockerRollbackError as error:
                record = operation.record
                error.add_note(f"while finishing operation {record.operation} on {', '.join(record.names)}")
                failures.append(error)
        # The engine may have completed a dead process's request only now.
        self._remove_left_over(failures)
        try:
            LeftOver(self._engine, self._store, self._operations).clear()
        except StoreError as error:
            error.add_note(
                "while removing the leftovers of dead operations from the engine, where they stay for now; "
                "if index.json is damaged, restore it from a copy of the store, or use another store from now on"
            )
            failures.append(error)
        try:
            elsewhere = self._operations.unfinished_elsewhere()
        except EngineError as error:
            error.add_note("while reading the lock volumes of other stores")
            failures.append(error)
        else:
            unfinished = UnfinishedElsewhereError(elsewhere, done, store=str(self._store.path))
            if elsewhere and not failures:
                raise unfinished
            failures += [unfinished] if elsewhere else []
        if failures:
            finished = [recovered.operation for recovered in done]
            raise RecoveryFailedError(failures, finished, store=str(self._store.path)) from failures[0]
        return tuple(done)

    def _remove_left_over(self, failures: list[DockerRollbackError]) -> None:
        """Remove helpers of dead processes; add an error of the engine to `failures` and go on."""
        try:
            self._archiver.remove_left_over()
        except EngineError as error:
            failures.append(error)

    def finish_earlier(
        self, references: Collection[str], *, project: str | None = None, but: str | None = None
    ) -> tuple[Recovered, ...]:
        """Finish earlier operations on containers, if that is safe.

        Args:
            references: names and ids of the containers.
            project: a compose project whose operations are finished as well.
            but: the id of an operation to skip.

        Raises:
            ContainerBusyError: the process of an operation is alive.
            UnfinishedRollbackError: something was started or changed since; call `recover`.
            RestoreError, EngineError, VolumeError, StoreError: an operation could not be finished.
        """
        done: list[Recovered] = []
        # Even without a record, a dead process may have left helpers.
        left_over = self._archiver.remove_left_over()
        for operation in self._operations.unfinished(references, project=project):
            if operation.record.operation == but:
                continue
            done += self._take_over(operation, asked=False, keep_found=True)
        if done or left_over:
            self._archiver.forget_image()
        return tuple(done)

    def _take_over(self, operation: Operation, *, asked: bool, keep_found: bool) -> list[Recovered]:
        with self._operations.owning(operation) as owned:
            if owned is None:
                return []
            record = owned.record
            names = ", ".join(record.names)
            logger.warning(
                "finishing operation %s on %s, which was interrupted (%s)", record.operation, names, record.phase
            )
            recovered = self._finish(owned, asked=asked, keep_found=keep_found)
            logger.warning("operation %s on %s is %s", record.operation, names, recovered.outcome)
            return [recovered]

    def _finish(self, operation: Operation, *, asked: bool, keep_found: bool) -> Recovered:
        record = operation.record
        # Whoever begins another operation may have put the files there that it is to use.
        operation.leaves_files = not asked
        if record.phase == "capturing":
            self._journalled.discard(operation)
            return Recovered(record.operation, record.names, "discarded")
        if record.phase == "committed":
            self.settle(operation, self._store.get(record.operation), rolled_back=False)
            return Recovered(record.operation, record.names, "tidied up")
        backup = self._store.get(record.operation)
        self._keeper.undo(operation)
        record = operation.record
        # Additions after the interruption are not the update's, and are removed only if a backup keeps them.
        only = None if record.phase == "updating" else operation.of_the_update(backup)
        # The record has the id before the backup is taken, and that may have failed.
        kept = record.kept if record.kept in self._store.ids() else None
        seen: Sequence[Observed] = ()
        if record.phase == "restored":
            operation.leaves_files = True
            write_files_back(operation, backup, self._store)
            self._resume_rest(operation, backup)
        else:
            found = operation.look()
            reasons = [*interference(record, found), *self._restorer.unexpected(backup)]
            if reasons and not asked:
                raise UnfinishedRollbackError(record.operation, record.names, reasons, store=str(self._store.path))
            # Before any running container is stopped.
            self._restorer.check(backup)
            if keep_found and (reasons or record.phase == "updating"):
                kept = self._keeper.keep_found(operation, found)
                only = self._store.get(kept).project if kept is not None else None
            seen = self._put_back(operation, backup)
        self.settle(operation, backup, rolled_back=True, only=only, seen=seen)
        files, unwritten = tuple(operation.files.values()), tuple(operation.unwritten)
        return Recovered(record.operation, record.names, "rolled back", kept, files, unwritten)

    def _resume_rest(self, operation: Operation, backup: Backup) -> None:
        """Start the containers that a rollback restored but had not started; those that have run since stay."""
        before = {standing.id: standing.started for standing in operation.record.standing}
        with operation.reopening_after_errors(), operation.stopping_others(self._reporter, self._timer) as others:
            if (part := removed_part(self._engine, backup)) is not None:
                self._restorer.put_back(part, others=others)
            self._restorer.resume_rest(backup, before)
