"""Reads and writes members of tar archives in memory, between archives and file trees; truncation is noticed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence

from docker_rollback.testing._fake.tree import Kind, Node, directory

TYPES: dict[Kind, bytes] = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "fifo": tarfile.FIFOTYPE,
    "character": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
}
"""The tar type of each kind of node; tar has none for sockets."""

KINDS: dict[bytes, Kind] = {code: kind for kind, code in TYPES.items()} | {tarfile.AREGTYPE: "file"}
"""The kind of node for each tar type."""

_XATTR = "SCHILY.xattr."
"""The prefix of PAX keywords for extended attributes."""


def entries(data: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the members of an archive with their contents; bytes of names that are not UTF-8 are surrogates.

    Raises:
        tarfile.TarError: it is not an archive, or is truncated.
    """
    if not data:
        return
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="surrogateescape") as archive:
        for entry in archive:
            source = archive.extractfile(entry) if entry.isreg() else None
            yield entry, source.read() if source is not None else b""
        # Python takes a truncated header for the end of the archive.
        if 0 < len(data) - archive.offset < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("Unexpected EOF in archive")


def xattr_headers(xattrs: Mapping[str, bytes]) -> dict[str, str]:
    """Return the PAX headers for extended attributes."""
    return {_XATTR + name: value.decode("utf-8", "surrogateescape") for name, value in sorted(xattrs.items())}


def xattrs_of(entry: tarfile.TarInfo) -> dict[str, bytes]:
    """Return a member's extended attributes."""
    headers = entry.pax_headers.items()
    return {
        key.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
        for key, value in headers
        if key.startswith(_XATTR)
    }


def add(
    archive: tarfile.TarFile, name: str, node: Node, linked: dict[int, str], headers: dict[str, str], *, mtime: int = 0
) -> None:
    """Write a node to an archive.

    Args:
        archive: the archive.
        name: the member's name.
        node: the node.
        linked: the names of the nodes so far, by their `id`, for hard links; completed here.
        headers: its PAX headers.
        mtime: its modification time in whole seconds; a header "mtime" outranks it.
    """
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = TYPES[node.kind], node.target
    entry.mode, entry.uid, entry.gid, entry.mtime = node.mode, node.uid, node.gid, mtime
    entry.devmajor, entry.devminor = node.device
    entry.pax_headers = headers
    if node.kind != "directory" and id(node) in linked:
        entry.type, entry.linkname, entry.pax_headers = tarfile.LNKTYPE, linked[id(node)], {}
    elif node.kind != "directory":
        linked[id(node)] = name
        entry.size = len(node.content)
    archive.addfile(entry, io.BytesIO(node.content) if entry.isreg() else None)


def put(root: Node, names: Sequence[str], entry: tarfile.TarInfo, content: bytes) -> Node:
    """Put a member at a path of a tree and return its node, without the member's attributes.

    Raises:
        KeyError: it is a hard link to a path that does not exist.
    """
    parent = make_folder(root, names[:-1])
    there = parent.children.get(names[-1])
    if entry.islnk():
        node = look(root, entry.linkname)
    elif entry.isdir() and there is not None and there.kind == "directory":
        node = there
    else:
        node = Node(KINDS[entry.type], content=content, target=entry.linkname if entry.issym() else "")
    if node.kind in ("character", "block") and not entry.islnk():
        node.device = (entry.devmajor, entry.devminor)
    parent.children[names[-1]] = node
    return node


def make_folder(root: Node, names: Sequence[str]) -> Node:
    """Return the directory at a path of a tree; missing ones are made, and replace other files."""
    node = root
    for name in names:
        below = node.children.get(name)
        if below is None or below.kind != "directory":
            below = node.children[name] = directory()
        node = below
    return node


def look(root: Node, path: str) -> Node:
    """Return the node at a path of a tree, without following symlinks; raises `KeyError` if there is none."""
    node = root
    for name in path.split("/"):
        if name not in ("", "."):
            node = node.children[name]
    return node
