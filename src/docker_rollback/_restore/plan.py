"""What a restore does, step by step. Pure: a backup in, steps out, nothing asked of an engine.

Each step says what shall hold after it, not what to do: applying a step where it holds already changes nothing, so a
plan can be applied again from its start after it broke off anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from attrs import frozen

from docker_rollback._inspection import called, uses
from docker_rollback._model import Backup, ContainerSnapshot, NetworkRecord, Project, VolumeArchive


@frozen
class ProvideImage:
    """The engine has the image of the container's file system."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"provide the image of container {self.container.name!r}"


@frozen
class PutAside:
    """Whatever stands in the container's place is at rest, held from starting, and does not have its name."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"put aside what stands in the place of container {self.container.name!r}"


@frozen
class HoldNewcomers:
    """Nothing runs that came to the project since its backup."""

    project: Project
    containers: tuple[ContainerSnapshot, ...]

    def __str__(self) -> str:
        return f"hold what came to project {self.project.name!r} since"


@frozen
class RestoreNetwork:
    """The network is there."""

    network: NetworkRecord

    def __str__(self) -> str:
        return f"restore network {self.network.name!r}"


@frozen
class RestoreVolume:
    """The volume is there, with its driver, options and labels; a folder of the host is there."""

    volume: VolumeArchive

    def __str__(self) -> str:
        return f"restore {called(self.volume.name)}{_with(self.volume.privileges)}"


@frozen
class RestoreContainer:
    """The container stands, configured as it was, not running: the original where it is untouched, else its equal."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"restore container {self.container.name!r}{_with(self.container.privileges)}"


@frozen
class RestoreImageName:
    """The name that the container was made from leads to the image that it led to at the capture."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"restore image name {self.container.image.name!r} of container {self.container.name!r}"


@frozen
class FillVolume:
    """The volume holds what it held. An anonymous one is found by where the container mounts it."""

    volume: VolumeArchive
    container: ContainerSnapshot | None
    destination: str | None

    def __str__(self) -> str:
        place = f" at {self.destination}" if self.volume.anonymous else ""
        return f"fill {called(self.volume.name)}{place}"


@frozen
class TakeName:
    """The container has its name, and nothing has run on its data since that was filled."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"give container {self.container.name!r} its name"


@frozen
class Resume:
    """The container does what it did, and its restart policy is its own again."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"bring container {self.container.name!r} to the state {self.container.state.status!r}"


@frozen
class Compare:
    """The container's inspection is what it was."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"compare container {self.container.name!r} with its snapshot"


@frozen
class ClearAside:
    """What was put aside is gone."""

    container: ContainerSnapshot

    def __str__(self) -> str:
        return f"remove what was put aside for container {self.container.name!r}"


@frozen
class ClearNewcomers:
    """What came to the project since its backup is gone: containers, networks, and the volumes of an update."""

    project: Project

    def __str__(self) -> str:
        return f"remove what came to project {self.project.name!r} since"


Step: TypeAlias = (
    ProvideImage
    | HoldNewcomers
    | PutAside
    | RestoreNetwork
    | RestoreVolume
    | RestoreContainer
    | RestoreImageName
    | FillVolume
    | TakeName
    | Resume
    | Compare
    | ClearAside
    | ClearNewcomers
)


def plan_restore(backup: Backup, *, restore_tags: bool = True) -> tuple[Step, ...]:
    """Return the steps that put a backup back, in order; without `restore_tags`, names of images are left alone.

    All that can fail without having touched anything comes first; what stands in the way is put aside last to first;
    volumes are filled after their containers were created (an empty volume is filled from the image at creation), and
    before anything has its name or starts; what was put aside is removed when everything else stands, and so is what
    came to a project.
    """
    containers, project = backup.containers, backup.project
    named = [container for container in containers if restore_tags and container.image.name_id is not None]
    steps: list[Step] = [ProvideImage(container) for container in containers]
    steps += [HoldNewcomers(project, containers)] if project is not None else []
    steps += [PutAside(container) for container in reversed(containers)]
    # Those that hold settings for others come first.
    networks = sorted(backup.networks, key=lambda network: not network.inspection.get("ConfigOnly"))
    steps += [RestoreNetwork(network) for network in networks]
    steps += [RestoreVolume(volume) for volume in backup.volumes if not volume.anonymous]
    # A container is created by the name that it was made from if that leads to its image.
    steps += [RestoreImageName(container) for container in named]
    steps += [RestoreContainer(container) for container in containers]
    steps += [_fill(volume, containers) for volume in backup.volumes]
    steps += [TakeName(container) for container in containers]
    steps += [Resume(container) for container in containers]
    steps += [Compare(container) for container in containers]
    steps += [ClearAside(container) for container in reversed(containers)]
    steps += [ClearNewcomers(project)] if project is not None else []
    return tuple(steps)


def concerned(step: Step, containers: Iterable[ContainerSnapshot]) -> frozenset[str]:
    """Return the names of the containers that cannot stand where a step fails."""
    match step:
        case RestoreNetwork(network):
            attached = ((one.name, one.inspection.get("NetworkSettings") or {}) for one in containers)
            return frozenset(name for name, settings in attached if network.name in (settings.get("Networks") or {}))
        case RestoreVolume(volume) | FillVolume(volume):
            return frozenset(one.name for one in containers if any(uses(mount, volume.name) for mount in one.mounts))
        case HoldNewcomers(_, everything):
            return frozenset(one.name for one in everything)
        case ClearNewcomers() | RestoreImageName():
            # A container can stand without the name.
            return frozenset()
        case _:
            return frozenset({step.container.name})


def _with(privileges: Iterable[str]) -> str:
    """Return what stands behind a name: what of its host this step gives away."""
    named = "; ".join(privileges)
    return f", with: {named}" if named else ""


def _fill(volume: VolumeArchive, containers: tuple[ContainerSnapshot, ...]) -> FillVolume:
    if not volume.anonymous:
        return FillVolume(volume, None, None)
    for container in containers:
        for mount in container.mounts:
            if uses(mount, volume.name):
                return FillVolume(volume, container, mount.destination)
    return FillVolume(volume, None, None)
