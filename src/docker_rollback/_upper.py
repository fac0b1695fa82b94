"""What a commit cannot keep of a container's writable layer, found where that layer can be seen on this machine.

Docker's commit keeps whole seconds, no user attributes, no ACLs, and takes a file whose name begins with ``.wh.`` for
the mark of a deletion (measured on Docker 20.10 to 28.5 and Podman 5.8, which keeps some of it). Times are not listed:
that they lose their fraction is true of every file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docker_rollback._model import NotCovered

_MOST = 20
"""How many paths are named; one who loses more needs no longer list."""

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_WHITEOUT = ".wh."


def lost_by_commit(inspection: Mapping[str, Any]) -> tuple[NotCovered, ...]:
    """Return what a commit of a container loses of its writable layer; nothing where that cannot be seen from here.

    The layer is only read. A name or an attribute that cannot be read is passed over.
    """
    upper = ((inspection.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir")
    if not upper or not os.access(upper, os.R_OK | os.X_OK):
        return ()
    found: list[NotCovered] = []
    for path, reason in _losses(Path(upper)):
        if len(found) == _MOST:
            return (
                *found,
                NotCovered("more files of the writable layer", "an engine's commit does not keep all of them"),
            )
        found.append(NotCovered(f"{reason} of {path}", "an engine's commit does not keep it"))
    return tuple(found)


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
