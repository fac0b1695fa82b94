"""Finds the dependencies between containers, and their start order. Pure.

There are two kinds of dependency. A container that uses a namespace of another one (``container:`` modes), or its
volumes or links, breaks when the other one is recreated: it is *bound* to it. Compose's `depends_on` sets the start
order only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, Self, TypeVar

from attrs import frozen

from docker_rollback._inspection.recreate import moment_of, refers
from docker_rollback._model import ContainerSnapshot, NotCovered, Observed
from docker_rollback._names import SHORT_ID

_Container = TypeVar("_Container", Observed, ContainerSnapshot)

_NAMESPACES = ("NetworkMode", "PidMode", "IpcMode")
_SHARED = "container:"
COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_ONE_OFF = "com.docker.compose.oneoff"
_COMPOSE_DEPENDS = "com.docker.compose.depends_on"
_COMPOSE_HASH = "com.docker.compose.config-hash"
_COMPOSE_VERSION = "com.docker.compose.version"
_COMPOSE_SERVICE = "com.docker.compose.service"


def bound_to(containers: Iterable[Observed], everything: Iterable[Observed]) -> tuple[Observed, ...]:
    """Return the containers that would break, directly or indirectly, if `containers` were recreated."""
    together = list(containers)
    found: list[Observed] = []
    rest = [other for other in everything if all(other.id != member.id for member in together)]
    while True:
        joining = [other for other in rest if any(_is_bound(other, member) for member in together)]
        if not joining:
            return tuple(found)
        found += joining
        together += joining
        rest = [other for other in rest if other not in joining]


@frozen
class Partner:
    """Another container that a container uses."""

    reference: str  # the other one's name or id, as the container's configuration has it
    setting: str  # the setting of `HostConfig` that refers to it


def partners(inspection: Mapping[str, Any]) -> list[Partner]:
    """Return the containers whose namespaces, volumes or links a container uses, in this order."""
    host_config = inspection["HostConfig"]
    modes = {mode: str(host_config.get(mode) or "") for mode in _NAMESPACES}
    found = [Partner(value.removeprefix(_SHARED), mode) for mode, value in modes.items() if value.startswith(_SHARED)]
    found += [Partner(str(one).partition(":")[0], "VolumesFrom") for one in host_config.get("VolumesFrom") or ()]
    links = (str(link).partition(":")[0].removeprefix("/") for link in host_config.get("Links") or ())
    return found + [Partner(link, "Links") for link in links]


def shared_namespaces(one: Observed, other: Observed) -> list[str]:
    """Return, in words, the namespaces of another container that a container would lose if that one stopped."""
    words = {"NetworkMode": "network", "PidMode": "process namespace"}
    return [
        words[partner.setting]
        for partner in partners(one.inspection)
        if partner.setting in words and refers(partner.reference, other.name, other.id)
    ]


def started_before(containers: Iterable[Observed | ContainerSnapshot]) -> dict[str, frozenset[str]]:
    """Return the ids of the containers that start before each container, by its id.

    These are all that it depends on, directly or through others.
    A dependency that closes a circle does not count; those of compose are left out before those that bind a container,
    and the order of creation before `depends_on`.
    """
    given = list(containers)
    # A bit for each one that starts before.
    before = [0] * len(given)
    # In a circle, the given order decides: a dependency on a container that is given later counts last.
    pairs = sorted(itertools.permutations(range(len(given)), 2), key=lambda pair: pair[0] < pair[1])
    for depends in (_is_bound, _is_ordered, _was_created_after):
        for later, earlier in pairs:
            if before[earlier] >> later & 1 or not depends(given[later], given[earlier]):
                continue
            added = before[earlier] | 1 << earlier
            before = [needs | added if at == later or needs >> later & 1 else needs for at, needs in enumerate(before)]
    return {
        one.id: frozenset(other.id for number, other in enumerate(given) if needs >> number & 1)
        for one, needs in zip(given, before, strict=True)
    }


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


@frozen
class StartOrder:
    """Which of some containers wait for which, when all of them start or stop at once."""

    _before: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, containers: Iterable[Observed | ContainerSnapshot]) -> Self:
        """Return the order of some containers."""
        return cls(started_before(containers))

    def starts_after(self, one: _Identified, other: _Identified) -> bool:
        """Return True if one container starts once the other one has."""
        return other.id in self._before[one.id]

    def stops_after(self, one: _Identified, other: _Identified) -> bool:
        """Return True if one container stops, or is removed, once the other one has."""
        return self.starts_after(other, one)


def start_order(containers: Iterable[_Container]) -> tuple[_Container, ...]:
    """Return the containers in an order in which they can start; otherwise the given order stays."""
    given = tuple(containers)
    before = started_before(given)
    # More start before a container than before any of these.
    return tuple(sorted(given, key=lambda one: len(before[one.id])))


def is_one_off(container: Observed) -> bool:
    """Return True if `compose run` created the container, for one command."""
    labels = container.inspection["Config"].get("Labels") or {}
    return str(labels.get(COMPOSE_ONE_OFF)).lower() == "true"


def hash_gap(container: Observed) -> NotCovered | None:
    """Return the gap of a container that compose recreates once a container that it uses has another id.

    From version 2 on, compose hashes a service after it has replaced ``network_mode: service:x``, and the like, by the
    id of the container, and compares that hash with a label. Version 1 took the name of the service for it (its
    ServiceNetworkMode.id). The hash is over the whole service in the compose file, so
    only compose can compute the one for another id.
    """
    labels = container.inspection["Config"].get("Labels") or {}
    used = [partner.setting for partner in partners(container.inspection) if partner.setting != "Links"]
    # Compose adds a dependency for each service that it replaces by an id.
    by_id = labels.get(_COMPOSE_HASH) and labels.get(_COMPOSE_DEPENDS)
    if not (used and by_id) or str(labels.get(_COMPOSE_VERSION)).startswith("1."):
        return None
    return NotCovered(
        f"{_COMPOSE_HASH} of {container.name}",
        f"compose computes it with the id of the container in {used[0]}; if that one has to be recreated, the next "
        "`up` recreates this one, too, with a new writable layer; `up --no-recreate` does not",
    )


def with_ids(inspection: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    """Return an inspection in which the ids of containers and networks are replaced according to `ids`, old to new."""
    host_config = dict(inspection["HostConfig"])
    for mode in _NAMESPACES:
        value = str(host_config.get(mode) or "")
        target = value.removeprefix(_SHARED)
        if (followed := _followed(target, ids)) != target:
            host_config[mode] = value.removesuffix(target) + followed
    if host_config.get("VolumesFrom"):
        donors = [str(donor).partition(":") for donor in host_config["VolumesFrom"]]
        host_config["VolumesFrom"] = [_followed(name, ids) + colon + mode for name, colon, mode in donors]
    settings = dict(inspection.get("NetworkSettings") or {})
    settings["Networks"] = {
        name: {**endpoint, "NetworkID": ids.get(endpoint["NetworkID"], endpoint["NetworkID"])}
        if endpoint and endpoint.get("NetworkID")
        else endpoint
        for name, endpoint in (settings.get("Networks") or {}).items()
    }
    return {**inspection, "HostConfig": host_config, "NetworkSettings": settings}


def needs_name(one: ContainerSnapshot, others: Iterable[ContainerSnapshot]) -> bool:
    """Return True if a container must have its own name when it or another container is created.

    A link contains the name of the container that has it, and other containers may refer to it by name.
    """
    return bool(one.inspection["HostConfig"].get("Links")) or any(
        one.name in _references(other.inspection) for other in others if other.id != one.id
    )


def _followed(reference: str, ids: Mapping[str, str]) -> str:
    """Replace a reference that is an id or id prefix; a name stays."""
    if reference in ids:
        return ids[reference]
    if len(reference) >= SHORT_ID:
        for old, new in ids.items():
            if old.startswith(reference):
                return new[: len(reference)]
    return reference


def _is_bound(one: Observed | ContainerSnapshot, other: Observed | ContainerSnapshot) -> bool:
    """Return True if `one` refers to `other` in a way that breaks when `other` is recreated."""
    return any(refers(reference, other.name, other.id) for reference in _references(one.inspection))


def _references(inspection: Mapping[str, Any]) -> list[str]:
    return [partner.reference for partner in partners(inspection)]


def starts_once_healthy(one: Observed | ContainerSnapshot, other: Observed | ContainerSnapshot) -> bool:
    """Return True if compose would start `one` once `other` is healthy."""
    return _condition(one, other) == "service_healthy"


def _is_ordered(one: Observed | ContainerSnapshot, other: Observed | ContainerSnapshot) -> bool:
    """Return True if compose would start `one` after `other`."""
    return _condition(one, other) is not None


def _was_created_after(one: Observed | ContainerSnapshot, other: Observed | ContainerSnapshot) -> bool:
    """Return True if only the order of creation shows that compose would start `one` after `other`.

    Compose before version 2 writes no dependencies, and creates the services in the order in which they start.
    """
    mine, theirs = _compose_labels(one), _compose_labels(other)
    created, before = (moment_of(str(each.inspection.get("Created"))) for each in (one, other))
    return (
        bool(mine.get(COMPOSE_PROJECT))
        and mine[COMPOSE_PROJECT] == theirs.get(COMPOSE_PROJECT)
        and mine.get(_COMPOSE_SERVICE) != theirs.get(_COMPOSE_SERVICE)
        and _COMPOSE_DEPENDS not in mine
        and _COMPOSE_DEPENDS not in theirs
        and created is not None
        and before is not None
        and created > before
    )


def _compose_labels(one: Observed | ContainerSnapshot) -> Mapping[str, Any]:
    return one.inspection["Config"].get("Labels") or {}


def _condition(one: Observed | ContainerSnapshot, other: Observed | ContainerSnapshot) -> str | None:
    """Return the condition on which compose would start `one` after `other`; None if it would not wait.

    Compose's label lists ``service:condition:restart``, separated by commas.
    """
    mine, theirs = _compose_labels(one), _compose_labels(other)
    if not mine.get(COMPOSE_PROJECT) or mine[COMPOSE_PROJECT] != theirs.get(COMPOSE_PROJECT):
        return None
    depends = [part.split(":") for part in str(mine.get(_COMPOSE_DEPENDS) or "").split(",")]
    conditions = {service: (more or [""])[0] for service, *more in depends}
    return conditions.get(str(theirs.get(_COMPOSE_SERVICE) or "?"))
