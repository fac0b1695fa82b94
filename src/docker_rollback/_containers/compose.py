"""Looks up the containers, volumes and networks of a compose project, and those added since a backup."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from datetime import datetime

from attrs import frozen

from docker_rollback._containers.find import find_containers, find_network
from docker_rollback._engine import ContainerFilter, Engine
from docker_rollback._inspection import COMPOSE_PROJECT, start_order
from docker_rollback._model import Backup, Observed, Project
from docker_rollback._names import ROLE_LABEL, is_aside
from docker_rollback.errors import ProjectNotFoundError

logger = logging.getLogger("docker_rollback")


def members(engine: Engine, project: str, *, but: Collection[str] = ()) -> list[Observed]:
    """Look up the containers of a project, oldest first, except those with the ids in `but`.

    Our helpers are skipped: one that is made from the committed image of a member has the project's label too.
    """
    return _members(find_containers(engine, ContainerFilter(labels={COMPOSE_PROJECT: project}), but=but), project)


def _members(containers: Iterable[Observed], project: str) -> list[Observed]:
    labelled = [(container, container.inspection["Config"].get("Labels") or {}) for container in containers]
    found = [one for one, labels in labelled if labels.get(COMPOSE_PROJECT) == project and ROLE_LABEL not in labels]
    # Compose creates a dependency before its dependents. Before version 2 it wrote no `depends_on` into a label.
    return sorted(found, key=lambda container: datetime.fromisoformat(str(container.inspection["Created"])))


def require_members(engine: Engine, project: str) -> list[Observed]:
    """Look up the containers of a project. Raises `ProjectNotFoundError` if it has none."""
    found = members(engine, project)
    if not found:
        everything = find_containers(engine, ContainerFilter())
        labels = [(container.inspection["Config"].get("Labels") or {}) for container in everything]
        raise ProjectNotFoundError(project, sorted({one[COMPOSE_PROJECT] for one in labels if COMPOSE_PROJECT in one}))
    return found


def find_project(engine: Engine, project: str, *, among: Iterable[Observed] | None = None) -> Project:
    """Look up the volumes and networks of a project, and its containers unless they are `among` given ones."""
    found = members(engine, project) if among is None else _members(among, project)
    return Project(
        name=project,
        containers=tuple(sorted(container.id for container in found)),
        volumes=tuple(sorted(engine.list_volumes(labels={COMPOSE_PROJECT: project}))),
        networks=_networks(engine, project),
    )


def _networks(engine: Engine, project: str) -> tuple[str, ...]:
    found = (find_network(engine, identity) for identity in engine.list_networks(labels={COMPOSE_PROJECT: project}))
    return tuple(sorted({str(one["Name"]) for one in found if one is not None}))


def beyond(now: Project, before: Project) -> Project:
    """Return the part of a project that was added since `before`. Pure."""
    return Project(
        now.name,
        tuple(one for one in now.containers if one not in before.containers),
        tuple(one for one in now.volumes if one not in before.volumes),
        tuple(one for one in now.networks if one not in before.networks),
    )


@frozen
class Added:
    """The additions to a project since its backup; empty for a backup of single containers.

    Attributes:
        containers: the containers with the project's label that did not exist at the backup and whose names the backup
            does not restore, in start order.
        volumes: the names of the added volumes.
        networks: the names of the added networks.
    """

    containers: tuple[Observed, ...] = ()
    volumes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the containers."""
        return frozenset(container.id for container in self.containers)

    def within(self, project: Project) -> Added:
        """Return the additions that are in `project` as well, and log the others, which were added later."""
        found = Added(
            tuple(one for one in self.containers if one.id in project.containers),
            tuple(one for one in self.volumes if one in project.volumes),
            tuple(one for one in self.networks if one in project.networks),
        )
        later = [
            *(f"container {one.name}" for one in self.containers if one not in found.containers),
            *(f"volume {one}" for one in self.volumes if one not in found.volumes),
            *(f"network {one}" for one in self.networks if one not in found.networks),
        ]
        for one in later:
            logger.warning("leaving %s: it was added later, perhaps not by the update", one)
        return found


def added_since(engine: Engine, backup: Backup, containers: Iterable[Observed]) -> Added:
    """Return the additions to the project of a backup among some containers; look up volumes and networks."""
    if backup.project is None:
        return Added()
    # An engine never changes labels. What has the label and did not exist at the backup was created since.
    name, before = backup.project.name, backup.project
    # A container that a restore recreated has another id, and is known by its name.
    in_place = {container.name for container in backup.containers}
    found = [
        one
        for one in _members(containers, name)
        if one.id not in before.containers and one.name not in in_place and not is_aside(one.name)
    ]
    added = beyond(find_project(engine, name, among=()), before)
    return Added(start_order(found), added.volumes, added.networks)
