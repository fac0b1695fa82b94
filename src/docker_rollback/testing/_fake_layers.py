"""Image layers in memory: converts file trees to the tars of layers and back, and compares trees.

As with a Docker engine's commit, a layer has times in whole seconds, none before 1970; `security.capability` is its
only extended attribute; and it has no sockets and no files whose names look like whiteouts.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from functools import lru_cache

from attrs import field, frozen

from docker_rollback._engine import Change
from docker_rollback.testing._fake_archives import KINDS, TYPES, XATTR, entries
from docker_rollback.testing._fake_tree import Node, directory

_SECOND = 1_000_000_000
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_KEPT_XATTR = "security.capability"


@frozen
class Layer:
    """One layer of an image.

    Attributes:
        digest: the sha256 of its uncompressed tar.
        tar: its uncompressed tar.
    """

    digest: str
    tar: bytes = field(eq=False)

    @classmethod
    def of(cls, tar: bytes) -> Layer:
        """Return the layer of a tar, which may be gzipped."""
        plain = gzip.decompress(tar) if tar[:2] == b"\x1f\x8b" else tar
        return cls(digest_of(plain), plain)


def digest_of(data: bytes) -> str:
    """Return the digest of `data` in the form of OCI descriptors."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def differences(base: Node, top: Node) -> list[Change]:
    """Return the additions, changes and deletions that turn `base` into `top`, as an engine lists them.

    The directories above a change count as changed, because a copy-on-write file system copies them; the root is never
    listed.
    """
    found: list[Change] = []

    def compare(path: str, old: Node, new: Node) -> bool:
        changed = old.facts() != new.facts()
        for name in sorted(old.children.keys() | new.children.keys()):
            below = f"{path}/{name}"
            before, after = old.children.get(name), new.children.get(name)
            if after is None:
                found.append(Change(below, "deleted"))
                changed = True
            elif before is None:
                add(below, after)
                changed = True
            elif before.kind != after.kind:
                found.append(Change(below, "changed"))
                for child in sorted(after.children):
                    add(f"{below}/{child}", after.children[child])
                changed = True
            else:
                changed = compare(below, before, after) or changed
        if changed and path:
            found.append(Change(path, "changed"))
        return changed

    def add(path: str, node: Node) -> None:
        found.append(Change(path, "added"))
        for name in sorted(node.children):
            add(f"{path}/{name}", node.children[name])

    compare("", base, top)
    return sorted(found, key=lambda change: change.path)


def pack(base: Node, top: Node) -> bytes | None:
    """Return the tar of the layer that turns `base` into `top`; None if they are equal."""
    changes = differences(base, top)
    if not changes:
        return None
    buffer = io.BytesIO()
    linked: dict[int, str] = {}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        for change in changes:
            name = change.path[1:]
            above, _, last = name.rpartition("/")
            if change.kind == "deleted":
                mark = tarfile.TarInfo(f"{above}/{_WHITEOUT}{last}" if above else f"{_WHITEOUT}{last}")
                mark.mode = 0o600
                archive.addfile(mark)
                continue
            node = _node(top, name)
            if node.kind == "socket" or last.startswith(_WHITEOUT):
                continue
            _add(archive, name, node, linked)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, node: Node, linked: dict[int, str]) -> None:
    entry = tarfile.TarInfo(name)
    entry.type = TYPES[node.kind]
    entry.mode, entry.uid, entry.gid = node.mode, node.uid, node.gid
    entry.mtime = max(0, node.mtime // _SECOND)
    entry.devmajor, entry.devminor = node.device
    entry.linkname = node.target
    if _KEPT_XATTR in node.xattrs:
        value = node.xattrs[_KEPT_XATTR].decode("utf-8", "surrogateescape")
        entry.pax_headers = {f"{XATTR}{_KEPT_XATTR}": value}
    if node.kind == "file":
        if id(node) in linked:
            entry.type, entry.linkname = tarfile.LNKTYPE, linked[id(node)]
        else:
            linked[id(node)] = name
            entry.size = len(node.content)
    archive.addfile(entry, io.BytesIO(node.content) if entry.isreg() else None)


@lru_cache(maxsize=8)
def unpack(layers: tuple[Layer, ...]) -> Node:
    """Return the file tree that `layers`, lowest first, make up; cached, so that all engines share a helper's image."""
    root = directory()
    for layer in layers:
        apply(root, layer.tar)
    return root


def apply(root: Node, tar: bytes) -> None:
    """Apply a layer to a tree, in place; raises `tarfile.TarError` if `tar` is not a tar."""
    for entry, content in entries(tar):
        names = [name for name in entry.name.split("/") if name not in ("", ".")]
        if not names:
            _attributes(root, entry)
            continue
        parent = _directory(root, names[:-1])
        name = names[-1]
        if name == _OPAQUE:
            parent.children.clear()
        elif name.startswith(_WHITEOUT):
            parent.children.pop(name.removeprefix(_WHITEOUT), None)
        elif entry.islnk():
            parent.children[name] = _node(root, entry.linkname)
        else:
            _lay(parent, name, entry, content)


def _lay(parent: Node, name: str, entry: tarfile.TarInfo, content: bytes) -> None:
    kind = KINDS[entry.type]
    there = parent.children.get(name)
    if kind == "directory" and there is not None and there.kind == "directory":
        _attributes(there, entry)
        return
    node = Node(kind, content=content, target=entry.linkname if entry.issym() else "")
    if kind in ("character", "block"):
        node.device = (entry.devmajor, entry.devminor)
    _attributes(node, entry)
    parent.children[name] = node


def _attributes(node: Node, entry: tarfile.TarInfo) -> None:
    node.mode, node.uid, node.gid = entry.mode, entry.uid, entry.gid
    node.mtime = node.ctime = int(entry.mtime) * _SECOND
    for key, value in entry.pax_headers.items():
        if key.startswith(XATTR):
            node.xattrs[key.removeprefix(XATTR)] = value.encode("utf-8", "surrogateescape")


def _directory(root: Node, names: list[str]) -> Node:
    node = root
    for name in names:
        below = node.children.get(name)
        if below is None or below.kind != "directory":
            below = node.children[name] = directory()
        node = below
    return node


def _node(root: Node, path: str) -> Node:
    node = root
    for name in path.split("/"):
        if name not in ("", "."):
            node = node.children[name]
    return node
