"""Checks everything that can be wrong with a backup while the service still runs."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from typing import Any, Self

from docker_rollback._containers import (
    NO_TRACES,
    Own,
    Traces,
    doubtful_paths,
    locked,
    look_at_all,
    look_at_project,
    lost_partners,
    lost_path,
    mountinfo_of,
    native_loss,
    needs_network_of_mode,
    now,
    own_container,
    require_members,
    requiring,
    settled,
    uncommittable,
    uncopied,
    unkept_names,
)
from docker_rollback._engine import ContainerFilter, Engine, Inspection
from docker_rollback._host import folder_of
from docker_rollback._inspection import (
    Loss,
    Report,
    attached_networks,
    bound_to,
    called,
    gap_of,
    is_one_off,
    is_plain_network,
    observe,
    own_network,
    refers,
    start_order,
    uses,
)
from docker_rollback._model import (
    ContainerSnapshot,
    Exclude,
    ExcludeArgument,
    Observed,
    Quiesce,
    Shared,
    as_excludes,
    is_folder,
    left_out,
)
from docker_rollback._store import BackupStore
from docker_rollback._volumes import Survey, VolumeArchiver, mount_gaps
from docker_rollback.errors import (
    EngineForbiddenError,
    ImageNotFoundError,
    NetworkNotFoundError,
    UnsupportedContainerError,
    VolumeError,
    VolumeNotFoundError,
)

logger = logging.getLogger("docker_rollback")

_ROOM_FOR_AN_IMAGE = 0.5
"""How much of an image's size its layers take in the store, gzipped; measured at 0.42 for a Debian image."""


class Preflight:
    """Checks whether a backup can be taken; changes nothing.

    Args:
        engine: where the containers are.
        store: where the backup is to go.
        archiver: what is to archive the volumes.
        export_image: whether the images go into the store as well.
        quiesce: how the containers are to be brought to rest.
        shared: what becomes of containers outside that write to a volume of theirs.
        include_binds: folders of the engine's host that are archived as well, where the containers bind them.
        exclude: volumes, and paths within them, that are not archived.
        traces: what the kernel tells of the container that this program runs in, which is never stopped.
        clock: the time, in UTC.
        sleep: waits, in seconds.

    Raises:
        ValueError: one of `include_binds` is no absolute path.

    Example:
        >>> report = Preflight(engine, store, VolumeArchiver(engine, store)).run(["web"])
        >>> report.refused, report.room
        ({}, 52428800)
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
        include_binds: Iterable[str] = (),
        exclude: Iterable[ExcludeArgument] = (),
        traces: Traces = NO_TRACES,
        clock: Callable[[], datetime] = now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._store = store
        self._archiver = archiver
        self._export_image = export_image
        self._quiesce = quiesce
        self._shared = shared
        self._folders = tuple(dict.fromkeys(map(folder_of, include_binds)))
        self._exclude = as_excludes(exclude)
        self._may_lack: bool = False
        self._traces = traces
        self._clock = clock
        self._sleep = sleep

    def keeping(self, excluded: Iterable[Exclude]) -> Self:
        """Return one like this for a state that is kept before it is undone.

        Containers outside may write to the same volumes, and settings may be lost.

        Args:
            excluded: what the earlier backup left out; it is left out again as far as it is still there.
        """
        other = copy.copy(self)
        other._shared, other._exclude, other._may_lack = "ignore", tuple(excluded), True
        return other

    def observe(self, containers: Sequence[str], *, project: str | None = None) -> tuple[Observed, ...]:
        """Return the containers and those that are bound to them, each once, in the order in which they start.

        Args:
            containers: names or ids.
            project: a compose project all of whose containers are meant as well.

        Raises:
            ContainerNotFoundError, ProjectNotFoundError: one of `containers`, or the project, is not there.
        """
        given = self._named(containers, project)
        others = look_at_all(self._engine, ContainerFilter(), but={container.id for container in given})
        return start_order([*given, *bound_to(given, others)])

    def _named(self, containers: Sequence[str], project: str | None) -> list[Observed]:
        named = [observe(self._engine.inspect_container(reference)) for reference in containers]
        named += require_members(self._engine, project) if project is not None else []
        return list({container.id: container for container in named}.values())

    def run(self, containers: Sequence[str], *, project: str | None = None, looks: bool = False) -> Report:
        """Return what a backup of `containers` would be, or one of a compose project, or both as one.

        Args:
            containers: names or ids.
            project: a compose project.
            looks: whether to look at each volume that the store has no archive of, to know its size.

        Raises:
            ContainerNotFoundError, ProjectNotFoundError: one of the containers, or the project, is not there.
            EngineForbiddenError: the engine does not allow something that this will need.
            EngineError: the engine does not answer.
            StoreNotWritableError: the store cannot be written.
        """
        self._refuse_without_rights()
        given = self._named(containers, project)
        whole = look_at_project(self._engine, project) if project is not None else None
        others = look_at_all(self._engine, ContainerFilter(), but={container.id for container in given})
        joined = bound_to(given, others)
        found = start_order([self._settled(one) for one in (*given, *joined)])
        outside = [other for other in others if other not in joined]
        data = {name for one in found for name in self._data_of(one)}
        beside = [volume for volume in (whole.volumes if whole is not None else ()) if volume not in data]
        loose = [volume for volume in beside if volume not in self._left_out]
        data |= set(loose)
        guests = [other for other in outside if any(_writes_to(other, name) for name in data)]
        own = own_container(self._traces, [*given, *others])
        losses = {one.name: native_loss(self._engine, one) for one in found}
        images = {one.name: self._image_of(one) for one in found}
        refused = {one.name: self._refusals(one, images[one.name], outside, own) for one in found}
        for container in found:
            refused[container.name] += self._start_refusals(container, found, outside)
        if loose:
            refused[found[0].name] += self._guest_refusals(loose, outside, own)
        for name, reasons in self._native_refusals(found, outside, losses).items():
            refused[name] += reasons
        for one in given if whole is not None else ():
            refused[one.name] += self._one_off_refusals(one, containers)
        for folder in self._folders:
            if folder not in data:
                refused[found[0].name].append(_not_bound(folder, found))
        if wrong := self._wrong_excludes(found, beside):
            refused[found[0].name] += wrong
        free, free_files = self._store.check()
        surveys = self._surveys(found, loose, refused, looks=looks)
        for one in found if not self._may_lack else ():
            refused[one.name] += uncopied(one, surveys, copies=self._engine.info().flavour != "podman")
        named = {name for one in found for name, anonymous in one.volumes.items() if not anonymous}
        return Report(
            containers=found,
            joined=tuple(container.name for container in joined),
            guests=tuple(guests),
            bystanders=tuple(other.id for other in outside),
            volumes={name: survey.way for name, survey in surveys.items()},
            anonymous=frozenset(name for one in found for name in one.volumes) - named,
            not_covered=(
                *(gap for one in found for mount in one.mounts if (gap := gap_of(mount, data)) is not None),
                *(gap for name, loss in losses.items() for gap in loss.not_covered(name, refusals=self._may_lack)),
                *(gap for name, one in surveys.items() for gap in mount_gaps(name, one.mount_points)),
                *map(left_out, self._exclude),
            ),
            excluded=self._exclude,
            refused={name: tuple(reasons) for name, reasons in refused.items() if reasons},
            sizes={name: survey.size for name, survey in surveys.items()},
            room=sum(map(self._image_room, images.values())) + sum(one.room or 0 for one in surveys.values()),
            free=free,
            free_files=free_files,
            project=whole,
        )

    def refuse_own(self, containers: Collection[ContainerSnapshot]) -> None:
        """Refuse to put containers back where this program runs in one that stands in their place, or lives off one.

        Raises:
            UnsupportedContainerError: it does; nothing was touched.
            EngineError: the engine does not answer.
        """
        everything = look_at_all(self._engine, ContainerFilter())
        own = own_container(self._traces, everything)
        ids, names = {one.id for one in containers}, {one.name for one in containers}
        for standing in everything:
            reason = own.refusal(standing) if standing.id in ids or standing.name in names else None
            if reason is not None:
                raise UnsupportedContainerError(standing.name, [reason])

    @contextmanager
    def holding(self, containers: Sequence[str], *, project: str | None = None) -> Iterator[Report]:
        """Hold the containers against other rollbacks and yield what was found of them, all of it good.

        Raises:
            ContainerNotFoundError, ProjectNotFoundError, ContainerBusyError, UnsupportedContainerError, EngineError,
                StoreError: what they say; nothing was touched.
        """
        with ExitStack() as held:
            found = self.observe(containers, project=project)
            while True:
                held.enter_context(locked(self._store, found, project=project))
                # Looked at again under the locks: whoever held them before may have made other containers of the names.
                report = self.run(containers, project=project)
                if {one.id for one in report.containers} <= {one.id for one in found}:
                    break
                held.close()
                found = report.containers
            report.raise_refusals()
            self._store.check(report.room)
            yield report

    def _settled(self, container: Observed) -> Observed:
        return settled(self._engine, container, clock=self._clock, sleep=self._sleep)

    def _refuse_without_rights(self) -> None:
        """Raise where a proxy before the engine would stop us half way."""
        forbidden = self._engine.forbidden()
        if forbidden:
            raise EngineForbiddenError(
                "back up and restore containers",
                f"the engine, or a proxy before it, does not let us {', '.join(forbidden)}",
            )

    def _surveys(
        self, containers: Sequence[Observed], loose: Sequence[str], refused: Mapping[str, list[str]], *, looks: bool
    ) -> dict[str, Survey]:
        """Return what is known of each volume; if there is no way to one, add the reason to what is refused."""
        data = {container.name: self._data_of(container) for container in containers}
        if loose:
            data[containers[0].name] += loose
        volumes = list(dict.fromkeys(volume for one in data.values() for volume in one))
        try:
            return self._survey(volumes, looks=looks) if volumes else {}
        except (VolumeError, VolumeNotFoundError):
            logger.info("looking for the way to each volume by itself, so that the reason is known for each")
        surveys: dict[str, Survey] = {}
        for container in containers:
            for volume in data[container.name]:
                try:
                    surveys |= self._survey([volume], looks=looks)
                except (VolumeError, VolumeNotFoundError) as error:
                    refused[container.name].append(str(error))
        return surveys

    def _survey(self, volumes: Sequence[str], *, looks: bool) -> dict[str, Survey]:
        return self._archiver.survey(volumes, exclude=self._exclude, looks=looks)

    def _data_of(self, container: Observed) -> list[str]:
        """Return what of a container is archived: its volumes, and those folders that it binds."""
        return [name for name in self._has(container) if name not in self._left_out]

    @property
    def _left_out(self) -> frozenset[str]:
        """The volumes that are excluded as a whole."""
        return frozenset(what.volume for what in self._exclude if not what.path)

    def _has(self, container: Observed) -> list[str]:
        """Return the same, and what is excluded."""
        bound = [mount.source for mount in container.mounts if mount.kind == "bind" and mount.source in self._folders]
        return list(dict.fromkeys([*container.volumes, *bound]))

    def _wrong_excludes(self, containers: Sequence[Observed], beside: Iterable[str]) -> list[str]:
        """Return what is wrong with what is to be excluded; `beside` are volumes of a project that none of them has."""
        there = {name for one in containers for name in self._has(one)}.union(beside)
        anonymous = {name for one in containers for name, generated in one.volumes.items() if generated}
        reasons = []
        for what in () if self._may_lack else self._exclude:
            if what.volume not in there:
                known = f"they have {', '.join(sorted(map(repr, there)))}" if there else "they have nothing that is"
                reasons.append(f"exclude names {what.volume!r}, of which nothing would be backed up; {known}")
            elif not what.path and what.volume in anonymous:
                reasons.append(f"exclude names the volume {what.volume!r}, which goes with its container")
            elif not what.path and is_folder(what.volume):
                reasons.append(f"exclude names {what.volume!r}, and so does include_binds; leave it out of both")
        return reasons

    def _refusals(
        self, container: Observed, image: Inspection | None, outside: Iterable[Observed], own: Own
    ) -> list[str]:
        # What is only kept, before it is rolled back, is kept as it stands: nothing has to start it again.
        network = None if self._may_lack else self._network_refusal(container)
        committing = uncommittable(self._engine, container, image)
        found = (refusal(container.inspection), own.refusal(container), network, committing)
        reasons = [reason for reason in found if reason] + unkept_names(self._engine, container)
        reasons += self._guest_refusals(self._data_of(container), outside, own)
        return reasons + [reason for volume in container.volumes if (reason := self._would_be_lost(container, volume))]

    def _native_refusals(
        self, containers: Sequence[Observed], outside: Iterable[Observed], losses: Mapping[str, Loss]
    ) -> dict[str, list[str]]:
        """Return what a container has that only Podman knows and that cannot be brought back, by its name."""
        if self._may_lack:
            return {}
        needed = requiring(outside, [one.id for one in containers])
        reasons = {one.name: [reason] for one in containers if (reason := losses[one.name].refusal()) is not None}
        for one in containers:
            if one.id in needed:
                reason = f"container {needed[one.id]!r} was created to run after it (--requires); remove that one first"
                reasons.setdefault(one.name, []).append(reason)
        return reasons

    def _start_refusals(self, container: Observed, group: Sequence[Observed], outside: Sequence[Observed]) -> list[str]:
        """Return what a container cannot start or be created again without, and that is gone by now."""
        if self._may_lack:
            return []
        reasons = lost_partners(container, [*group, *outside])
        paths = doubtful_paths(container, group, mountinfo=mountinfo_of(container))
        return [*reasons, *(lost_path(path) for path in self._archiver.missing(paths))]

    def _network_refusal(self, container: Observed) -> str | None:
        """Return why a container cannot start or be created again without a network; None if it can."""
        network = own_network(container.inspection)
        attached = attached_networks(container.inspection)
        # No engine removes one under a container that runs.
        for name in () if container.state.alive else attached:
            if not is_plain_network(name) and not self._has_network(name):
                return (
                    f"it is on network {name!r}, which is gone, and its engine can neither start nor create it "
                    f"without; create a network {name!r}, or disconnect the container from it with --force"
                )
        if network is None or network in attached or is_plain_network(network):
            return None
        needed = not attached or (container.state.alive and needs_network_of_mode(self._engine))
        if self._has_network(network) or not needed:
            return None
        return (
            f"its network mode names network {network!r}, which it has left and which is gone, and its engine "
            f"cannot start or create it without; create a network {network!r}, or recreate the container with "
            "another mode"
        )

    def _has_network(self, name: str) -> bool:
        try:
            self._engine.inspect_network(name)
        except NetworkNotFoundError:
            return False
        return True

    def _one_off_refusals(self, container: Observed, named: Sequence[str]) -> list[str]:
        """Return why a member of a project that runs for one command alone makes a rollback of it impossible."""
        by_name = any(refers(reference, container.name, container.id) for reference in named)
        if not is_one_off(container) or not container.state.alive or by_name:
            return []
        reason = (
            "it was made by `compose run` and is at work: a rollback would run its command again from the start; wait "
            "until it has ended, stop it, or name it beside the project to treat it like any other"
        )
        return [reason]

    def _guest_refusals(self, volumes: Iterable[str], outside: Iterable[Observed], own: Own) -> list[str]:
        found = [self._guest_refusal(other, volume, own) for other in outside for volume in volumes]
        return [reason for reason in found if reason is not None]

    def _guest_refusal(self, guest: Observed, volume: str, own: Own) -> str | None:
        """Return why a container outside that has a volume in common makes a rollback impossible, or None."""
        if not guest.state.alive or not any(uses(mount, volume) for mount in guest.mounts):
            return None
        if own.has(guest):
            return f"this program runs in {guest.name!r}, which has its {called(volume)} too and would be stopped"
        if not _writes_to(guest, volume):
            return None
        if self._shared == "refuse":
            return (
                f"the running container {guest.name!r} writes to its {called(volume)} too; add it to the rollback, or "
                "say shared='stop' or shared='ignore'"
            )
        if guest.state.status == "paused":
            return f"container {guest.name!r}, which has its {called(volume)} too, is paused"
        if guest.inspection["HostConfig"].get("AutoRemove"):
            return f"a stop would remove container {guest.name!r} (--rm), which has its {called(volume)} too"
        return None

    def _would_be_lost(self, container: Observed, volume: str) -> str | None:
        if self._quiesce != "stop" or not container.state.alive:
            return None
        options = self._engine.inspect_volume(volume).get("Options") or {}
        if options.get("type") != "tmpfs":
            return None
        return f"its volume {volume!r} lives in memory (tmpfs) and a stop would lose it; say quiesce='pause'"

    def _image_of(self, container: Observed) -> Inspection | None:
        """Return the inspection of a container's image; None if it was removed from the engine."""
        with suppress(ImageNotFoundError):
            return self._engine.inspect_image(str(container.inspection["Image"]))
        return None

    def _image_room(self, image: Inspection | None) -> int:
        if image is None or not self._export_image:
            return 0
        return int(image.get("Size", 0) * _ROOM_FOR_AN_IMAGE)


def _writes_to(container: Observed, volume: str) -> bool:
    return container.state.alive and any(uses(mount, volume) and not mount.read_only for mount in container.mounts)


def _not_bound(folder: str, containers: Sequence[Observed]) -> str:
    bound = sorted({mount.source for one in containers for mount in one.mounts if mount.kind == "bind"})
    there = f"they bind {', '.join(map(repr, bound))}" if bound else "they bind nothing"
    return f"include_binds names {folder!r}, which no container of the rollback binds; {there}"


def refusal(inspection: Mapping[str, Any]) -> str | None:
    """Return why a container cannot be put back exactly whatever is done, or None. Pure."""
    labels = inspection["Config"].get("Labels") or {}
    if "com.docker.swarm.task.id" in labels:
        return "it is a task of a Swarm service; use `docker service update --rollback`"
    if "io.kubernetes.pod.uid" in labels or "io.kubernetes.container.name" in labels:
        return "it belongs to a Kubernetes pod, which its orchestrator makes anew"
    listed = (inspection.get("NetworkSettings") or {}).get("Networks") or {}
    if twice := sorted(listed.keys() - attached_networks(inspection).keys()):
        return (
            f"it was put on a network by the beginning of that network's id, {twice[0]!r}, and once it is stopped its "
            "engine cannot start it again; make it anew with the network's name"
        )
    status = inspection["State"]["Status"]
    if status in ("dead", "removing"):
        return f"it is {status}; remove it by hand"
    return None
