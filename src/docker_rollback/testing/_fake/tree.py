"""File trees in memory, and path lookup in them."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias

from attrs import Factory, define, field, frozen

Kind: TypeAlias = Literal["file", "directory", "symlink", "fifo", "character", "block", "socket"]
Now: TypeAlias = Callable[[], int]
"""Returns the current time, in nanoseconds since 1970."""

_LINKS_FOLLOWED = 40


@define(eq=False)
class Node:
    """One inode: hard links are several names for the same one.

    Attributes:
        kind: its kind, such as "file" or "directory".
        mode: permission bits, set-id and sticky bits included.
        uid: its owner.
        gid: its group.
        mtime: nanoseconds since 1970, negative for earlier times.
        ctime: the time of its last change of any kind; only a clock sets it.
        content: a file's bytes.
        target: a symlink's target; bytes that are not UTF-8 are surrogates.
        device: major and minor number of a device node.
        xattrs: extended attributes by full name ("user.note"), POSIX ACLs among them.
        children: a directory's contents, by name.
        number: its inode number, unique among all nodes.
    """

    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    ctime: int = 0
    content: bytes = b""
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(factory=dict)
    children: dict[str, Node] = field(factory=dict)
    number: int = field(factory=itertools.count(2).__next__)

    def facts(self) -> tuple[object, ...]:
        """Return all that a program can see of the node, except a directory's contents and the ctime."""
        return (
            self.kind,
            self.mode,
            self.uid,
            self.gid,
            self.mtime,
            self.content,
            self.target,
            self.device,
            tuple(sorted(self.xattrs.items())),
        )


def directory(*, mode: int = 0o755, uid: int = 0, gid: int = 0, mtime: int = 0) -> Node:
    """Return an empty directory."""
    return Node("directory", mode=mode, uid=uid, gid=gid, mtime=mtime, ctime=mtime)


def copy(node: Node, *, now: int | None = None) -> Node:
    """Return a deep copy of a tree; hard links inside it stay hard links."""
    seen: dict[int, Node] = {}

    def one(source: Node) -> Node:
        if id(source) in seen:
            return seen[id(source)]
        made = Node(
            source.kind,
            mode=source.mode,
            uid=source.uid,
            gid=source.gid,
            mtime=source.mtime,
            ctime=source.ctime if now is None else now,
            content=source.content,
            target=source.target,
            device=source.device,
            xattrs=dict(source.xattrs),
        )
        seen[id(source)] = made
        made.children = {name: one(child) for name, child in source.children.items()}
        return made

    return one(node)


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield every path below `node` with its node, parents first, in order of their names; `node` itself is ``""``."""
    yield path, node
    for name in sorted(node.children):
        yield from walk(node.children[name], f"{path}/{name}" if path else name)


@frozen
class MountedAt:
    """A tree that is mounted at a path.

    Attributes:
        node: the root of the tree.
        read_only: True if writing fails.
    """

    node: Node
    read_only: bool = False


@frozen
class Entry:
    """The result of a path lookup.

    Attributes:
        parent: the directory that contains the path; None for a root or a mount point.
        name: the name in that directory.
        node: the node at the path, or None if there is none.
        read_only: True if the path is in a read-only file system.
    """

    parent: Node | None
    name: str
    node: Node | None
    read_only: bool


@frozen
class View:
    """A file system as a program sees it: a tree with others mounted in it."""

    root: Node
    mounts: Mapping[str, MountedAt] = Factory(dict)
    read_only: bool = False

    def find(self, path: str, *, follow: bool = True) -> Entry:
        """Look up `path` through symlinks and mounts; raises `OSError` if it does not lead to its last name."""
        pending = [name for name in path.split("/") if name not in ("", ".")]
        here: list[str] = []
        links = 0
        while pending:
            name = pending.pop(0)
            if name == "..":
                here = here[:-1]
                continue
            place = self._child(here, name)
            node = place.node
            if node is not None and node.kind == "symlink" and (pending or follow):
                links += 1
                if links > _LINKS_FOLLOWED:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if node.target.startswith("/"):
                    here = []
                pending = [part for part in node.target.split("/") if part not in ("", ".")] + pending
                continue
            if not pending:
                return place
            if node is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            if node.kind != "directory":
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            here.append(name)
        return self._at(here)

    def look(self, path: str, *, follow: bool = True) -> Node | None:
        """Return the node at `path`, or None if there is none."""
        try:
            return self.find(path, follow=follow).node
        except OSError:
            return None

    def _at(self, here: list[str]) -> Entry:
        """Look up a path that exists and has no symlinks."""
        if not here:
            mount = self.mounts.get("/")
            return Entry(None, "", mount.node if mount else self.root, mount.read_only if mount else self.read_only)
        return self._child(here[:-1], here[-1])

    def _child(self, here: list[str], name: str) -> Entry:
        mount = self.mounts.get("/" + "/".join([*here, name]))
        if mount is not None:
            return Entry(None, name, mount.node, mount.read_only)
        above = self._at(here)
        below = above.node.children.get(name) if above.node is not None else None
        return Entry(above.node, name, below, above.read_only)
