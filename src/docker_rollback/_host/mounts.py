"""Parses the kernel's mountinfo, and resolves paths by it. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import frozen

_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


@frozen
class Spot:
    """The place that a path leads to, the same for every name and symbolic link of it."""

    device: str  # the file system's device number ("254:0")
    path: str  # the path in that file system
    filesystem: str  # the type of the file system ("ext4")

    def overlaps(self, other: Spot) -> bool:
        """Return True if the two are equal, or one contains the other."""
        return self.device == other.device and overlap(self.path, other.path)


@frozen
class Mounted:
    """A mount in the kernel's list."""

    device: str  # the file system's device number
    root: str  # the path in the file system that is mounted
    target: str
    filesystem: str  # the type of the file system
    options: str = ""  # the options of the file system, as the kernel writes them
    id: str = ""  # its id in this list
    parent: str = ""  # the id of the mount that contains its mount point
    is_read_only: bool = False  # True if the mount or its file system is read-only

    def option(self, name: str) -> str:
        """Return the value of an option; empty if it has none."""
        for option in self.options.split(","):
            key, equals, value = option.partition("=")
            if key == name and equals:
                return _plain(value)
        return ""


def folder_of(path: str) -> str:
    """Normalise a folder's absolute path: no dots, no doubled slashes; raises `ValueError` for a relative one.

    Example:
        >>> folder_of("/srv//data/")
        '/srv/data'
    """
    if not path.startswith("/"):
        raise ValueError(f"a bind mount is named by its path on the engine's host, which begins with a slash: {path!r}")
    return "/" + posixpath.normpath(path).lstrip("/")


def overlap(one: str, other: str) -> bool:
    """Return True if two folders are equal, or one contains the other."""
    return lies_in(one, other) or lies_in(other, one)


def spot_of(mountinfo: str, path: str) -> Spot | None:
    """Return the place that a path without symbolic links leads to; None if no listed mount contains it.

    `mountinfo` is the kernel's list of mounts (proc_pid_mountinfo(5)), as seen by the process that uses the path.
    """
    mount = _mount_of(mountinfo, path)
    if mount is None:
        return None
    inside = path[len(mount.target.rstrip("/")) :]
    place = folder_of(mount.root + inside) if mount.root.startswith("/") else mount.root
    return Spot(mount.device, place, mount.filesystem)


def mounted_below(mountinfo: str, path: str) -> list[str]:
    """Return the outermost mount points in a folder, relative to it."""
    targets = (mount.target for mount in mounted(mountinfo))
    return outermost(posixpath.relpath(target, path) for target in targets if target != path and lies_in(target, path))


def mounted_on(mountinfo: str, spot: Spot, *, at: str = "/") -> list[str]:
    """Return the mount points in a folder, relative to it, that exist in another mount namespace, below `at` there.

    Two namespaces can show the same folder at different paths. If a name in it is a mount point in one namespace and is
    removed in the other, the mount is lost. `mountinfo` is the kernel's list of the mounts of the other namespace.
    """
    listed = list(mounted(mountinfo))
    by_id = {mount.id: mount for mount in listed}
    found = []
    for mount in listed:
        parent = by_id.get(mount.parent)
        if parent is None or not (lies_in(mount.target, parent.target) and lies_in(mount.target, at)):
            continue
        if parent.device == spot.device:
            place = folder_of(f"{parent.root}/{posixpath.relpath(mount.target, parent.target)}")
            if place != spot.path and lies_in(place, spot.path):
                found.append(posixpath.relpath(place, spot.path))
    return outermost(found)


def outermost(paths: Iterable[str]) -> list[str]:
    """Return sorted relative paths without duplicates, and without paths inside other ones."""
    kept: list[str] = []
    for path in sorted(set(paths), key=lambda path: path.split("/")):
        if not kept or not lies_in(path, kept[-1]):
            kept.append(path)
    return kept


def is_read_only(mountinfo: str, path: str) -> bool:
    """Return True if a path is on a read-only mount or file system."""
    mount = _mount_of(mountinfo, path)
    return mount is not None and mount.is_read_only


def _mount_of(mountinfo: str, path: str) -> Mounted | None:
    """Return the mount that shows a path; None if no listed mount contains it."""
    above = [mount for mount in mounted(mountinfo) if lies_in(path, mount.target)]
    # Of several mounts at one mount point, the last one hides the others.
    return max(reversed(above), key=lambda mount: len(mount.target), default=None)


def mounted(mountinfo: str) -> Iterator[Mounted]:
    """Yield the mounts of the kernel's list (proc_pid_mountinfo(5))."""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        words = [_plain(word) for word in fields.split()]
        if len(words) >= 5 and rest:
            filesystem, *more = rest.split()
            options = more[-1] if more else ""
            read_only = "ro" in ",".join([*words[5:6], options]).split(",")
            yield Mounted(words[2], words[3], words[4], filesystem, options, words[0], words[1], read_only)


def _plain(word: str) -> str:
    return _ESCAPED.sub(lambda code: chr(int(code[1], 8)), word)


def lies_in(path: str, folder: str) -> bool:
    """Return True if a path is the folder, or is inside it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
