"""Proof that a folder of this machine is a volume's own: the engine may be far away, or see other files by that name.

An engine says where a plain volume lies on its own host. A folder of that name here may belong to another engine, to
another machine's clone, or to the host of the container that we run in. Proven is what the kernel says: the same
kernel, the same owners' numbers, the same device and inode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from docker_rollback._host import Tree, _seen_by, is_main_program
from docker_rollback._inspection import DRIVER
from docker_rollback._model import is_folder

# What tar needs to read and to write everything: chown, dac_override, dac_read_search, fowner, fsetid, mknod, setfcap,
# and sys_admin for attributes that begin with trusted.


@frozen
class Root:
    """A folder, as the kernel knows it.

    Attributes:
        path: where it lies here.
        device: the number of its file system.
        inode: its number there.
    """

    path: str
    device: int
    inode: int

    @property
    def number(self) -> str:
        """Device and inode, as ``stat -c %d:%i`` prints them."""
        return f"{self.device}:{self.inode}"


def look(path: str) -> Root | None:
    """Return a folder of this machine; None where there is none, or none that we may look into."""
    try:
        with Tree.at(path) as folder:
            return Root(path, *folder.identity)
    except OSError:
        return None


def is_plain(inspection: Mapping[str, Any]) -> bool:
    """Whether a volume is a folder on the engine's host and nothing more; mounts and plug-ins are not."""
    plain = inspection.get("Driver") in ("local", DRIVER) and not inspection.get("Options")
    return plain and bool(inspection.get("Mountpoint"))


def shown_by(containers: Sequence[Mapping[str, Any]], volume: str, root: Root) -> bool:
    """Whether a running container of this machine shows `root` where it mounts `volume`.

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
                seen = _seen_by(process, str(mount["Destination"]))
                # Looked at again afterwards: numbers of processes are used anew.
                if seen == (root.device, root.inode) and is_main_program(process, container):
                    return True
    return False
