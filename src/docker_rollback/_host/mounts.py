"""Mounts of this machine, as its mountinfo tells them. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import frozen

_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


@frozen
class Spot:
    """Where a path leads, in the kernel's words: the same for every name and every symbolic link that leads there.

    Attributes:
        device: the number of the file system ("254:0").
        path: where in that file system.
        filesystem: what kind it is ("ext4").
    """

    device: str
    path: str
    filesystem: str

    def overlaps(self, other: Spot) -> bool:
        """Whether one of the two is the other, or lies in it."""
        return self.device == other.device and overlap(self.path, other.path)


@frozen
class Mounted:
    """One mount, as the kernel lists it.

    Attributes:
        device: the number of its file system.
        root: which part of that is mounted.
        target: where.
        filesystem: what kind it is.
        options: of the file system, as the kernel writes them.
        id: its number in this list.
        parent: the number of the mount that its target lies in.
        is_read_only: whether nothing can be written to it.
    """

    device: str
    root: str
    target: str
    filesystem: str
    options: str = ""
    id: str = ""
    parent: str = ""
    is_read_only: bool = False

    def option(self, name: str) -> str:
        """Return the value of an option; empty where it has none."""
        for option in self.options.split(","):
            key, equals, value = option.partition("=")
            if key == name and equals:
                return _plain(value)
        return ""


def folder_of(path: str) -> str:
    """Return a path in the one way in which folders are named here: absolute, without dots and doubled slashes.

    Raises:
        ValueError: it is not absolute.

    Example:
        >>> folder_of("/srv//data/")
        '/srv/data'
    """
    if not path.startswith("/"):
        raise ValueError(f"a bind mount is named by its path on the engine's host, which begins with a slash: {path!r}")
    return "/" + posixpath.normpath(path).lstrip("/")


def overlap(one: str, other: str) -> bool:
    """Whether one of two folders is the other, or lies in it."""
    return lies_in(one, other) or lies_in(other, one)


def spot_of(mountinfo: str, path: str) -> Spot | None:
    """Return where a path leads; None where nothing is mounted on its way.

    Args:
        mountinfo: the kernel's list of mounts (proc_pid_mountinfo(5)), as whoever uses the path sees it.
        path: without symbolic links.
    """
    found: Spot | None = None
    longest = -1
    for mount in mounted(mountinfo):
        target, root = mount.target, mount.root
        # Of several at one place, the last one hides the others.
        if lies_in(path, target) and len(target) >= longest:
            rest = path[len(target.rstrip("/")) :]
            where = folder_of(root + rest) if root.startswith("/") else root
            found = Spot(mount.device, where, mount.filesystem)
            longest = len(target)
    return found


def mounted_below(mountinfo: str, path: str) -> list[str]:
    """Return what is mounted in a folder, relative to it; what is mounted in one of these mounts is left out."""
    targets = (mount.target for mount in mounted(mountinfo))
    return outermost(posixpath.relpath(target, path) for target in targets if target != path and lies_in(target, path))


def mounted_on(mountinfo: str, spot: Spot, *, at: str = "/") -> list[str]:
    """Return the names in a folder that are mount points of another list than the one that the folder was found in.

    Two namespaces can show the same folder at different paths. A name in it that is a mount point in one of them loses
    its mount there when it is removed in the other.

    Args:
        mountinfo: the kernel's list of the mounts of any namespace.
        spot: where the folder is.
        at: the path by which whoever mounted them has to know the folder.

    Returns:
        The mount points, relative to the folder.
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
    """Return relative paths in order, each once, without those that lie in another one of them."""
    kept: list[str] = []
    for path in sorted(set(paths), key=lambda path: path.split("/")):
        if not kept or not lies_in(path, kept[-1]):
            kept.append(path)
    return kept


def is_read_only(mountinfo: str, path: str) -> bool:
    """Return True if nothing can be written at a path: its mount is read-only, or the file system is."""
    found = False
    longest = -1
    for mount in mounted(mountinfo):
        if lies_in(path, mount.target) and len(mount.target) >= longest:
            found, longest = mount.is_read_only, len(mount.target)
    return found


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
    return path == folder or path.startswith(folder.rstrip("/") + "/")
