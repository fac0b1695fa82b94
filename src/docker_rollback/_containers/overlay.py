"""What a commit cannot keep of a container's writable layer, found where that layer can be seen on this machine.

Docker's commit keeps whole seconds, no time before 1970 (but that of a symbolic link, at times), no user attributes and
no ACLs (measured on Docker 20.10 to 28.5 and Podman 5.8, which keeps some of it). Fractions of seconds are not listed:
every file loses them.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from attrs import frozen

from docker_rollback._host import Tree
from docker_rollback._model import NotCovered

_MOST = 20
"""How many paths are named; one who loses more needs no longer list."""

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
MARKS = ("trusted.overlay.", "user.overlay.")
"""How the marks of overlayfs begin."""
_NOT_SEEN = (*MARKS, "security.selinux")


def lost_by_commit(inspection: Mapping[str, Any]) -> tuple[NotCovered, ...]:
    """Return what a commit of a container loses of its writable layer; nothing where that cannot be seen from here.

    The layer is only read. A name or an attribute that cannot be read is passed over.
    """
    found: list[NotCovered] = []
    with layers_of(inspection) as layers:
        for path, reason in _losses(layers) if layers is not None else ():
            if len(found) == _MOST:
                return (
                    *found,
                    NotCovered("more files of the writable layer", "an engine's commit does not keep all of them"),
                )
            found.append(NotCovered(f"{reason} of {path}", "an engine's commit does not keep it"))
    return tuple(found)


def altered(inspection: Mapping[str, Any], folders: Iterable[str]) -> bool:
    """Whether somebody gave folders of a writable layer other owners, modes or attributes than they began with.

    That is what the image gave them or, for those that the engine made, root's and 0755. Where the layers cannot be
    seen from here the answer is no.
    """
    with layers_of(inspection) as layers:
        return layers is not None and any(_is_altered(_inside(folder), layers) for folder in folders)


@frozen
class Layers:
    """The layers of a container, as overlayfs has them.

    What is in them is the container's own, which may run and swap what it likes.

    Attributes:
        upper: the writable one.
        lower: those of its image, highest first.
    """

    upper: Tree
    lower: tuple[Tree, ...]


@contextmanager
def layers_of(inspection: Mapping[str, Any]) -> Iterator[Layers | None]:
    """Have a container's layers open for the time of a block; None where they cannot be seen from here."""
    data = (inspection.get("GraphDriver") or {}).get("Data") or {}
    upper, lower = str(data.get("UpperDir") or ""), str(data.get("LowerDir") or "")
    with ExitStack() as held:
        layers: Layers | None = None
        try:
            if upper:
                opened = [held.enter_context(Tree.at(layer)) for layer in (upper, *filter(None, lower.split(":")))]
                layers = Layers(opened[0], tuple(opened[1:]))
        except OSError:
            layers = None
        yield layers


def upper_of(inspection: Mapping[str, Any]) -> str:
    """Return the path of a container's writable layer on its engine's host; empty if its engine does not tell."""
    return str(((inspection.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir") or "")


def attributes_of(layer: Tree, path: bytes) -> dict[str, bytes]:
    """Return the extended attributes of a file, but overlayfs' marks and its label; raises `OSError`."""
    found = layer.attributes(path)
    return {name: value for name, value in found.items() if not name.startswith(_NOT_SEEN)}


def _inside(folder: str) -> bytes:
    """Return a container's path as one below a layer."""
    return os.fsencode(posixpath.normpath(folder.lstrip("/") or "."))


def _is_altered(folder: bytes, layers: Layers) -> bool:
    try:
        now = _looks(layers.upper, folder)
        whole = layers.upper.status(b".")
    except OSError:
        return False
    for layer in layers.lower:
        try:
            return _looks(layer, folder) != now
        except OSError:
            continue
    return now not in ((0o755, whole.st_uid, whole.st_gid, {}), (0o755, 0, 0, {}))


def _looks(layer: Tree, folder: bytes) -> tuple[int, int, int, dict[str, bytes]]:
    """Return mode, owners and attributes of a folder; raises `OSError` where it is none, or cannot be looked at."""
    seen = layer.status(folder)
    if not stat.S_ISDIR(seen.st_mode):
        raise NotADirectoryError(folder)
    return stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, attributes_of(layer, folder)


def _losses(layers: Layers) -> Iterator[tuple[str, str]]:
    upper = layers.upper
    if layers.lower and _is_altered(b".", layers):
        # No layer of an image has an entry for it.
        yield "/", "the mode, the owner or an attribute"
    for path in upper.walk():
        shown = path.removeprefix(b".").decode("utf-8", "backslashreplace")
        if path != b"." and _is_old(upper, path):
            yield shown, "the time before 1970"
        attributes = _attributes(upper, path) if path != b"." else ()
        if any(attribute.startswith("user.") for attribute in attributes):
            yield shown, "the user attributes"
        if any(attribute in _ACLS for attribute in attributes):
            yield shown, "the ACL"


def _is_old(layer: Tree, path: bytes) -> bool:
    try:
        return layer.status(path).st_mtime < 0
    except OSError:
        return False


def _attributes(layer: Tree, path: bytes) -> Collection[str]:
    try:
        return layer.attributes(path)
    except OSError:
        # This list is advice; that a file cannot be asked must not cost anyone a backup.
        return ()
