"""The public functions: each builds the components from its arguments and makes one call."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from typing import TypeAlias, TypedDict, Unpack, cast

from docker_rollback._arguments import ContainerArgument, flag, function, instance, reference_of, text
from docker_rollback._capture import (
    Capture,
    CaptureOptions,
    FilesArgument,
    HookArgument,
    Hooks,
    Preflight,
    VolumeOptions,
)
from docker_rollback._containers import ContainerSnapshotter, Traces, locked
from docker_rollback._engine import Client, Engine, as_engine
from docker_rollback._host import Timer
from docker_rollback._inspection import ChangeArguments
from docker_rollback._model import Backup, ExcludeArgument, Quiesce, Recovered, Shared, Way
from docker_rollback._recovery import Operations, Recovery
from docker_rollback._reporting import Listener, Reporter
from docker_rollback._restore import Intruders, Restorer
from docker_rollback._rollback import (
    Check,
    Outcome,
    OutcomeListener,
    Pull,
    Rollback,
    RollbackOptions,
    RollbackParts,
    healthy,
)
from docker_rollback._store import BackupStore, KeepArgument
from docker_rollback._volumes import VolumeArchiver

StoreArgument: TypeAlias = BackupStore | str | os.PathLike[str] | None
"""A store, the path of one, or None for the one in the user's data folder."""

# A check without state of its own, so that all calls can share one.
_HEALTHY = healthy()


class RollbackArguments(TypedDict, total=False):
    """The keyword arguments of `rollback`, for functions that pass them on."""

    project: str | None
    client: Client | None
    store: StoreArgument
    quiesce: Quiesce
    resume: bool
    shared: Shared
    include_binds: Collection[str]
    include_files: FilesArgument
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
    """The keyword arguments that `replace` passes on, to `rollback` and to the new container."""


def rollback(
    *containers: ContainerArgument,
    project: str | None = None,
    client: Client | None = None,
    store: StoreArgument = None,
    quiesce: Quiesce = "stop",
    resume: bool = True,
    shared: Shared = "refuse",
    include_binds: Collection[str] = (),
    include_files: FilesArgument = False,
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
    """Make an update of containers transactional: back them up, run the block, and roll back if it fails.

    Args:
        containers: names, ids or docker-py `Container` objects; with `project`, further containers or none.
        project: a compose project: all its containers, networks and volumes, by their labels. A rollback removes what
            the update added to the project and restores what it removed. The checks are for the containers that the
            project has after the update.
        client: a docker-py client, or an `Engine`. The default is the client of a given `Container`, else the one that
            the environment names.
        store: the store for the backup, or its path; by default in the user's data folder.
        quiesce: how to quiesce the containers for the capture: "stop", "pause" or "none". A ``--rm`` container is
            paused, never stopped.
        resume: whether they run again before the block starts; False for an update that starts them itself.
        shared: how to treat a running container outside the rollback that writes to a volume of theirs: "refuse" to
            begin, "stop" it for the capture as well, or "ignore" it. With "ignore" the archive may mix several moments.
        include_binds: paths of folders and files on the engine's host that the containers bind, and whose content is
            backed up and restored like a volume's. The content of other bind mounts stays as it is.
        include_files: True for the files that the compose project was started from (its compose files, and its
            environment files or ``.env``), or the paths of files. They are files of the machine that runs this program.
            A rollback writes back those that have changed, and keeps the content that they had in the store.
        exclude: data that is neither backed up nor restored: ``"cache"`` is a whole volume, ``"data:tmp/*.log"`` are
            paths within one; see `Exclude`.
        verify: the check that the update has to pass, several, or None. The default is `healthy()`.
        watch: for how many seconds the update is on probation after its checks. If a container exits, restarts or turns
            unhealthy meanwhile, or this process dies, the update is rolled back. None means no probation.
        keep: the backups of the same containers that stay when the block ends: a number of them, those younger than a
            `timedelta`, or both by `Keep`; None keeps all.
        keep_failed: whether to keep the state of a failed update as a backup, to look into later; `outcome.kept` is its
            id. `keep` counts these backups apart. If the state cannot be kept, the rollback continues without it.
        export_image: whether the containers' images go into the store. If not, they stay in the engine: the backup is
            taken faster, and `backup.durable` is False.
        way: the access method for volume data, "direct" or "helper"; by default the first that works.
        helper_image: an image with GNU tar for the helper; by default one is built from this machine's own tar.
        progress: called with a `Progress` at each step.
        max_downtime: for how many seconds the capture may keep the containers stopped or paused, from the first stop to
            the end of the capture. If it takes longer, they are resumed and entering fails. None sets no limit.
        restore_tags: whether a rollback points the name of each container's image back to the image that it named at
            the capture. The image of the update, which loses the name, stays in the engine; `outcome.names` has its id.
        before_quiesce: hooks that run right before the containers are quiesced: a callable, a `Call` or an `Exec`, or
            several. If one fails, entering fails and nothing is stopped.
        after_resume: hooks that run once the containers run again, also after an error; with ``resume=False`` only
            after an error. A failure is logged and is in the outcome.
        after_rollback: hooks that run once a rollback has restored everything; a failure is treated likewise.
        on_outcome: called with the `Outcome` of the block once it is final, also if entering failed. An exception from
            it is logged and changes nothing.

    Returns:
        A `Rollback`, inert until entered.

    Raises:
        ValueError, TypeError: an argument is wrong, or neither a container nor a project was given.

    Example:
        >>> with rollback("web") as tx:
        ...     deploy("web:2")
        >>> tx.status
        <Status.COMMITTED: 'committed'>
        >>> with rollback(project="shop"):
        ...     subprocess.run(["docker", "compose", "up", "--detach"], check=True)
    """
    references = _references("rollback", containers, project)
    options = RollbackOptions(
        verify=verify,
        watch=watch,
        keep=keep,
        keep_failed=keep_failed,
        restore_tags=restore_tags,
        on_outcome=on_outcome,
    )
    engine, reporter = _engine(client, containers), _reporter(progress)
    capture = CaptureOptions(
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
        include_files=include_files,
    )
    volumes = VolumeOptions(way=way, helper_image=helper_image, exclude=exclude, include_binds=include_binds)
    parts = build_parts(engine, _store(store), capture, volumes, reporter=reporter)
    return Rollback(references, parts, options, capture=capture, project=project)


def replace(
    container: ContainerArgument,
    image: str | None = None,
    *,
    pull: Pull = "missing",
    platform: str | None = None,
    **options: Unpack[ReplaceArguments],
) -> Outcome:
    """Update a container to another image in one call: find the image, back up, replace the container, check.

    The image is found or pulled, and its platform checked, before anything else: a typo in its name, or a registry
    that does not answer, stops nothing and writes nothing. If the container already runs this image by this name, and
    nothing else differs, nothing is done, and the status is `Status.UNCHANGED`.

    Args:
        container: its name, its id, or a docker-py `Container`.
        image: the name, digest or id of the new image; by default the name of the old one. It is required if an
            earlier rollback recreated the container without that name (`outcome.not_exact` said so), and no backup in
            the store knows it.
        pull: when to pull the image from its registry: if it is "missing", "always" or "never".
        platform: the platform of the image ("linux/arm64"); by default the engine chooses.
        options: the keyword arguments of `rollback`, and those of `Rollback.replace` that change the container:
            `environment`, `labels`, `command`, `entrypoint`, `user`, `working_dir`, `healthcheck`, `config` and
            `host_config`.

    Returns:
        The outcome, committed or unchanged; `on_outcome` is called with the same one.

    Raises:
        ValueError, TypeError: an argument is wrong, or `image` is required and was not given.
        ContainerNotFoundError, ImageNotFoundError, ImagePlatformError, UnsupportedContainerError, ContainerBusyError:
            nothing was touched.
        UpdateRejectedError, EngineError: the update failed and was rolled back.
        DockerRollbackError: as entering and leaving a `Rollback` raise it.

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
    """Back up containers without an update; the arguments are those of `rollback`.

    Raises:
        ValueError, TypeError: an argument is wrong, or neither a container nor a project was given.
        ContainerNotFoundError, ProjectNotFoundError, UnsupportedContainerError, ContainerBusyError, HookError: nothing
            was touched.
        StoreError, EngineError, VolumeError, CaptureError, DowntimeExceededError: the backup could not be taken; every
            container is in its earlier state.

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
    recovery = build_parts(engine, _store(store), options, volumes, reporter=reporter).recovery
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
    """Restore a backup in place of the current containers, and return the names of the restored containers.

    Restoring a compose project removes the containers and networks that were added to it since. Added volumes stay,
    because their data may be in no backup.

    `backup` is a backup, or its id in the store. The other arguments are those of `rollback`. With `restore_tags`, the
    name of each container's image leads to the image that it named at the capture again, even if somebody moved it on
    purpose since; a warning in the log names the image that loses it.

    Raises:
        BackupNotFoundError, CorruptBackupError, ContainerBusyError, UnsupportedContainerError: nothing was touched.
        RestoreError: another container is in the way, a step failed, or the result differs from the capture.

    Example:
        >>> restore("20260102T030405Z-web-a1b2c3", store="/var/backups/web")
        ['web']
    """
    instance("backup", backup, (str, Backup), what="a Backup, or the id of one")
    volumes = VolumeOptions(way=way, helper_image=helper_image)
    parts = build_parts(
        as_engine(client), _store(store), volumes=volumes, intruders="refuse", reporter=_reporter(progress)
    )
    found = parts.store.get(backup) if isinstance(backup, str) else backup
    recovery = parts.recovery
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
    """Finish every operation of a store on an engine whose process died, and return how each ended.

    An operation that was interrupted before its update began is discarded: the containers return to their earlier
    state. A later one is rolled back unless it was committed. Operations of living processes are skipped. `recover` can
    be interrupted itself, and called again.

    `store` has the records of the operations. With `keep_found`, the current state is kept as a backup before it is
    rolled back. The other arguments are those of `rollback`.

    Raises:
        StoreNotFoundError: there is no store at that path; none is created.
        UnfinishedElsewhereError: every operation of this store is finished, but the engine's lock volumes belong to an
            operation that another store has to finish. The error names that store, and has the finished operations.
        RecoveryFailedError: an operation could not be finished, or a record cannot be read; every one was tried.

    Example:
        >>> for operation in recover(store="/var/backups/web"):
        ...     print(operation.containers, operation.outcome)
        ('web',) rolled back
    """
    flag("keep_found", keep_found)
    volumes = VolumeOptions(way=way, helper_image=helper_image)
    parts = build_parts(as_engine(client), _store(store), volumes=volumes, reporter=_reporter(progress))
    return parts.recovery.recover(keep_found=keep_found)


def _engine(client: Client | None, containers: Sequence[ContainerArgument]) -> Engine:
    """Return the given engine, or the one of the first container object that has a client."""
    if client is None:
        # docker-py's Container has the client that it came from.
        clients = (getattr(container, "client", None) for container in containers)
        client = next((found for found in clients if found is not None), None)
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


def build_parts(
    engine: Engine,
    store: BackupStore,
    options: CaptureOptions = CaptureOptions(),  # noqa: B008  (a frozen value)
    volumes: VolumeOptions = VolumeOptions(),  # noqa: B008  (a frozen value)
    *,
    intruders: Intruders = "stop",
    reporter: Reporter | None = None,
    timer: Timer = time,
) -> RollbackParts:
    """Build the components behind the public functions, on one engine and one store.

    They measure time and wait by `timer`. `intruders` says how a restore treats other containers that are in the way.
    """
    reporter = reporter or Reporter(clock=timer.monotonic)
    snapshotter = ContainerSnapshotter(engine, store, export_image=options.export_image, reporter=reporter, timer=timer)
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
    recovery = Recovery(
        engine,
        store,
        Operations(engine, store),
        preflight=preflight,
        capture=capture,
        restorer=Restorer(engine, store, archiver=archiver, intruders=intruders, reporter=reporter, timer=timer),
        archiver=archiver,
        reporter=reporter,
        timer=timer,
    )
    return RollbackParts(
        engine=engine,
        store=store,
        preflight=preflight,
        capture=capture,
        recovery=recovery,
        reporter=reporter,
        timer=timer,
    )
