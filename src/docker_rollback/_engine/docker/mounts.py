"""Adds missing names of volumes to an inspection. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

_PLACE: Final = re.compile(r".*/volumes/([0-9a-f]{64})/_data")


def with_names(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a container's inspection with the names of all anonymous volumes.

    Docker 28 omits the name of a volume that was requested as a bind with only a path, which docker-py sends for
    ``volumes=["/cache"]``. The volume's path on disk contains the name.
    """
    mounts: Sequence[Any] = found.get("Mounts") or ()
    if not any(_is_nameless(mount) for mount in mounts):
        return dict(found)
    return {**found, "Mounts": [_named(mount) if _is_nameless(mount) else mount for mount in mounts]}


def _is_nameless(mount: Mapping[str, Any]) -> bool:
    return mount.get("Type") == "volume" and not mount.get("Name")


def _named(mount: Mapping[str, Any]) -> dict[str, Any]:
    match = _PLACE.fullmatch(str(mount.get("Source")))
    return {**mount, "Name": match[1]} if match else dict(mount)
