"""Folders of the engine's host that containers bind: which of them may be archived and filled, and which never. Pure.

A folder is handled like a volume whose name is its path. But a volume belongs to its engine, and a folder may be
anything: what fills it empties it first. So it is looked at twice, by its path and by what the kernel says of the mount
that leads to it, which no symbolic link can hide.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from docker_rollback._host import Spot, folder_of, lies_in, mounted, overlap
from docker_rollback._model import Mount, NotCovered, is_folder

DRIVER: Final = "(folder of the host)"
"""What a folder's inspection says where a volume's names its driver; no driver can have that name."""

_SYSTEM: Final = ("/", "/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/run", "/sbin", "/usr", "/var")
"""Folders that a host lives in, with all that is in them; single folders in them may be anybody's."""

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
"""File systems whose files are the kernel's."""

_MOUNTED_BY_ENGINES: Final = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
_OF_A_CONTAINER: Final = re.compile(r"/[0-9a-f]{64}/")


def uses(mount: Mount, data: str) -> bool:
    """Whether a mount leads to a volume or, where `data` is a folder, to anything of that.

    Who may only look at a folder further up looks at the host as a whole, as monitoring does: that is no use of it.
    """
    if not is_folder(data):
        return mount.kind == "volume" and mount.source == data
    above = lies_in(data, mount.source) and not mount.read_only
    return mount.kind == "bind" and (lies_in(mount.source, data) or above)


def holds(mount: Mount, data: Iterable[str]) -> bool:
    """Whether all that a bind mount shows is in one of some folders."""
    return mount.kind == "bind" and any(is_folder(one) and lies_in(mount.source, one) for one in data)


def could_make(mount: Mount, path: str) -> bool:
    """Whether a container with a mount can make a path of the host: it may write to a folder further up."""
    return mount.kind == "bind" and not mount.read_only and mount.source != path and lies_in(path, mount.source)


def gap_of(mount: Mount, folders: Iterable[str] = ()) -> NotCovered | None:
    """Return what a backup does not hold of a mount; None for a volume, which it does.

    Args:
        mount: the mount.
        folders: the folders of the host that the backup holds.
    """
    if mount.kind == "volume" or holds(mount, folders):
        return None
    if mount.kind == "tmpfs":
        return NotCovered(f"tmpfs {mount.destination}", "it lives in memory and is lost by any stop")
    return NotCovered(
        f"{mount.kind} {mount.source} at {mount.destination}",
        "it belongs to the host, not to the container; it is attached again, its content is left alone",
    )


def called(data: str) -> str:
    """Return what to call a volume or a folder in a sentence."""
    return f"{'folder' if is_folder(data) else 'volume'} {data!r}"


def inspection_of(folder: str) -> dict[str, Any]:
    """Return of a folder what an engine would say of a volume."""
    return {"Name": folder, "Driver": DRIVER, "Mountpoint": folder, "Options": None, "Labels": None, "Scope": "local"}


def why_never(folder: str, *, engine_root: str) -> str | None:
    """Return why a folder is never archived, as its path alone tells; None where it may be."""
    path = re.sub(r"^/var/run(?=/|$)", "/run", folder)
    for kernel in _KERNEL:
        if lies_in(path, kernel):
            return f"{kernel} shows the kernel and its devices, which are not data"
    if path in _SYSTEM:
        return "the engine's host itself lives in it"
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
    """Return why a folder is not archived, as the kernel tells where it leads; None where it may be.

    Args:
        folder: its path.
        spot: where that leads.
        engine_root: the folder of the engine's data, as the engine says it.
        own: the same, as the kernel says it; None where it cannot be known.
        kept: what else must not be touched, by what it is.
    """
    if spot.filesystem in _VIRTUAL:
        return f"it leads into a file system of the kernel's ({spot.filesystem})"
    if own is not None and spot.overlaps(own):
        return "it leads to the engine's own data"
    for what, place in kept.items():
        if spot.overlaps(place):
            return f"it leads to {what}"
    if not is_straight(folder, spot):
        # A symbolic link, or a file system that is mounted in parts; what it says may be a path of the host.
        for path in (spot.path, *([f"/run{spot.path}"] if spot.filesystem == "tmpfs" else [])):
            if reason := why_never(path, engine_root=engine_root):
                return f"it leads to {path}: {reason}"
    return None


def is_straight(folder: str, spot: Spot) -> bool:
    """Whether a path can lead where it does without a symbolic link: by a mount over one of the folders on its way."""
    return spot.path == "/" or folder == spot.path or folder.endswith(spot.path)


def engine_spot(mountinfo: str) -> Spot | None:
    """Return where an engine has its own data, as a container of it sees that; None where it does not.

    Engines mount files into each container from a folder of their own that has the container's full id.

    Args:
        mountinfo: the kernel's list of mounts, as the container sees it.
    """
    for mount in mounted(mountinfo):
        owner = _OF_A_CONTAINER.search(mount.root) if mount.target in _MOUNTED_BY_ENGINES else None
        if owner is not None:
            return Spot(mount.device, posixpath.dirname(mount.root[: owner.start()]), mount.filesystem)
    return None
