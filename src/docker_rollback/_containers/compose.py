"""A compose project as an engine has it: whatever bears its label, and what of that came since a backup."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime

from attrs import frozen

from docker_rollback._containers.find import look_at_all
from docker_rollback._engine import ContainerFilter, Engine
from docker_rollback._inspection import COMPOSE_PROJECT, start_order
from docker_rollback._model import Backup, Observed, Project
from docker_rollback._names import ROLE_LABEL, is_aside
from docker_rollback.errors import NetworkNotFoundError, ProjectNotFoundError

logger = logging.getLogger("docker_rollback")


def members(engine: Engine, project: str, *, but: Collection[str] = ()) -> list[Observed]:
    """Return the containers of a project, oldest first: compose makes what others depend on before them.

    That order counts where compose did not write `depends_on` into a label, as before version 2. A helper of ours, made
    from an image that was committed of a member, is none.

    Args:
        engine: where they are.
        project: its name.
        but: the ids of some that are not asked for, nor looked at.
    """
    found = look_at_all(engine, ContainerFilter(labels={COMPOSE_PROJECT: project}), but=but)
    found = [container for container in found if ROLE_LABEL not in container.inspection["Config"]["Labels"]]
    return sorted(found, key=lambda container: datetime.fromisoformat(str(container.inspection["Created"])))


def require_members(engine: Engine, project: str) -> list[Observed]:
    """Return the containers of a project; raises `ProjectNotFoundError` where it has none."""
    found = members(engine, project)
    if not found:
        everything = look_at_all(engine, ContainerFilter())
        labels = [(container.inspection["Config"].get("Labels") or {}) for container in everything]
        raise ProjectNotFoundError(project, sorted({one[COMPOSE_PROJECT] for one in labels if COMPOSE_PROJECT in one}))
    return found


def look_at_project(engine: Engine, project: str) -> Project:
    """Return all that there is of a project; empty where there is nothing."""
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
    """Return what there is of a project that there was not before. Pure."""
    return Project(
        now.name,
        tuple(one for one in now.containers if one not in before.containers),
        tuple(one for one in now.volumes if one not in before.volumes),
        tuple(one for one in now.networks if one not in before.networks),
    )


@frozen
class Newcomers:
    """What came to a project since its backup; nothing where the backup is of no project.

    Attributes:
        containers: those that bear its label, were not there, and stand in no place that the backup restores, in the
            order in which they start.
        volumes: the names of those that bear its label and were not there.
        networks: likewise.
    """

    containers: tuple[Observed, ...] = ()
    volumes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the containers."""
        return frozenset(container.id for container in self.containers)

    def within(self, project: Project) -> Newcomers:
        """Return those of them that were there when a project was found; what came later is named in the log."""
        found = Newcomers(
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
            logger.warning("%s is left as it is: it may have nothing to do with the update that is undone", what)
        return found


def newcomers(engine: Engine, backup: Backup) -> Newcomers:
    """Return what came to the project of a backup since.

    An engine does not let anybody label what exists: what bears the label now and was not there was made since. What a
    restore made anew is known by its name.
    """
    if backup.project is None:
        return Newcomers()
    name, before = backup.project.name, backup.project
    in_place = {container.name for container in backup.containers}
    found = [
        one
        for one in members(engine, name, but=before.containers)
        if one.name not in in_place and not is_aside(one.name)
    ]
    now = Project(name, (), tuple(sorted(engine.list_volumes(labels={COMPOSE_PROJECT: name}))), _networks(engine, name))
    came = beyond(now, before)
    return Newcomers(start_order(found), came.volumes, came.networks)
