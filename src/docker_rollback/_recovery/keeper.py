"""Keeps the state that is about to be undone as a backup: what recovery finds, or what a failed update left."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

from attrs import evolve

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


class Keeper:
    """Keeps the current state before a backup is restored.

    Args:
        engine: the engine that the containers are on.
        store: the store that the backup goes to.
        preflight: checks the containers.
        capture: captures them.
        archiver: gives access to volumes.
        revival: resumes what was stopped if the state could not be kept.
        clock: returns the time, in UTC.
    """

    def __init__(
        self,
        engine: Engine,
        store: BackupStore,
        *,
        preflight: Preflight,
        capture: Capture,
        archiver: VolumeArchiver,
        revival: Revival,
        clock: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._store = store
        self._preflight = preflight
        self._capture = capture
        self._archiver = archiver
        self._revival = revival
        self._clock = clock

    def keep_failed(self, operation: Operation) -> str | None:
        """Keep the state of a failed update; raises as `keep` does."""
        try:
            return self.keep(operation, operation.look(), what="failed")
        except BaseException:
            # What was stopped for it is about to be rolled back.
            self._revival.forget(operation.record)
            raise

    def keep_found(self, operation: Operation, found: Sequence[Observed]) -> str | None:
        """Keep the state that recovery finds, or leave it unchanged.

        Raises:
            UnfinishedRollbackError: this state cannot be kept.
            CaptureError, ResumeError, EngineError, StoreError: keeping it failed; running containers run again.
        """
        try:
            return self.keep(operation, found, what="found")
        except DockerRollbackError as error:
            self.undo(operation)
            if not isinstance(error, UnsupportedContainerError | VolumeError):
                raise
            record = operation.record
            reason = f"what stands there cannot be kept as a backup, and keep_found=False would give it up ({error})"
            raise UnfinishedRollbackError(
                record.operation, record.names, [reason], store=str(self._store.path)
            ) from error

    def undo(self, operation: Operation) -> None:
        """Resume what was stopped to be kept, if keeping it was interrupted or failed.

        Raises:
            ResumeError, RestoreError, EngineError, StoreError: a container could not be resumed; this can be repeated.
        """
        record = operation.record
        if record.stopped and record.kept not in self._store.ids():
            self._revival.bring_back(record)
        # Includes images and guards of a process that died before its first record.
        self._revival.forget(record)
        if record.stopped:
            operation.note_stopped((), ())

    def keep(self, operation: Operation, found: Sequence[Observed], *, what: Literal["found", "failed"]) -> str | None:
        """Keep the current state as a backup and leave it stopped; return the backup's id, or None if nothing stands.

        Args:
            operation: the operation that is about to be undone; the backup's id is recorded in it first.
            found: the containers that stand.
            what: the kind of state, for the backup's id.

        Raises:
            UnsupportedContainerError, VolumeError: this state cannot be kept; nothing was touched.
            CaptureError, EngineError, StoreError: keeping it failed; running containers run again.
        """
        record = operation.record
        if record.kept is not None and self._is_what_stands(record.kept, found):
            return record.kept
        # Of a project, what was added to it and what no container uses as well.
        project = find_project(self._engine, record.project) if record.project is not None else None
        known = {standing.id for standing in record.standing}
        ours = {container.id for container in record.containers} | set(project.containers if project else ())
        targets = [one.id for one in found if one.id in ours or one.name in record.names or one.id not in known]
        # Containers that share a volume were accepted when the operation began, and are stopped for the restore.
        excluded = self._store.get(record.operation).excluded
        report = self._preflight.keeping(excluded).run(targets)
        left_out = {what.volume for what in excluded if not what.path}
        volumes = [*record.volumes, *(one for one in (project.volumes if project else ()) if one not in left_out)]
        report = self._with_volumes(evolve(report, project=project), volumes)
        report.raise_refusals()
        if not report.containers and not report.volumes:
            return None
        kept = record.kept
        if kept is not None:
            # From an attempt that was interrupted or overtaken by later work.
            self._capture.forget(kept, [container.name for container in report.containers])
        if kept is None or kept in self._store.ids():
            kept = backup_id(f"{record.project or record.names[0]}-{what}", self._clock(), secrets.token_hex(3))
        operation.note_kept(kept)
        options = CaptureOptions(resume=False, shared="ignore")
        self._capture.take(report, kept, options, kept_for=record.names, operation=operation)
        operation.note_stopped((), ())
        level = logging.WARNING if what == "found" else logging.INFO
        logger.log(level, "the state that operation %s left is kept as backup %s", record.operation, kept)
        return kept

    def _is_what_stands(self, kept: str, found: Sequence[Observed]) -> bool:
        """Return True if no container has run since a state was kept."""
        if kept not in self._store.ids():
            return False
        started = {container.id: started_at(container.inspection) for container in self._store.get(kept).containers}
        return all(
            not container.state.alive and started.get(container.id, "") == started_at(container.inspection)
            for container in found
        )

    def _with_volumes(self, report: Report, volumes: Sequence[str]) -> Report:
        """Add the volumes that no container mounts any longer."""
        ways = dict(report.volumes)
        for volume in volumes:
            if volume not in ways:
                try:
                    ways |= self._archiver.probe([volume])
                except VolumeNotFoundError:
                    continue
        return evolve(report, volumes=ways)
