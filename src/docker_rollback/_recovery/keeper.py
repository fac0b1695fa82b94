"""Keeps a state as a backup before it is undone: the one that recovery finds, or that of a failed update."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

from attrs import evolve, frozen

from docker_rollback._capture import Capture, CaptureOptions, Preflight
from docker_rollback._containers import find_project
from docker_rollback._engine import Engine
from docker_rollback._inspection import Report, started_at
from docker_rollback._model import Observed, backup_id
from docker_rollback._recovery.operations import Operation
from docker_rollback._recovery.revival import Revival
from docker_rollback._store import BackupStore
from docker_rollback._volumes import VolumeArchiver
from docker_rollback.errors import (
    DockerRollbackError,
    UnfinishedRollbackError,
    UnsupportedContainerError,
    VolumeError,
    VolumeNotFoundError,
)

logger = logging.getLogger("docker_rollback")


@frozen(kw_only=True, eq=False)
class Keeper:
    """Keeps the current state before a backup is restored."""

    _engine: Engine
    _store: BackupStore
    _preflight: Preflight
    _capture: Capture
    _archiver: VolumeArchiver
    _revival: Revival
    _clock: Callable[[], datetime]

    def keep_failed(self, operation: Operation) -> str | None:
        """Keep the state of a failed update; raises as `keep` does."""
        try:
            return self.keep(operation, operation.look(), kind="failed")
        except BaseException:
            # The rollback that follows handles the stopped containers, so their guards are not needed.
            self._revival.forget(operation.record)
            raise

    def keep_found(self, operation: Operation, found: Sequence[Observed]) -> str | None:
        """Keep the state that recovery finds, or leave it unchanged.

        Raises:
            UnfinishedRollbackError: this state cannot be kept.
            CaptureError, ResumeError, EngineError, StoreError: keeping it failed; running containers run again.
        """
        try:
            return self.keep(operation, found, kind="found")
        except DockerRollbackError as error:
            self.undo(operation)
            if not isinstance(error, UnsupportedContainerError | VolumeError):
                raise
            record = operation.record
            reason = f"its present state cannot be kept as a backup, and keep_found=False would discard it ({error})"
            raise UnfinishedRollbackError(
                record.operation, record.names, [reason], store=str(self._store.path)
            ) from error

    def undo(self, operation: Operation) -> None:
        """Resume the containers that were stopped to be kept, if that was interrupted or failed.

        Raises:
            ResumeError, RestoreError, EngineError, StoreError: a container could not be resumed; this can be repeated.
        """
        record = operation.record
        if record.stopped and record.kept not in self._store.ids():
            self._revival.bring_back(record)
        # Even without stopped containers: a process that died before its first record may have left images and guards.
        self._revival.forget(record)
        if record.stopped:
            operation.note_stopped((), ())

    def keep(self, operation: Operation, found: Sequence[Observed], *, kind: Literal["found", "failed"]) -> str | None:
        """Keep the current state as a backup and leave it stopped; return the backup's id, None if there is nothing.

        Args:
            operation: the operation that is about to be undone; the backup's id is recorded in it first.
            found: the containers of that state.
            kind: the kind of state, for the backup's id.

        Raises:
            UnsupportedContainerError, VolumeError: this state cannot be kept; nothing was touched.
            CaptureError, EngineError, StoreError: keeping it failed; running containers run again.
        """
        record = operation.record
        if record.kept is not None and self._is_current(record.kept, found):
            return record.kept
        # For a project, its added containers and its unused volumes are kept, too.
        project = find_project(self._engine, record.project) if record.project is not None else None
        known = {standing.id for standing in record.standing}
        ours = {container.id for container in record.containers} | set(project.containers if project else ())
        targets = [one.id for one in found if one.id in ours or one.name in record.names or one.id not in known]
        # Other containers that share a volume are left out: the restore only stops them.
        excluded = self._store.get(record.operation).excluded
        report = self._preflight.keeping(excluded).run(targets)
        left_out = {one.volume for one in excluded if not one.path}
        volumes = [*record.volumes, *(one for one in (project.volumes if project else ()) if one not in left_out)]
        report = self._with_volumes(evolve(report, project=project), volumes)
        report.raise_refusals()
        if not report.containers and not report.volumes:
            return None
        kept = record.kept
        if kept is not None:
            # An earlier attempt was interrupted, or containers have run since.
            self._capture.forget(kept, [container.name for container in report.containers])
        if kept is None or kept in self._store.ids():
            kept = backup_id(f"{record.project or record.names[0]}-{kind}", self._clock(), secrets.token_hex(3))
        operation.note_kept(kept)
        options = CaptureOptions(resume=False, shared="ignore")
        self._capture.take(report, kept, options, kept_for=record.names, operation=operation)
        operation.note_stopped((), ())
        level = logging.WARNING if kind == "found" else logging.INFO
        logger.log(level, "kept the state that operation %s left as backup %s", record.operation, kept)
        return kept

    def _is_current(self, kept: str, found: Sequence[Observed]) -> bool:
        """Return True if a backup keeps the present state: no container has run since."""
        if kept not in self._store.ids():
            return False
        started = {container.id: started_at(container.inspection) for container in self._store.get(kept).containers}
        return all(
            not container.state.alive and started.get(container.id, "") == started_at(container.inspection)
            for container in found
        )

    def _with_volumes(self, report: Report, volumes: Sequence[str]) -> Report:
        """Return the report with volumes that no container mounts any longer."""
        ways = dict(report.volumes)
        for volume in volumes:
            if volume not in ways:
                try:
                    ways |= self._archiver.probe([volume])
                except VolumeNotFoundError:
                    continue
        return evolve(report, volumes=ways)
