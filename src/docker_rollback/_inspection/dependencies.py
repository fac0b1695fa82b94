"""Who depends on whom, and in which order containers start. Pure.

Two kinds of dependence are told apart. A container that lives in a namespace of another (``container:`` modes), or that
took over its volumes or its links, breaks when the other one is made anew: it is *bound* to it. What compose writes
into `depends_on` is an order to start in, and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from docker_rollback._inspection.recreate import refers
from docker_rollback._model import ContainerSnapshot, Observed
from docker_rollback._names import SHORT_ID

_NAMESPACES = ("NetworkMode", "PidMode", "IpcMode")
_SHARED = "container:"
COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_ONE_OFF = "com.docker.compose.oneoff"
_COMPOSE_DEPENDS = "com.docker.compose.depends_on"
_COMPOSE_SERVICE = "com.docker.compose.service"


def bound_to(containers: Iterable[Observed], everything: Iterable[Observed]) -> tuple[Observed, ...]:
    """Return, of everything else there is, what would break if `containers` were made anew; also at second hand."""
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


def shared_namespaces(one: Observed, other: Observed) -> list[str]:
    """Return what one container uses of another and would lose with its stop, in words."""
    found = []
    for mode, what in (("NetworkMode", "network"), ("PidMode", "process namespace")):
        value = str(one.inspection["HostConfig"].get(mode))
        if value.startswith(_SHARED) and refers(value.removeprefix(_SHARED), other.name, other.id):
            found.append(what)
    return found


def start_order(containers: Sequence[Observed]) -> tuple[Observed, ...]:
    """Return the containers so that each stands behind what it depends on; else in the order given.

    Where they depend on each other in a circle, the order given decides.
    """
    ordered: list[Observed] = []
    waiting = list(containers)
    while waiting:
        ready = [one for one in waiting if not any(_depends(one, other) for other in waiting if other is not one)]
        chosen = ready[0] if ready else waiting[0]
        ordered.append(chosen)
        waiting.remove(chosen)
    return tuple(ordered)


def is_one_off(container: Observed) -> bool:
    """Whether `compose run` made a container, for one command."""
    labels = container.inspection["Config"].get("Labels") or {}
    return str(labels.get(COMPOSE_ONE_OFF)).lower() == "true"


def with_ids(inspection: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    """Return an inspection in which references to containers and networks by id follow `ids`, old to new."""
    host_config = dict(inspection["HostConfig"])
    for mode in _NAMESPACES:
        value = str(host_config.get(mode) or "")
        target = value.removeprefix(_SHARED)
        if (followed := _followed(target, ids)) != target:
            host_config[mode] = value.removesuffix(target) + followed
    if host_config.get("VolumesFrom"):
        host_config["VolumesFrom"] = [_renamed(str(donor), ids) for donor in host_config["VolumesFrom"]]
    settings = dict(inspection.get("NetworkSettings") or {})
    settings["Networks"] = {
        name: {**endpoint, "NetworkID": ids.get(endpoint["NetworkID"], endpoint["NetworkID"])}
        if endpoint and endpoint.get("NetworkID")
        else endpoint
        for name, endpoint in (settings.get("Networks") or {}).items()
    }
    return {**inspection, "HostConfig": host_config, "NetworkSettings": settings}


def needs_name(one: ContainerSnapshot, others: Iterable[ContainerSnapshot]) -> bool:
    """Return True if a container has to have its name when it or another one is created.

    A link holds the name of the container that has it, and others may name what they share by a name.
    """
    return bool(one.inspection["HostConfig"].get("Links")) or any(
        one.name in _references(other.inspection) for other in others if other.id != one.id
    )


def _renamed(donor: str, ids: Mapping[str, str]) -> str:
    name, colon, mode = donor.partition(":")
    return _followed(name, ids) + colon + mode


def _followed(reference: str, ids: Mapping[str, str]) -> str:
    """Return what a reference by an id, or by as much of one as tells it, becomes; a name stays."""
    if reference in ids:
        return ids[reference]
    if len(reference) >= SHORT_ID:
        for old, new in ids.items():
            if old.startswith(reference):
                return new[: len(reference)]
    return reference


def _depends(one: Observed, other: Observed) -> bool:
    return _is_bound(one, other) or _starts_after(one, other)


def _is_bound(one: Observed, other: Observed) -> bool:
    """Whether `one` refers to `other` in a way that outlives neither its restart nor its making anew."""
    return any(refers(reference, other.name, other.id) for reference in _references(one.inspection))


def _references(inspection: Mapping[str, Any]) -> list[str]:
    """Return the names and ids of the containers whose namespaces, volumes or links a container shares."""
    host_config = inspection["HostConfig"]
    references = [
        str(host_config.get(mode) or "").removeprefix(_SHARED)
        for mode in _NAMESPACES
        if str(host_config.get(mode) or "").startswith(_SHARED)
    ]
    references += [str(donor).partition(":")[0] for donor in host_config.get("VolumesFrom") or ()]
    references += [str(link).partition(":")[0].removeprefix("/") for link in host_config.get("Links") or ()]
    return references


def starts_once_healthy(one: Observed | ContainerSnapshot, other: Observed | ContainerSnapshot) -> bool:
    """Whether compose would start `one` once `other` is healthy."""
    return _condition(one, other) == "service_healthy"


def _starts_after(one: Observed, other: Observed) -> bool:
    """Whether compose would start `one` after `other`."""
    return _condition(one, other) is not None


def _condition(one: Observed | ContainerSnapshot, other: Observed | ContainerSnapshot) -> str | None:
    """Return on which condition compose would start `one` after `other`; None where it would not wait for it.

    Its label lists ``service:condition:restart``, by commas.
    """
    mine = one.inspection["Config"].get("Labels") or {}
    theirs = other.inspection["Config"].get("Labels") or {}
    if not mine.get(COMPOSE_PROJECT) or mine[COMPOSE_PROJECT] != theirs.get(COMPOSE_PROJECT):
        return None
    depends = [part.split(":") for part in str(mine.get(_COMPOSE_DEPENDS) or "").split(",")]
    conditions = {service: (more or [""])[0] for service, *more in depends}
    return conditions.get(str(theirs.get(_COMPOSE_SERVICE) or "?"))
