"""Runs guards: idle containers of ours that protect the data of stopped containers from a prune.

An engine's prune removes every container that does not run, then the images, volumes and networks that no container
uses. Our tag does not protect an image, and a container that was only created is removed like a stopped one. But
everything that a running container uses stays. So before a container is stopped, its file system is committed, and a
guard, a container of that image, is started with all of its volumes mounted. Containers that have changed nothing in
the same image share the guard of that image.
"""

from __future__ import annotations

import io
import logging
import secrets
import struct
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeAlias

from docker_rollback._containers import ContainerSnapshotter, StoreIdentity
from docker_rollback._engine import ContainerFilter, Engine, removal_error
from docker_rollback._inspection import quiet_request
from docker_rollback._model import ContainerSnapshot, NetworkRecord, Observed
from docker_rollback._names import GUARD, GUARD_NAME, OPERATION_LABEL, ROLE_LABEL, live
from docker_rollback._store import BackupStore
from docker_rollback.errors import ContainerNotFoundError, EngineError

logger = logging.getLogger("docker_rollback")

Exposed: TypeAlias = tuple[Observed, str]
"""A container that will be stopped, and the name of its image in the engine."""

_HOME: Final = "/.docker-rollback-guard"
# A program of our own, since the image may have none that runs. It only waits, and needs no file of the image.
_PROGRAM: Final = f"{_HOME}/wait"
_AT_ONCE: Final = 4

_WAITING: Final[Mapping[str, tuple[int, bytes]]] = {
    # mov eax, 34 (pause); syscall; jmp to the start
    "x86_64": (62, bytes.fromhex("b8220000000f05ebf7")),
    # mov x0..x4, 0; mov x8, 73 (ppoll); svc 0; b to the start
    "aarch64": (
        183,
        struct.pack("<5I", *(0xD2800000 + number for number in range(5)))
        + struct.pack("<3I", 0xD2800928, 0xD4000001, 0x17FFFFF9),
    ),
}
"""The ELF number of each architecture, and the machine code of a program that waits until it is killed.

Machine code needs no libraries, and the engine may have another architecture than this machine.
"""


class Journalled(Protocol):
    """An operation whose journal record lists the containers that are stopped for it."""

    @property
    def id(self) -> str:
        """The operation's id."""

    def note_stopped(self, stopped: Sequence[ContainerSnapshot], networks: Sequence[NetworkRecord]) -> None:
        """Record durably the containers that are about to be stopped, and their networks."""


class Guards:
    """Runs the guards of one operation.

    They outlive the ``with`` block, because recovery needs them after an error. After a success, call `remove` first.

    Args:
        engine: the engine that runs them.
        snapshotter: commits the containers.
        operation: the id of the operation; recovery finds the guards by it.
        store: the store that has the operation's record.
    """

    def __init__(
        self, engine: Engine, snapshotter: ContainerSnapshotter, *, operation: str, store: BackupStore
    ) -> None:
        self._engine = engine
        self._snapshotter = snapshotter
        self._labels = {ROLE_LABEL: GUARD, OPERATION_LABEL: operation, **StoreIdentity(store).labels()}
        self._standing: list[str] = []
        self._exposed: tuple[ContainerSnapshot, ...] = ()
        self._live: dict[str, ContainerSnapshot] = {}
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="guard")
        self._started: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Recovery, which may look for them next, has to find all of them.
        wait(self._started)
        self._pool.shutdown()

    def stand(self, exposed: Sequence[Exposed]) -> tuple[ContainerSnapshot, ...]:
        """Commit running containers, start a guard for each, and return the snapshots of those commits.

        A container that cannot be committed or guarded is logged, and is backed up without protection.
        """
        self._exposed = tuple(self._pool.map(self._commit, exposed))
        protected: dict[str, list[ContainerSnapshot]] = {}
        for snapshot in self._live.values():
            # A clean container has the file system of its image, and shares the guard of that with others.
            image = snapshot.image.id if snapshot.image.clean else live(snapshot.image.tag)
            protected.setdefault(image, []).append(snapshot)
        for _ in self._pool.map(lambda image: self._protect(protected[image], image), protected):
            pass
        return self._exposed

    def live(self, container: str) -> ContainerSnapshot | None:
        """Return the snapshot of a container, by its id, that was taken while it ran, or None."""
        return self._live.get(container)

    def renew(self, snapshot: ContainerSnapshot) -> None:
        """Start a second guard for a container that was written to after its first commit, without waiting for it."""
        before = self._live.get(snapshot.id)
        if before is not None and before.image.committed_layers != snapshot.image.committed_layers:
            # In the background, because the container is down; the first guard protects all but these changes.
            self._started.append(self._pool.submit(self._protect, [snapshot], snapshot.image.tag))

    def remove(self) -> None:
        """Remove all guards, and the images that were committed while the containers ran."""
        for started in self._started:
            started.result()
        for _ in self._pool.map(self._remove, self._standing):
            pass
        self._standing.clear()
        for snapshot in self._exposed:
            self._snapshotter.forget_live(snapshot)
        self._exposed = ()
        self._live.clear()

    def _commit(self, exposed: Exposed) -> ContainerSnapshot:
        container, tag = exposed
        try:
            snapshot = self._snapshotter.capture_live(container, tag=tag)
        except EngineError as error:
            logger.warning("%s: could not commit it while it runs, so no guard protects it: %s", container.name, error)
            return self._snapshotter.uncommitted(container, tag=tag)
        self._live[container.id] = snapshot
        return snapshot

    def _protect(self, snapshots: Sequence[ContainerSnapshot], image: str) -> None:
        """Start one guard for containers that have the file system of an image, or else one for each."""
        names = ", ".join(snapshot.name for snapshot in snapshots)
        architecture = self._engine.info().architecture
        if architecture not in _WAITING:
            logger.warning("%s: no guard protects it, because guards do not run on %s", names, architecture)
            self._commit_unwritten(snapshots)
            return
        try:
            self._start(snapshots, image, architecture)
        except EngineError as error:
            if len(snapshots) == 1:
                logger.warning(
                    "%s: could not start a guard, so a prune can remove it while it is stopped: %s", names, error
                )
                self._commit_unwritten(snapshots)
                return
            # A volume of one of them may have failed.
            logger.info("could not start one guard for %s, so each gets its own: %s", names, error)
            for snapshot in snapshots:
                self._protect([snapshot], image)

    def _commit_unwritten(self, snapshots: Sequence[ContainerSnapshot]) -> None:
        """Commit containers that have no guard all the same: a removed container comes back if its image is removed."""
        for snapshot in snapshots:
            try:
                self._snapshotter.commit_live(snapshot)
            except EngineError as error:
                logger.warning("%s: could not commit it while it runs: %s", snapshot.name, error)

    def _start(self, snapshots: Sequence[ContainerSnapshot], image: str, architecture: str) -> None:
        name = f"{GUARD_NAME}{secrets.token_hex(6)}"
        # Added first: a create whose answer is lost may have created it anyway.
        self._standing.append(name)
        guard = self._engine.create_container(name, request(snapshots, image, self._labels))
        self._engine.put_archive(guard, program(architecture))
        self._engine.start_container(guard)

    def _remove(self, name: str) -> None:
        error = removal_error(lambda: self._engine.remove_container(name, force=True))
        if error is not None:
            logger.warning("could not remove guard %s: %s", name, error)


def request(snapshots: Sequence[ContainerSnapshot], image: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the request that creates the guard of containers from the image with their file system. Pure."""
    configs = [snapshot.inspection["Config"] for snapshot in snapshots]
    volumes = sorted({mount.source for one in snapshots for mount in one.mounts if mount.kind == "volume"})
    mounts = [
        {
            "Type": "volume",
            "Source": volume,
            "Target": f"{_HOME}/volumes/{number}",
            "ReadOnly": True,
            "VolumeOptions": {"NoCopy": True},
        }
        for number, volume in enumerate(volumes)
    ]
    # A tmpfs at each path that the image declares as a volume: else the engine would create anonymous volumes there.
    declared = [path for config in configs for path in config.get("Volumes") or {}]
    hidden = [label for config in configs for label in config.get("Labels") or {}]
    host = {"Mounts": mounts, "Tmpfs": dict.fromkeys(declared, "")}
    return quiet_request(image, [_PROGRAM], labels=labels, hidden=hidden, host=host)


def program(architecture: str) -> bytes:
    """Return a tar archive with the program of a guard. Pure."""
    machine, code = _WAITING[architecture]
    start = 0x400000
    # An ELF file header, and one program header for a segment that spans the whole file.
    at = start + 64 + 56
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, at, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = 64 + 56 + len(code)
    header += struct.pack("<IIQQQQQQ", 1, 5, 0, start, start, size, size, 0x1000)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo(_HOME.lstrip("/"))
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        file = tarfile.TarInfo(_PROGRAM.lstrip("/"))
        file.size, file.mode = size, 0o755
        archive.addfile(file, io.BytesIO(header + code))
    return whole.getvalue()


def remove_guards(engine: Engine, *, of: str) -> None:
    """Remove the guards of an operation, if there are any. Raises `EngineError` if the engine refuses."""
    for container in engine.list_containers(_guards_with({OPERATION_LABEL: of})):
        engine.remove_container(container, force=True)


def guards_of(engine: Engine, store: BackupStore) -> dict[str, str]:
    """Return the guards of a store's operations: the id of each, with its operation's id. Raises `EngineError`."""
    identity, found = StoreIdentity(store), dict[str, str]()
    for container in engine.list_containers(_guards_with({})):
        try:
            labels = engine.inspect_container(container)["Config"].get("Labels") or {}
        except ContainerNotFoundError:
            continue
        if identity.is_ours(labels):
            found[container] = labels.get(OPERATION_LABEL, "")
    return found


def _guards_with(labels: Mapping[str, str]) -> ContainerFilter:
    # By name too: an image may carry any label, and pass it on to a container that is not ours.
    return ContainerFilter(name_prefix=GUARD_NAME, labels={ROLE_LABEL: GUARD, **labels})
