"""Creates lock volumes in the engine, which keep operations of different hosts and stores apart.

A lock volume is empty. An engine creates a volume name atomically, at once and without an image. A process that finds
one asks the kernel, by the lock in the store that the volume names, whether its owner is alive. The owner of a lock
volume from another machine counts as alive.
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
    """The lock volumes in one engine, for the operations of one store."""

    def __init__(self, engine: Engine, store: BackupStore) -> None:
        self._engine = engine
        self._store = store
        self._identity = StoreIdentity(store)

    def place(self, record: Record) -> None:
        """Create the lock volumes of an operation; the caller holds the locks of its containers in the store.

        Raises:
            ContainerBusyError: a container has a lock volume whose owner is, or may be, alive. Lock volumes that were
                created before stay until `remove`.
            UnfinishedRollbackError: its owner died, and its record is in another store.
            EngineError: the engine refused or failed.
        """
        for container in record.marked:
            self._place(container, record)

    def remove(self, record: Record) -> None:
        """Remove the lock volumes of an operation; harmless if they are gone. Raises `EngineError` if one stays."""
        labels = {ROLE_LABEL: _ROLE, OPERATION_LABEL: record.operation}
        ours = {*self._engine.list_volumes(labels=labels)}
        for name in map(_name, record.marked):
            if name in ours:
                self._engine.remove_volume(name)

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
                # This operation created it, before its process died.
                return
            self._judge(container)
            self._engine.remove_volume(_name(container))
            self._engine.create_volume(request)

    def in_flight(self) -> list[InFlight]:
        """Return all operations that have lock volumes in this engine, oldest first. Raises `EngineError`."""
        found: dict[tuple[str, ...], list[tuple[str, InFlight]]] = {}
        for name in self._engine.list_volumes(labels={ROLE_LABEL: _ROLE}):
            labels = self._labels_of(name)
            if labels:
                key = (
                    labels.get(OPERATION_LABEL, ""),
                    *(labels.get(key, "") for key in (STORE_LABEL, FOLDER_LABEL, BOOT_LABEL)),
                )
                found.setdefault(key, []).append((name, self._operation_of(name, labels)))
        return sorted(map(_merged, found.values()), key=lambda one: (one.since, one.operation))

    def remove_left_over(self) -> None:
        """Remove lock volumes of operations whose store can be read and has no record of them. Raises `EngineError`."""
        for name in self._engine.list_volumes(labels={ROLE_LABEL: _ROLE}):
            labels = self._labels_of(name)
            found = self._operation_of(name, labels) if labels else None
            # A record is written before the first lock volume, and removed after the last.
            if found is None or (found.owner, found.record) != _ENDED:
                continue
            # Checked again: another operation may have taken the name.
            if self._labels_of(name) == labels:
                logger.info("removing left-over lock volume %s", name)
                self._engine.remove_volume(name)

    def _judge(self, container: Resting) -> None:
        """Raise an error unless a lock volume has outlived its operation."""
        name = _name(container)
        labels = self._labels_of(name)
        if not labels:
            return
        found = self._operation_of(name, labels)
        if self._identity.is_ours(labels) or (found.owner, found.record) == _ENDED:
            # A live owner in our store would hold the locks that we hold.
            return
        by_hand = f"if it is gone for good, remove the volume {name!r}"
        if found.owner != "dead":
            raise ContainerBusyError(
                container.name,
                f"operation {found.operation} on host {found.host} has held it since {found.since}, with the store "
                f"{found.store}; {by_hand}",
            )
        reason = f"its record is in another store; {by_hand}"
        raise UnfinishedRollbackError(found.operation, [container.name], [reason], store=found.store)

    def _operation_of(self, name: str, labels: Mapping[str, str]) -> InFlight:
        """Return the operation that a lock volume names, with the state of its owner and record."""
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
                    recorded = any(name.startswith(f"{operation}.") for name in store.journal.names())
                    record = ("here" if store is self._store else "elsewhere") if recorded else "gone"
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
        return (find_volume(self._engine, volume) or {}).get("Labels") or {}


def _merged(volumes: Sequence[tuple[str, InFlight]]) -> InFlight:
    """Merge the lock volumes of one operation; it is alive if one of their owners is."""
    found = [one for _, one in sorted(volumes, key=lambda volume: volume[0])]
    first = next((one for one in found if one.owner == "alive"), found[0])
    containers = tuple(name for one in found for name in one.containers)
    project = next((one.project for one in found if one.project is not None), None)
    return evolve(first, containers=containers, project=project)


def _name(container: Resting) -> str:
    return (_PREFIX + container.name)[:_LONGEST]
