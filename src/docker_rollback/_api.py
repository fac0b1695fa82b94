"""The functions that most people need: they build the parts and put them together."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import Protocol, Self, TypeAlias, get_args

from attrs import frozen

from docker_rollback._archiver import VolumeArchiver
from docker_rollback._capture import Capture
from docker_rollback._checked import Check
from docker_rollback._checks import as_checks, healthy
from docker_rollback._engine import Client, Engine, as_engine
from docker_rollback._model import Backup, Quiesce, Shared, Way, backup_id
from docker_rollback._preflight import Preflight, own_ids
from docker_rollback._progress import Listener, Reporter
from docker_rollback._restorer import Intruders, Restorer
from docker_rollback._rollback import Rollback
from docker_rollback._snapshotter import ContainerSnapshotter, locked, now
from docker_rollback._store import BackupStore, KeepArgument


class ContainerLike(Protocol):
    """Anything with an id, such as docker-py's `Container`."""

    @property
    def id(self) -> str | None:
        """The full id."""


ContainerArgument: TypeAlias = str | ContainerLike
"""A container's name, its id, or an object that has one."""

StoreArgument: TypeAlias = BackupStore | str | os.PathLike[str] | None
"""A store, the path of one, or None for the one in the user's data folder."""

_HEALTHY = healthy()


def rollback(
    *containers: ContainerArgument,
    client: Client | None = None,
    store: StoreArgument = None,
    quiesce: Quiesce = "stop",
    resume: bool = True,
    shared: Shared = "refuse",
    verify: Check | Sequence[Check] | None = _HEALTHY,
    keep: KeepArgument = 3,
    export_image: bool = True,
    way: Way | None = None,
    helper_image: str | None = None,
    progress: Listener | None = None,
) -> Rollback:
    """Make an update of containers transactional: back them up, run the block, put them back where it fails.

    Args:
        containers: names, ids, or docker-py `Container` objects.
        client: a docker-py client, or an `Engine`; by default the one that a given `Container` belongs to, else the one
            that the environment names.
        store: where the backup goes; by default the user's data folder.
        quiesce: how the containers are brought to rest for the capture. A ``--rm`` container is paused, never stopped.
        resume: whether they run again before the block starts; False for an update that starts them itself.
        shared: what becomes of a running container outside that writes to a volume of theirs: "refuse" to begin, "stop"
            it for the capture as well, or "ignore" it, and the archive may be a mixture of moments.
        verify: what the update has to pass: a check, several, or None. By default `healthy()`.
        keep: which backups of the same containers stay when the block ends: so many, those no older than a
            `timedelta`, or both by `Keep`; None keeps all.
        export_image: whether the container's image goes into the store. Without, it stays in the engine: quicker, and
            `backup.durable` is False.
        way: how volume data is reached, "direct" or "helper"; by default the first of them that works.
        helper_image: an image with GNU tar for the helper; by default one is made from this machine's own tar.
        progress: told what is being done, by `Progress` values.

    Returns:
        A `Rollback`, inert until entered.

    Raises:
        ValueError, TypeError: an argument is none of its choices, or no container was given.

    Example:
        >>> with rollback("web") as tx:
        ...     deploy("web:2")
        >>> tx.status
        <Status.COMMITTED: 'committed'>
    """
    references, checks = _references(containers), as_checks(verify)
    parts = _Parts.build(
        _engine(client, containers),
        _store(store),
        export_image=export_image,
        way=way,
        helper_image=helper_image,
        progress=progress,
        quiesce=quiesce,
        shared=shared,
    )
    return Rollback(
        references,
        engine=parts.engine,
        store=parts.store,
        preflight=parts.preflight,
        capture=parts.capture,
        restorer=parts.restorer("stop"),
        verify=checks,
        quiesce=quiesce,
        resume=resume,
        shared=shared,
        keep=keep,
    )


def backup(
    *containers: ContainerArgument,
    client: Client | None = None,
    store: StoreArgument = None,
    quiesce: Quiesce = "stop",
    shared: Shared = "refuse",
    export_image: bool = True,
    way: Way | None = None,
    helper_image: str | None = None,
    progress: Listener | None = None,
) -> Backup:
    """Take a backup of containers, without an update; the arguments are those of `rollback`.

    Raises:
        ContainerNotFoundError, UnsupportedContainerError, ContainerBusyError: nothing was touched.
        StoreError, EngineError, VolumeError, CaptureError: the backup could not be taken; every container does what it
            did.

    Example:
        >>> backup("web", store="/var/backups/web").id
        '20260102T030405Z-web-a1b2c3'
    """
    parts = _Parts.build(
        _engine(client, containers),
        _store(store),
        export_image=export_image,
        way=way,
        helper_image=helper_image,
        progress=progress,
        quiesce=quiesce,
        shared=shared,
    )
    with parts.preflight.holding(_references(containers)) as report:
        identity = backup_id(report.containers[0].name, now(), secrets.token_hex(3))
        taken = parts.capture.take(report, identity, quiesce=quiesce, shared=shared)
        parts.capture.release(taken)
    return taken


def restore(
    backup: Backup | str,
    *,
    client: Client | None = None,
    store: StoreArgument = None,
    way: Way | None = None,
    helper_image: str | None = None,
    progress: Listener | None = None,
) -> list[str]:
    """Put a backup back, whatever stands in its place now; return the names of the containers that stand again.

    Args:
        backup: a backup, or its id in the store.
        client: a docker-py client, or an `Engine`; by default the one that the environment names.
        store: where the backup is; by default the user's data folder.
        way: how volume data is reached, "direct" or "helper"; by default the first of them that works.
        helper_image: an image with GNU tar for the helper; by default one is made from this machine's own tar.
        progress: told what is being done, by `Progress` values.

    Raises:
        BackupNotFoundError, CorruptBackupError, ContainerBusyError: nothing was touched.
        RestoreError: another container is in the way, a step failed, or what stands differs from what was captured.

    Example:
        >>> restore("20260102T030405Z-web-a1b2c3", store="/var/backups/web")
        ['web']
    """
    parts = _Parts.build(as_engine(client), _store(store), way=way, helper_image=helper_image, progress=progress)
    found = parts.store.get(backup) if isinstance(backup, str) else backup
    with locked(parts.store, found.containers):
        return parts.restorer("refuse").restore(found)


@frozen
class _Parts:
    """The parts that everything here is put together from."""

    engine: Engine
    store: BackupStore
    archiver: VolumeArchiver
    preflight: Preflight
    capture: Capture
    report: Reporter

    @classmethod
    def build(
        cls,
        engine: Engine,
        store: BackupStore,
        *,
        export_image: bool = True,
        way: Way | None,
        helper_image: str | None,
        progress: Listener | None,
        quiesce: Quiesce = "stop",
        shared: Shared = "refuse",
    ) -> Self:
        _one_of("quiesce", quiesce, get_args(Quiesce))
        _one_of("shared", shared, get_args(Shared))
        _one_of("way", way, (None, *get_args(Way)))
        report = Reporter(progress)
        snapshotter = ContainerSnapshotter(engine, store, export_image=export_image, report=report)
        archiver = VolumeArchiver(engine, store, way=way, helper_image=helper_image, progress=report.data)
        return cls(
            engine,
            store,
            archiver,
            Preflight(
                engine,
                store,
                archiver,
                export_image=export_image,
                quiesce=quiesce,
                shared=shared,
                own_ids=own_ids(),
            ),
            Capture(engine, store, snapshotter, archiver, report=report),
            report,
        )

    def restorer(self, intruders: Intruders) -> Restorer:
        return Restorer(self.engine, self.store, archiver=self.archiver, intruders=intruders, report=self.report)


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}, not {value!r}")


def _engine(client: Client | None, containers: Sequence[ContainerArgument]) -> Engine:
    """Return the engine that was given, or the one that the first container object knows of."""
    if client is None:
        for container in containers:
            client = getattr(container, "client", None)
            if client is not None:
                break
    return as_engine(client)


def _references(containers: Sequence[ContainerArgument]) -> list[str]:
    for container in containers:
        if not isinstance(container, str) and not isinstance(getattr(container, "id", None), str):
            raise TypeError(f"a name, an id or an object with an id was expected for a container, not {container!r}")
    references = [container if isinstance(container, str) else container.id for container in containers]
    if not all(references):
        raise ValueError("a container object without an id was given")
    return [reference for reference in references if reference]


def _store(store: StoreArgument) -> BackupStore:
    if store == "":
        raise ValueError("store is an empty path; leave it out for the user's data folder")
    return store if isinstance(store, BackupStore) else BackupStore(store)
