"""Creates lock volumes in the engine, which keep operations of different hosts and stores apart.

A lock volume is empty. An engine creates a volume name atomically, at once and without an image. A process that finds
one asks the kernel, through the lock in the store that the volume names, whether its owner is alive. A lock volume of
another kernel is believed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from attrs import evolve

from docker_rollback._containers import BOOT_LABEL, FOLDER_LABEL, HOST_LABEL, PROJECT_MARK, StoreIdentity, find_volume
from docker_rollback._engine import Engine
from docker_rollback._model import InFlight, Owner, RecordPlace, Resting
from docker_rollback._names import OPERATION_LABEL, ROLE_LABEL, STORE_LABEL
from docker_rollback._recovery.operation_record import Record
from docker_rollback._store import BackupStore
from docker_rollback.errors import (
    ContainerBusyError,
    EngineConflictError,
    StoreError,
    UnfinishedRollbackError,
)

logger = logging.getLogger("docker_rollback")

_ROLE: Final = "marker"
_PREFIX: Final = "docker-rollback-busy-"
_LONGEST: Final = 200

_CONTAINER: Final = "docker-rollback.container"
_SINCE: Final = "docker-rollback.since"

_ENDED: Final = ("dead", "gone")
"""The owner and record of an operation that has ended: its lock volume is left over."""


class Markers:
    """The lock volumes in one engine, for the operations of one store.

    Args:
        engine: the engine.
        store: the store, whose locks tell whether an owner is alive.
    """

    def __init__(self, engine: Engine, store: BackupStore) -> None:
        self._engine = engine
        self._store = store
        self._identity = StoreIdentity(store)

    def place(self, record: Record) -> None:
        """Create the lock volumes of an operation; the caller holds the locks of its containers in the store.

        Raises:
            ContainerBusyError: a container has the lock volume of an owner that is alive, as far as can be seen. Lock
                volumes created before stay until `remove`.
            UnfinishedRollbackError: its owner died, and its record is in another store.
            EngineError: the engine refused or failed.
        """
        for container in record.marked:
            self._place(container, record)

    def remove(self, record: Record) -> None:
        """Remove the lock volumes of an operation; harmless if they are gone. Raises `EngineError` if one stays."""
        for container in record.marked:
            self._remove(container, record)

    def _place(self, container: Resting, record: Record) -> None:
        labels = {
            ROLE_LABEL: _ROLE,
            OPERATION_LABEL: record.operation,
            _CONTAINER: container.id,
            **self._identity.labels(),
            _SINCE: record.written.isoformat(timespec="seconds"),
        }
        request = {"Name": _name(container), "Driver": "local", "DriverOpts": {}, "Labels": labels}
        try:
            self._engine.create_volume(request)
        except EngineConflictError:
            if self._labels_of(_name(container)).get(OPERATION_LABEL) == record.operation:
                # Created by this operation before its process died.
                return
            self._judge(container)
            self._engine.remove_volume(_name(container))
            self._engine.create_volume(request)

    def in_flight(self) -> list[InFlight]:
        """Return all operations that have lock volumes in this engine, oldest first, live ones included.

        Raises:
            EngineError: the engine refused or failed.
        """
        found: dict[tuple[str, ...], list[tuple[str, InFlight]]] = {}
        for name in self._engine.list_volumes(labels={ROLE_LABEL: _ROLE}):
            labels = self._labels_of(name)
            if labels:
                key = (
                    labels.get(OPERATION_LABEL, ""),
                    *(labels.get(key, "") for key in (STORE_LABEL, FOLDER_LABEL, BOOT_LABEL)),
                )
                found.setdefault(key, []).append((name, self._told(name, labels)))
        return sorted(map(_merged, found.values()), key=lambda one: (one.since, one.operation))

    def remove_left_over(self) -> None:
        """Remove the lock volumes of operations whose store can be read and has no record of them.

        A record is written before the first lock volume, and removed after the last.

        Raises:
            EngineError: the engine refused or failed.
        """
        for name in self._engine.list_volumes(labels={ROLE_LABEL: _ROLE}):
            labels = self._labels_of(name)
            told = self._told(name, labels) if labels else None
            if told is None or (told.owner, told.record) != _ENDED:
                continue
            # Checked again: another operation may have taken the name.
            if self._labels_of(name) == labels:
                logger.info("removing left-over lock volume %s", name)
                self._engine.remove_volume(name)

    def _judge(self, container: Resting) -> None:
        """Return if a lock volume has outlived its operation, else raise."""
        name = _name(container)
        labels = self._labels_of(name)
        if not labels:
            return
        told = self._told(name, labels)
        if self._identity.is_ours(labels) or (told.owner, told.record) == _ENDED:
            # A live owner in our store would hold the locks that we hold.
            return
        by_hand = f"if it is gone for good, remove the volume {name!r}"
        if told.owner != "dead":
            raise ContainerBusyError(
                container.name,
                f"operation {told.operation} on host {told.host} holds it since {told.since}, with the store "
                f"{told.store}; {by_hand}",
            )
        reason = f"its record is in another store; {by_hand}"
        raise UnfinishedRollbackError(told.operation, [container.name], [reason], store=told.store)

    def _told(self, name: str, labels: Mapping[str, str]) -> InFlight:
        """Return the operation of a lock volume, with the state of its owner and record as seen from here."""
        operation = labels.get(OPERATION_LABEL, "")
        store = self._store if self._identity.is_ours(labels) else self._identity.other_store(labels)
        container = name.removeprefix(_PREFIX)
        is_project = container.startswith(PROJECT_MARK)
        owner: Owner = "dead" if self._identity.is_rebooted(labels) else "unknown"
        record: RecordPlace = "unknown"
        if store is not None:
            try:
                # The lock comes first: an owner removes its record before it releases the lock.
                alive = owner != "dead" and store.is_locked(labels.get(_CONTAINER, ""))
                owner = "alive" if alive else "dead"
                # A store without a journal is not the one in which the operation began.
                if store.journal.is_there():
                    noted = any(note.startswith(f"{operation}.") for note in store.journal.names())
                    record = ("here" if store is self._store else "elsewhere") if noted else "gone"
            except StoreError as error:
                logger.info("store %s cannot be read: %s", store.path, error)
        return InFlight(
            operation,
            containers=() if is_project else (container,),
            project=container.removeprefix(PROJECT_MARK) if is_project else None,
            host=labels.get(HOST_LABEL, ""),
            since=labels.get(_SINCE, ""),
            store=labels.get(STORE_LABEL, ""),
            owner=owner,
            record=record,
        )

    def _labels_of(self, volume: str) -> Mapping[str, str]:
        """Return the labels of a volume; none if it is gone."""
        found = find_volume(self._engine, volume) or {}
        return found.get("Labels") or {}

    def _remove(self, container: Resting, record: Record) -> None:
        if self._labels_of(_name(container)).get(OPERATION_LABEL) == record.operation:
            self._engine.remove_volume(_name(container))


def _merged(marks: Sequence[tuple[str, InFlight]]) -> InFlight:
    """Merge the lock volumes of one operation; it is alive if one of their owners is."""
    told = [one for _, one in sorted(marks, key=lambda mark: mark[0])]
    first = next((one for one in told if one.owner == "alive"), told[0])
    containers = tuple(name for one in told for name in one.containers)
    project = next((one.project for one in told if one.project is not None), None)
    return evolve(first, containers=containers, project=project)


def _name(container: Resting) -> str:
    return (_PREFIX + container.name)[:_LONGEST]
