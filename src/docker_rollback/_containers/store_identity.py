"""Provides labels that identify the store of an object in an engine, even by another path or from another host."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

from docker_rollback._host import boot_id, machine_id
from docker_rollback._names import STORE_LABEL
from docker_rollback._store import BackupStore

HOST_LABEL: Final = "docker-rollback.host"
BOOT_LABEL: Final = "docker-rollback.boot"
FOLDER_LABEL: Final = "docker-rollback.folder"
_MACHINE: Final = "docker-rollback.machine"


@frozen
class StoreIdentity:
    """Makes and recognises the labels of objects that are created for a store.

    A store is a folder of one kernel: on another host or in a container, its path may be another folder, and other
    paths may lead to it.
    """

    _store: BackupStore

    def labels(self) -> dict[str, str]:
        """Return the labels for objects that are created for the store."""
        return {
            HOST_LABEL: socket.gethostname(),
            BOOT_LABEL: boot_id(),
            _MACHINE: machine_id(),
            STORE_LABEL: str(self._store.path),
            FOLDER_LABEL: _folder(self._store.path),
        }

    def is_ours(self, labels: Mapping[str, str]) -> bool:
        """Return True if an object with these labels was created for this store."""
        if self.is_rebooted(labels) and labels.get(STORE_LABEL) != str(self._store.path):
            return False
        return self._is_folder(labels, self._store.path)

    def is_rebooted(self, labels: Mapping[str, str]) -> bool:
        """Return True if the labels are from before the last boot of this machine: no process from then is alive."""
        machine = machine_id()
        # Clones of a virtual machine may share a machine id, and only the host name distinguishes them.
        found, here = (labels.get(_MACHINE), labels.get(HOST_LABEL)), (machine, socket.gethostname())
        return bool(machine) and found == here and not self._is_of_this_boot(labels)

    def other_store(self, labels: Mapping[str, str]) -> BackupStore | None:
        """Return the store that the labels name, or None if it is not visible here; no store is created."""
        path = Path(labels.get(STORE_LABEL, ""))
        return BackupStore(path) if path.is_absolute() and self._is_folder(labels, path) else None

    def _is_of_this_boot(self, labels: Mapping[str, str]) -> bool:
        boot = boot_id()
        return bool(boot) and labels.get(BOOT_LABEL) == boot

    def _is_folder(self, labels: Mapping[str, str], path: Path) -> bool:
        """Return True if a path on this machine is the folder of the store that the labels name."""
        wanted, found = labels.get(FOLDER_LABEL, ""), _folder(path)
        if self.is_rebooted(labels):
            # A boot renumbers devices, but not folders. A mount point without its disk is another folder.
            wanted, found = wanted.rpartition(":")[2], found.rpartition(":")[2]
        elif not self._is_of_this_boot(labels):
            return False
        return bool(wanted) and wanted == found


def _folder(path: Path) -> str:
    """Return the device and inode of a folder, which no other folder at the same path has; empty if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"
