"""Takes a backup: quiesces containers, captures and resumes them, and stores the images and archives."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from datetime import datetime
from typing import TypeVar

from attrs import frozen

from docker_rollback._capture.downtime_limit import DowntimeLimit
from docker_rollback._capture.guards import Guards, Journalled
from docker_rollback._capture.hooks import Hooks
from docker_rollback._capture.options import CaptureOptions
from docker_rollback._containers import (
    AtRest,
    BoundPaths,
    ContainerSnapshotter,
    beyond,
    look_at,
    look_at_project,
    main_processes,
    now,
    resting,
)
from docker_rollback._engine import Engine, remove_named
from docker_rollback._host import Timer
from docker_rollback._inspection import Report, own_network, user_endpoints
from docker_rollback._model import Backup, ContainerSnapshot, NetworkRecord, Observed, Project
from docker_rollback._reporting import Reporter
from docker_rollback._store import BackupStore, Draft, KeepArgument
from docker_rollback._volumes import VolumeArchiver, VolumeCapture
from docker_rollback.errors import ArchiveError, CaptureError, NetworkNotFoundError

logger = logging.getLogger("docker_rollback")

Side = TypeVar("Side")
Main = TypeVar("Main")

_PREDEFINED = ("bridge", "host", "none", "podman")
"""Networks that an engine has by itself and does not let anyone make."""


@frozen
class _Taking:
    """One backup while it is taken.

    Attributes:
        report: what it is of.
        tags: the names of its images in the engine, in the order of its containers.
        archives: its volumes.
        guards: what keeps its containers from being lost while they are stopped.
        options: how it is taken.
        bound: the paths that they bind and that others of them make.
    """

    report: Report
    tags: Sequence[str]
    archives: VolumeCapture
    guards: Guards
    options: CaptureOptions
    bound: BoundPaths

    @property
    def guests(self) -> tuple[Observed, ...]:
        """The containers outside that rest as well."""
        return self.report.guests if self.options.shared == "stop" else ()

    @property
    def is_still(self) -> bool:
        """Whether nobody writes to the volumes while they are captured."""
        return self.options.quiesce != "none" and not (self.report.guests and self.options.shared == "ignore")

    @property
    def running(self) -> list[Observed]:
        """Those that run, and are brought to rest."""
        return [one for one in (*self.report.containers, *self.guests) if _runs(one)]

    @property
    def limit(self) -> float | None:
        """For how long they may rest; None where nobody is brought to rest."""
        return self.options.max_downtime if self.options.quiesce != "none" and self.running else None

    @property
    def names(self) -> list[str]:
        """The names of those that are brought to rest."""
        return [one.name for one in self.running]


class Capture:
    """Takes backups: the one place that holds the images and the volumes of containers together.

    Args:
        engine: where the containers are.
        store: where the backups go.
        snapshotter: what captures the containers.
        archiver: what captures the volumes.
        reporter: is told what is done.
        clock: the time, in UTC.
        timer: measures the time, also that of `max_downtime`, and waits.

    Example:
        >>> capture = Capture(engine, store, ContainerSnapshotter(engine, store), archiver)
        >>> with preflight.holding(["web"]) as report:
        ...     taken = capture.take(report, "20260102T030405Z-web-a1b2c3")
        ...     capture.release(taken)
    """

    def __init__(
        self,
        engine: Engine,
        store: BackupStore,
        snapshotter: ContainerSnapshotter,
        archiver: VolumeArchiver,
        *,
        reporter: Reporter | None = None,
        clock: Callable[[], datetime] = now,
        timer: Timer = time,
    ) -> None:
        self._engine = engine
        self._store = store
        self._snapshotter = snapshotter
        self._archiver = archiver
        self._reporter = reporter or Reporter()
        self._clock = clock
        self._timer = timer

    def take(
        self,
        report: Report,
        identity: str,
        options: CaptureOptions,
        *,
        kept_for: Sequence[str] = (),
        operation: Journalled | None = None,
    ) -> Backup:
        """Take the backup `identity` of what `report` found, and return it once it is durable.

        Every container that ran runs again when this returns, and also after an error; without `options.resume` they
        stay stopped, except after an error. The engine holds the images under names of ours until `release`.
        `kept_for` are the containers of a rollback for which this is kept, as `Backup.kept_for` has them.

        With `operation`, what is stopped survives a prune, and a removal by anybody: before the first stop it records
        what it takes to recreate the containers and their networks, and guards hold images and volumes. After an error
        guards and images stay, for whoever recreates what is missing.

        Raises:
            HookError: a hook before the capture failed; nothing was brought to rest.
            DowntimeExceededError: the capture took longer than `options.max_downtime`, counted from the first stop.
            CaptureError: somebody disturbed the capture.
            ResumeError: a container could not be set going again.
            EngineError, VolumeError, StoreError: what they say.
        """
        reporter = self._reporter
        reporter.begin("live pass")
        snapshotter = self._snapshotter
        tags = [snapshotter.tag(identity, number, container) for number, container in enumerate(report.containers)]
        networks = self._networks(report)
        others = tuple(sorted({*self._engine.list_networks()} - {network.id for network in networks}))
        snapshotter.expect(report.containers)
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
                if taking.is_still:
                    archives.live_pass()
                if operation is not None:
                    self._protect(taking, identity, networks, operation)
                with ExitStack() as until_captured:
                    created, snapshots, rest = self._at_rest(taking, until_captured, until_sealed)
                    reporter.begin("resume")
                # What was captured of the volumes is packed and read back while the engine exports the images.
                volumes, containers = _beside(
                    archives.seal,
                    lambda: self._seal(taking, snapshots, draft),
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
            )
            self._refuse_newcomers(report)
            if not (options.resume or kept_for):
                # The images took their time. What is kept for a rollback is about to be undone, and may be gone.
                rest.check_there()
            draft.commit(backup)
            guards.remove()
            if not options.resume:
                rest.keep()
        logger.info("backup %s is taken", identity)
        return backup

    def _protect(
        self, taking: _Taking, identity: str, networks: Sequence[NetworkRecord], operation: Journalled
    ) -> None:
        """Guard what is about to be stopped, and have the operation record it."""
        numbered = enumerate((*taking.report.containers, *taking.guests))
        exposed = [
            (container, self._snapshotter.tag(identity, number, container))
            for number, container in numbered
            if resting(container, taking.options.quiesce).how == "stop"
        ]
        if exposed:
            stopped = taking.guards.stand(exposed)
            known = {network.name for network in networks}
            of_guests = {name for guest in taking.guests for name in user_endpoints(guest.inspection)} - known
            operation.note_stopped(stopped, (*networks, *self._records_of(sorted(of_guests), of_guests)))

    def _seal(
        self, taking: _Taking, snapshots: Sequence[ContainerSnapshot], draft: Draft
    ) -> tuple[ContainerSnapshot, ...]:
        guards = taking.guards
        sealed = tuple(
            self._snapshotter.seal(snapshot, draft, guarded=guards.live(snapshot.id)) for snapshot in snapshots
        )
        if taking.options.resume:
            # The volumes may take longer.
            guards.remove()
        return sealed

    def _at_rest(
        self, taking: _Taking, until_captured: ExitStack, until_sealed: ExitStack
    ) -> tuple[datetime, list[ContainerSnapshot], AtRest]:
        """Bring everything to rest and capture it; return when that was, and what holds the containers at rest.

        Args:
            taking: the backup.
            until_captured: sets going again, when it ends, what rests for the capture alone.
            until_sealed: likewise what rests until the backup is durable, and after it.
        """
        reporter, archives, containers = self._reporter, taking.archives, taking.report.containers
        until_captured.push(lambda kind, *_: reporter.begin("store") if kind is None else None)
        until_resumed = until_captured if taking.options.resume else until_sealed
        hooks = taking.options.hooks or Hooks(self._engine)
        # The outermost: those after the rest run when all run again.
        until_resumed.enter_context(hooks.around_rest(containers, resumes=taking.options.resume))
        reporter.begin("quiesce")
        guests = until_captured.enter_context(self._at_rest_by(taking))
        rest = until_resumed.enter_context(self._at_rest_by(taking))
        with (
            DowntimeLimit(
                taking.limit,
                taking.names,
                step=lambda: reporter.current,
                stop=archives.stop,
                clock=self._timer.monotonic,
            ) as limit,
            main_processes(taking.running, taking.options.quiesce) as processes,
            archives.capturing(processes.ended, at_rest=taking.is_still) as captured,
        ):
            _bring(taking.guests, guests, limit)
            _bring(reversed(containers), rest, limit)
            created = self._clock()
            reporter.begin("capture")
            try:
                snapshots, _ = _beside(lambda: self._commit(taking), captured, archives.stop)
            except ArchiveError:
                # Where somebody disturbed it, that is why.
                _check_undisturbed(rest, guests, watched=processes.known)
                raise
            # Also that the processes whose end was seen were those of the containers as they were found.
            _check_undisturbed(rest, guests, watched=processes.known)
        return created, snapshots, rest

    def _at_rest_by(self, taking: _Taking) -> AtRest:
        check = taking.bound.check
        return AtRest(
            self._engine, taking.options.quiesce, before_start=check, reporter=self._reporter, timer=self._timer
        )

    def _commit(self, taking: _Taking) -> list[ContainerSnapshot]:
        snapshots = []
        for container, tag in zip(taking.report.containers, taking.tags, strict=True):
            snapshot = self._snapshotter.capture(container, tag=tag, folders=taking.report.volumes)
            taking.guards.renew(snapshot)
            snapshots.append(snapshot)
        return snapshots

    def _refuse_newcomers(self, report: Report) -> None:
        """Raise where something came to a project while its backup was taken: it would count as the update's."""
        if report.project is None:
            return
        came = beyond(look_at_project(self._engine, report.project.name), report.project)
        if came != Project(report.project.name):
            found = {one: look_at(self._engine, one) for one in came.containers}
            containers = [one.name if one is not None else gone for gone, one in found.items()]
            names = [*containers, *came.volumes, *came.networks]
            raise CaptureError(
                report.containers[0].name,
                f"somebody else added to its project {report.project.name!r} meanwhile: {', '.join(names)}",
            )

    def forget(self, identity: str, names: Sequence[str]) -> None:
        """Let the engine forget what a capture that was cut off may have made for the backup of some containers."""
        self._snapshotter.forget(identity, names)

    def release(self, backup: Backup, *, spare: bool = False) -> None:
        """Let the engine forget the images of a backup that the store holds; with `spare` none of the user's goes."""
        for container in backup.containers:
            self._snapshotter.release(container, spare=spare)

    def prune(self, backup: Backup, *, keep: KeepArgument) -> None:
        """Keep so much of the backups of the same containers or project; the engine forgets what only those held."""
        listed = {found.id: found for found in self._store.list()}
        project = backup.project.name if backup.project is not None else None
        pruned = self._store.prune(keep=keep, containers=backup.beside, project=project, engine=backup.engine.identity)
        for removed in pruned.removed:
            for container in listed[removed].containers if removed in listed else ():
                remove_named(self._engine, container.image.tag)

    def _networks(self, report: Report) -> tuple[NetworkRecord, ...]:
        attached = [name for container in report.containers for name in user_endpoints(container.inspection)]
        # A container that has left the network of its mode cannot start, or be created, without that network.
        modes = [own_network(container.inspection) for container in report.containers]
        names = dict.fromkeys([*attached, *(mode for mode in modes if mode is not None)])
        names |= dict.fromkeys(report.project.networks if report.project is not None else ())
        return self._records_of(names, attached)

    def _records_of(self, names: Iterable[str], attached: Collection[str]) -> tuple[NetworkRecord, ...]:
        """Return the records of networks, and of those that they are configured from; `attached` have to be there."""
        found: dict[str, NetworkRecord] = {}
        for name in names:
            if name not in _PREDEFINED:
                with suppress(NetworkNotFoundError) if name not in attached else nullcontext():
                    self._add_network(name, found)
        return tuple(found.values())

    def _add_network(self, name: str, found: dict[str, NetworkRecord]) -> None:
        """Add a network to those that were found, and the network that its settings come from."""
        inspection = {key: value for key, value in self._engine.inspect_network(name).items() if key != "Containers"}
        origin = str((inspection.get("ConfigFrom") or {}).get("Network") or "")
        if origin and origin not in found:
            self._add_network(origin, found)
        known = str(inspection["Name"])
        found[known] = NetworkRecord(name=known, id=str(inspection["Id"]), inspection=inspection)


def _bring(containers: Iterable[Observed], rest: AtRest, limit: DowntimeLimit) -> None:
    """Bring containers to rest, one after the other, as long as there is time."""
    for container in containers:
        rest.bring(container)
        limit.check()


def _beside(side: Callable[[], Side], main: Callable[[], Main], stop: Callable[[], object]) -> tuple[Side, Main]:
    """Do one thing in a thread of its own while this one does another; return both when both have ended.

    Where one fails, and on an interruption, `stop` ends what it can of the other. Where both fail, the error is the one
    that came first; but an interruption comes before any error.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="beside") as pool:
        job = pool.submit(side)
        job.add_done_callback(lambda done: stop() if done.exception() is not None else None)
        try:
            done = main()
            return job.result(), done
        except Exception as error:
            came_first = job.done()
            if not came_first:
                stop()
            failure = job.exception()
            if failure is None or failure is error or not came_first:
                raise
            raise failure from error
        except BaseException:
            stop()
            raise


def _check_undisturbed(*rests: AtRest, watched: bool) -> None:
    for rest in rests:
        rest.check_undisturbed(watched=watched)


def _runs(container: Observed) -> bool:
    return container.state.status in ("running", "restarting")
