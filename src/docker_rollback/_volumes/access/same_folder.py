"""Proves that a folder of this machine is a volume's own.

An engine returns the path of a plain volume on its own host. The folder at that path here may belong to another engine,
to another machine's clone, or to the host of the container that we run in. The proof is the kernel's word: the same
kernel, the same numeric owners, the same device and inode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from docker_rollback._host import Tree, is_main_program, seen_by
from docker_rollback._inspection import DRIVER
from docker_rollback._model import is_folder


@frozen
class Root:
    """A folder with the numbers that identify it in the kernel."""

    path: str  # its path on this machine
    device: int  # the number of its file system
    inode: int

    @property
    def number(self) -> str:
        """Device and inode, as ``stat -c %d:%i`` prints them."""
        return f"{self.device}:{self.inode}"


def look(path: str) -> Root | None:
    """Return a folder of this machine; None if it is missing or cannot be opened."""
    try:
        with Tree.at(path) as folder:
            return Root(path, *folder.identity)
    except OSError:
        return None


def is_plain(inspection: Mapping[str, Any]) -> bool:
    """Return True if a volume is a mere folder on the engine's host, without a mount or a plug-in."""
    plain = inspection.get("Driver") in ("local", DRIVER) and not inspection.get("Options")
    return plain and bool(inspection.get("Mountpoint"))


def shown_by(containers: Sequence[Mapping[str, Any]], volume: str, root: Root) -> bool:
    """Return True if a running container of this machine has `root` mounted as `volume`.

    Args:
        containers: inspections of containers that run.
        volume: the volume's name.
        root: the folder that may be the volume's.
    """
    for container in containers:
        process = Path("/proc", str(container["State"].get("Pid") or 0))
        if not is_main_program(process, container):
            continue
        kind, key = ("bind", "Source") if is_folder(volume) else ("volume", "Name")
        for mount in container.get("Mounts") or ():
            if mount.get("Type") == kind and mount.get(key) == volume:
                seen = seen_by(process, str(mount["Destination"]))
                # Check again afterwards: process ids are reused.
                if seen == (root.device, root.inode) and is_main_program(process, container):
                    return True
    return False
