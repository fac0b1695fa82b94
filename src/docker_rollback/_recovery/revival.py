"""Resumes containers that were stopped for a capture, and recreates those that somebody has removed meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from docker_rollback._capture import remove_guards
from docker_rollback._containers import (
    ContainerSnapshotter,
    QuiescedContainers,
    find_container,
    find_network,
    find_volume,
    image_id_of,
    put_back_until_undisturbed,
    quiesced_container,
)
from docker_rollback._engine import ContainerFilter, Engine
from docker_rollback._host import Timer
from docker_rollback._inspection import (
    HELD,
    layers_of,
    observe,
    restart_policy,
    started_at,
    user_endpoints,
    uses,
    with_ids,
)
from docker_rollback._model import Backup, ContainerSnapshot, NetworkRecord, Observed, Resting, is_folder
from docker_rollback._names import is_aside, live
from docker_rollback._recovery.operation_record import Record
from docker_rollback._reporting import Reporter
from docker_rollback._restore import HALF_REMOVED, Restorer
from docker_rollback.errors import CaptureError, RestoreError, ResumeError

logger = logging.getLogger("docker_rollback")


@frozen
class Removal:
    """The removal of a container or its network while it was stopped for its backup.

    Attributes:
        container: the container's name.
        reason: a sentence that names the removed object and its replacement.
    """

    container: str
    reason: str


@frozen(eq=False)
class Revival:
    """Resumes the containers of an abandoned capture."""

    _engine: Engine
    _snapshotter: ContainerSnapshotter
    _restorer: Restorer  # recreates removed containers by the plan of a rollback
    _reporter: Reporter = field(kw_only=True)
    _timer: Timer = field(kw_only=True)

    def bring_back(self, record: Record) -> tuple[list[Removal], tuple[Resting, ...]]:
        """Start the stopped containers, and recreate removed ones and their networks; this can be repeated.

        Returns:
            The removals, and the containers that were started.

        Raises:
            ResumeError: a container could not be started.
            RestoreError, EngineError: a container could not be recreated.
        """
        # A process may have died while it recreated these: starting them by id would start them half restored.
        halfway = {one.id for one in record.stopped if self._is_halfway(one)}
        started, failure = self._start(record, but=halfway)
        removed = {one.id for one in record.stopped if self._is_removed(one)}
        networks = tuple(network for network in record.networks if self._is_gone(network))
        failed = set(failure.containers) if failure is not None and (removed or networks) else set()
        halfway -= self._replaced(record, halfway)
        lost = [one for one in record.stopped if one.id in removed | halfway or one.name in failed]
        if not lost:
            if failure is not None:
                raise failure
            return [], started
        logger.warning(
            "%s: somebody removed it, or its network, while it was stopped for its backup; recreating it",
            ", ".join(one.name for one in lost),
        )
        removals: dict[str, Removal] = {}
        put_back_until_undisturbed(
            lambda: removals.update(self._recreate(record, lost, removed)),
            lambda: self._engine.list_containers(ContainerFilter(running=True)),
        )
        names = {one.name for one in lost}
        return list(removals.values()), tuple(one for one in started if one.name not in names)

    def forget(self, record: Record) -> None:
        """Remove the guards and committed images of a capture. Raises `EngineError`."""
        remove_guards(self._engine, of=record.operation)
        for one in record.stopped:
            self._snapshotter.forget_all(one)

    def _is_halfway(self, snapshot: ContainerSnapshot) -> bool:
        """Return True if recreating or removing a container was interrupted."""
        standing = find_container(self._engine, snapshot.id)
        if standing is None or standing.state.alive:
            return False
        policy = restart_policy(standing.inspection)
        held = policy == HELD != restart_policy(snapshot.inspection)
        return is_aside(standing.name) or held or standing.state.status in HALF_REMOVED

    def _replaced(self, record: Record, halfway: Collection[str]) -> set[str]:
        """Return the ids of containers whose name another container has that has run; they stay as they are."""
        replaced = set()
        for one in record.stopped:
            other = find_container(self._engine, one.name) if one.id in halfway else None
            if other is not None and other.id != one.id and started_at(other.inspection):
                logger.warning("%s: another container has its name and has run; leaving container %s", one.name, one.id)
                replaced.add(one.id)
        return replaced

    def _start(self, record: Record, *, but: Collection[str]) -> tuple[tuple[Resting, ...], ResumeError | None]:
        stopped = (*record.guests, *reversed(record.containers))
        if record.phase != "capturing":
            # They were stopped to keep the state of an update, not by the capture before it.
            stopped = tuple(quiesced_container(one, "stop") for one in reversed(record.stopped))
        bound = self._restorer.bound_paths()
        bound.expect(record.stopped)
        rest = QuiescedContainers(
            self._engine, "stop", before_start=bound.check, reporter=self._reporter, timer=self._timer
        )
        try:
            with rest:
                for found in stopped:
                    if found.id not in but:
                        rest.adopt(found)
        except ResumeError as error:
            return rest.containers, error
        return rest.containers, None

    def _is_removed(self, snapshot: ContainerSnapshot) -> bool:
        """Return True if a container is gone, and no other container with its name has run."""
        if self._is_there(snapshot):
            return False
        other = find_container(self._engine, snapshot.name)
        if other is None or other.id == snapshot.id or not started_at(other.inspection):
            return True
        logger.warning("%s: somebody removed it and created another one, which stays as it is", snapshot.name)
        return False

    def _is_there(self, snapshot: ContainerSnapshot) -> bool:
        """Return True if a container exists and is not half removed: an engine only removes such a one."""
        standing = find_container(self._engine, snapshot.id)
        return standing is not None and standing.state.status not in HALF_REMOVED

    def _is_gone(self, network: NetworkRecord) -> bool:
        found = find_network(self._engine, network.name)
        return found is None or str(found["Id"]) != network.id

    def _recreate(
        self, record: Record, lost: Sequence[ContainerSnapshot], removed: Collection[str]
    ) -> dict[str, Removal]:
        others = {one.id: find_container(self._engine, one.name) for one in record.stopped if one not in lost}
        # An earlier attempt has recreated some, which have new ids.
        ids = {old: other.id for old, other in others.items() if other is not None and other.id != old}
        snapshots = tuple(evolve(one, inspection=with_ids(one.inspection, ids)) for one in map(self._current, lost))
        attached = {name for one in lost for name in user_endpoints(one.inspection)}
        ours = {one.id for one in lost}
        backup = Backup(
            id=record.operation,
            created=record.written,
            engine=self._engine.info().record(),
            quiesce="stop",
            containers=snapshots,
            networks=tuple(network for network in record.networks if network.name in attached),
            bystanders=tuple(one for one in self._engine.list_containers() if one not in ours),
        )
        differs = self._put_back(backup)
        self._restorer.clean_up(backup)
        self._snapshotter.release(*backup.containers)
        named = {one.id: sorted(mount.source for mount in one.mounts if mount.anonymous) for one in lost}
        return {
            one.id: Removal(
                one.name,
                _sentence(one, named[one.id], differs.get(one.name, ())) if one.id in removed else _NETWORK,
            )
            for one in snapshots
        }

    def _put_back(self, backup: Backup) -> dict[str, Sequence[str]]:
        """Restore the containers; return the differences of those that run but are not exact, by name."""
        try:
            # Other containers that share a volume are stopped meanwhile, and resumed even after an error.
            others = QuiescedContainers(self._engine, "hold", reporter=self._reporter, timer=self._timer)
            self._restorer.put_back(backup, others=others)
        except RestoreError as error:
            failures = [failure for failure in error.failures or (error,) if isinstance(failure, RestoreError)]
            if len(failures) < len(error.failures) or not all(failure.differences for failure in failures):
                raise
            for failure in failures:
                logger.warning("%s", failure)
            return {failure.container: failure.differences for failure in failures}
        return {}

    def _current(self, snapshot: ContainerSnapshot) -> ContainerSnapshot:
        """Return a container's snapshot with its current content, or with its newest image if it is gone."""
        if self._is_there(snapshot):
            found = Observed(snapshot.name, snapshot.id, snapshot.inspection, snapshot.state, snapshot.mounts)
            return self._snapshotter.capture(found, tag=snapshot.image.tag)
        inspection = with_volumes_named(snapshot)
        return evolve(self._latest(snapshot), inspection=inspection, mounts=observe(inspection).mounts)

    def _latest(self, snapshot: ContainerSnapshot) -> ContainerSnapshot:
        """Return a snapshot with the newest of its images that the engine still has."""
        image = snapshot.image
        for tag in (image.tag, live(image.tag)):
            found = image_id_of(self._engine, tag)
            if found is None:
                continue
            layers = layers_of(self._engine.inspect_image(found))
            clean = image.clean and layers in (image.committed_layers, image.layers)
            # The original image may have been removed as unused, and the committed one is equal.
            identity = (
                image.original_id if clean and image_id_of(self._engine, image.original_id) is not None else found
            )
            kept = image.layers if clean else layers
            latest = evolve(image, id=identity, layers=kept, committed_layers=layers, clean=clean)
            return evolve(snapshot, image=latest)
        return snapshot


def removed_part(engine: Engine, backup: Backup) -> Backup | None:
    """Return the part of a restored backup that somebody removed before it was started; None if nothing was."""
    containers = tuple(one for one in backup.containers if find_container(engine, one.name) is None)
    if not containers:
        return None
    logger.warning("%s: somebody removed it before it was started", ", ".join(one.name for one in containers))
    return evolve(
        backup,
        containers=containers,
        volumes=tuple(
            volume
            for volume in backup.volumes
            if any(uses(mount, volume.name) for one in containers for mount in one.mounts)
            and (volume.anonymous or not (is_folder(volume.name) or find_volume(engine, volume.name)))
        ),
        project=None,
    )


def with_volumes_named(snapshot: ContainerSnapshot) -> Mapping[str, Any]:
    """Return a container's inspection with its anonymous volumes turned into named ones. Pure."""
    inspection = dict(snapshot.inspection)
    host = dict(inspection["HostConfig"])
    binds = list(host.get("Binds") or ())
    requests = [dict(mount) for mount in host.get("Mounts") or ()]
    shown = [dict(mount) for mount in inspection.get("Mounts") or ()]
    for mount in snapshot.mounts:
        if not mount.anonymous:
            continue
        asked = [one for one in requests if str(one.get("Target")).rstrip("/") == mount.destination.rstrip("/")]
        for one in asked:
            one["Source"] = mount.source
        if not asked:
            # An anonymous volume may be requested as a bind without a source.
            binds = [bind for bind in binds if str(bind).rstrip("/") != mount.destination.rstrip("/")]
            binds.append(f"{mount.source}:{mount.destination}" + (":ro" if mount.read_only else ""))
        for one in shown:
            # Engines show this mode for a volume that is mounted by name.
            if one["Destination"] == mount.destination and not one.get("Mode") and one.get("Driver") == "local":
                one["Mode"] = "ro" if mount.read_only and not asked else "z"
    host |= {"Binds": binds} if binds else {}
    host |= {"Mounts": requests} if requests else {}
    return {**inspection, "HostConfig": host, "Mounts": shown}


_NETWORK = (
    "somebody removed its network while it was stopped for the backup; the network is recreated, and it runs again"
)


def _sentence(snapshot: ContainerSnapshot, named: Sequence[str], differs: Sequence[str]) -> str:
    """Return the sentence about a container that somebody removed and that is recreated."""
    text = "somebody removed it while it was stopped for the backup; it is recreated from "
    if snapshot.image.committed_layers:
        text += "its committed file system and its volumes, and runs again"
    else:
        text += "its image and its volumes, and runs again, but the content of its writable layer is lost"
    if named:
        text += f"; its anonymous volumes are named volumes now: {', '.join(named)}"
    if differs:
        text += f"; it differs: {'; '.join(differs)}"
    return text


def as_error(removed: Sequence[Removal]) -> CaptureError:
    """Return the error of a capture during which somebody removed something."""
    if len(removed) == 1:
        return CaptureError(removed[0].container, removed[0].reason)
    reasons = "; ".join(f"{one.container!r}: {one.reason}" for one in removed)
    return CaptureError(", ".join(one.container for one in removed), reasons)
