"""Labels that tell which store something in an engine is of, also by another path or from another host."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from docker_rollback._names import STORE_LABEL
from docker_rollback._store import BackupStore

HOST_LABEL: Final = "docker-rollback.host"
BOOT_LABEL: Final = "docker-rollback.boot"
FOLDER_LABEL: Final = "docker-rollback.folder"
_MACHINE: Final = "docker-rollback.machine"


class StoreIdentity:
    """Labels what is made for a store, and recognises the labels.

    A store is a folder of one kernel: a path may lead to another folder on another host or in a container, and links
    may lead to the same one.

    Args:
        store: the store.
    """

    def __init__(self, store: BackupStore) -> None:
        self._store = store
        self._host = socket.gethostname()
        self._boot = _line(Path("/proc/sys/kernel/random/boot_id"))
        self._machine = _line(Path("/etc/machine-id"))

    def labels(self) -> dict[str, str]:
        """Return the labels of what is made for the store."""
        return {
            HOST_LABEL: self._host,
            BOOT_LABEL: self._boot,
            _MACHINE: self._machine,
            STORE_LABEL: str(self._store.path),
            FOLDER_LABEL: _folder(self._store.path),
        }

    def is_ours(self, labels: Mapping[str, str]) -> bool:
        """Return True if something with these labels is of our own store."""
        if self.is_rebooted(labels) and labels.get(STORE_LABEL) != str(self._store.path):
            return False
        return self._is_folder(labels, self._store.path)

    def is_rebooted(self, labels: Mapping[str, str]) -> bool:
        """Return True if something is of this machine before it was last booted: nothing of that lives.

        Clones of a virtual machine may have one machine id. Only the name tells such a clone from this machine.
        """
        is_this_machine = bool(self._machine) and (labels.get(_MACHINE), labels.get(HOST_LABEL)) == (
            self._machine,
            self._host,
        )
        return is_this_machine and not self._is_of_this_boot(labels)

    def other_store(self, labels: Mapping[str, str]) -> BackupStore | None:
        """Return the store of some labels if it can be seen from here, else None; none is made."""
        path = Path(labels.get(STORE_LABEL, ""))
        return BackupStore(path) if path.is_absolute() and self._is_folder(labels, path) else None

    def _is_of_this_boot(self, labels: Mapping[str, str]) -> bool:
        return bool(self._boot) and labels.get(BOOT_LABEL) == self._boot

    def _is_folder(self, labels: Mapping[str, str], path: Path) -> bool:
        """Return True if a path here leads to the folder of the labels' store."""
        wanted, found = labels.get(FOLDER_LABEL, ""), _folder(path)
        if self.is_rebooted(labels):
            # Devices are numbered again at a boot, folders are not; that below a disk that is not mounted is another.
            wanted, found = wanted.rpartition(":")[2], found.rpartition(":")[2]
        elif not self._is_of_this_boot(labels):
            return False
        return bool(wanted) and wanted == found


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
