"""VolumeArchiver: archives volumes into the store and fills them from there."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from attrs import evolve

from docker_rollback._engine import Engine, Inspection
from docker_rollback._inspection import mounts, uses
from docker_rollback._model import (
    Backup,
    Exclude,
    ExcludeArgument,
    VolumeArchive,
    Way,
    as_excludes,
    backup_id,
    is_folder,
    paths_within,
)
from docker_rollback._store import BackupStore, Draft, FileLock, is_held
from docker_rollback._volumes.access.bound_folders import PLACE
from docker_rollback._volumes.access.helper import remove_left_over
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.retries import tried
from docker_rollback._volumes.access.scratch import remove_dead_scratch
from docker_rollback._volumes.access.volume_access import VolumeAccess
from docker_rollback._volumes.capture.archive_options import LIVE_FROM, ArchiveOptions, ByteListener, SizeListener
from docker_rollback._volumes.capture.size_survey import Survey, earlier, survey
from docker_rollback._volumes.capture.volume_capture import VolumeCapture
from docker_rollback._volumes.fill.filling import Filling
from docker_rollback._volumes.tar.gnu_tar import failed
from docker_rollback._volumes.tar.members import MalformedArchiveError
from docker_rollback.errors import (
    ArchiveError,
    ContainerBusyError,
    CorruptBackupError,
    StoreError,
    StoreFullError,
    StoreNotWritableError,
    VolumeAccessError,
    VolumeNotFoundError,
)

logger = logging.getLogger("docker_rollback")

_PATIENCE = 60.0  # seconds to wait until an orphaned tar notices that its parent process is gone


class VolumeArchiver:
    """Archives volumes, and fills them from their archives.

    A folder of the engine's host is archived like a volume; its name is its path. It is filled only if it exists and
    its path leads to the same place as at the capture.

    Args:
        engine: the engine that has the volumes.
        store: the store that holds the archives.
        way: the only access method to use, "direct" or "helper"; by default direct access if it is proven to be safe,
            else a helper.
        helper_image: an image with GNU tar and a shell for the helpers; by default one is made from this machine's own
            programs.
        level: zstd's compression level; 1 is fastest, 3 takes half as long again and saves little.
        progress: called with a volume's name and the bytes so far.
        expect: called first, with a volume's approximate size in bytes, or None if it is unknown.
        live_from: the size in bytes from which a volume of a group is archived while it is in use, with an increment
            once it is stopped; each file counts for 16 KiB in addition to its size.

    Example:
        >>> archiver = VolumeArchiver(DockerEngine.from_env(), BackupStore("/var/backups/middleware"))
        >>> archive = archiver.archive("pgdata")
        >>> archiver.extract(archive)
    """

    def __init__(  # noqa: PLR0913  (public, called by keyword)
        self,
        engine: Engine,
        store: BackupStore,
        *,
        way: Way | None = None,
        helper_image: str | None = None,
        level: int = 1,
        progress: ByteListener | None = None,
        expect: SizeListener | None = None,
        live_from: int = LIVE_FROM,
    ) -> None:
        self._engine = engine
        self._store = store
        self._locks: dict[str, FileLock] = {}
        self._access = VolumeAccess(
            engine,
            way=way,
            helper_image=helper_image,
            kept={"the store of the backups": str(store.path)},
            lock=self._locks.get,
        )
        self._of_this_thread = threading.local()
        self._identity: str | None = None
        self._options = ArchiveOptions(level=level, live_from=live_from, progress=progress, expect=expect)

    def probe(self, volumes: Sequence[str]) -> dict[str, Way]:
        """Return the access method for each volume; nothing in them is touched.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: a volume, which the error names, cannot be accessed.
            EngineError: the engine does not answer.
        """
        with self._alone(volumes):
            return self._access.probe(volumes)

    def survey(
        self, volumes: Sequence[str], *, exclude: Collection[Exclude] = (), looks: bool = False
    ) -> dict[str, Survey]:
        """Return each volume's access method, mount points and size.

        Args:
            volumes: their names.
            exclude: paths in them that a backup would leave out.
            looks: whether to scan a volume that the store has no archive of, to find out its size.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: a volume cannot be accessed, or a path in it is too long to be restored.
            EngineError, StoreError: the engine or the store failed.
        """
        operation = f"probe-{secrets.token_hex(4)}"
        with self._alone(volumes), self._access.reading(volumes, operation=operation) as reaches:
            reaches = tuple(evolve(reach, excluded=paths_within(reach.volume, exclude)) for reach in reaches)
            archives = self._earlier(reaches)
            return {reach.volume: survey(reach, archives.get(reach.volume, ()), looks=looks) for reach in reaches}

    def archive(self, volume: str, *, in_use: bool = False, exclude: Iterable[ExcludeArgument] = ()) -> VolumeArchive:
        """Archive a single volume, as a backup that holds no container.

        Args:
            volume: its name.
            in_use: archive it even while a running container can write to it; writes during the capture make the
                archive inconsistent.
            exclude: paths to leave out, each an `Exclude` or a text such as ``"data:tmp/*.log"``.

        Returns:
            The archive, durable and verified.

        Raises:
            ValueError: `exclude` names another volume, or all of this one.
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: it cannot be accessed, or a running container can write to it.
            ArchiveError: its data could not be read completely.
            StoreError: the archive could not be stored.
            EngineError: the engine refused or failed.
        """
        name = str(self._access.inspect(volume)["Name"])
        if not in_use:
            self._refuse_users(name, [user for user in self._access.users(name) if _may_write(user, name)])
        excluded = as_excludes(exclude)
        if wrong := [what for what in excluded if what.volume != name or not what.path]:
            raise ValueError(f"exclude leaves paths out of volume {name!r}; {str(wrong[0])!r} is none")
        created = datetime.now(UTC)
        identity = backup_id(name, created, secrets.token_hex(3))
        with self._store.draft(identity) as draft:
            with self.begin([name], draft, operation=identity, exclude=excluded) as capture:
                if not in_use:
                    # It takes the base, on which the next archive of this volume can build.
                    capture.live_pass()
                capture.capture(at_rest=not in_use)
                archives = capture.seal()
            draft.commit(
                Backup(
                    id=identity,
                    created=created,
                    engine=self._engine.info().record(),
                    quiesce="none",
                    containers=(),
                    volumes=archives,
                    excluded=excluded,
                )
            )
        return archives[0]

    @contextmanager
    def begin(
        self,
        volumes: Sequence[str],
        draft: Draft,
        *,
        operation: str,
        anonymous: Collection[str] = (),
        ways: Mapping[str, Way] | None = None,
        exclude: Collection[Exclude] = (),
    ) -> Iterator[VolumeCapture]:
        """Prepare a capture, and yield it; enter the block while the service still runs.

        Archives that are not finalised when the block ends are discarded.

        Args:
            volumes: their names.
            draft: the backup that the archives go into.
            operation: the operation's id, for the labels of helpers.
            anonymous: the anonymous volumes among them.
            ways: the access methods that `probe` returned.
            exclude: paths to leave out.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: a volume cannot be accessed.
            EngineError, StoreError: the engine or the store failed.
        """
        with (
            self._alone(volumes),
            ExitStack() as writers,
            self._access.reading(volumes, operation=operation, ways=ways) as reaches,
        ):
            reaches = tuple(evolve(reach, excluded=paths_within(reach.volume, exclude)) for reach in reaches)
            capture = VolumeCapture(
                self._store,
                draft,
                reaches,
                writers,
                frozenset(anonymous),
                options=self._options,
                formers=lambda: self._earlier(reaches),
            )
            try:
                yield capture
            finally:
                capture.stand_down()

    def extract(self, archive: VolumeArchive, volume: str | None = None, *, verify: bool = True) -> None:
        """Fill an existing volume from its archive; files that the archive does not hold are removed.

        Files that are proven to be untouched since the capture are not written again; the result is the same. An
        extraction that was interrupted can be repeated from the start.

        Args:
            archive: the archive.
            volume: the volume's name; by default the archived volume's.
            verify: read the whole archive once before the first file is touched.

        Raises:
            VolumeNotFoundError: the engine has no such volume, or somebody removed it meanwhile; none is created.
            VolumeAccessError: it cannot be accessed, or a running container uses it; nothing was touched.
            CorruptBackupError: the archive is damaged; with `verify`, nothing was touched.
            ArchiveError: not everything could be restored.
            StoreError, EngineError: the store or the engine failed.
        """
        name = str(self._access.inspect(archive.name if volume is None else volume)["Name"])
        self._refuse_users(name, self._access.users(name))
        if verify:
            blobs = {blob.digest: blob for tar in archive.tars for blob in self._store.blobs_of(tar)}
            for blob in blobs.values():
                for _ in self._store.open_blob(blob):
                    pass
        place = archive.inspection.get(PLACE) if name == archive.name else None
        operation = f"fill-{secrets.token_hex(4)}"
        with self._alone([name]), self._access.filling(name, operation=operation, place=place) as reach:
            # Check again: starting a helper may have taken a while.
            self._refuse_users(name, self._access.users(name))
            if reach.is_file != archive.is_file:
                now, then = ("regular file", "folder") if reach.is_file else ("folder", "regular file")
                raise VolumeAccessError(name, f"it is a {now} now, and was a {then}; remove it, then restore again")
            filling = Filling(reach, archive, self._store, self._options.progress_of(reach.volume))

            def fill() -> int:
                try:
                    done = filling.fill()
                    _flush(reach)
                except OSError as error:
                    self._check_there(reach)
                    raise ArchiveError(name, f"filling it failed: {error}", permanent=False) from error
                except MalformedArchiveError as error:
                    # Which of them it is only the reader knew.
                    blobs = " or ".join(tar.digest for tar in archive.tars)
                    raise CorruptBackupError(str(self._store.path), blobs, str(error)) from error
                except ArchiveError:
                    self._check_there(reach)
                    raise
                self._check_there(reach)
                return done

            done = tried(fill, doing=f"volume {name}: filling it")
        logger.info("volume %s is filled (%s, %d bytes of tar)", name, reach.way, done)

    @contextmanager
    def holding(self, volumes: Sequence[str]) -> Iterator[None]:
        """Keep volumes mounted during a block that fills them and starts their containers.

        A volume in memory (``type=tmpfs``) loses its files as soon as nothing mounts it. Plain volumes cost nothing
        here.

        Args:
            volumes: their names.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: no helper can mount one of them.
            EngineError: the engine refused or failed.

        Example:
            >>> with archiver.holding([archive.name]):
            ...     archiver.extract(archive)
            ...     engine.start_container("cache")
        """
        with self._alone(volumes), self._access.holding(volumes):
            yield

    def provide(self, volume: str, *, is_file: bool = False) -> None:
        """Create a volume's folder, or a folder or file of the engine's host, if it is missing; it is empty.

        Args:
            volume: the volume's name, or the path of the folder or file.
            is_file: whether it is a single file.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: something else is in its place, or it cannot be accessed.
            EngineError: the engine does not answer.
        """
        with self._alone([volume]):
            if is_file:
                self._access.provide_file(volume)
            else:
                self._access.provide(volume)

    def check_device(self, volume: str) -> None:
        """Raise a `VolumeAccessError` if the host folder that a volume's options bind it to is missing."""
        with self._alone([volume]):
            self._access.check_device(volume)

    def missing(self, paths: Sequence[str]) -> dict[str, str]:
        """Return which paths of the engine's host are missing, and the first missing folder or file on each path."""
        if not paths:
            return {}
        with self._alive() as lock:
            return self._access.missing(paths, lock=lock)

    @contextmanager
    def keeping_missing(self, missing: Mapping[str, str]) -> Iterator[None]:
        """Remove, after a block, the empty folders that the engine made in it for paths that `missing` returned.

        Raises:
            VolumeAccessError: such a folder has something in it, or no helper can remove it.
            EngineError: the engine refused or failed.
        """
        with self._alive() if missing else nullcontext("") as lock, self._access.keeping_missing(missing, lock=lock):
            yield

    def refuse_mounts(self, volume: str) -> None:
        """Raise a `VolumeAccessError` if something is mounted in a volume: removing the volume would empty that too."""
        with self._alone([volume]), self._access.reading([volume], operation=f"look-{secrets.token_hex(4)}") as found:
            for point in found[0].mount_points:
                raise VolumeAccessError(
                    volume,
                    f"another volume has its name, and something is mounted in that at {point.path!r}, which would be "
                    "emptied with it; unmount it, then restore again",
                )

    def remove_left_over(self) -> list[str]:
        """Remove the helper containers and temporary folders of processes that died on this machine.

        Returns:
            The ids of the removed helpers.

        Raises:
            EngineError: the engine refused or failed.
        """
        remove_dead_scratch()
        return remove_left_over(self._engine, _is_free)

    def forget_image(self) -> None:
        """Remove the image of helpers if a process that died has left it; an image in use stays."""
        self._access.forget_image()

    @contextmanager
    def _alone(self, volumes: Sequence[str]) -> Iterator[None]:
        """Lock volumes against other processes that use this store, and against orphaned children of dead ones.

        Raises:
            VolumeAccessError: another process holds one of the locks for too long.
        """
        ours: set[str] = self._of_this_thread.__dict__.setdefault("volumes", set())
        with ExitStack() as held:
            # Always lock in the same order, to avoid deadlocks.
            for volume in sorted(set(volumes) - ours):
                held.enter_context(self._hold(volume))
                ours.add(volume)
                held.callback(ours.discard, volume)
            yield

    @contextmanager
    def _alive(self) -> Iterator[str]:
        """Hold a lock for a helper that mounts no locked volume, and yield its path; empty if the store has no locks.

        It shows that the process lives whose helper has been created and not started yet.
        """
        with ExitStack() as held:
            lock = ""
            try:
                lock = str(held.enter_context(self._store.lock(f"helper.{secrets.token_hex(8)}", container="/")).path)
            except (StoreNotWritableError, StoreFullError) as error:
                logger.warning("a helper container has no lock: %s", error)
            yield lock

    @contextmanager
    def _hold(self, volume: str) -> Iterator[None]:
        with ExitStack() as held:
            try:
                lock = held.enter_context(self._store.lock(self._key(volume), container=volume, timeout=_PATIENCE))
            except ContainerBusyError as error:
                raise VolumeAccessError(volume, f"another process is at work on it: {error.holder}") from None
            except (StoreNotWritableError, StoreFullError) as error:
                # A backup in such a store can still be restored.
                logger.warning("volume %s is not locked: %s", volume, error)
                yield
                return
            self._locks[volume] = lock
            held.callback(self._locks.pop, volume)
            yield

    def _earlier(self, reaches: Sequence[Reach]) -> dict[str, list[VolumeArchive]]:
        identity = self._engine.info().identity
        return earlier(self._store.list() if identity else (), identity, reaches)

    def _key(self, volume: str) -> str:
        """Return the name of a volume's lock: a volume's name can be longer than a file's, and a path is not a name."""
        if self._identity is None:
            self._identity = self._engine.info().identity
        return f"volume.{hashlib.sha256(f'{self._identity}/{volume}'.encode()).hexdigest()[:32]}"

    def _check_there(self, reach: Reach) -> None:
        """Raise a `VolumeNotFoundError` if somebody has removed a volume, and so the files that were written to it."""
        if is_folder(reach.volume):
            return
        self._access.inspect(reach.volume)
        if reach.tree is not None and reach.tree.is_removed:
            raise VolumeNotFoundError(reach.volume, action=f"fill volume {reach.volume!r}, which somebody removed,")

    def _refuse_users(self, volume: str, users: Sequence[Inspection]) -> None:
        if users:
            names = ", ".join(repr(str(user["Name"]).lstrip("/")) for user in users)
            raise VolumeAccessError(volume, f"running containers use it: {names}; stop them first")


def _is_free(lock: str) -> bool:
    path = Path(lock)
    try:
        # A lock without a file may belong to another machine with a store of the same path; a helper's label tells.
        return path.exists() and not is_held(path)
    except StoreError:
        return False


def _flush(reach: Reach) -> None:
    with reach.run(("sync", "-f", reach.root)) as process:
        ended = process.finish()
    if ended.exit_code != 0:
        raise failed(reach.volume, "flushing its file system", "sync", ended)


def _may_write(container: Inspection, volume: str) -> bool:
    """Return True if a container can change a volume now; a paused one cannot."""
    if container["State"].get("Paused"):
        return False
    return any(uses(mount, volume) and not mount.read_only for mount in mounts(container))
