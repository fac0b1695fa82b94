"""Volumes and what containers bind of their host: there, before a container is created on them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from docker_rollback._containers import asked_by_binds, can_be_made
from docker_rollback._engine import Engine
from docker_rollback._inspection import holds, volume_request
from docker_rollback._model import Backup, ContainerSnapshot, VolumeArchive, is_folder
from docker_rollback._restore.container_slot import Place, lost_bind
from docker_rollback._restore.surroundings import Surroundings
from docker_rollback._volumes import VolumeArchiver
from docker_rollback.errors import EngineError, RestoreError, VolumeError, VolumeNotFoundError

logger = logging.getLogger("docker_rollback")


class VolumeRestorer:
    """Has the volumes of one backup there; what is in them is put back later.

    Args:
        engine: where they are to be.
        archiver: finds the way to them.
        backup: what is put back.
        places: the places of its containers.
    """

    def __init__(self, engine: Engine, archiver: VolumeArchiver, backup: Backup, places: Iterable[Place]) -> None:
        self._engine = engine
        self._archiver = archiver
        self._backup = backup
        self._places = tuple(places)

    def restore(self, volume: VolumeArchive) -> None:
        """Have a volume of that name, driver, options and labels, and its folder on the host.

        Raises:
            VolumeAccessError: the folder that it is bound to is gone; or another volume of its name cannot be removed,
                because something is mounted in it.
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
            # A volume of that name with another driver, other options or labels is another volume.
            self._archiver.refuse_mounts(volume.name)
            for place in self._places:
                place.drop_users(volume.name)
            Surroundings(self._engine, self._backup).drop_newcomers(volume.name)
            self._engine.remove_volume(volume.name)
            self._create(volume)
        else:
            self._archiver.provide(volume.name)
            self._archiver.check_device(volume.name)

    def check_before_creation(self, container: ContainerSnapshot) -> None:
        """Raise a `RestoreError` if the engine, creating a container, would make a folder for what is gone.

        Docker makes it at the start, which is late enough to ask. Podman makes it at the creation, while everything
        is stopped: what the backup fills later may be missing, and what another container makes when it starts.
        """
        if self._engine.info().flavour == "docker":
            return
        held = {volume.name for volume in self._backup.volumes}
        group = self._backup.containers
        paths = (mount.source for mount in asked_by_binds(container) if not holds(mount, held))
        self._check(container, (path for path in paths if not can_be_made(path, container, group)))

    def check_before_start(self, container: ContainerSnapshot) -> None:
        """Raise a `RestoreError` if something that a container binds by ``Binds`` is gone, and it is to run again.

        Its engine would make an empty folder there, whether it was a folder or a file.
        """
        held = {volume.name for volume in self._backup.volumes}
        self._check(container, (mount.source for mount in asked_by_binds(container) if mount.source not in held))

    def _check(self, container: ContainerSnapshot, paths: Iterable[str]) -> None:
        for gone in self._archiver.missing(list(dict.fromkeys(paths))) if container.state.alive else ():
            raise RestoreError(container.name, lost_bind(gone))

    def _create(self, volume: VolumeArchive) -> None:
        self._engine.create_volume(volume_request(volume.inspection))
        try:
            self._archiver.check_device(volume.name)
        except VolumeError:
            try:
                self._engine.remove_volume(volume.name)
            except EngineError as error:
                logger.warning("volume %s was created, has no folder, and is left over: %s", volume.name, error)
            raise
