"""Lists the parts of a container's writable layer that a commit loses, if the layer is visible on this machine.

Docker's commit keeps no fractions of a second, no user attributes, no ACLs and no time before 1970, except at times
that of a symbolic link (measured on Docker 20.10 to 28.5; Podman 5.8 keeps some of it). Lost fractions of a second are
not listed, because every file loses them.
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
"""The most paths that are listed."""

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
MARKS = ("trusted.overlay.", "user.overlay.")
"""The prefixes of overlayfs' own attributes."""
_NOT_SEEN = (*MARKS, "security.selinux")


def lost_by_commit(inspection: Mapping[str, Any]) -> tuple[NotCovered, ...]:
    """Return the parts of a writable layer that a commit loses; none if the layer is not visible here.

    The layer is only read. Names and attributes that cannot be read are skipped.
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
    """Return True if folders of a writable layer have another owner, mode or attribute than they had originally.

    A folder of the image is compared with the image; one that the engine created had root and 0755. Returns False if
    the layers are not visible here.
    """
    with layers_of(inspection) as layers:
        return layers is not None and any(_is_altered(_inside(folder), layers) for folder in folders)


def is_unwritten(inspection: Mapping[str, Any]) -> bool:
    """Return True if a writable layer has no file at all, not even a mark; False also if it is not visible here."""
    # Its other layers stay closed: an image may have a hundred, and eight containers are examined at once.
    upper = upper_of(inspection)
    try:
        if not upper:
            return False
        with Tree.at(upper) as layer:
            return not layer.names(b".")
    except OSError:
        return False


@frozen
class Layers:
    """The overlayfs layers of a container, which may run and change any file in them meanwhile.

    Attributes:
        upper: the writable layer.
        lower: the layers of the image, highest first.
    """

    upper: Tree
    lower: tuple[Tree, ...]


@contextmanager
def layers_of(inspection: Mapping[str, Any]) -> Iterator[Layers | None]:
    """Open a container's layers for the duration of a block; yield None if they are not visible here."""
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
    """Return the path of a container's writable layer on the engine's host; empty if it is unknown."""
    return str(((inspection.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir") or "")


def attributes_of(layer: Tree, path: bytes) -> dict[str, bytes]:
    """Return the extended attributes of a file, except overlayfs' own and the SELinux label. Raises `OSError`."""
    found = layer.attributes(path)
    return {name: value for name, value in found.items() if not name.startswith(_NOT_SEEN)}


def _inside(folder: str) -> bytes:
    """Return a path in a container as a path relative to a layer."""
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
    """Return the mode, owners and attributes of a folder. Raises `OSError` if there is no readable folder."""
    seen = layer.status(folder)
    if not stat.S_ISDIR(seen.st_mode):
        raise NotADirectoryError(folder)
    return stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, attributes_of(layer, folder)


def _losses(layers: Layers) -> Iterator[tuple[str, str]]:
    upper = layers.upper
    if layers.lower and _is_altered(b".", layers):
        # No image layer has an entry for the root folder.
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
        # The list is advisory: an unreadable file must not fail the backup.
        return ()
