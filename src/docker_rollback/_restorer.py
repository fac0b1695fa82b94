"""Backups put back: a plan that asks nothing of anyone, then its steps applied to an engine."""

from __future__ import annotations

import logging
from typing import Any, Literal, TypeAlias

from attrs import field, frozen

from docker_rollback._archiver import VolumeArchiver
from docker_rollback._compare import compare_networks
from docker_rollback._conflict import conflict
from docker_rollback._engine.port import ContainerFilter, Engine
from docker_rollback._model import Backup, ContainerSnapshot, NetworkRecord, Observed, VolumeArchive
from docker_rollback._place import Place
from docker_rollback._plan import (
    ClearAside,
    Compare,
    FillVolume,
    ProvideImage,
    PutAside,
    RestoreContainer,
    RestoreNetwork,
    RestoreVolume,
    Resume,
    Step,
    plan_restore,
)
from docker_rollback._progress import Reporter
from docker_rollback._quiesce import AtRest
from docker_rollback._snapshotter import ContainerSnapshotter
from docker_rollback._spec import HELD, network_request, observe, restarts, volume_request
from docker_rollback._store import BackupStore
from docker_rollback.errors import (
    DockerRollbackError,
    ImageNotFoundError,
    NetworkNotFoundError,
    RestoreError,
    VolumeNotFoundError,
)

logger = logging.getLogger("docker_rollback")

Intruders: TypeAlias = Literal["refuse", "stop"]
"""What happens to a running container outside the backup that has a volume, a port or an address of one in it."""


class Restorer:
    """Puts backups back.

    Args:
        engine: where the containers are to stand.
        store: where the backups are.
        archiver: what fills the volumes; by default one on the same engine and store.
        intruders: "refuse" leaves everything untouched where a running container outside the backup has a volume, a
            port or an address of one in it; "stop" stops it, for a rollback, where only the failed update can have
            made it.
        report: is told what is done.

    Example:
        >>> restorer = Restorer(DockerEngine.from_env(), store)
        >>> for step in restorer.plan(store.get(backup_id)):
        ...     print(step)
        >>> restorer.restore(store.get(backup_id))
        ['web']
    """

    def __init__(
        self,
        engine: Engine,
        store: BackupStore,
        *,
        archiver: VolumeArchiver | None = None,
        intruders: Intruders = "refuse",
        report: Reporter | None = None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._archiver = archiver or VolumeArchiver(engine, store)
        self._snapshotter = ContainerSnapshotter(engine, store)
        self._intruders = intruders
        self._report = report or Reporter()

    def plan(self, backup: Backup) -> tuple[Step, ...]:
        """Return what a restore of `backup` would do, in order; nothing is asked of the engine."""
        return plan_restore(backup)

    def restore(self, backup: Backup) -> list[str]:
        """Put a backup back and return the names of the containers that stand again.

        Everything in the backup is read and verified before anything is touched. A restore that broke off can be run
        again from its start.

        Raises:
            CorruptBackupError: the backup is damaged; nothing was touched.
            RestoreError: a running container outside the backup is in the way, and nothing was touched; or a step
                failed, or what stands now differs from what was captured. With several failures, an `ExceptionGroup`
                of them; every container was tried.
        """
        self._store.verify(backup.id)
        self._refuse_intruders(backup)
        self._apply(backup)
        return [container.name for container in backup.containers]

    def _apply(self, backup: Backup) -> None:
        work = _Restoration(backup, AtRest(self._engine, "stop", report=self._report))
        for container in backup.containers:
            work.places[container.name] = Place(self._engine, self._snapshotter, container, work.ids)
        failures: list[Exception] = []
        failed: set[str] = set()
        with work.guests:
            for step in self.plan(backup):
                name = _container_of(step)
                if name in failed:
                    continue
                self._report.step("restore", str(step))
                try:
                    self._apply_step(step, work)
                except DockerRollbackError as error:
                    error.add_note(f"while it was to {step}")
                    if isinstance(step, ProvideImage) or name is None:
                        # Either nothing has been touched yet, or what failed is shared by all.
                        raise
                    failures.append(error)
                    failed.add(name)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise ExceptionGroup(f"backup {backup.id} could not be restored", failures)

    def _apply_step(self, step: Step, work: _Restoration) -> None:
        places = work.places
        match step:
            case ProvideImage(container):
                places[container.name].image_id = self._provide_image(container)
            case PutAside(container):
                self._stop_intruders(container, work)
                places[container.name].put_aside()
            case RestoreNetwork(network):
                self._restore_network(network, work)
            case RestoreVolume(volume):
                self._restore_volume(volume, work)
            case RestoreContainer(container):
                places[container.name].restore()
            case FillVolume(volume, container, destination):
                name = volume.name
                if container is not None and destination is not None:
                    name = places[container.name].volume_at(destination)
                self._archiver.extract(volume, name, verify=False)
            case Resume(container):
                places[container.name].resume()
            case Compare(container):
                places[container.name].compare()
            case ClearAside(container):
                places[container.name].clear_aside()

    def _provide_image(self, container: ContainerSnapshot) -> str:
        """Return the id, in this engine, of the image that holds the container's file system; load it where missing."""
        image = container.image
        for reference in (image.id, image.tag):
            try:
                found = str(self._engine.inspect_image(reference)["Id"])
            except ImageNotFoundError:
                continue
            # Held by a name of ours: the original one may be moved or removed meanwhile.
            self._engine.tag_image(found, image.tag)
            return found
        if image.manifest is None:
            raise RestoreError(
                container.name,
                f"its image {image.id} is gone from the engine, and the backup was taken with export_image=False",
            )
        self._engine.load_image(self._store.image_archive(image.manifest, [image.tag]))
        return str(self._engine.inspect_image(image.tag)["Id"])

    def _restore_network(self, network: NetworkRecord, work: _Restoration) -> None:
        try:
            standing = self._engine.inspect_network(network.name)
        except NetworkNotFoundError:
            work.ids[network.id] = self._engine.create_network(network_request(network.inspection))
            return
        differences = compare_networks(network.inspection, standing)
        if differences:
            if standing.get("Containers"):
                raise RestoreError(
                    work.names,
                    f"network {network.name!r} was changed, and other containers use it; detach them first",
                    [str(difference) for difference in differences],
                )
            self._engine.remove_network(network.name)
            work.ids[network.id] = self._engine.create_network(network_request(network.inspection))
        else:
            work.ids[network.id] = str(standing["Id"])

    def _restore_volume(self, volume: VolumeArchive, work: _Restoration) -> None:
        wanted = volume_request(volume.inspection)
        try:
            standing = self._engine.inspect_volume(volume.name)
        except VolumeNotFoundError:
            self._engine.create_volume(wanted)
            return
        if volume_request(standing) != wanted:
            # A volume of that name with another driver, other options or labels is another volume.
            for place in work.places.values():
                place.drop_users(volume.name)
            self._engine.remove_volume(volume.name)
            self._engine.create_volume(wanted)

    def _refuse_intruders(self, backup: Backup) -> None:
        if self._intruders == "stop":
            return
        for container in backup.containers:
            for intruder, reason in self._in_the_way(container, backup):
                raise RestoreError(
                    container.name,
                    f"container {intruder.name!r}, which is not part of backup {backup.id}, {reason}; stop it first. "
                    "Nothing was touched",
                )

    def _stop_intruders(self, container: ContainerSnapshot, work: _Restoration) -> None:
        """Bring to rest whatever keeps the container from standing: guests until the end, what came later for good."""
        for intruder, reason in self._in_the_way(container, work.backup):
            if intruder.id in work.backup.guests:
                work.guests.bring(intruder)
                continue
            logger.warning("%s: stopping it for good, because it %s", intruder.name, reason)
            if restarts(intruder.inspection["HostConfig"]):
                self._engine.update_container(intruder.id, {"RestartPolicy": dict(HELD)})
            self._engine.stop_container(intruder.id)

    def _in_the_way(self, container: ContainerSnapshot, backup: Backup) -> list[tuple[Observed, str]]:
        """Return the running containers that conflict with one, and stand in no place that the backup restores."""
        names = {member.name for member in backup.containers}
        ids = {member.id for member in backup.containers}
        running = self._engine.list_containers(ContainerFilter(running=True))
        others = [observe(self._engine.inspect_container(other)) for other in running if other not in ids]
        reasons = [(other, conflict(container, other)) for other in others if other.name not in names]
        return [(other, reason) for other, reason in reasons if reason is not None]


@frozen
class _Restoration:
    """One restore at work.

    Attributes:
        backup: what is put back.
        guests: the containers that rest while the volumes that they share are filled.
        places: the places of its containers, by name.
        ids: the new ids of what was made anew, by the old ones.
    """

    backup: Backup
    guests: AtRest
    places: dict[str, Place] = field(factory=dict)
    ids: dict[str, str] = field(factory=dict)

    @property
    def names(self) -> str:
        """The names of the containers, for a message."""
        return ", ".join(container.name for container in self.backup.containers)


def _container_of(step: Any) -> str | None:
    """Return the name of the container that a step belongs to; None where it belongs to all."""
    container = getattr(step, "container", None)
    return container.name if container is not None else None
