"""Holds the facts that a preflight collects at once, so that its rules decide without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import field, frozen

from docker_rollback._capture.options import CaptureOptions, VolumeOptions
from docker_rollback._containers import Own
from docker_rollback._engine import Inspection
from docker_rollback._inspection import Loss, uses
from docker_rollback._model import Observed, Project
from docker_rollback._volumes import Survey


@frozen(kw_only=True)
class Facts:
    """Facts about one container beyond its inspection.

    Attributes:
        image: the inspection of its image; None if that was removed from the engine.
        uncommittable: why its engine cannot commit it; None if it can.
        unkept_names: why a commit would lose files because of their names.
        loss: the settings that only Podman knows, and that recreating it would lose.
        missing_paths: paths of the host that it was given and that are gone.
    """

    image: Inspection | None = None
    uncommittable: str | None = None
    unkept_names: tuple[str, ...] = ()
    loss: Loss = field(factory=Loss)
    missing_paths: tuple[str, ...] = ()


@frozen(kw_only=True)
class Scene:
    """Everything that the rules of a preflight decide on.

    Attributes:
        keeps: whether the backup keeps a state before it is undone. Nothing starts it again, so settings may be lost.
        named: the names and ids that the caller gave.
        given: the containers by those names, and the members of the project.
        group: all containers of the backup, in the order in which they start.
        joined: those of them that nobody named, but that would break if another one were recreated.
        outside: all other containers.
        facts: further facts about each container of the group, by its name.
        gone_networks: networks that a container of the group needs and that are gone.
        in_memory: volumes that live in memory and that a stop would lose.
        surveys: the volumes to archive, as far as they can be reached.
        unreachable: for each volume that cannot be reached, the name of a container that has it, and the reason.
        copies_into_volumes: whether the engine fills an empty volume from the image.
        files: the paths of the files of this machine that are backed up.
        unusable_files: why some of them, or the project's own, cannot be.
        needs_mode_network: whether the engine cannot start a container if the network of its mode is gone.
    """

    options: CaptureOptions = field(factory=CaptureOptions)
    volumes: VolumeOptions = field(factory=VolumeOptions)
    keeps: bool = False
    named: tuple[str, ...] = ()
    given: tuple[Observed, ...] = ()
    group: tuple[Observed, ...] = ()
    joined: tuple[Observed, ...] = ()
    outside: tuple[Observed, ...] = ()
    project: Project | None = None
    own: Own = field(factory=Own)
    facts: Mapping[str, Facts] = field(factory=dict)
    gone_networks: frozenset[str] = frozenset()
    in_memory: frozenset[str] = frozenset()
    surveys: Mapping[str, Survey] = field(factory=dict)
    unreachable: tuple[tuple[str, str], ...] = ()
    copies_into_volumes: bool = True
    files: tuple[str, ...] = ()
    unusable_files: tuple[str, ...] = ()
    needs_mode_network: bool = False

    @property
    def excluded_volumes(self) -> frozenset[str]:
        """The volumes that are excluded as a whole."""
        return frozenset(one.volume for one in self.volumes.exclude if not one.path)

    def archivable(self, container: Observed) -> list[str]:
        """Return the volumes of a container and the included folders that it binds, excluded ones among them."""
        included = self.volumes.include_binds
        bound = [mount.source for mount in container.mounts if mount.kind == "bind" and mount.source in included]
        return list(dict.fromkeys([*container.volumes, *bound]))

    def data_of(self, container: Observed) -> list[str]:
        """Return the volumes and folders of a container that are archived."""
        excluded = self.excluded_volumes
        return [name for name in self.archivable(container) if name not in excluded]

    @property
    def unused(self) -> list[str]:
        """The volumes of the project that are archived although no container of the group has them."""
        used = {name for one in self.group for name in self.data_of(one)} | self.excluded_volumes
        return [volume for volume in (self.project.volumes if self.project else ()) if volume not in used]

    @property
    def data(self) -> frozenset[str]:
        """All volumes and folders that are archived."""
        return frozenset(name for one in self.group for name in self.data_of(one)).union(self.unused)

    @property
    def writers(self) -> tuple[Observed, ...]:
        """The running containers outside the group that write to data of it."""
        data = self.data
        return tuple(one for one in self.outside if any(writes_to(one, volume) for volume in data))


def writes_to(container: Observed, volume: str) -> bool:
    """Return True if a container is alive and can write to a volume or folder."""
    return container.state.alive and any(uses(mount, volume) and not mount.read_only for mount in container.mounts)


def has(container: Observed, volumes: Iterable[str]) -> list[str]:
    """Return those of some volumes and folders that a container mounts."""
    return [volume for volume in volumes if any(uses(mount, volume) for mount in container.mounts)]
