"""Plans a restore: turns a backup into steps, without asking the engine.

Each step is a post-condition: applying it again changes nothing, so an interrupted plan can be applied from its start.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from attrs import frozen

from docker_rollback._inspection import called, start_order, uses
from docker_rollback._model import Backup, ContainerSnapshot, NetworkRecord, Project, VolumeArchive


@frozen
class ProvideImage:
    """The engine has the image with the container's file system."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"provide the image of container {self.container.name!r}"


@frozen
class RenameAway:
    """No container has the container's name; those that had it are stopped and held from starting."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"rename away the container in the place of {self.container.name!r}"


@frozen
class HoldAdded:
    """No container that was added to the project since its backup runs."""

    project: Project
    containers: tuple[ContainerSnapshot, ...]

    def __str__(self) -> str:
        return f"hold the containers added to project {self.project.name!r}"


@frozen
class RestoreNetwork:
    """The network exists as it was."""

    network: NetworkRecord

    def __str__(self) -> str:
        return f"restore network {self.network.name!r}"


@frozen
class RestoreVolume:
    """The volume exists with its driver, options and labels; or the folder of the host exists."""

    volume: VolumeArchive

    def __str__(self) -> str:
        return f"restore {called(self.volume.name)}{_with(self.volume.privileges)}"


@frozen
class RestoreContainer:
    """The container exists with its configuration, not running: the original if untouched, else an equal one."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"restore container {self.container.name!r}{_with(self.container.privileges)}"


@frozen
class RestoreImageName:
    """The image name that the container was created from has the image that it had at the capture."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"restore image name {self.container.image.name!r} of container {self.container.name!r}"


@frozen
class FillVolume:
    """The volume has its content again."""

    volume: VolumeArchive
    container: ContainerSnapshot | None
    destination: str | None

    def __str__(self) -> str:
        where = f" at {self.destination}" if self.volume.anonymous else ""
        return f"fill {called(self.volume.name)}{where}"


@frozen
class TakeName:
    """The container has its name, and nothing has run on its data since the volumes were filled."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"give container {self.container.name!r} its name"


@frozen
class Resume:
    """The container is in its previous state and has its restart policy."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"bring container {self.container.name!r} to the state {self.container.state.status!r}"


@frozen
class Compare:
    """The container's inspection equals the snapshot's."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"compare container {self.container.name!r} with its snapshot"


@frozen
class RemoveRenamed:
    """The containers that were renamed away are removed."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"remove the container renamed away for {self.container.name!r}"


@frozen
class RemoveAdded:
    """The project has nothing that was added since its backup, except volumes that no update made."""

    project: Project

    def __str__(self) -> str:
        return f"remove the additions to project {self.project.name!r}"


Step: TypeAlias = (
    ProvideImage
    | HoldAdded
    | RenameAway
    | RestoreNetwork
    | RestoreVolume
    | RestoreContainer
    | RestoreImageName
    | FillVolume
    | TakeName
    | Resume
    | Compare
    | RemoveRenamed
    | RemoveAdded
)


def plan_restore(backup: Backup, *, restore_tags: bool = True) -> tuple[Step, ...]:
    """Return the steps of a restore, in order; without `restore_tags`, image names stay as they are."""
    containers, project = start_order(backup.containers), backup.project
    named = [container for container in containers if restore_tags and container.image.name_id is not None]
    # Steps that can fail without having touched anything come first.
    steps: list[Step] = [ProvideImage(container) for container in containers]
    steps += [HoldAdded(project, containers)] if project is not None else []
    steps += [RenameAway(container) for container in reversed(containers)]
    # Config-only networks come first, because others are made from them.
    networks = sorted(backup.networks, key=lambda network: not network.inspection.get("ConfigOnly"))
    steps += [RestoreNetwork(network) for network in networks]
    steps += [RestoreVolume(volume) for volume in backup.volumes if not volume.anonymous]
    # Before the containers: one is created by its image name only if that name has its image.
    steps += [RestoreImageName(container) for container in named]
    steps += [RestoreContainer(container) for container in containers]
    # Filled after the containers are created, because an engine fills an empty volume from the image then, and
    # before any container has its name or starts.
    steps += [_fill(volume, containers) for volume in backup.volumes]
    steps += [TakeName(container) for container in containers]
    steps += [Resume(container) for container in containers]
    steps += [Compare(container) for container in containers]
    # Removed last, so that a failed restore has destroyed nothing.
    steps += [RemoveRenamed(container) for container in reversed(containers)]
    steps += [RemoveAdded(project)] if project is not None else []
    return tuple(steps)


def at_once(steps: Iterable[Step]) -> Iterator[tuple[Step, ...]]:
    """Yield the steps in groups that are applied one after the other; the steps of a group are applied at once.

    A group has several steps if these, in a row, rename away or restore containers. Some of these wait for others of
    their group.
    """

    def key(numbered: tuple[int, Step]) -> object:
        number, step = numbered
        return type(step) if isinstance(step, RenameAway | RestoreContainer) else number

    for _, group in itertools.groupby(enumerate(steps), key):
        yield tuple(step for _, step in group)


def concerned(step: Step, containers: Iterable[ContainerSnapshot]) -> frozenset[str]:
    """Return the names of the containers that cannot be restored if a step fails."""
    match step:
        case RestoreNetwork(network):
            attached = ((one.name, one.inspection.get("NetworkSettings") or {}) for one in containers)
            return frozenset(name for name, settings in attached if network.name in (settings.get("Networks") or {}))
        case RestoreVolume(volume) | FillVolume(volume):
            return frozenset(one.name for one in containers if any(uses(mount, volume.name) for mount in one.mounts))
        case HoldAdded(_, everything):
            return frozenset(one.name for one in everything)
        case RemoveAdded() | RestoreImageName():
            # A container can be restored without it.
            return frozenset()
        case _:
            return frozenset({step.container.name})


def _with(privileges: Iterable[str]) -> str:
    """Return the suffix that names the privileges on the host that a step grants."""
    named = "; ".join(privileges)
    return f", with: {named}" if named else ""


def _fill(volume: VolumeArchive, containers: tuple[ContainerSnapshot, ...]) -> FillVolume:
    # An anonymous volume of a recreated container has a new name, so it is found by its mount point.
    for container in containers if volume.anonymous else ():
        for mount in container.mounts:
            if uses(mount, volume.name):
                return FillVolume(volume, container, mount.destination)
    return FillVolume(volume, None, None)
