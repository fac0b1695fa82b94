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
from docker_rollback.testing._fake.tar_members import add, entries, look, make_folder, put, xattr_headers, xattrs_of
from docker_rollback.testing._fake.tree import Node, directory

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
                added(below, after)
                changed = True
            elif before.kind != after.kind:
                found.append(Change(below, "changed"))
                for child in sorted(after.children):
                    added(f"{below}/{child}", after.children[child])
                changed = True
            else:
                changed = compare(below, before, after) or changed
        if changed and path:
            found.append(Change(path, "changed"))
        return changed

    def added(path: str, node: Node) -> None:
        found.append(Change(path, "added"))
        for name in sorted(node.children):
            added(f"{path}/{name}", node.children[name])

    compare("", base, top)
    return sorted(found, key=lambda change: change.path)


def pack(base: Node, top: Node) -> bytes | None:
    """Return the tar of the layer that turns `base` into `top`; None if they are equal."""
    changes = differences(base, top)
    if not changes:
        return None
    buffer = io.BytesIO()
    linked: dict[int, str] = {}
    # The marks of deletions are links to one file, which is as old as the first deletion.
    changes = sorted(changes, key=lambda change: change.path.split("/"))
    deleted = [change.path[1:] for change in changes if change.kind == "deleted"]
    mtime = min((look(top, name.rpartition("/")[0]).mtime // _SECOND for name in deleted), default=0)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        for change in changes:
            name = change.path[1:]
            above, _, last = name.rpartition("/")
            if change.kind == "deleted":
                mark = tarfile.TarInfo(f"{above}/{_WHITEOUT}{last}" if above else f"{_WHITEOUT}{last}")
                mark.mode, mark.mtime = 0o600, max(0, mtime)
                mark.linkname = deleted[0] if name != deleted[0] else ""
                archive.addfile(mark)
            else:
                _keep(archive, name, look(top, name), linked)
        end = archive.offset
    # Go ends a tar with two blocks, and Python fills a larger one.
    return buffer.getvalue()[:end] + bytes(2 * tarfile.BLOCKSIZE)


def archive_of(root: Node, path: str) -> bytes:
    """Return a tar of the file at a path, or of the folder and everything in it; raises `KeyError` if there is none."""
    buffer = io.BytesIO()
    linked: dict[int, str] = {}

    def take(name: str, node: Node) -> None:
        _keep(archive, name, node, linked)
        for below in sorted(node.children):
            take(f"{name}/{below}", node.children[below])

    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        take(path.rpartition("/")[2] or "/", look(root, path))
    return buffer.getvalue()


def _keep(archive: tarfile.TarFile, name: str, node: Node, linked: dict[int, str]) -> None:
    """Write a file as a layer keeps it; nothing of a file that it does not keep."""
    if node.kind != "socket" and not name.rpartition("/")[2].startswith(_WHITEOUT):
        kept = {key: value for key, value in node.xattrs.items() if key == _KEPT_XATTR}
        add(archive, name, node, linked, xattr_headers(kept), mtime=max(0, node.mtime // _SECOND))


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
        name = names[-1]
        if name == _OPAQUE:
            make_folder(root, names[:-1]).children.clear()
        elif name.startswith(_WHITEOUT):
            make_folder(root, names[:-1]).children.pop(name.removeprefix(_WHITEOUT), None)
        else:
            node = put(root, names, entry, content)
            if not entry.islnk():
                _attributes(node, entry)


def _attributes(node: Node, entry: tarfile.TarInfo) -> None:
    node.mode, node.uid, node.gid = entry.mode, entry.uid, entry.gid
    node.mtime = node.ctime = int(entry.mtime) * _SECOND
    node.xattrs.update(xattrs_of(entry))
