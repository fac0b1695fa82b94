"""Resolves references to the objects of an engine; the base class of the methods that take references."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

from docker_rollback._engine.docker.errors import Asking
from docker_rollback._engine.docker.http import Wire
from docker_rollback._engine.docker.podman import docker_like
from docker_rollback._engine.port import Inspection
from docker_rollback._host import Timer
from docker_rollback.errors import (
    ContainerNotFoundError,
    EngineError,
    EngineTimeoutError,
    NetworkNotFoundError,
    NotFoundError,
)

FULL_ID: Final = re.compile(r"[0-9a-f]{64}")
HEX: Final = re.compile(r"[0-9a-f]{1,63}")
_MOST_NAMES: Final = 10_000
_PLACE_OF_ANONYMOUS: Final = re.compile(r".*/volumes/([0-9a-f]{64})/_data")
SHORTEST_ID: Final = 12  # the least number of digits of an id in a reference: as many as `docker ps` shows

# Podman's own words for states, with Docker's.
_STATES: Final[Mapping[str, str]] = {
    "stopped": "exited",
    "configured": "created",
    "initialized": "created",
    "stopping": "running",
}


class Referring:
    """Finds the objects of an engine by name or id.

    Engines accept any prefix of an id as a reference. If the container "db" is gone, "db" means any container whose id
    starts with these digits. So the found object is compared with the reference before anything is done to it.
    """

    def __init__(self, wire: Wire, timer: Timer = time) -> None:
        self._wire = wire
        self._timer = timer
        self._names: dict[str, str] = {}

    def _know(self, full_id: str, name: str) -> None:
        self._names.pop(full_id, None)
        self._names[full_id] = name.removeprefix("/")
        while len(self._names) > _MOST_NAMES:
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread may have forgotten it
                self._names.pop(next(iter(self._names)))

    def _called(self, ref: str) -> str:
        """Return a container's name for an error; its id only if no name is known."""
        name = self._names.get(ref)
        if name is None and len(ref) >= SHORTEST_ID and HEX.fullmatch(ref):
            name = next((known for full_id, known in list(self._names.items()) if full_id.startswith(ref)), None)
        return repr(ref) if name in (None, ref) else f"{name!r} ({ref[:SHORTEST_ID]})"

    def _found_container(self, ref: str, action: str) -> Inspection:
        asking = Asking(action, ContainerNotFoundError, ref)
        plain = ref.removeprefix("/")
        found: dict[str, Any] = self._wire.json("GET", f"/containers/{segment(plain, asking)}/json", asking)
        if found.get("Name") != f"/{plain}" and not _begins(plain, str(found.get("Id"))):
            raise ContainerNotFoundError(ref, action=action)
        self._know(str(found.get("Id")), str(found.get("Name")))
        found = docker_like(found, self._donors(found)) if self._wire.podman else with_names(found)
        state = found.get("State") or {}
        if state.get("Status") in _STATES:
            found["State"] = {**state, "Status": _STATES[state["Status"]]}
        return found

    def _donors(self, borrower: Inspection) -> list[Inspection] | None:
        """Return the containers in `VolumesFrom`; None if one of them is gone."""
        donors = []
        for name in (borrower.get("HostConfig") or {}).get("VolumesFrom") or ():
            ref = str(name).partition(":")[0]
            asking = Asking(f"inspect container {ref!r}", ContainerNotFoundError, ref)
            try:
                donors.append(self._wire.json("GET", f"/containers/{segment(ref, asking)}/json", asking))
            except ContainerNotFoundError:
                return None
        return donors

    def _container_id(self, ref: str, action: str) -> str:
        return ref if FULL_ID.fullmatch(ref) else str(self._found_container(ref, action)["Id"])

    def _found_network(self, ref: str, action: str) -> Inspection:
        asking = Asking(action, NetworkNotFoundError, ref)
        found: Inspection = self._wire.json("GET", f"/networks/{segment(ref, asking)}", asking)
        if ref != found.get("Name") and not _begins(ref, str(found.get("Id"))):
            raise NetworkNotFoundError(ref, action=action)
        return found

    def _until(self, done: Callable[[], bool], limit: float | None, action: str, reason: str) -> None:
        """Poll until `done` returns True; raises `EngineTimeoutError` after `limit` seconds, or never for None."""
        began, pause = self._timer.monotonic(), 0.005
        while not done():
            if limit is not None and self._timer.monotonic() - began > limit:
                raise EngineTimeoutError(action, reason)
            self._timer.sleep(pause)
            pause = min(pause * 2, 0.25)

    def _gone(self, find: Callable[[str, str], Inspection], full_id: str) -> bool:
        try:
            find(full_id, f"look for {full_id!r}")
        except NotFoundError:
            return True
        return False


def with_names(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a container's inspection with the names of all anonymous volumes. Pure.

    Docker 28 omits the name of a volume that was requested as a bind with only a path, which docker-py sends for
    ``volumes=["/cache"]``. The volume's path on disk contains the name.
    """
    mounts: Sequence[Mapping[str, Any]] = found.get("Mounts") or ()
    if not any(map(_is_nameless, mounts)):
        return dict(found)
    return {**found, "Mounts": [_named(mount) if _is_nameless(mount) else mount for mount in mounts]}


def _is_nameless(mount: Mapping[str, Any]) -> bool:
    return mount.get("Type") == "volume" and not mount.get("Name")


def _named(mount: Mapping[str, Any]) -> dict[str, Any]:
    match = _PLACE_OF_ANONYMOUS.fullmatch(str(mount.get("Source")))
    return {**mount, "Name": match[1]} if match else dict(mount)


def segment(name: str, asking: Asking) -> str:
    """Quote a name as a segment of a path; raises if it cannot be a name.

    An empty name would request the list of all objects, and one of dots another path.
    """
    if name.strip(".") == "" or name.startswith("/"):
        if asking.missing is None:
            raise EngineError(asking.action, f"{name!r} is not a name")
        raise asking.missing(name, action=asking.action)
    return quote(name, safe="")


def attached(container: Inspection, network: Inspection) -> bool:
    """Return True if a container, from an inspection or a list, is connected to a network.

    The ids are compared, or the names if the container shows no id because it has not been started since.
    """
    endpoints = ((container.get("NetworkSettings") or {}).get("Networks") or {}).items()
    for name, endpoint in endpoints:
        known = str((endpoint or {}).get("NetworkID") or "")
        if known == network["Id"] or (not FULL_ID.fullmatch(known) and name in (network["Name"], network["Id"])):
            return True
    return False


def label_filter(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the query of a list for objects with these labels."""
    if not labels:
        return {}
    return {"filters": json.dumps({"label": [f"{key}={value}" for key, value in labels.items()]})}


def has_labels(found: Inspection, labels: Mapping[str, str]) -> bool:
    """Return True if a listed object has exactly these labels' values; Podman treats a value as a pattern."""
    own = found.get("Labels") or {}
    return all(own.get(key) == value for key, value in labels.items())


def _begins(ref: str, full_id: str) -> bool:
    if ref == full_id:
        return True
    return len(ref) >= SHORTEST_ID and HEX.fullmatch(ref) is not None and full_id.startswith(ref)
