"""Marks in the engine itself that a container is at work on: they keep hosts and stores apart.

A mark is an empty volume, because an engine makes a name for a volume once, at once, and without an image. Whoever
finds one asks the kernel, through the lock in the store that it names, whether its owner lives; where the kernel is
another one, the mark is believed.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from docker_rollback._engine.port import Engine
from docker_rollback._journal import Record
from docker_rollback._labels import OPERATION_LABEL, ROLE_LABEL, STORE_LABEL
from docker_rollback._model import Resting
from docker_rollback._store import BackupStore
from docker_rollback.errors import (
    ContainerBusyError,
    DockerRollbackError,
    EngineConflictError,
    UnfinishedRollbackError,
    VolumeNotFoundError,
)

logger = logging.getLogger("docker_rollback")

_PREFIX: Final = "docker-rollback-busy-"
_LONGEST: Final = 200

_CONTAINER: Final = "docker-rollback.container"
_HOST: Final = "docker-rollback.host"
_BOOT: Final = "docker-rollback.boot"
_MACHINE: Final = "docker-rollback.machine"
_FOLDER: Final = "docker-rollback.folder"
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
        self._boot = _line(Path("/proc/sys/kernel/random/boot_id"))
        self._machine = _line(Path("/etc/machine-id"))

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
            ROLE_LABEL: "marker",
            OPERATION_LABEL: record.operation,
            _CONTAINER: container.id,
            _HOST: self._host,
            _BOOT: self._boot,
            _MACHINE: self._machine,
            STORE_LABEL: str(self._store.path),
            _FOLDER: _folder(self._store.path),
            _SINCE: record.written.isoformat(timespec="seconds"),
        }
        request = {"Name": _name(container), "Driver": "local", "DriverOpts": {}, "Labels": labels}
        try:
            self._engine.create_volume(request)
        except EngineConflictError:
            if self._labels(container).get(OPERATION_LABEL) == record.operation:
                # Of this very operation, from before its owner died.
                return
            self._judge(container)
            self._engine.remove_volume(_name(container))
            self._engine.create_volume(request)

    def _judge(self, container: Resting) -> None:
        """Return where a mark has outlived its operation, and raise where it stands for something."""
        labels = self._labels(container)
        operation, store = labels.get(OPERATION_LABEL, ""), labels.get(STORE_LABEL, "")
        by_hand = f"if it is gone for good, remove the volume {_name(container)!r}"
        this_kernel = bool(self._boot) and labels.get(_BOOT) == self._boot
        same_folder = this_kernel and labels.get(_FOLDER) == _folder(self._store.path)
        if not labels or same_folder:
            # Whoever made it would hold the locks that we hold.
            return
        here = this_kernel and labels.get(_FOLDER) == _folder(Path(store))
        rebooted = not this_kernel and bool(self._machine) and labels.get(_MACHINE) == self._machine
        if not rebooted and not (here and self._is_free(labels.get(_CONTAINER, ""), container.name, store)):
            host, since = labels.get(_HOST), labels.get(_SINCE)
            raise ContainerBusyError(
                container.name,
                f"operation {operation} on host {host} holds it since {since}, with the store {store}; {by_hand}",
            )
        if Path(store).is_dir() and not self._is_noted(operation, store):
            return
        if store != str(self._store.path):
            reason = f"its record is in another store; {by_hand}"
            raise UnfinishedRollbackError(operation, [container.name], [reason], store=store)

    def _is_free(self, container: str, name: str, store: str) -> bool:
        try:
            with BackupStore(store).lock(container, container=name):
                return True
        except (DockerRollbackError, ValueError):
            return False

    def _is_noted(self, operation: str, store: str) -> bool:
        return any(name.startswith(f"{operation}.") for name in BackupStore(store).journal.names())

    def _labels(self, container: Resting) -> Mapping[str, str]:
        try:
            return self._engine.inspect_volume(_name(container)).get("Labels") or {}
        except VolumeNotFoundError:
            return {}

    def _remove(self, container: Resting, record: Record) -> None:
        if self._labels(container).get(OPERATION_LABEL) == record.operation:
            self._engine.remove_volume(_name(container))


def _name(container: Resting) -> str:
    return (_PREFIX + container.name)[:_LONGEST]


def _line(path: Path) -> str:
    """Return what a file of the system says in one line; empty where there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _folder(path: Path) -> str:
    """Return what tells a folder from every other one of this kernel, also from one of its path in a container."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"
