"""The functions that most people need: they build the parts and put them together."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from typing import Self, TypeAlias, TypedDict, Unpack, cast

from attrs import frozen

from docker_rollback._arguments import ContainerArgument, flag, function, instance, reference_of, text
from docker_rollback._capture import Capture, CaptureOptions, HookArgument, Hooks, Preflight, VolumeOptions
from docker_rollback._containers import ContainerSnapshotter, Traces, locked
from docker_rollback._engine import Client, Engine, as_engine
from docker_rollback._host import Timer
from docker_rollback._inspection import ChangeArguments
from docker_rollback._model import Backup, ExcludeArgument, Quiesce, Recovered, Shared, Way
from docker_rollback._recovery import Operations, Recovery
from docker_rollback._reporting import Listener, Reporter
from docker_rollback._restore import Intruders, Restorer
from docker_rollback._rollback import Check, Outcome, OutcomeListener, Pull, Rollback, as_checks, healthy
from docker_rollback._store import BackupStore, KeepArgument
from docker_rollback._volumes import VolumeArchiver

StoreArgument: TypeAlias = BackupStore | str | os.PathLike[str] | None
"""A store, the path of one, or None for the one in the user's data folder."""

_HEALTHY = healthy()


class RollbackArguments(TypedDict, total=False):
    """What `rollback` takes besides containers, for functions that pass it on."""

    project: str | None
    client: Client | None
    store: StoreArgument
    quiesce: Quiesce
    resume: bool
    shared: Shared
    include_binds: Collection[str]
    exclude: Collection[ExcludeArgument]
    verify: Check | Sequence[Check] | None
    watch: float | None
    keep: KeepArgument
    keep_failed: bool
    export_image: bool
    way: Way | None
    helper_image: str | None
    progress: Listener | None
    max_downtime: float | None
    restore_tags: bool
    before_quiesce: HookArgument
    after_resume: HookArgument
    after_rollback: HookArgument
    on_outcome: OutcomeListener | None


class ReplaceArguments(RollbackArguments, ChangeArguments, total=False):
    """What `replace` passes on: to `rollback`, and to the new container."""


def rollback(
    *containers: ContainerArgument,
    project: str | None = None,
    client: Client | None = None,
    store: StoreArgument = None,
    quiesce: Quiesce = "stop",
    resume: bool = True,
    shared: Shared = "refuse",
    include_binds: Collection[str] = (),
    exclude: Collection[ExcludeArgument] = (),
    verify: Check | Sequence[Check] | None = _HEALTHY,
    watch: float | None = None,
    keep: KeepArgument = 3,
    keep_failed: bool = False,
    export_image: bool = True,
    way: Way | None = None,
    helper_image: str | None = None,
    progress: Listener | None = None,
    max_downtime: float | None = None,
    restore_tags: bool = True,
    before_quiesce: HookArgument = (),
    after_resume: HookArgument = (),
    after_rollback: HookArgument = (),
    on_outcome: OutcomeListener | None = None,
) -> Rollback:
    """Make an update of containers transactional: back them up, run the block, put them back where it fails.

    Args:
        containers: names, ids, or docker-py `Container` objects; none where a project is given, or others beside it.
        project: the name of a compose project: all its containers, networks and volumes, by their labels. What the
            update adds to it goes with a rollback, and what it takes away comes back. The checks are for the
            containers that the project has after the update.
        client: a docker-py client, or an `Engine`; by default the one that a given `Container` belongs to, else the one
            that the environment names.
        store: where the backup goes; by default the user's data folder.
        quiesce: how the containers are brought to rest for the capture. A ``--rm`` container is paused, never stopped.
        resume: whether they run again before the block starts; False for an update that starts them itself.
        shared: what becomes of a running container outside that writes to a volume of theirs: "refuse" to begin, "stop"
            it for the capture as well, or "ignore" it, and the archive may be a mixture of moments.
        include_binds: folders and files of the engine's host whose content is backed up and put back like a volume's,
            by their paths, as the containers bind them. Without, a bind mount is attached again and its content left
            alone.
        exclude: what is neither backed up nor touched when things are put back: ``"cache"`` is a whole volume,
            ``"data:tmp/*.log"`` paths within one; see `Exclude`.
        verify: what the update has to pass: a check, several, or None. By default `healthy()`.
        watch: for how many seconds the update is on probation after its checks. If a container ends, is started again
            or turns unhealthy meanwhile, everything is put back; so it is if this process dies. None is no probation.
        keep: which backups of the same containers stay when the block ends: so many, those no older than a
            `timedelta`, or both by `Keep`; None keeps all.
        keep_failed: keep the state of an update that failed as a backup of its own before it is undone, to be looked
            into later; its id is `outcome.kept`. Such states count for themselves in `keep`. Where it cannot be kept,
            the rollback goes on without.
        export_image: whether the container's image goes into the store. Without, it stays in the engine: quicker, and
            `backup.durable` is False.
        way: how volume data is reached, "direct" or "helper"; by default the first of them that works.
        helper_image: an image with GNU tar for the helper; by default one is made from this machine's own tar.
        progress: told what is being done, by `Progress` values.
        max_downtime: for how many seconds the containers may be at rest for the capture, from the first stop to the
            capture's end; where it takes longer, they are set going again and entering fails. None is as long as it
            takes.
        restore_tags: whether a rollback has the name of the image that each container was made from lead to the image
            that it led to at the capture. The image that an update gave the name to stays in the engine, and
            `outcome.names` says its id. False leaves names of images alone.
        before_quiesce: what is to be done right before they are brought to rest: a callable, a `Call` or an `Exec`, or
            several. Where one fails, entering fails and nothing is brought to rest.
        after_resume: what is to be done once they run again, after an error too; with ``resume=False`` after an error
            alone. Where one fails, that is logged and in the outcome.
        after_rollback: what is to be done once a rollback has put everything back; where one fails, likewise.
        on_outcome: told by one `Outcome` what became of the block, once that stands: committed, rolled back or failed,
            also where entering failed. What it raises is logged and changes nothing.

    Returns:
        A `Rollback`, inert until entered.

    Raises:
        ValueError, TypeError: an argument is none of its choices, or neither a container nor a project was given.

    Example:
        >>> with rollback("web") as tx:
        ...     deploy("web:2")
        >>> tx.status
        <Status.COMMITTED: 'committed'>
        >>> with rollback(project="shop"):
        ...     subprocess.run(["docker", "compose", "up", "--detach"], check=True)
    """
    references, checks = _references("rollback", containers, project), as_checks(verify)
    engine, reporter = _engine(client, containers), _reporter(progress)
    options = CaptureOptions(
        quiesce=quiesce,
        resume=resume,
        shared=shared,
        max_downtime=max_downtime,
        hooks=Hooks(
            engine,
            before_quiesce=before_quiesce,
            after_resume=after_resume,
            after_rollback=after_rollback,
            reporter=reporter,
        ),
        export_image=export_image,
    )
    volumes = VolumeOptions(way=way, helper_image=helper_image, exclude=exclude, include_binds=include_binds)
    parts = Parts.build(engine, _store(store), options, volumes, reporter=reporter)
    return Rollback(
        references,
        engine=parts.engine,
        store=parts.store,
        preflight=parts.preflight,
        capture=parts.capture,
        recovery=parts.recovery("stop"),
        options=options,
        verify=checks,
        watch=watch,
        keep=keep,
        keep_failed=keep_failed,
        project=project,
        restore_tags=restore_tags,
        on_outcome=on_outcome,
        reporter=parts.reporter,
    )


def replace(
    container: ContainerArgument,
    image: str | None = None,
    *,
    pull: Pull = "missing",
    platform: str | None = None,
    **options: Unpack[ReplaceArguments],
) -> Outcome:
    """Update a container to another image in one call: find the image, back up, replace the container, check.

    The image is found or fetched, and its platform checked, before anything else. A typo in its name, or a registry
    that does not answer, stops nothing and writes nothing. If the container runs that very image, made from it by that
    name, and nothing else shall differ, nothing is done either: the status is `Status.UNCHANGED`.

    Args:
        container: its name, its id, or a docker-py `Container`.
        image: the name, digest or id of what the new one is made from; by default what the old one was made from, by
            that name. It has to be given where an earlier rollback created the container by the id of its image, and
            the store has no backup any more that knows the name.
        pull: when the image is fetched from its registry: where it is "missing", "always" or "never".
        platform: which of several platforms of the image ("linux/arm64"); by default as the engine chooses.
        options: what `rollback` takes, in its words, and what else shall differ, as `Rollback.replace` takes it:
            `environment`, `labels`, `command`, `entrypoint`, `user`, `working_dir`, `healthcheck`, `config` and
            `host_config`.

    Returns:
        An outcome that is committed, or unchanged. What `on_outcome` is told is the same.

    Raises:
        ValueError, TypeError: an argument is wrong, or `image` is not given and cannot be known.
        ContainerNotFoundError, ImageNotFoundError, ImagePlatformError, UnsupportedContainerError, ContainerBusyError:
            nothing was touched.
        UpdateRejectedError, EngineError: the update failed, and everything was put back.
        DockerRollbackError: as entering and leaving a `Rollback` have it.

    Example:
        >>> replace("web", "web:2", store="/var/backups/web", environment={"MODE": "new"}).status
        <Status.COMMITTED: 'committed'>
    """
    changes = {name: value for name, value in options.items() if name in ChangeArguments.__annotations__}
    others = {name: value for name, value in options.items() if name not in changes}
    tx = rollback(container, **cast(RollbackArguments, others))
    return tx.update(container, image, pull=pull, platform=platform, **cast(ChangeArguments, changes))


def backup(
    *containers: ContainerArgument,
    project: str | None = None,
    client: Client | None = None,
    store: StoreArgument = None,
    quiesce: Quiesce = "stop",
    shared: Shared = "refuse",
    include_binds: Collection[str] = (),
    exclude: Collection[ExcludeArgument] = (),
    export_image: bool = True,
    way: Way | None = None,
    helper_image: str | None = None,
    progress: Listener | None = None,
    max_downtime: float | None = None,
    before_quiesce: HookArgument = (),
    after_resume: HookArgument = (),
) -> Backup:
    """Take a backup of containers, without an update; the arguments are those of `rollback`.

    Raises:
        ValueError, TypeError: an argument is wrong, or neither a container nor a project was given.
        ContainerNotFoundError, ProjectNotFoundError, UnsupportedContainerError, ContainerBusyError, HookError: nothing
            was touched.
        StoreError, EngineError, VolumeError, CaptureError, DowntimeExceededError: the backup could not be taken; every
            container does what it did.

    Example:
        >>> backup("web", store="/var/backups/web").id
        '20260102T030405Z-web-a1b2c3'
    """
    references = _references("backup", containers, project)
    engine, reporter = _engine(client, containers), _reporter(progress)
    options = CaptureOptions(
        quiesce=quiesce,
        shared=shared,
        max_downtime=max_downtime,
        hooks=Hooks(engine, before_quiesce=before_quiesce, after_resume=after_resume, reporter=reporter),
        export_image=export_image,
    )
    volumes = VolumeOptions(way=way, helper_image=helper_image, exclude=exclude, include_binds=include_binds)
    recovery = Parts.build(engine, _store(store), options, volumes, reporter=reporter).recovery("stop")
    with recovery.holding(references, project=project) as (found, _):
        operation, taken = recovery.begin(found, options, then="committed")
        recovery.settle(operation, taken, rolled_back=False)
    return taken


def restore(
    backup: Backup | str,
    *,
    client: Client | None = None,
    store: StoreArgument = None,
    way: Way | None = None,
    helper_image: str | None = None,
    progress: Listener | None = None,
    restore_tags: bool = True,
) -> list[str]:
    """Put a backup back, whatever stands in its place now; return the names of the containers that stand again.

    With the backup of a compose project, containers and networks that came to the project since are removed. Volumes
    that came since are left: they may hold what was never backed up.

    Args:
        backup: a backup, or its id in the store.
        client: a docker-py client, or an `Engine`; by default the one that the environment names.
        store: where the backup is; by default the user's data folder.
        way: how volume data is reached, "direct" or "helper"; by default the first of them that works.
        helper_image: an image with GNU tar for the helper; by default one is made from this machine's own tar.
        progress: told what is being done, by `Progress` values.
        restore_tags: whether the name of the image that each container was made from leads again to the image that it
            led to at the capture, also if somebody moved it on purpose since; a warning of the log names the image that
            loses it. False leaves names of images alone.

    Raises:
        BackupNotFoundError, CorruptBackupError, ContainerBusyError, UnsupportedContainerError: nothing was touched.
        RestoreError: another container is in the way, a step failed, or what stands differs from what was captured.

    Example:
        >>> restore("20260102T030405Z-web-a1b2c3", store="/var/backups/web")
        ['web']
    """
    instance("backup", backup, (str, Backup), what="a Backup, or the id of one")
    volumes = VolumeOptions(way=way, helper_image=helper_image)
    parts = Parts.build(as_engine(client), _store(store), volumes=volumes, reporter=_reporter(progress))
    found = parts.store.get(backup) if isinstance(backup, str) else backup
    recovery = parts.recovery("refuse")
    project = found.project.name if found.project is not None else None
    words = [word for one in found.containers for word in (one.id, one.name)]
    recovery.finish_earlier(words, project=project, but=found.id)
    with locked(parts.store, found.containers, project=project):
        recovery.restore(found, restore_tags=restore_tags)
    return [container.name for container in found.containers]


def recover(
    *,
    client: Client | None = None,
    store: StoreArgument = None,
    keep_found: bool = True,
    way: Way | None = None,
    helper_image: str | None = None,
    progress: Listener | None = None,
) -> tuple[Recovered, ...]:
    """Finish every operation of a store on an engine whose process died, and return what became of each.

    A rollback that was cut off before its update began is given up: the containers do what they did before it. One that
    was cut off later is rolled back, unless it had been committed. Those whose process lives are left alone. It can be
    cut off itself, and called again.

    Args:
        client: a docker-py client, or an `Engine`; by default the one that the environment names.
        store: where the operations are noted; by default the user's data folder.
        keep_found: keep the state that is found as a backup of its own before it is rolled back.
        way: how volume data is reached, "direct" or "helper"; by default the first of them that works.
        helper_image: an image with GNU tar for the helper; by default one is made from this machine's own tar.
        progress: told what is being done, by `Progress` values.

    Raises:
        StoreNotFoundError: there is no store at that path; none is made.
        UnfinishedElsewhereError: what the store has a record of is finished, and the engine's lock volumes tell of an
            operation that another store has to finish; the error names that store, and has what was finished.
        RecoveryFailedError: one or several could not be finished, or a note cannot be read; every one was tried.

    Example:
        >>> for operation in recover(store="/var/backups/web"):
        ...     print(operation.containers, operation.outcome)
        ('web',) rolled back
    """
    flag("keep_found", keep_found)
    volumes = VolumeOptions(way=way, helper_image=helper_image)
    parts = Parts.build(as_engine(client), _store(store), volumes=volumes, reporter=_reporter(progress))
    return parts.recovery("stop").recover(keep_found=keep_found)


def _engine(client: Client | None, containers: Sequence[ContainerArgument]) -> Engine:
    """Return the engine that was given, or the one that the first container object knows of."""
    if client is None:
        for container in containers:
            client = getattr(container, "client", None)
            if client is not None:
                break
    return as_engine(client)


def _references(call: str, containers: Sequence[ContainerArgument], project: str | None) -> list[str]:
    text("project", project, what="the name of a compose project", optional=True)
    for container in containers:
        if isinstance(container, list | tuple | set | frozenset):
            several = ", ".join(map(repr, container))
            raise TypeError(f"give several containers as arguments of their own: {call}({several})")
    references = [reference_of(container) for container in containers]
    if not references and project is None:
        raise ValueError(f"{call} needs at least one container, or a compose project")
    return references


def _store(store: StoreArgument) -> BackupStore:
    return store if isinstance(store, BackupStore) else BackupStore(store)


def _reporter(progress: Listener | None) -> Reporter:
    function("progress", progress, optional=True)
    return Reporter(progress)


@frozen
class Parts:
    """One set of parts on one engine and one store."""

    engine: Engine
    store: BackupStore
    archiver: VolumeArchiver
    preflight: Preflight
    capture: Capture
    reporter: Reporter
    timer: Timer

    @classmethod
    def build(
        cls,
        engine: Engine,
        store: BackupStore,
        options: CaptureOptions = CaptureOptions(),  # noqa: B008  (a frozen value)
        volumes: VolumeOptions = VolumeOptions(),  # noqa: B008  (a frozen value)
        *,
        reporter: Reporter | None = None,
        timer: Timer = time,
    ) -> Self:
        """Build the parts, which measure and wait by `timer`."""
        reporter = reporter or Reporter(clock=timer.monotonic)
        snapshotter = ContainerSnapshotter(
            engine, store, export_image=options.export_image, reporter=reporter, timer=timer
        )
        archiver = VolumeArchiver(
            engine,
            store,
            way=volumes.way,
            helper_image=volumes.helper_image,
            progress=reporter.data,
            expect=reporter.expect,
        )
        preflight = Preflight(
            engine,
            store,
            archiver,
            options=options,
            volumes=volumes,
            traces=Traces.of_this_process(),
            sleep=timer.sleep,
        )
        capture = Capture(engine, store, snapshotter, archiver, reporter=reporter, timer=timer)
        return cls(engine, store, archiver, preflight, capture, reporter, timer)

    def recovery(self, intruders: Intruders) -> Recovery:
        """Return the way back, which deals so with what is in its way."""
        restorer = Restorer(
            self.engine,
            self.store,
            archiver=self.archiver,
            intruders=intruders,
            reporter=self.reporter,
            timer=self.timer,
        )
        return Recovery(
            self.engine,
            self.store,
            Operations(self.engine, self.store),
            preflight=self.preflight,
            capture=self.capture,
            restorer=restorer,
            archiver=self.archiver,
            reporter=self.reporter,
            timer=self.timer,
        )
