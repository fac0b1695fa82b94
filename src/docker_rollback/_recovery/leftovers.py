"""Removes leftovers of ended operations from the engine, and logs those that need a decision."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from attrs import frozen

from docker_rollback._capture import guards_of
from docker_rollback._containers import find_container, find_containers, find_image, shown_image, take_name
from docker_rollback._engine import EVERY, Engine, remove_named
from docker_rollback._model import Observed
from docker_rollback._names import IMAGE_REPOSITORY, KEPT_REPOSITORY, again, is_aside, live, name_before_aside
from docker_rollback._recovery.operation_record import Record
from docker_rollback._recovery.operations import Operations
from docker_rollback._store import BackupStore
from docker_rollback._volumes import HELPER_REPOSITORY
from docker_rollback.errors import EngineConflictError, EngineError, StoreError

logger = logging.getLogger("docker_rollback")


@frozen(kw_only=True)
class _Known:
    """The operations and containers that a journal record or a lock volume names."""

    operations: Collection[str]  # by id
    containers: Collection[str]  # by name


@frozen(eq=False)
class LeftOver:
    """Removes containers and image names of unrecorded operations, and lock volumes of ended ones.

    A container that was renamed away may hold somebody's data. It is removed only if this store has a verified backup
    of it and the container that took its name runs; otherwise the log gives the commands for both cases. It is never
    renamed back: without a record, the data in its volumes may be incomplete.
    """

    _engine: Engine
    _store: BackupStore
    _operations: Operations

    def clear(self) -> None:
        """Remove the leftovers that are safe to remove, and log the rest. Raises `StoreError`.

        An error of the engine is only logged, because leftovers do no harm.
        """
        try:
            self._clear()
        except EngineError as error:
            logger.warning("could not remove leftovers from the engine: %s", error)

    def _clear(self) -> None:
        self._operations.remove_left_over_marks()
        for name in self._engine.list_images(HELPER_REPOSITORY):
            # A process that needs it imports it again.
            self._remove_image(name, users=False)
        # Listed before the records are read, so that they cannot belong to an operation that begins in between.
        guards = guards_of(self._engine, self._store)
        containers = find_containers(self._engine, EVERY)
        images = [*self._engine.list_images(IMAGE_REPOSITORY), *self._engine.list_images(KEPT_REPOSITORY)]
        known = self._known()
        if known is None:
            return
        for guard, operation in guards.items():
            if operation not in known.operations:
                self._engine.remove_container(guard, force=True)
        self._clear_renamed(known, containers)
        shown = {shown_image(one) for one in containers}
        in_use = {str(one.inspection["Image"]) for one in containers}
        self._clear_images(known, [name for name in images if name not in shown], in_use=in_use)

    def _known(self) -> _Known | None:
        """Return the known operations; None if a record cannot be read, because it may name anything."""
        try:
            records = [self._store.journal.get(name, Record) for name in self._store.journal.names()]
        except StoreError as error:
            logger.warning("removing nothing else from the engine, because a record cannot be read: %s", error)
            return None
        in_flight = self._operations.in_flight()
        return _Known(
            operations={record.operation for record in records if record is not None}
            | {one.operation for one in in_flight},
            containers={name for record in records if record is not None for name in record.names}
            | {name for one in in_flight for name in one.containers},
        )

    def _clear_images(self, known: _Known, images: Iterable[str], *, in_use: Collection[str]) -> None:
        """Remove those names of images that this store holds as well, except the last name of one that is in use."""
        named: dict[str, dict[str, bool]] = {}
        for name in images:
            operation = name.rpartition(":")[2].partition(".")[0]
            if operation in known.operations or self._is_last_name_of(name, in_use):
                continue
            if operation not in named:
                named[operation] = self._names_to_clear(operation)
            if name in named[operation]:
                self._remove_image(name, users=named[operation][name])
            else:
                logger.info("keeping image %s, because this store has no intact copy", name)

    def _names_to_clear(self, backup: str) -> dict[str, bool]:
        """Return the unneeded image names of a backup, each mapped to True if the image is the user's.

        Images that were loaded from an export have other names, which are needed. An image that is in no store keeps
        its name as long as its backup exists.
        """
        if not self._is_sound(backup):
            return {}
        images = [container.image for container in self._store.get(backup).containers]
        committed = {name: False for image in images for name in (again(image.tag), live(image.tag))}
        # The image of a container with a clean writable layer is the user's: only our name for it goes.
        return {image.tag: image.clean for image in images} | committed

    def _clear_renamed(self, known: _Known, containers: Iterable[Observed]) -> None:
        running = {container.name for container in containers if container.state.alive}
        for container in containers:
            before = name_before_aside(container.name)
            if not is_aside(container.name) or before in known.containers:
                continue
            if before in running and self._has_backup_of(container) and self._is_still(container):
                logger.warning("removing container %s, which was renamed away: %r runs", container.name, before)
                self._engine.remove_container(container.id)
            else:
                logger.warning(
                    "keeping container %s: an operation without a record renamed it away from %r. "
                    "If the present %r is right: docker rm %s. If not: docker rename %s %s; docker start %s",
                    *(container.name, before, before, container.name, container.name, before, before),
                )

    def _is_still(self, container: Observed) -> bool:
        """Return True if a container is still stopped under the same name: an operation may have begun with it."""
        now = find_container(self._engine, container.id)
        return now is not None and now.name == container.name and not now.state.alive

    def _has_backup_of(self, container: Observed) -> bool:
        """Return True if the store has a verified backup of exactly this container, with its image."""
        holding = [
            backup for backup in reversed(self._store.list()) if container.id in {one.id for one in backup.containers}
        ]
        return any(self._is_sound(backup.id) for backup in holding)

    def _is_sound(self, backup: str) -> bool:
        """Return True if the store has a backup with its images, and it passes verification."""
        try:
            found = self._store.get(backup)
            if any(container.image.manifest is None for container in found.containers):
                return False
            self._store.verify(backup, deep=False)
        except StoreError as error:
            logger.info("backup %s cannot be relied on: %s", backup, error)
            return False
        return True

    def _is_last_name_of(self, name: str, images: Collection[str]) -> bool:
        """Return True if this is the only name of an image that a container uses, so that it cannot be removed."""
        found = find_image(self._engine, name)
        return found is not None and found["Id"] in images and len(found.get("RepoTags") or []) <= 1

    def _remove_image(self, name: str, *, users: bool) -> None:
        try:
            if users:
                take_name(self._engine, name)
            else:
                remove_named(self._engine, name)
        except EngineConflictError:
            logger.debug("image %s is in use", name)
        except EngineError as error:
            logger.warning("could not remove image %s from the engine: %s", name, error)
