"""Merges several layers of an image into one with the same effect.

The members of their tars are copied byte for byte, attributes and unusual names included. Only whiteouts and hard links
whose first name is gone, are written again.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, TypeAlias

from attrs import define, field, frozen

from docker_rollback._store.streams import CHUNK, tar_end

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
_META: Final = b".wh..wh."  # the prefix of names that engines use internally, and skip

# The extended headers of a member that are wrong for another name of the file.
_OF_THE_NAME: Final = ("path", "linkpath", "size")

Path: TypeAlias = tuple[bytes, ...]


@frozen(eq=False)
class _Member:
    """A member of a layer's tar."""

    file: BinaryIO
    name: bytes  # its name in the tar
    start: int  # the offset of its headers
    end: int  # the offset of the next member
    is_folder: bool = False  # True if it is a folder
    first: _Member | None = None  # the member with the content, if this one is a hard link to it


@define(eq=False)
class _Node:
    """A path in the merged layer."""

    member: _Member | None = None  # the member at this path; None if there is none, or if it is deleted
    deleted: bool = False  # True if everything at this path below the merged layers is hidden
    children: dict[bytes, _Node] = field(factory=dict)  # the nodes in it, by name

    def at(self, path: Path) -> _Node:
        """Return the node of a path below this one; create it if it is missing."""
        node = self
        for name in path:
            node = node.children.setdefault(name, _Node())
        return node

    def find(self, path: Path) -> _Node | None:
        """Return the node of a path below this one, or None."""
        node: _Node | None = self
        for name in path:
            node = node.children.get(name) if node is not None else None
        return node


def merged(layers: Sequence[BinaryIO]) -> Iterator[bytes]:
    """Yield the tar of a layer with the effect of several layers.

    The layers are uncompressed tars, lowest first, in seekable files that stay open. Raises `tarfile.TarError` if one
    is not a tar, or is truncated.
    """
    root = _Node()
    for layer in layers:
        _lay(root, layer)
    yield from _written(root)
    yield from tar_end()


def _lay(root: _Node, file: BinaryIO) -> None:
    """Add a layer on top of those below: first apply its whiteouts, then add its members."""
    here: dict[Path, _Member] = {}
    links: list[tuple[Path, Path, _Member]] = []
    for info, end in _members(file):
        name = _encoded(info.name)
        path = _path(name)
        last = path[-1] if path else b""
        if last == OPAQUE:
            folder = root.at(path[:-1])
            folder.children.clear()
            folder.deleted = True
        elif last.startswith(_META):
            continue
        elif last.startswith(WHITEOUT):
            gone = root.at((*path[:-1], last.removeprefix(WHITEOUT)))
            gone.children.clear()
            gone.member, gone.deleted = None, True
        elif info.islnk():
            links.append((path, _path(_encoded(info.linkname)), _Member(file, name, info.offset, end)))
        else:
            here[path] = _Member(file, name, info.offset, end, is_folder=info.isdir())
    for path, target, member in links:
        below = root.find(target)
        first = here.get(target) or (below.member if below is not None else None)
        if first is not None:
            member = _Member(file, member.name, member.start, member.end, first=first.first or first)
        here[path] = member
    for path, member in here.items():
        node = root.at(path)
        if not member.is_folder:
            node.children.clear()
            node.deleted = False
        elif node.member is not None and not node.member.is_folder:
            # The file hid any folder at this path in the layers below.
            node.deleted = True
        node.member = member


def _written(root: _Node) -> Iterator[bytes]:
    """Yield the members of the merged layer, without whiteouts in folders that hide everything below anyway."""
    names: dict[_Member, bytes] = {}
    todo: list[tuple[_Node, Path, bool]] = [(root, (), False)]
    while todo:
        node, path, hidden = todo.pop()
        if node.member is not None:
            yield from _copied(node.member, names)
            if node.deleted and not hidden:
                yield _mark((*path, OPAQUE))
        elif node.deleted and not hidden:
            yield _mark((*path[:-1], WHITEOUT + path[-1]) if path else (OPAQUE,))
        inside = hidden or node.deleted
        todo += [(node.children[name], (*path, name), inside) for name in sorted(node.children, reverse=True)]


def _copied(member: _Member, names: dict[_Member, bytes]) -> Iterator[bytes]:
    """Yield a member byte for byte, or as a hard link if its content was already written under another name."""
    content = member.first or member
    first = names.setdefault(content, member.name)
    if member is content and first == member.name:
        yield from _bytes(member.file, member.start, member.end)
        return
    content.file.seek(content.start)
    with tarfile.open(fileobj=content.file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        info = tar.next()
    if info is None:
        raise tarfile.ReadError("a member is gone")
    data = info.offset_data
    # These headers have the old name and size.
    info.pax_headers = {key: value for key, value in info.pax_headers.items() if key not in _OF_THE_NAME}
    info.name = _decoded(member.name)
    if first != member.name:
        info.type, info.linkname, info.size = tarfile.LNKTYPE, _decoded(first), 0
    yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if first == member.name:
        yield from _bytes(content.file, data, content.end)


def _members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yield the header of each member of a tar, with the offset of the next member."""
    if not file.seek(0, os.SEEK_END):
        return
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        end = 0
        while (info := tar.next()) is not None:
            if info.offset != end:
                # Some versions of tarfile skip a first header that they refuse (a negative size), and continue.
                raise tarfile.ReadError(f"there is no member at byte {end}")
            end = tar.offset
            yield info, end
            # tarfile would keep all members in memory.
            tar.members = []  # type: ignore[attr-defined]  # missing in the type stubs
    # tarfile takes an unreadable header for the end, unless it is the first one.
    file.seek(end)
    mark = file.read(2 * tarfile.BLOCKSIZE)
    if any(mark) or len(mark) % tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"there is no member at byte {end}, and no end")


def _bytes(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end:
        data = file.read(min(CHUNK, end - start))
        if not data:
            raise tarfile.ReadError("unexpected end of data")
        yield data
        start += len(data)


def _mark(path: Path) -> bytes:
    info = tarfile.TarInfo(_decoded(b"/".join(path)))
    info.mode = 0o600
    # GNU's extension for long names accepts any bytes.
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _path(name: bytes) -> Path:
    return tuple(part for part in name.split(b"/") if part not in (b"", b"."))


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
