"""Checks whether a backup can be taken, while the service still runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime

from attrs import evolve, field, frozen

from docker_rollback._capture import rules
from docker_rollback._capture.options import CaptureOptions, VolumeOptions
from docker_rollback._capture.project_files import started_from, unusable_files
from docker_rollback._capture.scene import Facts, Scene
from docker_rollback._containers import (
    NO_TRACES,
    Traces,
    doubtful_paths,
    find_containers,
    find_image,
    find_network,
    find_project,
    locked,
    mountinfo_of,
    native_loss,
    needs_network_of_mode,
    origin_in,
    own_container,
    require_members,
    settled,
    uncommittable,
    unkept_names,
)
from docker_rollback._engine import ContainerFilter, Engine, Inspection
from docker_rollback._host import is_of_this_machine, now
from docker_rollback._inspection import COMPOSE_PROJECT, Report, bound_to, gap_of, hash_gap, observe, start_order
from docker_rollback._model import ContainerSnapshot, Exclude, NotCovered, Observed, left_out
from docker_rollback._store import BackupStore
from docker_rollback._volumes import Survey, VolumeArchiver, mount_gaps
from docker_rollback.errors import (
    EngineForbiddenError,
    UnsupportedContainerError,
    VolumeError,
    VolumeNotFoundError,
)

logger = logging.getLogger("docker_rollback")

_ROOM_FOR_AN_IMAGE = 0.5
"""The share of an image's size that its layers take in the store, gzipped; measured at 0.42 for a Debian image."""

_NO_FILES = (
    "include_files=True, but no container has labels of compose that name files and that its image does not have; give "
    "the paths of the files"
)


@frozen(eq=False)
class Preflight:
    """Checks containers before a backup, and touches nothing.

    Args:
        engine: the engine that has the containers.
        store: the store that the backup goes to.
        archiver: archives the volumes.
        options: how the containers are to be captured.
        volumes: which data of volumes is to be archived.
        traces: the kernel's facts about the container that this program runs in, which is never stopped.
        clock: returns the time, in UTC.
        sleep: waits, in seconds.

    Example:
        >>> report = Preflight(engine, store, VolumeArchiver(engine, store)).run(["web"])
        >>> report.refused, report.room
        ({}, 52428800)
    """

    _engine: Engine
    _store: BackupStore
    _archiver: VolumeArchiver
    _options: CaptureOptions = field(default=CaptureOptions(), kw_only=True)
    _volumes: VolumeOptions = field(default=VolumeOptions(), kw_only=True)
    _traces: Traces = field(default=NO_TRACES, kw_only=True)
    _clock: Callable[[], datetime] = field(default=now, kw_only=True)
    _sleep: Callable[[float], None] = field(default=time.sleep, kw_only=True)
    _keeps: bool = field(default=False, kw_only=True)

    def keeping(self, excluded: Iterable[Exclude]) -> Preflight:
        """Return a preflight for a state that is kept before it is undone.

        It accepts other containers that write to the same volumes, and settings that would be lost.

        Args:
            excluded: the data that the earlier backup excluded; it is excluded again, as far as it still exists.
        """
        options = evolve(self._options, shared="ignore", include_files=False)
        volumes = evolve(self._volumes, exclude=excluded)
        return evolve(self, options=options, volumes=volumes, keeps=True)

    def observe(self, containers: Sequence[str], *, project: str | None = None) -> tuple[Observed, ...]:
        """Return the containers and those that are bound to them, each once, in the order in which they start.

        Args:
            containers: names or ids.
            project: a compose project all of whose containers are included.

        Raises:
            ContainerNotFoundError, ProjectNotFoundError: one of `containers`, or the project, does not exist.
        """
        given, others = self._found(containers, project)
        return start_order([*given, *bound_to(given, others)])

    def _found(self, containers: Sequence[str], project: str | None) -> tuple[list[Observed], list[Observed]]:
        """Return the given containers, each once, and all others."""
        named = [observe(self._engine.inspect_container(reference)) for reference in containers]
        named += require_members(self._engine, project) if project is not None else []
        given = {container.id: container for container in named}
        return list(given.values()), find_containers(self._engine, ContainerFilter(), but=given.keys())

    def run(self, containers: Sequence[str], *, project: str | None = None, looks: bool = False) -> Report:
        """Report what a backup of containers, of a compose project, or of both together would be.

        Args:
            containers: names or ids.
            project: a compose project.
            looks: whether to scan each volume that the store has no archive of, to learn its size.

        Raises:
            ContainerNotFoundError, ProjectNotFoundError: one of the containers, or the project, does not exist.
            EngineForbiddenError: the engine does not allow something that a backup or a restore needs.
            EngineError: the engine does not answer.
            StoreNotWritableError: the store cannot be written.
        """
        self._refuse_without_rights()
        scene = self._look(tuple(containers), project)
        free, free_files = self._store.check()
        scene = self._reach(scene, looks=looks)
        named = {name for one in scene.group for name, anonymous in one.volumes.items() if not anonymous}
        images = (facts.image for facts in scene.facts.values())
        return Report(
            containers=scene.group,
            joined=tuple(container.name for container in scene.joined),
            guests=scene.writers,
            bystanders=tuple(other.id for other in scene.outside),
            volumes={name: survey.way for name, survey in scene.surveys.items()},
            anonymous=frozenset(name for one in scene.group for name in one.volumes) - named,
            not_covered=tuple(_gaps(scene)),
            excluded=self._volumes.exclude,
            refused=rules.refusals(scene),
            sizes={name: survey.size for name, survey in scene.surveys.items()},
            room=sum(map(self._image_room, images)) + sum(one.room or 0 for one in scene.surveys.values()),
            free=free,
            free_files=free_files,
            project=scene.project,
            files=scene.files,
        )

    def _look(self, containers: tuple[str, ...], project: str | None) -> Scene:
        """Collect the facts that the rules decide on, except those about the data of volumes."""
        given, others = self._found(containers, project)
        whole = find_project(self._engine, project) if project is not None else None
        joined = tuple(bound_to(given, others))
        group = start_order(
            [settled(self._engine, one, clock=self._clock, sleep=self._sleep) for one in (*given, *joined)]
        )
        scene = Scene(
            options=self._options,
            volumes=self._volumes,
            keeps=self._keeps,
            named=containers,
            given=tuple(given),
            group=group,
            joined=joined,
            outside=tuple(other for other in others if other not in joined),
            project=whole,
            own=own_container(self._traces, [*given, *others]),
            facts=self._facts(group),
            copies_into_volumes=self._engine.info().flavour != "podman",
            needs_mode_network=needs_network_of_mode(self._engine),
        )
        scene = evolve(scene, gone_networks=self._gone_networks(scene), in_memory=self._in_memory(scene))
        return self._with_files(scene)

    def _with_files(self, scene: Scene) -> Scene:
        """Add the files of `include_files` to a scene, or the reasons why they cannot be backed up."""
        include = self._options.include_files
        if include is not True:
            return evolve(scene, files=include or (), unusable_files=tuple(unusable_files(include or ())))
        if (reason := self._why_not_here(scene)) is not None:
            return evolve(scene, unusable_files=(f"include_files=True, but {reason}; give the paths of the files",))
        files = dict.fromkeys(path for one in scene.group for path in self._started_from(one, scene))
        reasons = tuple(unusable_files(files)) or (() if files else (_NO_FILES,))
        return evolve(scene, files=tuple(files), unusable_files=reasons)

    def _started_from(self, container: Observed, scene: Scene) -> tuple[str, ...]:
        config, image = container.inspection["Config"], scene.facts[container.name].image
        labels = config.get("Labels") or {}
        if scene.project is not None and labels.get(COMPOSE_PROJECT) != scene.project.name:
            return ()
        # After a rollback its image may be a commit of ours, which has all labels of the container.
        defaults = origin_in(image, container.inspection).defaults if image is not None else None
        return started_from(labels, of_image=labels if defaults is None else defaults.among(config).get("Labels") or ())

    def _why_not_here(self, scene: Scene) -> str | None:
        """Return why the paths in the labels of containers may be those of other files here."""
        info = self._engine.info()
        if info.flavour == "fake":
            return None
        if scene.own.containers:
            return "this program runs in a container, and sees other files than compose did"
        if not info.address.startswith("unix://") or not all(is_of_this_machine(one.inspection) for one in scene.group):
            return f"the engine at {info.address} may be on another machine, and so may the files"
        return None

    def _facts(self, group: Sequence[Observed]) -> dict[str, Facts]:
        """Return the facts about each container of the group; an image that several have is inspected once."""
        images = {str(one.inspection["Image"]): None for one in group}
        found = {image: find_image(self._engine, image) for image in images}
        return {one.name: self._facts_about(one, group, found[str(one.inspection["Image"])]) for one in group}

    def _facts_about(self, container: Observed, group: Sequence[Observed], image: Inspection | None) -> Facts:
        missing = dict[str, str]()
        if not self._keeps:
            missing = self._archiver.missing(doubtful_paths(container, group, mountinfo=mountinfo_of(container)))
        return Facts(
            image=image,
            uncommittable=uncommittable(self._engine, container, image),
            unkept_names=tuple(unkept_names(self._engine, container)),
            loss=native_loss(self._engine, container),
            missing_paths=tuple(missing),
        )

    def _gone_networks(self, scene: Scene) -> frozenset[str]:
        if self._keeps:
            return frozenset()
        names = {name for one in scene.group for name in rules.networks_of_stopped(one)}
        modes = (rules.network_of_mode(one, needed_to_start=scene.needs_mode_network) for one in scene.group)
        names.update(mode for mode in modes if mode is not None)
        return frozenset(name for name in sorted(names) if find_network(self._engine, name) is None)

    def _in_memory(self, scene: Scene) -> frozenset[str]:
        names = dict.fromkeys(volume for one in scene.group for volume in rules.volumes_at_a_stop(one, scene))
        options = {name: self._engine.inspect_volume(name).get("Options") or {} for name in names}
        return frozenset(name for name, found in options.items() if found.get("type") == "tmpfs")

    def _reach(self, scene: Scene, *, looks: bool) -> Scene:
        """Add the survey of each volume to a scene, or the reason why it cannot be reached."""
        data = {container.name: scene.data_of(container) for container in scene.group}
        if scene.unused:
            data[scene.group[0].name] += scene.unused
        volumes = list(dict.fromkeys(volume for one in data.values() for volume in one))
        try:
            return evolve(scene, surveys=self._survey(volumes, looks=looks) if volumes else {})
        except (VolumeError, VolumeNotFoundError):
            logger.info("a volume cannot be reached; probing each by itself to learn which, and why")
        surveys, unreachable = dict[str, Survey](), list[tuple[str, str]]()
        for container, names in data.items():
            for volume in names:
                try:
                    surveys |= self._survey([volume], looks=looks)
                except (VolumeError, VolumeNotFoundError) as error:
                    unreachable.append((container, str(error)))
        return evolve(scene, surveys=surveys, unreachable=tuple(unreachable))

    def _survey(self, volumes: Sequence[str], *, looks: bool) -> dict[str, Survey]:
        return self._archiver.survey(volumes, exclude=self._volumes.exclude, looks=looks)

    def refuse_own(self, containers: Collection[ContainerSnapshot]) -> None:
        """Refuse to restore containers if this program runs in one of them, or depends on one.

        Raises:
            UnsupportedContainerError: it does; nothing was touched.
            EngineError: the engine does not answer.
        """
        everything = find_containers(self._engine, ContainerFilter())
        own = own_container(self._traces, everything)
        ids, names = {one.id for one in containers}, {one.name for one in containers}
        for standing in everything:
            reason = own.refusal(standing) if standing.id in ids or standing.name in names else None
            if reason is not None:
                raise UnsupportedContainerError(standing.name, [reason])

    @contextmanager
    def holding(self, containers: Sequence[str], *, project: str | None = None) -> Iterator[Report]:
        """Lock the containers against other rollbacks, and yield a report in which nothing is refused.

        Raises:
            ContainerNotFoundError, ProjectNotFoundError, ContainerBusyError, UnsupportedContainerError, EngineError,
                StoreError: nothing was touched.
        """
        with ExitStack() as held:
            found = self.observe(containers, project=project)
            while True:
                held.enter_context(locked(self._store, found, project=project))
                # Run under the locks: whoever held them before may have created other containers of these names.
                report = self.run(containers, project=project)
                if {one.id for one in report.containers} <= {one.id for one in found}:
                    break
                held.close()
                found = report.containers
            report.raise_refusals()
            self._store.check(report.room)
            yield report

    def _refuse_without_rights(self) -> None:
        """Raise an error if the engine, or a proxy in front of it, would refuse a later request."""
        forbidden = self._engine.forbidden()
        if forbidden:
            raise EngineForbiddenError(
                "back up and restore containers",
                f"the engine, or a proxy before it, does not let us {', '.join(forbidden)}",
            )

    def _image_room(self, image: Inspection | None) -> int:
        if image is None or not self._options.export_image:
            return 0
        return int(image.get("Size", 0) * _ROOM_FOR_AN_IMAGE)


def _gaps(scene: Scene) -> Iterator[NotCovered]:
    """Yield the data and settings that a backup would not contain."""
    data = scene.data
    for one in scene.group:
        for mount in one.mounts:
            if (gap := gap_of(mount, data)) is not None:
                yield gap
        if (gap := hash_gap(one)) is not None:
            yield gap
    for name, facts in scene.facts.items():
        yield from facts.loss.not_covered(name, refusals=scene.keeps)
    for name, survey in scene.surveys.items():
        yield from mount_gaps(name, survey.mount_points)
    yield from map(left_out, scene.volumes.exclude)
