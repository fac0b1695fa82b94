"""Marks in the engine itself that a container is at work on: they keep hosts and stores apart.

A mark is an empty volume, because an engine makes a name for a volume once, at once, and without an image. Whoever
finds one asks the kernel, through the lock in the store that it names, whether its owner lives; where the kernel is
another one, the mark is believed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from attrs import evolve

from docker_rollback._containers import BOOT_LABEL, FOLDER_LABEL, HOST_LABEL, PROJECT_MARK, StoreIdentity
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
    VolumeNotFoundError,
)

logger = logging.getLogger("docker_rollback")

_ROLE: Final = "marker"
_PREFIX: Final = "docker-rollback-busy-"
_LONGEST: Final = 200

_CONTAINER: Final = "docker-rollback.container"
_SINCE: Final = "docker-rollback.since"

_ENDED: Final = ("dead", "gone")
"""Owner and record of an operation that is over: its lock volume is left over."""


class Markers:
    """The marks of operations in one engine, for the operations of one store.

    Args:
        engine: where they are.
        store: whose locks tell whether an owner lives.
    """

    def __init__(self, engine: Engine, store: BackupStore) -> None:
        self._engine = engine
        self._store = store
        self._identity = StoreIdentity(store)

    def place(self, record: Record) -> None:
        """Mark the containers of an operation; the caller holds their locks in the store.

        Raises:
            ContainerBusyError: one of them is marked by an owner who lives, as far as can be told. Those before it are
                marked until `remove`.
            UnfinishedRollbackError: its owner died, and the note from which to finish is in another store.
            EngineError: the engine refused or failed.
        """
        for container in record.marked:
            self._place(container, record)

    def remove(self, record: Record) -> None:
        """Remove the marks of an operation; harmless where they are gone. Raises `EngineError` where one stays."""
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
                # Of this very operation, from before its owner died.
                return
            self._judge(container)
            self._engine.remove_volume(_name(container))
            self._engine.create_volume(request)

    def in_flight(self) -> list[InFlight]:
        """Return every operation that a lock volume of this engine tells of, the oldest first; living ones too.

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
        """Remove the lock volumes of operations that have ended: their store can be read, and has no record of them.

        A record is written before the first lock volume, and removed after the last.

        Raises:
            EngineError: the engine refused or failed.
        """
        for name in self._engine.list_volumes(labels={ROLE_LABEL: _ROLE}):
            labels = self._labels_of(name)
            told = self._told(name, labels) if labels else None
            if told is None or (told.owner, told.record) != _ENDED:
                continue
            # Looked at again: another operation may have taken the name.
            if self._labels_of(name) == labels:
                logger.info("lock volume %s is left over, and is removed", name)
                self._engine.remove_volume(name)

    def _judge(self, container: Resting) -> None:
        """Return where a mark has outlived its operation, and raise where it stands for something."""
        name = _name(container)
        labels = self._labels_of(name)
        if not labels:
            return
        told = self._told(name, labels)
        if self._identity.is_ours(labels) or (told.owner, told.record) == _ENDED:
            # Whoever made it in our store would hold the locks that we hold.
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
        """Return what a lock volume says, and what can be seen of its owner and its record from here."""
        operation = labels.get(OPERATION_LABEL, "")
        store = self._store if self._identity.is_ours(labels) else self._identity.other_store(labels)
        container = name.removeprefix(_PREFIX)
        is_project = container.startswith(PROJECT_MARK)
        owner: Owner = "dead" if self._identity.is_rebooted(labels) else "unknown"
        record: RecordPlace = "unknown"
        if store is not None:
            try:
                # First the lock: an owner that ends removes its record before it lets go.
                alive = owner != "dead" and store.is_locked(labels.get(_CONTAINER, ""))
                owner = "alive" if alive else "dead"
                # Without a journal it is not the store that it was when its operation began.
                if store.journal.is_there():
                    noted = any(note.startswith(f"{operation}.") for note in store.journal.names())
                    record = ("here" if store is self._store else "elsewhere") if noted else "gone"
            except StoreError as error:
                logger.info("store %s cannot be looked at: %s", store.path, error)
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
        """Return the labels of a volume; none where it is gone."""
        try:
            return self._engine.inspect_volume(volume).get("Labels") or {}
        except VolumeNotFoundError:
            return {}

    def _remove(self, container: Resting, record: Record) -> None:
        if self._labels_of(_name(container)).get(OPERATION_LABEL) == record.operation:
            self._engine.remove_volume(_name(container))


def _merged(marks: Sequence[tuple[str, InFlight]]) -> InFlight:
    """Return one operation from its marks: its containers, and its project; one living owner is alive."""
    told = [one for _, one in sorted(marks, key=lambda mark: mark[0])]
    first = next((one for one in told if one.owner == "alive"), told[0])
    containers = tuple(name for one in told for name in one.containers)
    project = next((one.project for one in told if one.project is not None), None)
    return evolve(first, containers=containers, project=project)


def _name(container: Resting) -> str:
    return (_PREFIX + container.name)[:_LONGEST]
