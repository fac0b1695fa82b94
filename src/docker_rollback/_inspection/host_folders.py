"""Decides which bind-mounted folders of the engine's host may be archived and restored. Pure.

A folder is handled like a volume whose name is its path. But a volume belongs to its engine, a folder may be anything,
and a restore empties it first. So it is checked twice: by its path, and by the kernel's view of the mount that leads to
it, which no symbolic link can hide.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from docker_rollback._host import Spot, folder_of, lies_in, mounted, overlap
from docker_rollback._model import Mount, NotCovered, is_folder

DRIVER: Final = "(folder of the host)"  # the driver in a folder's inspection; no volume driver can have this name

# Folders of the host's system. They are refused as a whole; single folders in them are allowed.
_SYSTEM: Final = ("/", "/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/run", "/sbin", "/usr", "/var")

_KERNEL: Final = ("/dev", "/proc", "/sys")

_ENGINES: Final = (
    "/run/containerd",
    "/run/containers",
    "/run/crun",
    "/run/docker",
    "/run/libpod",
    "/run/podman",
    "/run/runc",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/kubelet",
)
_DOCKERS: Final = re.compile(r"/run/docker[^/]*(/|$)")

# Types of file systems whose files belong to the kernel.
_VIRTUAL: Final = (
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
)

_MOUNTED_BY_ENGINES: Final = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
_OF_A_CONTAINER: Final = re.compile(r"/[0-9a-f]{64}/")


def uses(mount: Mount, data: str) -> bool:
    """Return True if a mount leads to a volume, or to any part of a folder.

    A read-only mount of a parent folder does not count: monitoring mounts the whole host that way.
    """
    if not is_folder(data):
        return mount.kind == "volume" and mount.source == data
    above = lies_in(data, mount.source) and not mount.read_only
    return mount.kind == "bind" and (lies_in(mount.source, data) or above)


def holds(mount: Mount, data: Iterable[str]) -> bool:
    """Return True if one of the folders contains everything that a bind mount shows."""
    return mount.kind == "bind" and any(is_folder(one) and lies_in(mount.source, one) for one in data)


def could_make(mount: Mount, path: str) -> bool:
    """Return True if a container with this mount can create a path of the host, because it may write to a parent."""
    return mount.kind == "bind" and not mount.read_only and mount.source != path and lies_in(path, mount.source)


def gap_of(mount: Mount, folders: Iterable[str] = ()) -> NotCovered | None:
    """Return the record that a backup with these folders of the host lacks a mount's data; None if it has it."""
    if mount.kind == "volume" or holds(mount, folders):
        return None
    if mount.kind == "tmpfs":
        return NotCovered(f"tmpfs {mount.destination}", "it is in memory, and is lost by any stop")
    return NotCovered(
        f"{mount.kind} {mount.source} at {mount.destination}",
        "it belongs to the host, not to the container; it is mounted again, its content is not touched",
    )


def called(data: str) -> str:
    """Return the name of a volume or folder for a message."""
    return f"{'folder' if is_folder(data) else 'volume'} {data!r}"


def inspection_of(folder: str) -> dict[str, Any]:
    """Return an inspection of a folder in the form of a volume's."""
    return {"Name": folder, "Driver": DRIVER, "Mountpoint": folder, "Options": None, "Labels": None, "Scope": "local"}


def why_never(folder: str, *, engine_root: str) -> str | None:
    """Return why a folder must not be archived, from its path alone; None if it may be."""
    path = re.sub(r"^/var/run(?=/|$)", "/run", folder)
    for kernel in _KERNEL:
        if lies_in(path, kernel):
            return f"{kernel} shows the kernel and its devices, which are not data"
    if path in _SYSTEM:
        return "it is a system folder of the engine's host"
    engines = [*_ENGINES, *([folder_of(engine_root)] if engine_root.startswith("/") else [])]
    for own in engines:
        if overlap(path, own):
            return f"{own} is a folder of the engine's own" + (", and lies in it" if lies_in(own, path) else "")
    if _DOCKERS.match(path):
        return f"{path} is a folder of the engine's own"
    return None


def why_not_there(
    folder: str, spot: Spot, *, engine_root: str, own: Spot | None, kept: Mapping[str, Spot]
) -> str | None:
    """Return why a folder must not be archived, from the place that its path leads to; None if it may be.

    `own` is the place of the engine's data folder, None if unknown. `kept` has other places that must not be touched,
    by their descriptions.
    """
    if spot.filesystem in _VIRTUAL:
        return f"it leads into a file system of the kernel's ({spot.filesystem})"
    if own is not None and spot.overlaps(own):
        return "it leads to the engine's own data"
    for what, place in kept.items():
        if spot.overlaps(place):
            return f"it leads to {what}"
    if not is_straight(folder, spot):
        # A symbolic link, or a partly mounted file system. The path in the file system may be one of the host's.
        for path in (spot.path, *([f"/run{spot.path}"] if spot.filesystem == "tmpfs" else [])):
            if reason := why_never(path, engine_root=engine_root):
                return f"it leads to {path}: {reason}"
    return None


def is_straight(folder: str, spot: Spot) -> bool:
    """Return True if a path can lead to a place without a symbolic link, by a mount over one of its parents."""
    return spot.path == "/" or folder == spot.path or folder.endswith(spot.path)


def engine_spot(mountinfo: str) -> Spot | None:
    """Return the place of an engine's own data, from the kernel's list of mounts as a container sees it, or None.

    Engines mount files into each container from a folder of their own, which has the container's full id.
    """
    for mount in mounted(mountinfo):
        owner = _OF_A_CONTAINER.search(mount.root) if mount.target in _MOUNTED_BY_ENGINES else None
        if owner is not None:
            return Spot(mount.device, posixpath.dirname(mount.root[: owner.start()]), mount.filesystem)
    return None
