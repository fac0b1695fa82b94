"""Keeps the operations in flight: their journal records, their lock volumes and their holds on backups."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Self

from attrs import evolve

from docker_rollback._containers import (
    QuiescedContainers,
    added_since,
    find_container,
    find_project,
    locked,
    members,
    quiesced_container,
    users_of,
)
from docker_rollback._engine import ContainerFilter, Engine
from docker_rollback._host import Timer, now, this_machine
from docker_rollback._inspection import started_at
from docker_rollback._model import (
    Backup,
    ContainerSnapshot,
    Detached,
    InFlight,
    LedBack,
    NetworkRecord,
    Observed,
    Project,
    Resting,
)
from docker_rollback._recovery.markers import Markers
from docker_rollback._recovery.operation_record import Phase, Record, standing_of
from docker_rollback._reporting import Reporter
from docker_rollback._store import BackupStore
from docker_rollback.errors import (
    ContainerBusyError,
    DockerRollbackError,
    EngineError,
    RestoreError,
    StoreError,
    StoreNotFoundError,
    UnfinishedElsewhereError,
)

logger = logging.getLogger("docker_rollback")

HOLDER = "operation"
"""The name under which an operation holds its backup in the store."""


def _owner() -> tuple[str, int]:
    """Return this host's name and our process id."""
    return socket.gethostname(), os.getpid()


class Operation:
    """One operation in flight. Built by `Operations`.

    Attributes:
        record: its journal record.
        notes: the image names that a restore moved back, and a sentence for each inexact result.
        files: a sentence for each file that was written back or could not be, by its path.
        leaves_files: whether no file is written back.
        unwritten: an error for each file that could not be written back, by its path.
    """

    def __init__(
        self, engine: Engine, store: BackupStore, markers: Markers, record: Record, clock: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._store = store
        self._markers = markers
        self._clock = clock
        self.record: Record = record
        self.notes: list[LedBack | str] = []
        self.files: dict[str, str] = {}
        self.leaves_files: bool = False
        self.unwritten: dict[str, RestoreError] = {}

    @property
    def id(self) -> str:
        """The id of the operation and of its backup."""
        return self.record.operation

    def begin(self) -> Self:
        """Record the operation durably, and create its lock volumes.

        Raises:
            ContainerBusyError, UnfinishedRollbackError: another operation has a lock volume; nothing is recorded.
            StoreError, EngineError: the store or the engine failed; nothing is recorded.
        """
        if self.record.phase == "capturing":
            self._write(self.record)
        else:
            self.enter(self.record.phase)
        try:
            self._markers.place(self.record)
        except BaseException:
            try:
                self.end()
            except DockerRollbackError as error:
                logger.warning("operation %s is left for recovery: %s", self.record.operation, error)
            raise
        return self

    def enter(self, phase: Phase, *, seen: Iterable[Observed] = (), last: Callable[[], None] = lambda: None) -> None:
        """Record durably that a phase begins.

        `seen` has those of its containers that were inspected a moment ago.

        `last` is called after the last request to the engine, before the record is written. If it raises, the previous
        record stays.

        Raises:
            StoreError: the record could not be written; the previous one stays.
            EngineError: the engine does not answer.
        """
        if phase in ("updating", "rolling back"):
            # From the first phase that may need the backup, no prune removes it.
            self._store.hold(self.record.operation, HOLDER, "it is needed until the rollback has ended")
        found = () if phase == "committed" else self.look(seen)
        standing = tuple(standing_of(container) for container in found)
        came = self._came(phase, found)
        last()
        # The containers that were stopped for a capture run again, or are in the backup.
        self._write(evolve(self.record, phase=phase, standing=standing, came=came, stopped=(), networks=()))

    def commit(self) -> None:
        """Record durably that the update is final.

        Raises:
            StoreError: the record could not be written; the previous one stays.
        """
        try:
            self.enter("committed")
        except StoreError as error:
            noted = self._store.journal.get(self.record.key, Record)
            if noted is None or noted.phase != "committed":
                raise
            # The record is in place, only not synced. If this process died while it undid the update, recovery would
            # take the update for final.
            logger.warning("operation %s is committed, but a power cut may undo that: %s", noted.operation, error)
            self.record = noted

    def try_enter(self, phase: Phase, *, seen: Iterable[Observed] = ()) -> None:
        """Record a phase of a rollback as `enter` does; go on if that fails."""
        try:
            self.enter(phase, seen=seen)
        except DockerRollbackError as error:
            # With an older record, recovery asks before it restores anything a second time.
            logger.warning("operation %s continues without a record: %s", self.record.operation, error)

    def stopping_others(self, reporter: Reporter, timer: Timer) -> QuiescedContainers:
        """Return the context in which other containers are stopped; an error leaves them stopped."""
        others = QuiescedContainers(
            self._engine, "hold", record=self.note_other, after_errors=False, reporter=reporter, timer=timer
        )
        for other in self.record.guests:
            others.adopt(other)
        return others

    @contextmanager
    def reopening_after_errors(self) -> Iterator[None]:
        """Make recovery restore again, after keeping the current state, if a block fails once all data is restored."""
        try:
            yield
        except DockerRollbackError:
            if self.record.phase == "restored":
                self.try_enter("updating")
            raise

    def note_other(self, other: Resting) -> None:
        """Record another container before it is stopped."""
        known = tuple(one for one in self.record.guests if one.id != other.id)
        try:
            self._write(evolve(self.record, guests=(*known, other)))
        except DockerRollbackError as error:
            logger.warning("container %s is stopped without a record: %s", other.name, error)

    def note_detached(self, found: Detached) -> None:
        """Record another container before it is detached from a network; an earlier record of it stays."""
        if (found.id, found.network) in {(known.id, known.network) for known in self.record.detached}:
            return
        try:
            self._write(evolve(self.record, detached=(*self.record.detached, found)))
        except DockerRollbackError as error:
            logger.warning("container %s is detached from %s without a record: %s", found.name, found.network, error)

    def note_stopped(self, stopped: Sequence[ContainerSnapshot], networks: Sequence[NetworkRecord]) -> None:
        """Record durably the containers that a capture will stop, so that recovery can recreate them."""
        self._write(evolve(self.record, stopped=tuple(stopped), networks=tuple(networks)))

    def note_runs(self, containers: Sequence[Resting]) -> None:
        """Record durably the runs of containers that were started again. Raises `StoreError`."""
        self._write(evolve(self.record, containers=tuple(containers)))

    def note_kept(self, backup: str) -> None:
        """Record the id of the backup that will keep the state that was found."""
        self._write(evolve(self.record, kept=backup))

    def look(self, seen: Iterable[Observed] = ()) -> list[Observed]:
        """Look up its containers, others with their names or volumes, and the members of its project.

        Those in `seen` are not looked up.
        """
        found = {one.id: one for one in seen}
        there = {*self._engine.list_containers()}
        for container in self.record.containers:
            if container.id in there and container.id not in found:
                self._add(container.id, found)
        # A name has one container, so a container that was found by its id is not looked up by its name again.
        left = tuple({*self.record.names} - {one.name for one in found.values()})
        for named in self._engine.list_containers(ContainerFilter(name=left)) if left else ():
            self._add(named, found)
        for user in users_of(self._engine, self.record.volumes, but=found):
            found[user.id] = user
        for member in members(self._engine, self.record.project, but=found) if self.record.project is not None else ():
            found[member.id] = member
        return list(found.values())

    def _add(self, container: str, found: dict[str, Observed]) -> None:
        standing = find_container(self._engine, container)
        if standing is not None:
            found[standing.id] = standing

    def of_the_update(self, backup: Backup) -> Project:
        """Return the additions to its project that may be removed when an interrupted operation is finished."""
        # Additions that were made after the start of the rollback stay. Without a project there are none.
        came = self.record.came or Project("")
        if self.record.phase != "restored":
            return came
        # Once everything was restored, people may be at work: after any start of an added container, volumes and
        # networks stay, too.
        started = {standing.id: standing.started for standing in self.record.standing}
        found = added_since(self._engine, backup, members(self._engine, came.name)).containers
        idle = [
            one.id for one in found if one.id in came.containers and started_at(one.inspection) == started.get(one.id)
        ]
        return evolve(came if len(idle) == len(found) else Project(came.name), containers=tuple(idle))

    def end(self, *, last: Callable[[], None] = lambda: None) -> None:
        """Release the backup, remove the lock volumes and the record; this can be repeated.

        Args:
            last: called after the last request to the engine, before the record is removed: an engine that dies in a
                later request ends its containers. If it raises, the record stays.

        Raises:
            EngineError, StoreError: something could not be removed, and the record stays; recovery finishes.
        """
        self._store.release(self.record.operation, HOLDER)
        self._markers.remove(self.record)
        last()
        self._store.journal.remove(self.record.key)

    def _came(self, phase: Phase, found: Iterable[Observed]) -> Project | None:
        record = self.record
        if record.project is None or phase != "rolling back" or (record.came is not None and record.phase == phase):
            return record.came
        return find_project(self._engine, record.project, among=found)

    def _write(self, record: Record) -> None:
        host, pid = _owner()
        written = evolve(record, written=self._clock(), host=host, pid=pid)
        self._store.journal.put(record.key, written)
        self.record = written


class Operations:
    """The operations in flight on one engine, recorded in one store.

    Args:
        engine: the engine that has the containers.
        store: the store that has the journal.
        clock: returns the time, in UTC.

    Example:
        >>> [operation.record.phase for operation in Operations(engine, store).unfinished()]
        ['updating']
    """

    def __init__(self, engine: Engine, store: BackupStore, *, clock: Callable[[], datetime] = now) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._markers = Markers(engine, store)

    def begin(
        self,
        operation: str,
        containers: Sequence[Resting],
        volumes: Iterable[str],
        *,
        guests: Sequence[Resting] = (),
        project: str | None = None,
        restore_tags: bool = True,
    ) -> Operation:
        """Begin an operation; the caller holds the locks of its containers.

        Args:
            operation: the id of the operation and of its backup.
            containers: its containers, in start order.
            volumes: their volumes.
            guests: other containers that are quiesced with them.
            project: the compose project that it covers.
            restore_tags: move image names back.

        Raises:
            ContainerBusyError, UnfinishedRollbackError: another operation has a container; nothing is recorded.
            StoreError, EngineError: the store or the engine failed; nothing is recorded.
        """
        record = self._record(operation, containers, volumes, "capturing")
        record = evolve(
            record, guests=tuple(guests), project=project, restore_tags=restore_tags, files_host=this_machine()
        )
        return self._operation(record).begin()

    def restoring(self, backup: Backup, *, restore_tags: bool = True) -> Operation:
        """Begin the restore of a backup, or continue an interrupted one; raises as `begin` does.

        It writes no files back, because they may be the user's work of a long time.
        """
        containers = [quiesced_container(container, "stop") for container in backup.containers]
        record = self._record(backup.id, containers, [one.name for one in backup.volumes], "rolling back")
        if backup.project is not None:
            record = evolve(record, project=backup.project.name, spares=True)
        operation = self.resume(record) or self._operation(record)
        began = operation.record is not record
        operation.record = evolve(operation.record, restore_tags=restore_tags, files_host="")
        return operation if began else operation.begin()

    def _record(self, operation: str, containers: Sequence[Resting], volumes: Iterable[str], phase: Phase) -> Record:
        host, pid = _owner()
        return Record(
            operation=operation,
            phase=phase,
            written=self._clock(),
            host=host,
            pid=pid,
            engine=self._engine.info().identity,
            containers=tuple(containers),
            volumes=tuple(volumes),
        )

    def unfinished(
        self,
        references: Collection[str] | None = None,
        *,
        project: str | None = None,
        on_damage: Callable[[StoreError], None] | None = None,
    ) -> list[Operation]:
        """Return the recorded operations on this engine, oldest first; their processes may be alive.

        Args:
            references: names and ids of containers; only operations on these are returned.
            project: a compose project whose operations are returned as well.
            on_damage: called with the error of each record that cannot be read; such a record is skipped.

        Raises:
            CorruptBackupError, UnsupportedFormatError: a record is damaged, or a newer version wrote it.
        """
        records: list[Record] = []
        for name in self._store.journal.names():
            try:
                record = self._store.journal.get(name, Record)
            except StoreError as error:
                if on_damage is None:
                    raise
                on_damage(error)
                continue
            records += [] if record is None else [record]
        if not records:
            return []
        engine = self._engine.info().identity
        return [
            self._operation(record)
            for record in records
            if record.engine == engine and (references is None or record.concerns(references, project))
        ]

    def resume(self, record: Record) -> Operation | None:
        """Return an operation from its current record, or None if it has ended; the caller holds its locks."""
        noted = self._store.journal.get(record.key, Record)
        return None if noted is None else self._operation(noted)

    def sweep(self) -> None:
        """Remove drafts, temporary files and unrecorded holds of dead processes from the store.

        A failed removal is only logged, because leftovers only take space.
        """
        try:
            self._store.journal.sweep()
            self._store.clear_left_over()
            for backup in self._store.held_by(HOLDER):
                self._let_go(backup)
        except StoreError as error:
            logger.warning("could not remove the leftovers of dead processes from the store: %s", error)

    def in_flight(self) -> list[InFlight]:
        """Return the operations of all stores and hosts that have lock volumes, oldest first. Raises `EngineError`."""
        return self._markers.in_flight()

    def unfinished_elsewhere(self) -> list[InFlight]:
        """Return the operations that another store has to finish, if they were interrupted. Raises `EngineError`."""
        return [one for one in self.in_flight() if one.is_unfinished_elsewhere]

    def require_store(self) -> None:
        """Check that the store exists, without creating one.

        Raises:
            UnfinishedElsewhereError: it does not exist, and a lock volume names a store that has unfinished work.
            StoreNotFoundError: it does not exist.
        """
        try:
            self._store.require()
        except StoreNotFoundError as absent:
            try:
                elsewhere = self.unfinished_elsewhere()
            except EngineError:
                raise absent from None
            if elsewhere:
                raise UnfinishedElsewhereError(elsewhere, store=str(self._store.path), reason=str(absent)) from absent
            raise

    def remove_left_over_marks(self) -> None:
        """Remove lock volumes of ended operations, if their stores can be read from here. Raises `EngineError`."""
        self._markers.remove_left_over()

    def _let_go(self, backup: str) -> None:
        """Release the hold of a restore that died between its hold and its record."""
        if self._is_recorded(backup):
            return
        try:
            found = self._store.get(backup)
            # A live restore holds these locks.
            with locked(self._store, found.containers, project=found.project.name if found.project else None):
                if not self._is_recorded(backup):
                    self._store.release(backup, HOLDER)
        except (ContainerBusyError, StoreError) as error:
            logger.info("the hold of backup %s stays: %s", backup, error)

    def _is_recorded(self, operation: str) -> bool:
        return any(name.startswith(f"{operation}.") for name in self._store.journal.names())

    @contextmanager
    def owning(self, operation: Operation) -> Iterator[Operation | None]:
        """Take over an operation whose process died, for the duration of a block; yield None if it has ended.

        Raises:
            ContainerBusyError: its process is alive.
        """
        with locked(self._store, operation.record.containers, project=operation.record.project):
            yield self.resume(operation.record)

    def _operation(self, record: Record) -> Operation:
        return Operation(self._engine, self._store, self._markers, record, self._clock)
