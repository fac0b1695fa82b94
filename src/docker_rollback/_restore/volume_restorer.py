"""Provides the volumes and host folders of a backup before a container is created on them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from docker_rollback._containers import asked_by_binds, can_be_made
from docker_rollback._engine import ContainerFilter, Engine
from docker_rollback._inspection import holds, volume_request
from docker_rollback._model import Backup, ContainerSnapshot, VolumeArchive, is_folder
from docker_rollback._restore.container_slot import ContainerSlot, lost_bind
from docker_rollback._restore.surroundings import Surroundings
from docker_rollback._volumes import VolumeArchiver
from docker_rollback.errors import EngineError, RestoreError, VolumeError, VolumeNotFoundError

logger = logging.getLogger("docker_rollback")


class VolumeRestorer:
    """Provides the volumes of one backup; their content is restored later.

    Args:
        engine: the engine that they are restored on.
        archiver: gives access to them.
        backup: the backup.
        slots: the slots of its containers.
        surroundings: the containers outside the backup.
    """

    def __init__(
        self,
        engine: Engine,
        archiver: VolumeArchiver,
        backup: Backup,
        slots: Iterable[ContainerSlot],
        surroundings: Surroundings,
    ) -> None:
        self._engine = engine
        self._archiver = archiver
        self._backup = backup
        self._slots = tuple(slots)
        self._surroundings = surroundings

    def restore(self, volume: VolumeArchive) -> None:
        """Provide a volume with its name, driver, options and labels, or a folder of the host.

        Raises:
            VolumeAccessError: the folder that the volume binds is gone; or another volume of its name cannot be
                removed because something is mounted in it.
            EngineError: the engine refused or failed.
        """
        if is_folder(volume.name):
            self._archiver.provide(volume.name, is_file=volume.is_file)
            return
        wanted = volume_request(volume.inspection)
        try:
            standing = self._engine.inspect_volume(volume.name)
        except VolumeNotFoundError:
            self._create(volume)
            return
        if volume_request(standing) != wanted:
            # With another driver, other options or other labels it is another volume.
            self._archiver.refuse_mounts(volume.name)
            users = self._engine.list_containers(ContainerFilter(volume=volume.name))
            for slot in self._slots:
                slot.remove_users(users)
            # An earlier volume may have cost an added container already.
            self._surroundings.refresh().remove_added_users(volume.name)
            self._engine.remove_volume(volume.name)
            self._create(volume)
        else:
            self._archiver.provide(volume.name)
            self._archiver.check_device(volume.name)

    @contextmanager
    def creating(self, container: ContainerSnapshot) -> Iterator[None]:
        """Check the paths that a container binds before a block creates it, and keep the engine from making folders.

        Docker makes a folder for a missing path at the start, which `check_before_start` prevents. Podman makes it at
        the creation, while everything is stopped: a path that another container makes when it starts is missing then.
        So the empty folder is removed after the creation.

        Raises:
            RestoreError: a path is missing, the container is to run, and no other container can make the path.
            VolumeAccessError: a folder that the engine made cannot be removed.
            EngineError: the engine refused or failed.
        """
        if self._engine.info().flavour == "docker":
            yield
            return
        held = {volume.name for volume in self._backup.volumes}
        # The backup may fill these later.
        paths = [mount.source for mount in asked_by_binds(container) if not holds(mount, held)]
        missing = self._archiver.missing(list(dict.fromkeys(paths)))
        group = self._backup.containers
        self._refuse(container, (path for path in missing if not can_be_made(path, container, group)))
        with self._archiver.keeping_missing(missing):
            yield

    def check_before_start(self, container: ContainerSnapshot) -> None:
        """Raise a `RestoreError` if a path that a container asks for by ``Binds`` is missing, and it is to run.

        Its engine would make an empty folder there, for a file as well.
        """
        held = {volume.name for volume in self._backup.volumes}
        paths = [mount.source for mount in asked_by_binds(container) if mount.source not in held]
        self._refuse(container, self._archiver.missing(list(dict.fromkeys(paths))) if container.state.alive else ())

    def _refuse(self, container: ContainerSnapshot, missing: Iterable[str]) -> None:
        for path in missing if container.state.alive else ():
            raise RestoreError(container.name, lost_bind(path))

    def _create(self, volume: VolumeArchive) -> None:
        self._engine.create_volume(volume_request(volume.inspection))
        try:
            self._archiver.check_device(volume.name)
        except VolumeError:
            try:
                self._engine.remove_volume(volume.name)
            except EngineError as error:
                logger.warning("volume %s was created, has no folder, and could not be removed: %s", volume.name, error)
            raise
