"""Provides the volumes and host folders of a backup before a container is created on them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from attrs import frozen

from docker_rollback._containers import asked_by_binds, can_be_made, find_volume
from docker_rollback._engine import ContainerFilter, Engine
from docker_rollback._inspection import holds, volume_request
from docker_rollback._model import Backup, ContainerSnapshot, VolumeArchive, is_folder
from docker_rollback._restore.container_slot import ContainerSlot, lost_bind
from docker_rollback._restore.surroundings import Surroundings
from docker_rollback._volumes import VolumeArchiver
from docker_rollback.errors import EngineError, RestoreError, VolumeError

logger = logging.getLogger("docker_rollback")


@frozen(eq=False)
class VolumeRestorer:
    """Provides the volumes of one backup; their content is restored later."""

    _engine: Engine
    _archiver: VolumeArchiver
    _backup: Backup
    _slots: Collection[ContainerSlot]
    _surroundings: Surroundings

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
        standing = find_volume(self._engine, volume.name)
        if standing is None:
            self._create(volume)
        elif volume_request(standing) != volume_request(volume.inspection):
            # With another driver, other options or other labels, it is another volume of the same name.
            self._archiver.refuse_mounts(volume.name)
            users = self._engine.list_containers(ContainerFilter(volume=volume.name))
            for slot in self._slots:
                slot.remove_users(users)
            # Recreating an earlier volume may have removed added containers.
            self._surroundings.refresh().remove_added_users(volume.name)
            self._engine.remove_volume(volume.name)
            self._create(volume)
        else:
            self._archiver.provide(volume.name)
            self._archiver.check_device(volume.name)

    @contextmanager
    def creating(self, container: ContainerSnapshot, lock: threading.Lock) -> Iterator[None]:
        """Check the paths that a container binds before a block creates it, and keep the engine from creating folders.

        Such blocks of several containers wait for each other at the lock, because they may bind the same path.

        Raises:
            RestoreError: a path is missing, the container is to run, and no other container can create the path.
            VolumeAccessError: a folder that the engine created cannot be removed.
            EngineError: the engine refused or failed.
        """
        # Docker creates a folder for a missing path at the start, which `check_before_start` prevents.
        if self._engine.info().flavour == "docker":
            yield
            return
        # Podman does at the creation. A path that another container creates at its start is still missing then, so the
        # empty folder is removed after the creation. The backup may fill a path that it has itself.
        held = {volume.name for volume in self._backup.volumes}
        paths = [mount.source for mount in asked_by_binds(container) if not holds(mount, held)]
        with lock:
            missing = self._archiver.missing(list(dict.fromkeys(paths)))
            group = self._backup.containers
            self._refuse(container, (path for path in missing if not can_be_made(path, container, group)))
            with self._archiver.keeping_missing(missing):
                yield

    def check_before_start(self, container: ContainerSnapshot) -> None:
        """Raise `RestoreError` if a path that a container binds is missing and it is to run."""
        held = {volume.name for volume in self._backup.volumes}
        # Its engine would create an empty folder there, even for a file.
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
                logger.warning(
                    "could not remove volume %s, which was created on a missing folder: %s", volume.name, error
                )
            raise
