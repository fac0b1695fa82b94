"""Takes a backup under the journal: discards a capture that failed, and retries one that somebody disturbed."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime

from attrs import evolve, frozen

from docker_rollback._capture import Capture, CaptureOptions, check_unchanged
from docker_rollback._containers import (
    DisturbedCaptureError,
    all_run,
    capture_until_undisturbed,
    ensure_running,
    find_each,
    quiesced_container,
    with_runs,
)
from docker_rollback._engine import Engine
from docker_rollback._host import Timer
from docker_rollback._inspection import Report
from docker_rollback._model import Backup, Observed, backup_id
from docker_rollback._recovery.operation_record import Phase
from docker_rollback._recovery.operations import HOLDER, Operation, Operations
from docker_rollback._recovery.revival import Removal, Revival, as_error
from docker_rollback._reporting import Reporter
from docker_rollback._store import BackupStore
from docker_rollback._volumes import VolumeArchiver
from docker_rollback.errors import CaptureError, DockerRollbackError, ResumeError

logger = logging.getLogger("docker_rollback")


@frozen(kw_only=True, eq=False)
class JournalledCapture:
    """Takes backups whose journal record is written before the first stop."""

    _engine: Engine
    _store: BackupStore
    _operations: Operations
    _capture: Capture
    _archiver: VolumeArchiver
    _revival: Revival
    _reporter: Reporter
    _clock: Callable[[], datetime]
    _timer: Timer

    def begin(
        self, report: Report, options: CaptureOptions, *, restore_tags: bool, then: Phase
    ) -> tuple[Operation, Backup]:
        """Take a backup, and record the next phase; the arguments and errors are those of `Recovery.begin`."""
        names = [one.name for one in (*report.containers, *report.guests)]
        before = self._downtime(names)

        def left() -> float | None:
            # All attempts together may take `max_downtime`.
            most = options.max_downtime
            return None if most is None else most - (self._downtime(names) - before)

        def take(found: Report) -> tuple[Operation, Backup]:
            limited = evolve(options, max_downtime=left())
            return self._begin(found, limited, restore_tags=restore_tags, then=then)

        return capture_until_undisturbed(
            self._engine, report, take, has_time=lambda: (seconds := left()) is None or seconds > 0
        )

    def _downtime(self, names: list[str]) -> float:
        """Return the longest downtime that captures have caused to one of the containers, in seconds."""
        downtime = self._reporter.downtime
        return max((downtime[name].capture for name in names if name in downtime), default=0.0)

    def _begin(
        self, report: Report, options: CaptureOptions, *, restore_tags: bool, then: Phase
    ) -> tuple[Operation, Backup]:
        project = report.project.name if report.project is not None else None
        identity = backup_id(project or report.containers[0].name, self._clock(), secrets.token_hex(3))
        operation = self._operations.begin(
            identity,
            [quiesced_container(container, options.quiesce) for container in report.containers],
            report.volumes,
            guests=[quiesced_container(guest, options.quiesce) for guest in report.guests if options.shared == "stop"],
            project=project,
            restore_tags=restore_tags,
        )
        try:
            backup = self._capture.take(report, identity, options, operation=operation)
            # One look serves both records, because nothing but the first of them lies between.
            seen = self._note_runs(operation) if options.resume else ()
            record = operation.record
            resumed = (*record.guests, *(record.containers if options.resume else ()))

            def last() -> None:
                # Until they run, the record lists the stopped containers, so that discarding it starts them.
                ensure_running(self._engine, resumed, timer=self._timer)
                check_unchanged(backup)

            operation.enter(then, seen=seen, last=last)
        except BaseException as error:
            removed = self._give_up(operation, error)
            if removed and isinstance(error, DockerRollbackError):
                raise as_error(removed) from error
            if removed is None and isinstance(error, DisturbedCaptureError):
                raise _final(error) from error
            if removed is not None and isinstance(error, ResumeError) and all_run(self._engine, error.containers):
                raise CaptureError(
                    ", ".join(error.containers),
                    "it did not start again at once after its capture; its earlier state is back, nothing is left over",
                ) from error
            raise
        return operation, backup

    def _note_runs(self, operation: Operation) -> Sequence[Observed]:
        """Record the new runs of resumed containers, so that discarding the capture starts those that have ended.

        Returns:
            The containers; none if the engine or the store failed, which is only logged.
        """
        known = operation.record.containers
        try:
            standing = find_each(self._engine, known)
            found = with_runs(known, standing)
            if found != known:
                operation.note_runs(found)
            return standing
        except DockerRollbackError as error:
            logger.warning("operation %s continues without a record of the resumed containers: %s", operation.id, error)
            return ()

    def _give_up(self, operation: Operation, error: BaseException) -> list[Removal] | None:
        """Discard a failed capture; return the removals by others that were undone.

        If that fails too, the record stays, a note on the error says so, and None is returned.
        """
        try:
            return self.discard(operation)
        except DockerRollbackError as failure:
            logger.warning(
                "operation %s: could not discard the failed capture: %s", operation.record.operation, failure
            )
            error.add_note(
                f"docker-rollback: cleaning up failed too ({failure}); "
                f"docker_rollback.recover(store={str(self._store.path)!r}) finishes it"
            )
            return None

    def discard(self, operation: Operation) -> list[Removal]:
        """Discard a capture: resume its containers, and remove everything that it created.

        Containers and networks that somebody removed meanwhile are recreated; these removals are returned.

        Raises:
            ResumeError: a container could not be started again.
            RestoreError, EngineError, StoreError: a step failed; call it again.
        """
        record = operation.record
        # The service comes first.
        removed, started = self._revival.bring_back(record)
        if record.phase == "capturing":
            self._note_runs(operation)
        self._archiver.remove_left_over()
        self._revival.forget(record)
        self._capture.forget(record.operation, [*record.names, *(guest.name for guest in record.guests)])
        if record.operation in self._store.ids():
            self._store.release(record.operation, HOLDER)
            self._store.delete(record.operation)
        # The engine may have died since they were started, and its containers with it.
        operation.end(last=lambda: ensure_running(self._engine, started, timer=self._timer))
        return removed


def _final(error: DisturbedCaptureError) -> CaptureError:
    """Return the error, with its notes, of a disturbed capture that is not retried because discarding it failed."""
    final = CaptureError(error.container, error.reason)
    for note in getattr(error, "__notes__", ()):
        final.add_note(note)
    return final
