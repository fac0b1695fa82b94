"""Operations in flight: for each its record in the store, its marks in the engine, and its hold on its backup."""

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
    locked,
    look_at,
    look_at_project,
    members,
    quiesced_container,
    users_of,
)
from docker_rollback._engine import Engine
from docker_rollback._host import Timer, now
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
from docker_rollback._recovery.operation_record import Phase, Record, stand
from docker_rollback._reporting import Reporter
from docker_rollback._store import BackupStore
from docker_rollback.errors import (
    ContainerBusyError,
    DockerRollbackError,
    EngineError,
    StoreError,
    StoreNotFoundError,
    UnfinishedElsewhereError,
)

logger = logging.getLogger("docker_rollback")

HOLDER = "operation"
"""Under this name an operation holds its backup in the store."""


def _owner() -> tuple[str, int]:
    """Return who we are, for a record: this host's name and our process id."""
    return socket.gethostname(), os.getpid()


class Operation:
    """One operation in flight. Built by `Operations`.

    Attributes:
        record: what its note in the store says.
        told: the names of images that putting back has led back, and in sentences what is not exact.
    """

    def __init__(
        self, engine: Engine, store: BackupStore, markers: Markers, record: Record, clock: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._store = store
        self._markers = markers
        self._clock = clock
        self.record: Record = record
        self.told: list[LedBack | str] = []

    @property
    def id(self) -> str:
        """Its id, which is that of its backup."""
        return self.record.operation

    def begin(self) -> Self:
        """Note the operation durably, and mark its containers.

        Raises:
            ContainerBusyError, UnfinishedRollbackError: one of them has the mark of another one; nothing is noted.
            StoreError, EngineError: what they say; nothing is noted.
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

    def enter(self, phase: Phase, *, last: Callable[[], None] = lambda: None) -> None:
        """Note durably that a phase begins; from the first one that needs it on, the backup is held.

        `last` is called before that is written, when nothing more is asked of the engine; if it raises, the last note
        stands.

        Raises:
            StoreError: it could not be noted, and the last note stands.
            EngineError: the engine does not say what stands.
        """
        if phase in ("updating", "rolling back"):
            self._store.hold(self.record.operation, HOLDER, "it is needed until the rollback has ended")
        standing = () if phase == "committed" else tuple(stand(container) for container in self.look())
        came = self._came(phase)
        last()
        # What was stopped for a capture runs again, or is in the backup.
        self._write(evolve(self.record, phase=phase, standing=standing, came=came, stopped=(), networks=()))

    def commit(self) -> None:
        """Note durably that the update stands.

        Raises:
            StoreError: that could not be noted; the last note stands.
        """
        try:
            self.enter("committed")
        except StoreError as error:
            noted = self._store.journal.get(self.record.key, Record)
            if noted is None or noted.phase != "committed":
                raise
            # It has its name already. To undo the update now, a death on the way would leave this note.
            logger.warning("operation %s is committed, but a power cut may undo that: %s", noted.operation, error)
            self.record = noted

    def try_enter(self, phase: Phase) -> None:
        """Note a phase of the way back, which does not wait for a note that cannot be written.

        With an older note, recovery asks before it puts anything back a second time.
        """
        try:
            self.enter(phase)
        except DockerRollbackError as error:
            logger.warning("operation %s goes on without a note: %s", self.record.operation, error)

    def resting_guests(self, reporter: Reporter, timer: Timer) -> QuiescedContainers:
        """Return what stops containers outside, with those that are stopped already. An error leaves them stopped."""
        note = self.note_guest
        guests = QuiescedContainers(
            self._engine, "hold", record=note, after_errors=False, reporter=reporter, timer=timer
        )
        for guest in self.record.guests:
            guests.adopt(guest)
        return guests

    @contextmanager
    def not_done_by_an_error(self) -> Iterator[None]:
        """Have a way back that failed once all was back begin again, by keeping what stands then."""
        try:
            yield
        except DockerRollbackError:
            if self.record.phase == "restored":
                self.try_enter("updating")
            raise

    def note_guest(self, guest: Resting) -> None:
        """Note a container outside, before it is brought to rest."""
        others = tuple(known for known in self.record.guests if known.id != guest.id)
        try:
            self._write(evolve(self.record, guests=(*others, guest)))
        except DockerRollbackError as error:
            logger.warning("container %s is brought to rest without a note: %s", guest.name, error)

    def note_detached(self, found: Detached) -> None:
        """Note a container outside, before it is taken off a network; what was noted first stands."""
        if (found.id, found.network) in {(known.id, known.network) for known in self.record.detached}:
            return
        try:
            self._write(evolve(self.record, detached=(*self.record.detached, found)))
        except DockerRollbackError as error:
            logger.warning("container %s is taken off %s without a note: %s", found.name, found.network, error)

    def note_stopped(self, stopped: Sequence[ContainerSnapshot], networks: Sequence[NetworkRecord]) -> None:
        """Record durably what is about to be stopped for a capture, to recreate it if need be; raises `StoreError`."""
        self._write(evolve(self.record, stopped=tuple(stopped), networks=tuple(networks)))

    def note_runs(self, containers: Sequence[Resting]) -> None:
        """Record durably the containers with the runs that giving up a capture starts again; raises `StoreError`."""
        self._write(evolve(self.record, containers=tuple(containers)))

    def note_kept(self, backup: str) -> None:
        """Note under which id the state that was found is kept, before that is done."""
        self._write(evolve(self.record, kept=backup))

    def look(self) -> list[Observed]:
        """Return what stands: its containers, whatever has their names, users of their volumes, all of its project."""
        known = {container.id for container in self.record.containers}
        found = {}
        for reference in (*known, *self.record.names):
            standing = look_at(self._engine, reference)
            if standing is not None:
                found[standing.id] = standing
        for user in users_of(self._engine, self.record.volumes):
            found.setdefault(user.id, user)
        for member in members(self._engine, self.record.project) if self.record.project is not None else ():
            found.setdefault(member.id, member)
        return list(found.values())

    def of_the_update(self, backup: Backup) -> Project:
        """Return what came to its project and may be removed by somebody who finds this operation cut off.

        What came after the way back began stays. Once everything stands again, people are at work: where something was
        started since, the volumes and networks stay too.
        """
        came = self.record.came or Project(self.record.project or "")
        if self.record.phase != "restored":
            return came
        started = {standing.id: standing.started for standing in self.record.standing}
        found = added_since(self._engine, backup).containers
        idle = [
            one.id for one in found if one.id in came.containers and started_at(one.inspection) == started.get(one.id)
        ]
        return evolve(came if len(idle) == len(found) else Project(came.name), containers=tuple(idle))

    def end(self, *, last: Callable[[], None] = lambda: None) -> None:
        """Let the backup and the containers go, and forget the operation; harmless where that is done.

        Args:
            last: called before the note goes, when nothing is asked of the engine any more: an engine that dies in
                a later request takes its containers along. What it raises comes out, and the note stays.

        Raises:
            EngineError, StoreError: something is left over, and the note too; recovery does it.
        """
        self._store.release(self.record.operation, HOLDER)
        self._markers.remove(self.record)
        last()
        self._store.journal.remove(self.record.key)

    def _came(self, phase: Phase) -> Project | None:
        record = self.record
        if record.project is None or phase != "rolling back" or (record.came is not None and record.phase == phase):
            return record.came
        return look_at_project(self._engine, record.project)

    def _write(self, record: Record) -> None:
        host, pid = _owner()
        written = evolve(record, written=self._clock(), host=host, pid=pid)
        self._store.journal.put(record.key, written)
        self.record = written


class Operations:
    """The operations in flight on one engine, noted in one store.

    Args:
        engine: where the containers are.
        store: where the notes are.
        clock: the time, in UTC.

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
            operation: its id, which is that of its backup.
            containers: its containers, in the order in which they start.
            volumes: their volumes.
            guests: containers outside that rest as long.
            project: the compose project that all of it is of.
            restore_tags: whether names of images are led back.

        Raises:
            ContainerBusyError, UnfinishedRollbackError: another one is at work on them, or was; nothing is noted.
            StoreError, EngineError: what they say; nothing is noted.
        """
        record = self._record(operation, containers, volumes, "capturing")
        record = evolve(record, guests=tuple(guests), project=project, restore_tags=restore_tags)
        return self._operation(record).begin()

    def restoring(self, backup: Backup, *, restore_tags: bool = True) -> Operation:
        """Begin the restore of a backup, or go on with one that was cut off; raises as `begin` does."""
        containers = [quiesced_container(container, "stop") for container in backup.containers]
        record = self._record(backup.id, containers, [one.name for one in backup.volumes], "rolling back")
        if backup.project is not None:
            record = evolve(record, project=backup.project.name, spares=True)
        operation = self.resume(record) or self._operation(record)
        began = operation.record is not record
        operation.record = evolve(operation.record, restore_tags=restore_tags)
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
        """Return what is noted of operations on this engine, oldest first; their owners may be alive.

        Args:
            references: names and ids of containers, for the operations that concern one of them alone.
            project: a compose project, for those that are of it as well.
            on_damage: told of each note that cannot be read, which is left out then.

        Raises:
            CorruptBackupError, UnsupportedFormatError: a note is damaged, or a newer version wrote it.
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
        """Return an operation from its note as that is now, None where there is none; the caller holds its locks."""
        noted = self._store.journal.get(record.key, Record)
        return None if noted is None else self._operation(noted)

    def sweep(self) -> None:
        """Remove what processes that died have left in the store: drafts, temporary files, holds without a record.

        What cannot be removed is named in the log: it takes room, and is in nobody's way.
        """
        try:
            self._store.journal.sweep()
            self._store.clear_left_over()
            for backup in self._store.held_by(HOLDER):
                self._let_go(backup)
        except StoreError as error:
            logger.warning("something that a process left in the store when it died stays there: %s", error)

    def in_flight(self) -> list[InFlight]:
        """Return the operations of every store and host that the engine's lock volumes tell of, the oldest first.

        Raises:
            EngineError: the engine refused or failed.
        """
        return self._markers.in_flight()

    def unfinished_elsewhere(self) -> list[InFlight]:
        """Return the operations that may be cut off, and that another store has to finish; raises `EngineError`."""
        return [one for one in self.in_flight() if one.is_unfinished_elsewhere]

    def require_store(self) -> None:
        """Make sure that the store is there, without making one.

        Raises:
            UnfinishedElsewhereError: it is not there, and the engine knows of one that has unfinished work.
            StoreNotFoundError: it is not there.
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
        """Remove the lock volumes of operations that have ended, as far as their stores can be read from here.

        Raises:
            EngineError: the engine refused or failed.
        """
        self._markers.remove_left_over()

    def _let_go(self, backup: str) -> None:
        """Release the hold of a restore that died between its hold and its record; a living one has the locks."""
        if self._is_noted(backup):
            return
        try:
            found = self._store.get(backup)
            with locked(self._store, found.containers, project=found.project.name if found.project else None):
                if not self._is_noted(backup):
                    self._store.release(backup, HOLDER)
        except (ContainerBusyError, StoreError) as error:
            logger.info("the hold of backup %s stays: %s", backup, error)

    def _is_noted(self, operation: str) -> bool:
        return any(name.startswith(f"{operation}.") for name in self._store.journal.names())

    @contextmanager
    def owning(self, operation: Operation) -> Iterator[Operation | None]:
        """Take over an operation whose owner died, for the time of a block; None where it has ended meanwhile.

        Raises:
            ContainerBusyError: its owner lives.
        """
        with locked(self._store, operation.record.containers, project=operation.record.project):
            yield self.resume(operation.record)

    def _operation(self, record: Record) -> Operation:
        return Operation(self._engine, self._store, self._markers, record, self._clock)
