"""Layers of an image merged into one, which changes what is below it as the layers did one after the other.

The members of their tars are copied to the byte, attributes and odd names included. Only marks of deletions, and names
of one file whose first name is gone, are written again.
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
_META: Final = b".wh..wh."
"""How names begin that engines keep for themselves, and skip."""

_OF_THE_NAME: Final = ("path", "linkpath", "size")
"""Extended headers of a member that do not hold for another name of the file."""

Path: TypeAlias = tuple[bytes, ...]


@frozen(eq=False)
class _Member:
    """A member of a layer's tar.

    Attributes:
        file: the tar.
        name: its name, as the tar has it.
        start: where its headers begin.
        end: where the next member begins.
        is_folder: whether it is a folder.
        first: the member that has the content, if this is a further name of it.
    """

    file: BinaryIO
    name: bytes
    start: int
    end: int
    is_folder: bool = False
    first: _Member | None = None


@define(eq=False)
class _Node:
    """A path in the merged layer.

    Attributes:
        member: what is there; None if nothing is known of it, or if it is deleted.
        deleted: whether nothing of what is below the layers is seen here.
        children: what is in it, by name.
    """

    member: _Member | None = None
    deleted: bool = False
    children: dict[bytes, _Node] = field(factory=dict)

    def at(self, path: Path) -> _Node:
        """Return the node of a path below this one; make it where there is none."""
        node = self
        for name in path:
            node = node.children.setdefault(name, _Node())
        return node

    def find(self, path: Path) -> _Node | None:
        """Return the node of a path below this one."""
        node: _Node | None = self
        for name in path:
            node = node.children.get(name) if node is not None else None
        return node


def merged(layers: Sequence[BinaryIO]) -> Iterator[bytes]:
    """Yield the tar of one layer that does what several do, lowest first.

    Args:
        layers: their tars, plain, as files that can be sought in, and that stay open.

    Raises:
        tarfile.TarError: one of them is no tar, or breaks off.
    """
    root = _Node()
    for layer in layers:
        _lay(root, layer)
    yield from _written(root)
    yield from tar_end()


def _lay(root: _Node, file: BinaryIO) -> None:
    """Lay one layer over those below it: first what it hides of them, then what it has."""
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
            # The file hid a folder of what is below, if there is one.
            node.deleted = True
        node.member = member


def _written(root: _Node) -> Iterator[bytes]:
    """Yield the members of the merged layer; a mark where nothing below is seen anyhow is left out."""
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
    """Yield a member: to the byte, or as a further name of what was written under another one."""
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
    # They belong to the name and the size that it had.
    info.pax_headers = {key: value for key, value in info.pax_headers.items() if key not in _OF_THE_NAME}
    info.name = _decoded(member.name)
    if first != member.name:
        info.type, info.linkname, info.size = tarfile.LNKTYPE, _decoded(first), 0
    yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if first == member.name:
        yield from _bytes(content.file, data, content.end)


def _members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yield the headers of a tar's members, each with where the next member begins."""
    if not file.seek(0, os.SEEK_END):
        return
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        end = 0
        while (info := tar.next()) is not None:
            if info.offset != end:
                # Some versions of the module go on behind a first header that they refuse (a size below zero).
                raise tarfile.ReadError(f"there is no member at byte {end}")
            end = tar.offset
            yield info, end
            # It would remember all of them.
            tar.members = []  # type: ignore[attr-defined]  # in no list of types
    # To the module a header that it cannot read is the end, unless it is the first one.
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
    # GNU's own way of saying long names takes any bytes.
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _path(name: bytes) -> Path:
    return tuple(part for part in name.split(b"/") if part not in (b"", b"."))


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
