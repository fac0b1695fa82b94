"""Marks in the engine itself that a container is at work on: they keep hosts and stores apart.

A mark is an empty volume, because an engine makes a name for a volume once, at once, and without an image. Whoever
finds one asks the kernel, through the lock in the store that it names, whether its owner lives; where the kernel is
another one, the mark is believed.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from docker_rollback._engine.port import Engine
from docker_rollback._journal import Record
from docker_rollback._model import Resting
from docker_rollback._store import BackupStore
from docker_rollback.errors import (
    ContainerBusyError,
    DockerRollbackError,
    EngineConflictError,
    EngineError,
    UnfinishedRollbackError,
    VolumeNotFoundError,
)

logger = logging.getLogger("docker_rollback")

_PREFIX: Final = "docker-rollback-busy-"
_LONGEST: Final = 200

_ROLE: Final = "docker-rollback.role"
_OPERATION: Final = "docker-rollback.operation"
_CONTAINER: Final = "docker-rollback.container"
_HOST: Final = "docker-rollback.host"
_BOOT: Final = "docker-rollback.boot"
_STORE: Final = "docker-rollback.store"
_SINCE: Final = "docker-rollback.since"


class Markers:
    """The marks of operations in one engine, for the operations of one store.

    Args:
        engine: where they are.
        store: whose locks tell whether an owner lives.
    """

    def __init__(self, engine: Engine, store: BackupStore) -> None:
        self._engine = engine
        self._store = store
        self._host = socket.gethostname()
        self._boot = _boot()

    def place(self, record: Record) -> None:
        """Mark the containers of an operation; the caller holds their locks in the store.

        Raises:
            ContainerBusyError: one of them is marked by an owner who lives, as far as can be told. Those before it are
                marked until `remove`.
            UnfinishedRollbackError: its owner died, and the note from which to finish is in another store.
            EngineError: the engine refused or failed.
        """
        for container in record.containers:
            self._place(container, record)

    def remove(self, record: Record) -> None:
        """Remove the marks of an operation; what cannot be removed is named in the log."""
        for container in record.containers:
            self._remove(container, record)

    def _place(self, container: Resting, record: Record) -> None:
        labels = {
            _ROLE: "marker",
            _OPERATION: record.operation,
            _CONTAINER: container.id,
            _HOST: self._host,
            _BOOT: self._boot,
            _STORE: str(self._store.path),
            _SINCE: record.written.isoformat(timespec="seconds"),
        }
        request = {"Name": _name(container), "Driver": "local", "DriverOpts": {}, "Labels": labels}
        try:
            self._engine.create_volume(request)
        except EngineConflictError:
            if self._labels(container).get(_OPERATION) == record.operation:
                # Of this very operation, from before its owner died.
                return
            self._judge(container)
            self._engine.remove_volume(_name(container))
            self._engine.create_volume(request)

    def _judge(self, container: Resting) -> None:
        """Return where a mark has outlived its operation, and raise where it stands for something."""
        labels = self._labels(container)
        store, host, boot = labels.get(_STORE, ""), labels.get(_HOST), labels.get(_BOOT)
        if not labels or (store == str(self._store.path) and host == self._host):
            # Whoever made it would hold the locks that we hold.
            return
        here = boot == self._boot and bool(boot)
        gone = host == self._host and not here
        if not gone and (not here or self._is_locked(container, store)):
            operation, since = labels.get(_OPERATION), labels.get(_SINCE)
            raise ContainerBusyError(
                container.name,
                f"operation {operation} on host {host} holds it since {since}, with the store {store}; "
                f"if that host is gone for good, remove the volume {_name(container)!r}",
            )
        if not here or self._is_noted(labels.get(_OPERATION, ""), store):
            raise UnfinishedRollbackError(
                labels.get(_OPERATION, ""), [container.name], ["its record is in another store"], store=store
            )

    def _is_locked(self, container: Resting, store: str) -> bool:
        if not Path(store).is_dir():
            return True
        try:
            with BackupStore(store).lock(container.id, container=container.name):
                return False
        except DockerRollbackError:
            return True

    def _is_noted(self, operation: str, store: str) -> bool:
        return operation in BackupStore(store).journal.names()

    def _labels(self, container: Resting) -> Mapping[str, str]:
        try:
            return self._engine.inspect_volume(_name(container)).get("Labels") or {}
        except VolumeNotFoundError:
            return {}

    def _remove(self, container: Resting, record: Record) -> None:
        try:
            if self._labels(container).get(_OPERATION) == record.operation:
                self._engine.remove_volume(_name(container))
        except EngineError as error:
            logger.warning("%s: volume %s is left over: %s", container.name, _name(container), error)


def _name(container: Resting) -> str:
    return (_PREFIX + container.name)[:_LONGEST]


def _boot() -> str:
    """Return what tells this run of this host's kernel from every other; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def owner() -> tuple[str, int]:
    """Return who we are, for a record: this host's name and our process id."""
    return socket.gethostname(), os.getpid()
