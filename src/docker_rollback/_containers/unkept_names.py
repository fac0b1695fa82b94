"""Finds names in a container's writable layer that a commit would lose, while the container runs.

In a layer's tar, a name that begins with ``.wh.`` marks a deletion. A container's own file with such a name is lost,
with the file that it seems to delete, or the commit fails. And an engine reaches each file by its path on the host: if
that path is too long, Docker and Podman commit without the file and report no error, and containerd's store fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from typing import Final

from docker_rollback._containers.overlay import layers_of, upper_of
from docker_rollback._engine import Engine
from docker_rollback._host import Tree, may_do_anything
from docker_rollback._model import ContainerSnapshot, Observed
from docker_rollback.errors import EngineError

_MARK: Final = b".wh."
_LONGEST: Final = 4095 - 16
"""The most bytes of a host path; for a commit, an engine mounts the layer at another path, perhaps a longer one."""
_TOO_LONG: Final = "file name too long"
_FAILED: Final = 500
_NAMED: Final = 3
"""How many names an error shows."""
_SHOWN: Final = 80
"""How many letters of a path an error shows."""


def unkept_names(engine: Engine, container: Observed | ContainerSnapshot) -> list[str]:
    """Return why a commit of a container would lose files because of their names; empty if it would not."""
    if engine.info().address.startswith("unix://") and may_do_anything():
        with layers_of(container.inspection) as layers:
            if layers is not None:
                longest = _LONGEST - len(os.fsencode(upper_of(container.inspection)))
                return _seen(layers.upper, longest)
    try:
        changes = engine.container_changes(container.id)
    except EngineError as error:
        if _TOO_LONG in error.reason:
            return [_too_long(error.reason.partition(f": {_TOO_LONG}")[0].rpartition(" ")[2])]
        if error.status != _FAILED:
            raise
        # Podman fails like this if a folder has replaced a file.
        return []
    paths = (os.fsencode(change.path) for change in changes if change.kind != "deleted")
    return _marks(path for path in paths if _is_mark(path))


def _seen(upper: Tree, longest: int) -> list[str]:
    """Return the reasons for a layer that is readable here; each folder is read once."""
    marks: list[bytes] = []
    reasons: list[str] = []
    walk = upper.everything()
    path = next(walk, None)
    while path is not None:
        inner = path.removeprefix(b".")
        is_long = len(inner) > longest
        if is_long and not reasons:
            reasons.append(_too_long(os.fsdecode(inner)))
        if _is_mark(path):
            marks.append(inner)
        try:
            path = walk.send(is_long)
        except StopIteration:
            break
    return _marks(marks) + reasons


def _is_mark(path: bytes) -> bool:
    return path.rpartition(b"/")[2].startswith(_MARK)


def _marks(paths: Iterable[bytes]) -> list[str]:
    found = list(islice(paths, _NAMED + 1))
    if not found:
        return []
    names = ", ".join(_shown(os.fsdecode(path)) for path in found[:_NAMED])
    more = " and others" if len(found) > _NAMED else ""
    reason = (
        f"its own file system has {names}{more}: a commit takes a name that begins with '.wh.' for the mark of a "
        "deletion, so that files would be lost; remove it or give it another name"
    )
    return [reason]


def _too_long(path: str) -> str:
    return (
        f"its own file system has a path of {len(os.fsencode(path))} bytes or more, {_shown(path)}: it is too long for "
        "its engine, which would lose what is in it; remove it or shorten it"
    )


def _shown(path: str) -> str:
    """Return a path in a form that is safe and short enough for an error."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 2 :]}")
