"""Step 1: everything that can be found wrong while the service still runs."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from docker_rollback._archiver import VolumeArchiver
from docker_rollback._engine.port import ContainerFilter, Engine
from docker_rollback._model import Observed, Report, Way
from docker_rollback._snapshotter import gap_of
from docker_rollback._spec import SHORT_ID, observe
from docker_rollback._store import BackupStore
from docker_rollback.errors import VolumeError

_ROOM_FOR_AN_IMAGE = 0.5
"""How much of an image's size its layers take in the store, gzipped; measured at 0.42 for a Debian image."""


class Preflight:
    """Runs the checks of step 1; touches nothing.

    Args:
        engine: where the containers are.
        store: where the backup is to go.
        archiver: what is to archive the volumes.
        export_image: whether the images go into the store as well.
        hostname: this machine's name, by which an engine knows the container that this program runs in.
    """

    def __init__(
        self,
        engine: Engine,
        store: BackupStore,
        archiver: VolumeArchiver,
        *,
        export_image: bool = True,
        hostname: str | None = None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._archiver = archiver
        self._export_image = export_image
        self._hostname = socket.gethostname() if hostname is None else hostname

    def observe(self, containers: Sequence[str]) -> tuple[Observed, ...]:
        """Return each container once, in the order given; raises `ContainerNotFoundError` for one that is not there."""
        found: dict[str, Observed] = {}
        for reference in containers:
            observed = observe(self._engine.inspect_container(reference))
            found.setdefault(observed.id, observed)
        return tuple(found.values())

    def run(self, containers: Sequence[Observed]) -> Report:
        """Return what a backup of `containers` would be.

        Raises:
            EngineError: the engine does not answer.
            StoreNotWritableError: the store cannot be written.
        """
        self._engine.info()
        refused = {container.name: self._refusals(container, containers) for container in containers}
        ways: dict[str, Way] = {}
        for container in containers:
            for volume in container.volumes:
                try:
                    ways |= self._archiver.probe([volume])
                except VolumeError as error:
                    refused[container.name] += (str(error),)
        room = sum(self._image_room(container) for container in containers)
        self._store.check()
        return Report(
            containers=tuple(containers),
            volumes=ways,
            anonymous=frozenset(
                name for container in containers for name, anonymous in container.volumes.items() if anonymous
            ),
            not_covered=tuple(
                gap for container in containers for mount in container.mounts if (gap := gap_of(mount)) is not None
            ),
            refused={name: reasons for name, reasons in refused.items() if reasons},
            room=room,
        )

    @contextmanager
    def holding(self, containers: Sequence[str]) -> Iterator[Report]:
        """Hold the containers against other rollbacks and yield what was found of them, all of it good.

        Raises:
            ContainerNotFoundError, ContainerBusyError, UnsupportedContainerError, EngineError, StoreError: what they
                say; nothing was touched.
        """
        with ExitStack() as held:
            for container in self.observe(containers):
                held.enter_context(self._store.lock(container.id, container=container.name))
            # Looked at again: whoever held it before may have changed it.
            report = self.run(self.observe(containers))
            report.raise_refusals()
            self._store.check(report.room)
            yield report

    def _refusals(self, container: Observed, together: Sequence[Observed]) -> tuple[str, ...]:
        reasons = [reason for reason in (refusal(container.inspection), self._is_ourselves(container)) if reason]
        for volume in container.volumes:
            reasons += [
                f"volume {volume!r} is also in use by the running container {other.name!r}; add it to the rollback"
                for other in self._other_writers(volume, together)
            ]
        return tuple(reasons)

    def _is_ourselves(self, container: Observed) -> str | None:
        hostname = container.inspection["Config"].get("Hostname")
        if self._hostname == container.id[:SHORT_ID] == hostname:
            return "this program runs in it; stopping it would stop the rollback"
        return None

    def _other_writers(self, volume: str, together: Sequence[Observed]) -> list[Observed]:
        ids = {container.id for container in together}
        running = self._engine.list_containers(ContainerFilter(volume=volume, running=True))
        others = [observe(self._engine.inspect_container(other)) for other in running if other not in ids]
        return [
            other
            for other in others
            if any(mount.source == volume and not mount.read_only for mount in other.mounts if mount.kind == "volume")
        ]

    def _image_room(self, container: Observed) -> int:
        if not self._export_image:
            return 0
        return int(self._engine.inspect_image(str(container.inspection["Image"])).get("Size", 0) * _ROOM_FOR_AN_IMAGE)


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
