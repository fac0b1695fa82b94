"""What a container's writable layer changes, found where its layers can be seen on this machine.

An engine that is asked for it may compare every file of the image, in the downtime: Docker from 28 on takes half a
second for an image of 500 MB. The layers of overlayfs tell it at once. What was copied up and is the same, to the last
byte, is no change, and a folder is changed where something in it is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from docker_rollback._upper import MARKS, attributes_of, layers_of

_OPAQUE = "opaque"
_OF_NO_WEIGHT = ("origin", "impure", "nlink", "uuid")
"""Marks that overlayfs leaves and that say nothing of what is seen: others, such as a redirection, do."""
_MOST_COMPARED = 16 << 20
"""Bytes of a file."""


class _UnclearError(Exception):
    """The layers say something that is not understood here."""


def changes(inspection: Mapping[str, Any], *, most: int) -> dict[str, str] | None:
    """Return what a writable layer has, by path: "added", "changed" or "deleted"; None where it cannot be told here.

    It takes the engine of this machine, and root with every capability: overlayfs hides its marks from others.

    Args:
        inspection: the container's.
        most: how many of them are wanted.
    """
    layers = layers_of(inspection)
    if layers is None:
        return None
    upper, lower = layers
    try:
        return dict(islice(_changed_in(upper, "", lower), most))
    except (OSError, RecursionError, _UnclearError):
        return None


def _changed_in(upper: Path, folder: str, layers: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield what a folder of the writable layer changes, of layers that its like may be in."""
    for name in sorted(_names(f"{upper}{folder}")):
        path = f"{folder}/{name}"
        here = Path(f"{upper}{path}")
        now = here.lstat()
        if _is_whiteout(now):
            yield path, "deleted"
            continue
        was, below = _like(path, layers)
        kind = "added" if was is None else "changed" if _differ(was, here) else ""
        inner: Iterator[tuple[str, str]] = iter(())
        if stat.S_ISDIR(now.st_mode):
            under = below if was is not None and stat.S_ISDIR(was.lstat().st_mode) else []
            if _is_opaque(here):
                inner = chain(_hidden(here, path, under), _changed_in(upper, path, []))
            else:
                inner = _changed_in(upper, path, under)
        first = next(inner, None)
        if kind or first is not None:
            yield path, kind or "changed"
        if first is not None:
            yield first
            yield from inner


def _hidden(here: Path, path: str, layers: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield what the image has in a folder, and the writable layer put another folder over."""
    there = {name for layer in layers for name in _names(f"{layer}{path}")}
    for name in sorted(there - _names(here)):
        if _like(f"{path}/{name}", layers)[0] is not None:
            yield f"{path}/{name}", "deleted"


def _like(path: str, layers: list[Path]) -> tuple[Path | None, list[Path]]:
    """Return what the image has under a path, and the layers that add to it where it is a folder."""
    found: Path | None = None
    holders: list[Path] = []
    for layer in layers:
        here = Path(f"{layer}{path}")
        try:
            seen = here.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if _is_whiteout(seen):
            break
        is_folder = stat.S_ISDIR(seen.st_mode)
        if found is not None and not is_folder:
            break
        found = found or here
        holders.append(layer)
        if not is_folder or _is_opaque(here):
            break
    return found, holders


def _names(folder: str | Path) -> set[str]:
    return {entry.name for entry in Path(folder).iterdir()}


def _is_whiteout(seen: os.stat_result) -> bool:
    return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0


def _is_opaque(folder: Path) -> bool:
    marks = {name.rpartition(".")[2] for name in os.listxattr(folder) if name.startswith(MARKS)}
    if not marks <= {_OPAQUE, *_OF_NO_WEIGHT}:
        raise _UnclearError(f"{folder} is marked {sorted(marks)}")
    return _OPAQUE in marks


def _differ(was: Path, now: Path) -> bool:
    """Whether two of one name differ in what a container sees, beside the time and the size of a folder."""
    before, after = was.lstat(), now.lstat()
    if _outside(before) != _outside(after) or attributes_of(was) != attributes_of(now):
        return True
    if stat.S_ISLNK(after.st_mode):
        return was.readlink() != now.readlink()
    # Times can be set, so they are no proof; and who is to read much in the downtime had better call it a change.
    is_file = stat.S_ISREG(after.st_mode)
    return is_file and (after.st_size > _MOST_COMPARED or was.read_bytes() != now.read_bytes())


def _outside(seen: os.stat_result) -> tuple[int, ...]:
    """Return what a look tells of something without opening it."""
    shape = () if stat.S_ISDIR(seen.st_mode) else (seen.st_size, seen.st_mtime_ns)
    return seen.st_mode, seen.st_uid, seen.st_gid, seen.st_rdev, *shape
