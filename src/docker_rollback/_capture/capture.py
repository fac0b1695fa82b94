"""Takes a backup: quiesces containers, captures and resumes them, and stores the images and archives."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from datetime import datetime

from attrs import field, frozen

from docker_rollback._capture.downtime_limit import DowntimeLimit
from docker_rollback._capture.guards import Guards, Journalled
from docker_rollback._capture.hooks import Hooks
from docker_rollback._capture.options import CaptureOptions
from docker_rollback._capture.project_files import store_files
from docker_rollback._containers import (
    BoundPaths,
    ContainerSnapshotter,
    QuiescedContainers,
    beyond,
    find_container,
    find_project,
    main_processes,
    quiesced_container,
)
from docker_rollback._engine import Engine
from docker_rollback._host import Timer, now
from docker_rollback._inspection import Report, own_network, user_endpoints, uses
from docker_rollback._model import Backup, ContainerSnapshot, ImageSnapshot, NetworkRecord, Observed, Project
from docker_rollback._reporting import Reporter
from docker_rollback._store import BackupStore, Draft, KeepArgument
from docker_rollback._threads import both_at_once, each_at_once, raise_first
from docker_rollback._volumes import VolumeArchiver, VolumeCapture
from docker_rollback.errors import ArchiveError, CaptureError, NetworkNotFoundError

logger = logging.getLogger("docker_rollback")

_PREDEFINED = ("bridge", "host", "none", "podman")
"""Networks that every engine has and that cannot be created."""

_COMMITS = 4
"""The most containers to commit at once: each commit reads a file system, and volumes are read meanwhile."""


@frozen
class _Taking:
    """A backup in progress."""

    report: Report
    tags: Sequence[str]  # the names of its images in the engine, one for each container
    archives: VolumeCapture
    guards: Guards
    options: CaptureOptions
    bound: BoundPaths

    @property
    def sharing(self) -> tuple[Observed, ...]:
        """The containers outside the backup that are quiesced as well."""
        return self.report.guests if self.options.shared == "stop" else ()

    @property
    def is_still(self) -> bool:
        """True if nothing writes to the volumes during the capture."""
        return self.options.quiesce != "none" and not (self.report.guests and self.options.shared == "ignore")

    def writers(self, volume: str) -> list[str]:
        """Return the ids of the running containers that may write to a volume, or to a folder of the host."""
        # A bind mount may lead into a volume by another path.
        return [
            one.id
            for one in self.running
            if any(uses(mount, volume) or (mount.kind == "bind" and not mount.read_only) for mount in one.mounts)
        ]

    @property
    def running(self) -> list[Observed]:
        """The running containers that are quiesced."""
        everything = (*self.report.containers, *self.sharing)
        return [one for one in everything if one.state.status in ("running", "restarting")]


@frozen(eq=False)
class Capture:
    """Takes backups of the images and volumes of containers.

    Args:
        engine: the engine that has the containers.
        store: the store that the backups go to.
        snapshotter: captures the containers.
        archiver: captures the volumes.
        reporter: progress and timing sink.
        clock: returns the time, in UTC.
        timer: measures time, for `max_downtime` too, and waits.

    Example:
        >>> capture = Capture(engine, store, ContainerSnapshotter(engine, store), archiver)
        >>> with preflight.holding(["web"]) as report:
        ...     taken = capture.take(report, "20260102T030405Z-web-a1b2c3")
        ...     capture.release(taken)
    """

    _engine: Engine
    _store: BackupStore
    _snapshotter: ContainerSnapshotter
    _archiver: VolumeArchiver
    _reporter: Reporter = field(factory=Reporter, kw_only=True)
    _clock: Callable[[], datetime] = field(default=now, kw_only=True)
    _timer: Timer = field(default=time, kw_only=True)

    def take(
        self,
        report: Report,
        identity: str,
        options: CaptureOptions,
        *,
        kept_for: Sequence[str] = (),
        operation: Journalled | None = None,
    ) -> Backup:
        """Take the backup `identity` of the containers of a report, and return it once it is durable.

        Every container that ran runs again when this returns, and also after an error; without `options.resume` they
        stay quiesced, except after an error. The engine holds the images under names of ours until `release`. See
        `Backup.kept_for` for `kept_for`.

        With `operation`, a container that somebody removes while it is stopped can be recreated: before the first stop,
        the operation records the containers and their networks, and guards protect images and volumes from a prune.
        After an error, guards and images stay for the recovery.

        Raises:
            HookError: a hook before the capture failed; nothing was quiesced.
            DowntimeExceededError: the capture took longer than `options.max_downtime`, counted from the first stop.
            CaptureError: somebody started, changed or removed a container during the capture.
            ResumeError: a container could not be resumed.
            EngineError, VolumeError, StoreError: a step failed.
        """
        reporter = self._reporter
        reporter.begin("live pass")
        snapshotter = self._snapshotter
        tags = [snapshotter.tag(identity, number, container) for number, container in enumerate(report.containers)]
        networks = self._networks(report)
        # A restore may remove a network only if the update added it, so the others are recorded.
        others = tuple(sorted({*self._engine.list_networks()} - {network.id for network in networks}))
        with (
            ExitStack() as until_sealed,
            self._store.draft(identity) as draft,
            snapshotter.discarding(tags) if operation is None else nullcontext(),
            Guards(
                self._engine,
                snapshotter,
                operation=operation.id if operation is not None else identity,
                store=self._store,
            ) as guards,
        ):
            # Look up the images now rather than in the downtime, in which their stored layers are hashed.
            snapshotter.expect(report.containers, draft)
            with self._archiver.begin(
                list(report.volumes),
                draft,
                operation=identity,
                anonymous=report.anonymous,
                ways=report.volumes,
                exclude=report.excluded,
            ) as archives:
                bound = BoundPaths(self._archiver.missing)
                taking = _Taking(report, tags, archives, guards, options, bound)
                if options.quiesce == "stop":
                    bound.expect(taking.running)
                    bound.forget_missing()

                def live_pass() -> None:
                    if taking.is_still:
                        archives.live_pass()

                # What is kept stays down until all is stored, and an export of its image has all layers at once.
                ahead = () if kept_for else report.containers
                _, originals = both_at_once(live_pass, lambda: snapshotter.store_originals(ahead, draft), archives.stop)
                if operation is not None:
                    self._protect(taking, identity, networks, operation)
                with ExitStack() as until_captured:
                    created, snapshots, quiesced = self._capture_quiesced(taking, until_captured, until_sealed)
                    reporter.begin("resume")
                # The archives are packed and read back while the engine exports the images.
                volumes, containers = both_at_once(
                    archives.seal,
                    lambda: self._seal(taking, snapshots, originals, draft),
                    archives.stop,
                )
            backup = Backup(
                id=identity,
                created=created,
                engine=self._engine.info().record(),
                quiesce=options.quiesce,
                containers=containers,
                volumes=volumes,
                networks=networks,
                bystanders=report.bystanders,
                other_networks=others,
                kept_for=tuple(kept_for),
                project=report.project,
                excluded=report.excluded,
                # Read as late as this, since the update that follows is what is undone.
                files=store_files(report.files, draft, container=report.containers[0].name if report.files else ""),
            )
            self._refuse_added(report)
            if not (options.resume or kept_for):
                # Storing took a while, and somebody may have removed one. A state that is kept is undone anyway.
                quiesced.check_there()
            draft.commit(backup)
            guards.remove()
            if not options.resume:
                quiesced.keep()
        logger.info("backup %s is taken", identity)
        return backup

    def _protect(
        self, taking: _Taking, identity: str, networks: Sequence[NetworkRecord], operation: Journalled
    ) -> None:
        """Start guards for the containers that are about to be stopped, and record these in the operation."""
        numbered = enumerate((*taking.report.containers, *taking.sharing))
        exposed = [
            (container, self._snapshotter.tag(identity, number, container))
            for number, container in numbered
            if quiesced_container(container, taking.options.quiesce).how == "stop"
        ]
        if exposed:
            stopped = taking.guards.stand(exposed)
            known = {network.name for network in networks}
            of_sharing = {name for one in taking.sharing for name in user_endpoints(one.inspection)} - known
            operation.note_stopped(stopped, (*networks, *self._records_of(sorted(of_sharing), of_sharing)))

    def _seal(
        self,
        taking: _Taking,
        snapshots: Sequence[ContainerSnapshot],
        originals: Sequence[ImageSnapshot],
        draft: Draft,
    ) -> tuple[ContainerSnapshot, ...]:
        guards = taking.guards
        sealed: list[ContainerSnapshot] = []
        for snapshot in snapshots:
            stored = [*originals, *(one.image for one in sealed)]
            sealed.append(self._snapshotter.seal(snapshot, draft, guarded=guards.live(snapshot.id), stored=stored))
        if taking.options.resume:
            # Removed now: the containers run again, and finalising the volumes may take much longer.
            guards.remove()
        return tuple(sealed)

    def _capture_quiesced(
        self, taking: _Taking, until_captured: ExitStack, until_sealed: ExitStack
    ) -> tuple[datetime, list[ContainerSnapshot], QuiescedContainers]:
        """Quiesce and capture everything; return the moment, the snapshots and the context that resumes the containers.

        `until_captured` resumes the containers that are quiesced for the capture alone, `until_sealed` those that stay
        quiesced until the backup is durable.
        """
        reporter, archives, containers = self._reporter, taking.archives, taking.report.containers
        until_captured.push(lambda kind, *_: reporter.begin("store") if kind is None else None)
        until_resumed = until_captured if taking.options.resume else until_sealed
        hooks = taking.options.hooks or Hooks(self._engine)
        # Entered first, so that hooks after the resume run when every container runs again.
        until_resumed.enter_context(hooks.around_capture(containers, resumes=taking.options.resume))
        reporter.begin("quiesce")
        sharing = until_captured.enter_context(self._quiescing(taking))
        quiesced = until_resumed.enter_context(self._quiescing(taking))
        running, options = taking.running, taking.options

        def ended(volume: str, given_up: threading.Event) -> bool:
            return processes.ended(taking.writers(volume), given_up)

        with (
            DowntimeLimit(
                options.max_downtime if running and options.quiesce != "none" else None,
                [one.name for one in running],
                step=lambda: reporter.current,
                stop=archives.stop,
                clock=self._timer.monotonic,
            ) as limit,
            main_processes(running, options.quiesce) as processes,
            archives.capturing(ended, at_rest=taking.is_still) as captured,
        ):
            sharing.quiesce(*taking.sharing, check=limit.check)
            quiesced.quiesce(*containers, check=limit.check)
            limit.check()
            # From here on nothing writes to the data, so this is the moment of the backup.
            created = self._clock()
            reporter.begin("capture")
            try:
                snapshots, _ = both_at_once(lambda: self._commit(taking, limit), captured, archives.stop)
            except ArchiveError:
                # A container that somebody started explains the failure better than the error of tar.
                _check_undisturbed(quiesced, sharing, watched=processes.watched)
                raise
            # This also proves that the processes whose end was seen belonged to the containers of the report.
            _check_undisturbed(quiesced, sharing, watched=processes.watched)
        return created, snapshots, quiesced

    def _quiescing(self, taking: _Taking) -> QuiescedContainers:
        check = taking.bound.check
        return QuiescedContainers(
            self._engine, taking.options.quiesce, before_start=check, reporter=self._reporter, timer=self._timer
        )

    def _commit(self, taking: _Taking, limit: DowntimeLimit) -> list[ContainerSnapshot]:
        snapshots: dict[str, ContainerSnapshot] = {}

        def commit(one: tuple[Observed, str]) -> None:
            container, tag = one
            limit.check()
            snapshot = self._snapshotter.capture(container, tag=tag, folders=taking.report.volumes)
            taking.guards.renew(snapshot)
            snapshots[container.id] = snapshot

        containers = taking.report.containers
        tagged = list(zip(containers, taking.tags, strict=True))
        raise_first(each_at_once(tagged, commit, most=_COMMITS, after_error=False))
        return [snapshots[container.id] for container in containers]

    def _refuse_added(self, report: Report) -> None:
        """Raise an error if a project grew during its backup: a rollback would remove the addition."""
        if report.project is None:
            return
        came = beyond(find_project(self._engine, report.project.name), report.project)
        if came != Project(report.project.name):
            found = {one: find_container(self._engine, one) for one in came.containers}
            containers = [one.name if one is not None else gone for gone, one in found.items()]
            names = [*containers, *came.volumes, *came.networks]
            raise CaptureError(
                report.containers[0].name,
                f"somebody else added to its project {report.project.name!r} meanwhile: {', '.join(names)}",
            )

    def forget(self, identity: str, names: Sequence[str]) -> None:
        """Remove the images that an interrupted capture may have created for a backup of some containers."""
        self._snapshotter.forget(identity, names)

    def release(self, backup: Backup, *, spare: bool = False, seen: Iterable[Observed] = ()) -> None:
        """Remove our names of a backup's images from the engine, as `ContainerSnapshotter.release` does."""
        self._snapshotter.release(*backup.containers, spare=spare, seen=seen)

    def prune(self, backup: Backup, *, keep: KeepArgument) -> None:
        """Prune the backups of the same containers or project, and remove images that no other backup holds."""
        listed = {found.id: found for found in self._store.list()}
        project = backup.project.name if backup.project is not None else None
        pruned = self._store.prune(
            keep=keep, containers=backup.outside_project, project=project, engine=backup.engine.identity
        )
        for removed in pruned.removed:
            for container in listed[removed].containers if removed in listed else ():
                self._snapshotter.forget_pruned(container)

    def _networks(self, report: Report) -> tuple[NetworkRecord, ...]:
        attached = [name for container in report.containers for name in user_endpoints(container.inspection)]
        # Without the network of its mode a container cannot start or be created, even if it has left that network.
        modes = [own_network(container.inspection) for container in report.containers]
        names = dict.fromkeys([*attached, *(mode for mode in modes if mode is not None)])
        names |= dict.fromkeys(report.project.networks if report.project is not None else ())
        return self._records_of(names, attached)

    def _records_of(self, names: Iterable[str], attached: Collection[str]) -> tuple[NetworkRecord, ...]:
        """Return the records of networks, and of those that they are configured from; `attached` must exist."""
        found: dict[str, NetworkRecord] = {}
        for name in names:
            if name not in _PREDEFINED:
                with suppress(NetworkNotFoundError) if name not in attached else nullcontext():
                    self._add_network(name, found)
        return tuple(found.values())

    def _add_network(self, name: str, found: dict[str, NetworkRecord]) -> None:
        """Add the record of a network, and of the network that its settings come from."""
        inspection = {key: value for key, value in self._engine.inspect_network(name).items() if key != "Containers"}
        origin = str((inspection.get("ConfigFrom") or {}).get("Network") or "")
        if origin and origin not in found:
            self._add_network(origin, found)
        known = str(inspection["Name"])
        found[known] = NetworkRecord(name=known, id=str(inspection["Id"]), inspection=inspection)


def _check_undisturbed(*contexts: QuiescedContainers, watched: Collection[str]) -> None:
    for quiesced in contexts:
        quiesced.check_undisturbed(watched=watched)
