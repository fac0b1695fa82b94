"""What a commit cannot keep of a container's writable layer, found where that layer can be seen on this machine.

Docker's commit keeps whole seconds, no user attributes, no ACLs, and takes a file whose name begins with ``.wh.`` for
the mark of a deletion (measured on Docker 20.10 to 28.5 and Podman 5.8, which keeps some of it). Times are not listed:
that they lose their fraction is true of every file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from docker_rollback._model import NotCovered

_MOST = 20
"""How many paths are named; one who loses more needs no longer list."""

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_WHITEOUT = ".wh."
MARKS = ("trusted.overlay.", "user.overlay.")
"""How the marks of overlayfs begin."""
_NOT_SEEN = (*MARKS, "security.selinux")


def lost_by_commit(inspection: Mapping[str, Any]) -> tuple[NotCovered, ...]:
    """Return what a commit of a container loses of its writable layer; nothing where that cannot be seen from here.

    The layer is only read. A name or an attribute that cannot be read is passed over.
    """
    layers = layers_of(inspection)
    found: list[NotCovered] = []
    for path, reason in _losses(layers[0]) if layers else ():
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
    layers = layers_of(inspection)
    if layers is None:
        return False
    upper, lower = layers
    return any(_is_altered(folder.lstrip("/"), upper, lower) for folder in folders)


def layers_of(inspection: Mapping[str, Any]) -> tuple[Path, list[Path]] | None:
    """Return where a container's writable layer is, and those below it, highest first; None where it is not seen."""
    data = (inspection.get("GraphDriver") or {}).get("Data") or {}
    upper, lower = str(data.get("UpperDir") or ""), str(data.get("LowerDir") or "")
    if not upper or not os.access(upper, os.R_OK | os.X_OK):
        return None
    return Path(upper), [Path(layer) for layer in lower.split(":") if layer]


def attributes_of(path: Path) -> dict[str, bytes]:
    """Return the extended attributes of a file, but overlayfs' marks and its label; raises `OSError`."""
    names = [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith(_NOT_SEEN)]
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _is_altered(folder: str, upper: Path, layers: Iterable[Path]) -> bool:
    try:
        now = _looks(upper / folder)
        owner = (upper.stat().st_uid, upper.stat().st_gid)
    except OSError:
        return False
    for layer in layers:
        try:
            return _looks(layer / folder) != now
        except OSError:
            continue
    return now not in ((0o755, *owner, {}), (0o755, 0, 0, {}))


def _looks(folder: Path) -> tuple[int, int, int, dict[str, bytes]]:
    """Return mode, owners and attributes of a folder; raises `OSError` where it is none, or cannot be looked at."""
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode):
        raise NotADirectoryError(folder)
    return stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, attributes_of(folder)


def _losses(upper: Path) -> Iterator[tuple[str, str]]:
    for folder, folders, files in os.walk(upper):
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            shown = "/" + os.fsencode(path.relative_to(upper)).decode("utf-8", "backslashreplace")
            if name.startswith(_WHITEOUT):
                yield shown, "the file"
                continue
            attributes = _attributes(path)
            if any(attribute.startswith("user.") for attribute in attributes):
                yield shown, "the user attributes"
            if any(attribute in _ACLS for attribute in attributes):
                yield shown, "the ACL"


def _attributes(path: Path) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError:
        # This list is advice; that a file cannot be asked must not cost anyone a backup.
        return []
