"""Handles on file trees, for tests: those of volumes, of containers and of the engine's host."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Concatenate, ParamSpec, TypeVar

from attrs import frozen

from docker_rollback.testing._fake.tree import Entry, Kind, Node, Now, View, walk

_F = TypeVar("_F", bound="Files")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _locked(method: Callable[Concatenate[_F, _P], _R]) -> Callable[Concatenate[_F, _P], _R]:
    """Make a method of `Files` hold its engine's lock, because captures read volumes in threads."""

    @functools.wraps(method)
    def held(self: _F, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._lock:
            return method(self, *args, **kwargs)

    return held


@frozen
class Files:
    """A handle with which tests read and write a file tree: a volume's, a container's or the engine host's.

    A leading slash in paths is optional. Bytes of names that are not UTF-8 become surrogates, as in `os.fsdecode`.

    Example:
        >>> fake.volume("data").write("etc/app.conf", b"port=80", mode=0o600, uid=1000)
        >>> fake.volume("data").read("etc/app.conf")
        b'port=80'
    """

    _view: Callable[[], View]
    _now: Now
    _lock: AbstractContextManager[object]

    @_locked
    def write(
        self,
        path: str,
        content: bytes | str = b"",
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime: int | None = None,
        xattrs: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write a file, and make missing directories; an existing file keeps the attributes that are not given.

        Args:
            path: the file's path.
            content: its bytes; text is written as UTF-8.
            mode: permission bits; 0644 for a new file.
            uid: its owner; 0 for a new file.
            gid: its group; 0 for a new file.
            mtime: nanoseconds since 1970; the default is the engine's current time.
            xattrs: extended attributes to add or replace.

        Raises:
            OSError: the path is a directory, or is read-only.
        """
        node = self._make(path, "file")
        node.content = content.encode() if isinstance(content, str) else bytes(content)
        node.mtime = node.ctime = self._now()
        self.set(path, mode=mode, uid=uid, gid=gid, mtime=mtime, xattrs=xattrs)

    @_locked
    def mkdir(self, path: str, *, mode: int | None = None, uid: int | None = None, gid: int | None = None) -> None:
        """Make a directory and missing ones above it; it may exist."""
        self._make(path, "directory")
        self.set(path, mode=mode, uid=uid, gid=gid)

    @_locked
    def symlink(self, path: str, target: str) -> None:
        """Make a symlink to `target`; raises `FileExistsError` if the path exists."""
        self._add(path, Node("symlink", mode=0o777, target=target))

    @_locked
    def special(self, path: str, kind: Kind, *, mode: int = 0o644, device: tuple[int, int] = (0, 0)) -> None:
        """Make a FIFO, a socket or a device node; raises `FileExistsError` if the path exists."""
        self._add(path, Node(kind, mode=mode, device=device))

    @_locked
    def link(self, existing: str, path: str) -> None:
        """Make a hard link to a file."""
        node = self.node(existing)
        self._place(path, node)
        node.ctime = self._now()

    @_locked
    def set(
        self,
        path: str,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime: int | None = None,
        xattrs: Mapping[str, bytes] | None = None,
    ) -> None:
        """Change the given attributes of a file, as `chmod`, `chown`, `touch -d` and `setfattr` would."""
        node = self.node(path, follow=False)
        if mode is not None:
            node.mode = mode
        if uid is not None:
            node.uid = uid
        if gid is not None:
            node.gid = gid
        if mtime is not None:
            node.mtime = mtime
        node.xattrs.update(xattrs or {})
        node.ctime = self._now()

    @_locked
    def touch(self, path: str) -> None:
        """Set a file's mtime to the current time; makes an empty file if there is none."""
        place = self._view().find(path)
        node = place.node or self._make(path, "file")
        self._writable(place, path)
        node.mtime = node.ctime = self._now()

    @_locked
    def read(self, path: str) -> bytes:
        """Return a file's bytes; raises `OSError` if the path does not exist or is a directory."""
        node = self.node(path)
        if node.kind == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return node.content

    @_locked
    def readlink(self, path: str) -> str:
        """Return a symlink's target."""
        return self.node(path, follow=False).target

    @_locked
    def exists(self, path: str) -> bool:
        """Return True if `path` exists, even as a dangling symlink."""
        return self._view().look(path, follow=False) is not None

    @_locked
    def waits(self, path: str) -> bool:
        """Return True if reading `path` waits for a writer, because it is a FIFO."""
        node = self._view().look(path)
        return node is not None and node.kind == "fifo"

    @_locked
    def list(self, path: str = "/") -> list[str]:
        """Return the sorted names in a directory."""
        return sorted(self.node(path).children)

    @_locked
    def delete(self, path: str) -> None:
        """Remove a file, or a directory with its contents; raises `OSError` if the path does not exist."""
        place = self._view().find(path, follow=False)
        if place.node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if place.parent is None:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        self._writable(place, path)
        del place.parent.children[place.name]
        place.node.ctime = place.parent.mtime = place.parent.ctime = self._now()

    @_locked
    def rename(self, old: str, new: str) -> None:
        """Move a file or directory, replacing a file or directory at the new path."""
        node = self.node(old, follow=False)
        self.delete(old)
        if self.exists(new):
            self.delete(new)
        self._place(new, node)
        node.ctime = self._now()

    @_locked
    def node(self, path: str = "/", *, follow: bool = True) -> Node:
        """Return the inode at `path`; raises `FileNotFoundError` if there is none."""
        node = self._view().find(path, follow=follow).node
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return node

    @_locked
    def facts(self, path: str = "/") -> dict[str, tuple[object, ...]]:
        """Return everything that is visible below `path`, in a form that can be compared.

        The last member of each entry names the first path of the same inode, which shows hard links. The times of
        changes (ctime) are left out, because no program can set them.

        Example:
            >>> before = fake.volume("data").facts()
            >>> update()
            >>> assert fake.volume("data").facts() == before
        """
        first: dict[int, str] = {}
        found = {}
        for name, node in walk(self.node(path)):
            found["/" + name] = (*node.facts(), first.setdefault(id(node), "/" + name))
        return found

    def _writable(self, place: Entry, path: str) -> None:
        if place.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    def _make(self, path: str, kind: Kind) -> Node:
        """Return the node at `path`; it and missing directories above it are made."""
        names = [name for name in path.split("/") if name not in ("", ".")]
        for depth in range(1, len(names) + 1):
            step = "/" + "/".join(names[:depth])
            wanted: Kind = kind if depth == len(names) else "directory"
            place = self._view().find(step)
            if depth == len(names):
                self._writable(place, path)
            if place.node is None:
                mode = 0o755 if wanted == "directory" else 0o644
                self._place(step, Node(wanted, mode=mode, mtime=self._now()), follow=True)
            elif place.node.kind != wanted:
                code = errno.EISDIR if place.node.kind == "directory" else errno.ENOTDIR
                raise OSError(code, os.strerror(code), step)
        return self.node(path)

    def _add(self, path: str, node: Node) -> None:
        above = "/".join(path.rstrip("/").split("/")[:-1])
        if above.strip("/"):
            self._make(above, "directory")
        node.mtime = self._now()
        self._place(path, node)

    def _place(self, path: str, node: Node, *, follow: bool = False) -> None:
        place = self._view().find(path, follow=follow)
        if place.node is not None or place.parent is None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._writable(place, path)
        place.parent.children[place.name] = node
        node.ctime = place.parent.mtime = place.parent.ctime = self._now()
