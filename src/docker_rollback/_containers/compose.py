"""Looks up the containers, volumes and networks of a compose project, and those added since a backup."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime

from attrs import frozen

from docker_rollback._containers.find import find_containers
from docker_rollback._engine import ContainerFilter, Engine
from docker_rollback._inspection import COMPOSE_PROJECT, start_order
from docker_rollback._model import Backup, Observed, Project
from docker_rollback._names import ROLE_LABEL, is_aside
from docker_rollback.errors import NetworkNotFoundError, ProjectNotFoundError

logger = logging.getLogger("docker_rollback")


def members(engine: Engine, project: str, *, but: Collection[str] = ()) -> list[Observed]:
    """Look up the containers of a project, oldest first: compose creates a dependency before its dependents.

    That order matters if compose did not write `depends_on` into a label, as before version 2. Our helpers are skipped:
    one that is made from the committed image of a member carries the project's label too.

    Args:
        engine: the engine that they are on.
        project: the project's name.
        but: ids of containers to skip.
    """
    found = find_containers(engine, ContainerFilter(labels={COMPOSE_PROJECT: project}), but=but)
    found = [container for container in found if ROLE_LABEL not in container.inspection["Config"]["Labels"]]
    return sorted(found, key=lambda container: datetime.fromisoformat(str(container.inspection["Created"])))


def require_members(engine: Engine, project: str) -> list[Observed]:
    """Look up the containers of a project. Raises `ProjectNotFoundError` if it has none."""
    found = members(engine, project)
    if not found:
        everything = find_containers(engine, ContainerFilter())
        labels = [(container.inspection["Config"].get("Labels") or {}) for container in everything]
        raise ProjectNotFoundError(project, sorted({one[COMPOSE_PROJECT] for one in labels if COMPOSE_PROJECT in one}))
    return found


def find_project(engine: Engine, project: str) -> Project:
    """Look up the containers, volumes and networks of a project."""
    return Project(
        name=project,
        containers=tuple(sorted(container.id for container in members(engine, project))),
        volumes=tuple(sorted(engine.list_volumes(labels={COMPOSE_PROJECT: project}))),
        networks=_networks(engine, project),
    )


def _networks(engine: Engine, project: str) -> tuple[str, ...]:
    found = set()
    for identity in engine.list_networks(labels={COMPOSE_PROJECT: project}):
        with suppress(NetworkNotFoundError):
            found.add(str(engine.inspect_network(identity)["Name"]))
    return tuple(sorted(found))


def beyond(now: Project, before: Project) -> Project:
    """Return the part of a project that did not exist before. Pure."""
    return Project(
        now.name,
        tuple(one for one in now.containers if one not in before.containers),
        tuple(one for one in now.volumes if one not in before.volumes),
        tuple(one for one in now.networks if one not in before.networks),
    )


@frozen
class Added:
    """What was added to a project since its backup; nothing if the backup is of no project.

    Attributes:
        containers: those that carry its label, did not exist at the backup and have no name that it restores, in start
            order.
        volumes: the names of those that carry its label and did not exist at the backup.
        networks: likewise.
    """

    containers: tuple[Observed, ...] = ()
    volumes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the containers."""
        return frozenset(container.id for container in self.containers)

    def within(self, project: Project) -> Added:
        """Return the part that a project had when it was looked up; log what was added later."""
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
        for what in later:
            logger.warning("leaving %s: it may have nothing to do with the update that is undone", what)
        return found


def added_since(engine: Engine, backup: Backup) -> Added:
    """Look up what was added to the project of a backup since.

    An engine does not change the labels of an existing container, volume or network. What carries the label now and did
    not exist at the backup was made since. A container that a restore recreated is known by its name.
    """
    if backup.project is None:
        return Added()
    name, before = backup.project.name, backup.project
    in_place = {container.name for container in backup.containers}
    found = [
        one
        for one in members(engine, name, but=before.containers)
        if one.name not in in_place and not is_aside(one.name)
    ]
    now = Project(name, (), tuple(sorted(engine.list_volumes(labels={COMPOSE_PROJECT: name}))), _networks(engine, name))
    added = beyond(now, before)
    return Added(start_order(found), added.volumes, added.networks)
