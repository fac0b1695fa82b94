"""Step 1: everything that can be found wrong while the service still runs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from docker_rollback._archiver import VolumeArchiver
from docker_rollback._engine.port import ContainerFilter, Engine
from docker_rollback._graph import bound_to, start_order
from docker_rollback._model import Observed, Quiesce, Report, Shared, Way
from docker_rollback._snapshotter import gap_of
from docker_rollback._spec import observe
from docker_rollback._store import BackupStore
from docker_rollback.errors import ContainerNotFoundError, VolumeError, VolumeNotFoundError

_FULL_ID = re.compile(r"\b[0-9a-f]{64}\b")

_MOUNTED_BY_ENGINES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")

_ROOM_FOR_AN_IMAGE = 0.5
"""How much of an image's size its layers take in the store, gzipped; measured at 0.42 for a Debian image."""


class Preflight:
    """Runs the checks of step 1; touches nothing.

    Args:
        engine: where the containers are.
        store: where the backup is to go.
        archiver: what is to archive the volumes.
        export_image: whether the images go into the store as well.
        quiesce: how the containers are to be brought to rest.
        shared: what becomes of containers outside that write to a volume of theirs.
        own_ids: the ids of the container that this program runs in, where it does; see `own_ids`.
    """

    def __init__(
        self,
        engine: Engine,
        store: BackupStore,
        archiver: VolumeArchiver,
        *,
        export_image: bool = True,
        quiesce: Quiesce = "stop",
        shared: Shared = "refuse",
        own_ids: frozenset[str] = frozenset(),
    ) -> None:
        self._engine = engine
        self._store = store
        self._archiver = archiver
        self._export_image = export_image
        self._quiesce = quiesce
        self._shared = shared
        self._own_ids = own_ids

    def observe(self, containers: Sequence[str]) -> tuple[Observed, ...]:
        """Return the containers and those that are bound to them, each once, in the order in which they start.

        Raises:
            ContainerNotFoundError: one of `containers` is not there.
        """
        named = [observe(self._engine.inspect_container(reference)) for reference in containers]
        given = list({container.id: container for container in named}.values())
        return start_order([*given, *bound_to(given, self._others({container.id for container in given}))])

    def run(self, containers: Sequence[str]) -> Report:
        """Return what a backup of `containers` would be.

        Raises:
            ContainerNotFoundError: one of them is not there.
            EngineError: the engine does not answer.
            StoreNotWritableError: the store cannot be written.
        """
        self._engine.info()
        found = self.observe(containers)
        guests = {guest.id: guest for one in found for volume in one.volumes for guest in self._guests(volume, found)}
        refused = {container.name: self._refusals(container, guests.values()) for container in found}
        ways = self._ways(found, refused)
        self._store.check()
        return Report(
            containers=found,
            joined=tuple(one.name for one in found if one.name not in containers and one.id not in containers),
            guests=tuple(guests.values()),
            volumes=ways,
            anonymous=frozenset(name for one in found for name, anonymous in one.volumes.items() if anonymous),
            not_covered=tuple(gap for one in found for mount in one.mounts if (gap := gap_of(mount)) is not None),
            refused={name: tuple(reasons) for name, reasons in refused.items() if reasons},
            room=sum(self._image_room(container) for container in found),
        )

    @contextmanager
    def holding(self, containers: Sequence[str]) -> Iterator[Report]:
        """Hold the containers against other rollbacks and yield what was found of them, all of it good.

        Raises:
            ContainerNotFoundError, ContainerBusyError, UnsupportedContainerError, EngineError, StoreError: what they
                say; nothing was touched.
        """
        with ExitStack() as held:
            locked: set[str] = set()
            # Looked at again under the locks: whoever held them before may have made other containers of the names.
            while missing := [found for found in self.observe(containers) if found.id not in locked]:
                for found in missing:
                    held.enter_context(self._store.lock(found.id, container=found.name))
                    locked.add(found.id)
            report = self.run(containers)
            report.raise_refusals()
            self._store.check(report.room)
            yield report

    def _others(self, ids: Collection[str]) -> list[Observed]:
        """Return every other container there is."""
        others = []
        for other in self._engine.list_containers():
            if other in ids:
                continue
            try:
                others.append(observe(self._engine.inspect_container(other)))
            except ContainerNotFoundError:
                continue
        return others

    def _ways(self, containers: Sequence[Observed], refused: Mapping[str, list[str]]) -> dict[str, Way]:
        """Return the way to each volume; where there is none, add the reason to what is refused."""
        volumes = list(dict.fromkeys(volume for container in containers for volume in container.volumes))
        try:
            return self._archiver.probe(volumes) if volumes else {}
        except (VolumeError, VolumeNotFoundError):
            # One at a time, so that the reason is known for each.
            for container in containers:
                for volume in container.volumes:
                    try:
                        self._archiver.probe([volume])
                    except (VolumeError, VolumeNotFoundError) as error:
                        refused[container.name].append(str(error))
            return {}

    def _refusals(self, container: Observed, guests: Iterable[Observed]) -> list[str]:
        reasons = [reason for reason in (refusal(container.inspection), self._is_ourselves(container)) if reason]
        if self._shared == "refuse":
            reasons += [
                f"the running container {guest.name!r} writes to its volume {volume!r} too; add it to the rollback, or "
                "say shared='stop' or shared='ignore'"
                for guest in guests
                for volume in container.volumes
                if _writes_to(guest, volume)
            ]
        return reasons + [reason for volume in container.volumes if (reason := self._would_be_lost(container, volume))]

    def _would_be_lost(self, container: Observed, volume: str) -> str | None:
        if self._quiesce != "stop" or not container.state.alive:
            return None
        options = self._engine.inspect_volume(volume).get("Options") or {}
        if options.get("type") != "tmpfs":
            return None
        return f"its volume {volume!r} lives in memory (tmpfs) and a stop would lose it; say quiesce='pause'"

    def _is_ourselves(self, container: Observed) -> str | None:
        if container.id in self._own_ids:
            return "this program runs in it; stopping it would stop the rollback"
        return None

    def _guests(self, volume: str, together: Sequence[Observed]) -> list[Observed]:
        """Return the running containers outside that write to a volume."""
        ids = {container.id for container in together}
        running = self._engine.list_containers(ContainerFilter(volume=volume, running=True))
        others = [observe(self._engine.inspect_container(other)) for other in running if other not in ids]
        return [other for other in others if _writes_to(other, volume)]

    def _image_room(self, container: Observed) -> int:
        if not self._export_image:
            return 0
        return int(self._engine.inspect_image(str(container.inspection["Image"])).get("Size", 0) * _ROOM_FOR_AN_IMAGE)


def own_ids() -> frozenset[str]:
    """Return the id of the container that this program runs in, as far as the kernel tells it; else nothing.

    An engine mounts three files of its own into each container, from a folder that has the container's id.
    """
    try:
        mounted = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = [line.split() for line in mounted.splitlines()]
    roots = [fields[3] for fields in lines if len(fields) > 4 and fields[4] in _MOUNTED_BY_ENGINES]
    return frozenset(found for root in roots for found in _FULL_ID.findall(root))


def _writes_to(container: Observed, volume: str) -> bool:
    mounted = [mount for mount in container.mounts if mount.kind == "volume" and mount.source == volume]
    return container.state.alive and any(not mount.read_only for mount in mounted)


def refusal(inspection: Mapping[str, Any]) -> str | None:
    """Return why a container cannot be put back exactly whatever is done, or None. Pure."""
    labels = inspection["Config"].get("Labels") or {}
    if "com.docker.swarm.task.id" in labels:
        return "it is a task of a Swarm service; use `docker service update --rollback`"
    if "io.kubernetes.pod.uid" in labels or "io.kubernetes.container.name" in labels:
        return "it belongs to a Kubernetes pod, which its orchestrator makes anew"
    if inspection.get("Pod") or inspection.get("IsInfra"):
        return "it belongs to a pod, which the Docker API cannot make again"
    status = inspection["State"]["Status"]
    if status in ("dead", "removing"):
        return f"it is {status}; remove it by hand"
    return None
