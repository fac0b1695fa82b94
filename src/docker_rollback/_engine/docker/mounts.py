"""Volumes that an engine has a name for and does not tell; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

_PLACE: Final = re.compile(r".*/volumes/([0-9a-f]{64})/_data")


def with_names(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an engine says of a container, each anonymous volume among its mounts by its name.

    Docker 28 leaves the name out where the volume was asked for by a path alone among the binds, which is what
    docker-py makes of ``volumes=["/cache"]``. The volume's place on disk has it.
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
