"""VolumeArchiver: the data of volumes, out of them into the store and back."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from docker_rollback.errors import (
    ArchiveError,
    ContainerBusyError,
    StoreError,
    StoreFullError,
    StoreNotWritableError,
    VolumeAccessError,
    VolumeNotFoundError,
)

logger = logging.getLogger("docker_rollback")

_PATIENCE = 60.0
"""Seconds that we wait for tar to notice that the process which it worked for is gone."""


class VolumeArchiver:
    """Archives volumes, and fills them from their archives.

    A folder of the engine's host is archived like a volume; its name is its path. Where it is to be filled again, it
    has to be there, and to lead where it led.

    Args:
        engine: where the volumes are.
        store: where the archives are.
        way: "direct" or "helper" to go that way alone; by default directly where that is proven, else by a helper.
        helper_image: an image with GNU tar and a shell for the helpers; by default one is made from this machine's own
            programs.
        level: of zstd; 1 is fastest, 3 takes half as long again and saves little.
        progress: told how far each volume is.
        expect: told before about how many bytes there are of it; None where that is not known.
        live_from: from how many bytes on a volume of a group is archived while it is in use, and what changed after
            that when it is at rest; each file counts for 16 KiB beside its own.

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
        """Return the way to each volume's data; nothing in them is touched.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: there is no way to one of them; it names it.
            EngineError: the engine does not answer.
        """
        with self._alone(volumes):
            return self._access.probe(volumes)

    def survey(
        self, volumes: Sequence[str], *, exclude: Collection[Exclude] = (), looks: bool = False
    ) -> dict[str, Survey]:
        """Return of each volume the way to its data, what is mounted in it, and how large it is.

        Args:
            volumes: their names.
            exclude: paths in them that would be left out.
            looks: whether a volume that the store has no archive of is looked at, to know its size.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: there is no way to one of them, or a path in it is too long to be put back.
            EngineError, StoreError: what they say.
        """
        operation = f"probe-{secrets.token_hex(4)}"
        with self._alone(volumes), self._access.reading(volumes, operation=operation) as reaches:
            reaches = tuple(evolve(reach, excluded=paths_within(reach.volume, exclude)) for reach in reaches)
            archives = self._earlier(reaches)
            return {reach.volume: survey(reach, archives.get(reach.volume, ()), looks=looks) for reach in reaches}

    def archive(self, volume: str, *, in_use: bool = False, exclude: Iterable[ExcludeArgument] = ()) -> VolumeArchive:
        """Archive one volume by itself, as a backup in the store that holds no container.

        Args:
            volume: its name.
            in_use: archive it even while a running container can write to it; what that writes meanwhile makes the
                archive a mixture of moments.
            exclude: paths in it that are left out, each an `Exclude` or a text such as ``"data:tmp/*.log"``.

        Returns:
            The archive, durable and verified.

        Raises:
            ValueError: `exclude` names another volume, or all of this one.
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: there is no way to it, or a running container can write to it.
            ArchiveError: its data could not be read as a whole.
            StoreError: it could not be kept.
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
                    # For the base, on which the next archive of this volume can build.
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
        """Have everything ready for a capture, for the time of a block; to be entered while the service still runs.

        What was captured and not sealed by the end of the block is gone.

        Args:
            volumes: their names.
            draft: the backup that they go into.
            operation: what a helper serves, for whoever finds it left over.
            anonymous: those of them that go with their container.
            ways: the ways that `probe` found.
            exclude: paths in them that are left out.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: there is no way to one of them.
            EngineError, StoreError: what they say.
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
                formers=lambda: {
                    name: [one for one in found if one.listing is not None]
                    for name, found in self._earlier(reaches).items()
                },
            )
            try:
                yield capture
            finally:
                capture.stand_down()

    def extract(self, archive: VolumeArchive, volume: str | None = None, *, verify: bool = True) -> None:
        """Fill a volume that is there from its archive; what the archive does not hold is removed from it.

        Files that are proven never to have been touched since the archive was taken are left alone; the result is the
        same. It can be done again from the start, also after it was cut off half way.

        Args:
            archive: what to fill it from.
            volume: the volume's name; by default the one that it had.
            verify: read the whole archive once before the first file is touched, for those who have not done so.

        Raises:
            VolumeNotFoundError: the engine has no such volume, or somebody removed it meanwhile; none is made.
            VolumeAccessError: there is no way to it, or a running container uses it; nothing was touched.
            CorruptBackupError: the archive is damaged; with `verify`, nothing was touched.
            ArchiveError: not everything could be put back.
            StoreError, EngineError: what they say.
        """
        name = str(self._access.inspect(archive.name if volume is None else volume)["Name"])
        self._refuse_users(name, self._access.users(name))
        blobs = [archive.base, *([archive.increment] if archive.increment is not None else [])]
        if verify:
            for blob in blobs:
                for _ in self._store.open_blob(blob):
                    pass
        place = archive.inspection.get(PLACE) if name == archive.name else None
        operation = f"fill-{secrets.token_hex(4)}"
        with self._alone([name]), self._access.filling(name, operation=operation, place=place) as reach:
            # Looked at again: the way here may have taken a while.
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
                except ArchiveError:
                    self._check_there(reach)
                    raise
                self._check_there(reach)
                return done

            done = tried(fill, doing=f"volume {name}: filling it")
        logger.info("volume %s is filled (%s, %d bytes of tar)", name, reach.way, done)

    @contextmanager
    def holding(self, volumes: Sequence[str]) -> Iterator[None]:
        """Keep volumes mounted for the time of a block that fills them and starts what uses them.

        A volume in memory (``type=tmpfs``) is empty again as soon as nothing mounts it, so what was filled in without
        this is gone. Plain volumes cost nothing here.

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
        """Have a volume's folder, or a folder or file of the engine's host, there; one that is gone is made, empty.

        Args:
            volume: the volume's name, or the path of the folder or file.
            is_file: whether it is a single file.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: something else is in its place, or there is no way to it.
            EngineError: the engine does not answer.
        """
        with self._alone([volume]):
            if is_file:
                self._access.provide_file(volume)
            else:
                self._access.provide(volume)

    def check_device(self, volume: str) -> None:
        """Raise a `VolumeAccessError` if the folder of the host that a volume is bound to by its options is gone."""
        with self._alone([volume]):
            self._access.check_device(volume)

    def missing(self, paths: Sequence[str]) -> dict[str, str]:
        """Return which paths of the engine's host are missing, and the first missing folder or file on each path."""
        return self._access.missing(paths)

    @contextmanager
    def keeping_missing(self, missing: Mapping[str, str]) -> Iterator[None]:
        """Remove, after a block, the empty folders that the engine made in it for paths that `missing` returned.

        Raises:
            VolumeAccessError: such a folder has something in it, or no helper can remove it.
            EngineError: the engine refused or failed.
        """
        with self._access.keeping_missing(missing):
            yield

    def refuse_mounts(self, volume: str) -> None:
        """Raise a `VolumeAccessError` if something is mounted in a volume: its engine would empty that too."""
        with self._alone([volume]), self._access.reading([volume], operation=f"look-{secrets.token_hex(4)}") as found:
            for point in found[0].mount_points:
                raise VolumeAccessError(
                    volume,
                    f"another volume has its name, and something is mounted in that at {point.path!r}, which would be "
                    "emptied with it; unmount it, then restore again",
                )

    def remove_left_over(self) -> list[str]:
        """Remove the helper containers and temporary folders whose makers died, if this machine's kernel can tell.

        Returns:
            The ids of the helpers that were there.

        Raises:
            EngineError: the engine refused or failed.
        """
        remove_dead_scratch()
        return remove_left_over(self._engine, _is_free)

    def forget_image(self) -> None:
        """Remove the image of helpers where a process that died has left it; one that is in use stays."""
        self._access.forget_image()

    @contextmanager
    def _alone(self, volumes: Sequence[str]) -> Iterator[None]:
        """Hold volumes against other processes of this store, and wait for a child of a dead one that is at work yet.

        Raises:
            VolumeAccessError: somebody else holds one of them all the time.
        """
        ours: set[str] = self._of_this_thread.__dict__.setdefault("volumes", set())
        with ExitStack() as held:
            # In one order everywhere, so that no two wait for each other.
            for volume in sorted(set(volumes) - ours):
                held.enter_context(self._hold(volume))
                ours.add(volume)
                held.callback(ours.discard, volume)
            yield

    @contextmanager
    def _hold(self, volume: str) -> Iterator[None]:
        with ExitStack() as held:
            try:
                lock = held.enter_context(self._store.lock(self._key(volume), container=volume, timeout=_PATIENCE))
            except ContainerBusyError as error:
                raise VolumeAccessError(volume, f"another process is at work on it: {error.holder}") from None
            except (StoreNotWritableError, StoreFullError) as error:
                # There may be a backup in it to restore all the same.
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
        """Return the name of a volume's lock: its own may be longer than that of a file, and a path is none at all."""
        if self._identity is None:
            self._identity = self._engine.info().identity
        return f"volume.{hashlib.sha256(f'{self._identity}/{volume}'.encode()).hexdigest()[:32]}"

    def _check_there(self, reach: Reach) -> None:
        """Raise a `VolumeNotFoundError` if somebody has removed a volume: what was written to it is nowhere."""
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
        # Without its file it may be of another machine, with a store of the same path: a label of the helper tells.
        return path.exists() and not is_held(path)
    except StoreError:
        return False


def _flush(reach: Reach) -> None:
    with reach.run(("sync", "-f", reach.root)) as process:
        ended = process.finish()
    if ended.exit_code != 0:
        raise failed(reach.volume, "flushing its file system", "sync", ended)


def _may_write(container: Inspection, volume: str) -> bool:
    """Whether a container can change a volume now; a paused one cannot."""
    if container["State"].get("Paused"):
        return False
    return any(uses(mount, volume) and not mount.read_only for mount in mounts(container))
