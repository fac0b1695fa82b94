"""VolumeArchiver: the data of volumes, out of them into the store and back."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from attrs import frozen

from docker_rollback import _volumes
from docker_rollback._engine.port import Engine, Inspection, Process
from docker_rollback._model import Backup, Descriptor, NotCovered, VolumeArchive, Way, backup_id
from docker_rollback._store import VOLUME_ARCHIVE, BackupStore, BlobWriter, Draft
from docker_rollback.errors import ArchiveError, CorruptBackupError, VolumeAccessError

logger = logging.getLogger("docker_rollback")

Progress = Callable[[str, int], None]
"""Told a volume's name and the bytes of tar that were read or written so far; called from several threads."""


class VolumeArchiver:
    """Archives volumes, and fills them from their archives.

    Args:
        engine: where the volumes are.
        store: where the archives are.
        way: "direct" or "helper" to go that way alone; by default directly where that is proven, else by a helper.
        helper_image: an image with GNU tar and a shell for the helpers; by default one is made from this machine's own
            programs.
        level: of zstd; 1 is fastest, 3 takes half as long again and saves little.
        progress: told how far each volume is.

    Example:
        >>> archiver = VolumeArchiver(DockerEngine.from_env(), BackupStore("/var/backups/middleware"))
        >>> archive = archiver.archive("pgdata")
        >>> archiver.extract(archive)
    """

    def __init__(
        self,
        engine: Engine,
        store: BackupStore,
        *,
        way: Way | None = None,
        helper_image: str | None = None,
        level: int = 1,
        progress: Progress | None = None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._access = _volumes.VolumeAccess(engine, way=way, helper_image=helper_image)
        self._level = level
        self._progress = progress

    def probe(self, volumes: Sequence[str]) -> dict[str, Way]:
        """Return the way to each volume's data; nothing in them is touched.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: there is no way to one of them; it names it.
            EngineError: the engine does not answer.
        """
        return self._access.probe(volumes)

    def archive(self, volume: str, *, in_use: bool = False) -> VolumeArchive:
        """Archive one volume by itself, as a backup in the store that holds no container.

        Args:
            volume: its name.
            in_use: archive it even while a running container can write to it; what that writes meanwhile makes the
                archive a mixture of moments.

        Returns:
            The archive, durable and verified.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: there is no way to it, or a running container can write to it.
            ArchiveError: its data could not be read as a whole.
            StoreError: it could not be kept.
            EngineError: the engine refused or failed.
        """
        inspection = self._engine.inspect_volume(volume)
        name = str(inspection["Name"])
        if not in_use:
            self._refuse_users(name, [user for user in self._access.users(name) if _may_write(user, name)])
        created = datetime.now(UTC)
        identity = backup_id(name, created, secrets.token_hex(3))
        with self._store.draft(identity) as draft:
            with self.begin([name], draft, operation=identity) as capture:
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
    ) -> Iterator[VolumeCapture]:
        """Have everything ready for a capture, for the time of a block; to be entered while the service still runs.

        What was captured is flushed when the block ends, so it is best left once the service runs again; `seal` comes
        after it.

        Args:
            volumes: their names.
            draft: the backup that they go into.
            operation: what a helper serves, for whoever finds it left over.
            anonymous: those of them that go with their container.
            ways: the ways that `probe` found.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: there is no way to one of them.
            EngineError, StoreError: what they say.
        """
        with ExitStack() as writers:
            with self._access.reading(volumes, operation=operation, ways=ways) as reaches:
                capture = VolumeCapture(
                    self._store,
                    draft,
                    reaches,
                    writers,
                    frozenset(anonymous),
                    level=self._level,
                    progress=self._progress,
                )
                yield capture
            capture.flush()

    def extract(self, archive: VolumeArchive, volume: str | None = None, *, verify: bool = True) -> None:
        """Fill a volume that is there from its archive; what the archive does not hold is removed from it.

        It can be done again from the start, also after it was cut off half way.

        Args:
            archive: what to fill it from.
            volume: the volume's name; by default the one that it had.
            verify: read the whole archive once before the first file is touched, for those who have not done so.

        Raises:
            VolumeNotFoundError: the engine has no such volume; none is made.
            VolumeAccessError: there is no way to it, or a running container uses it; nothing was touched.
            CorruptBackupError: the archive is damaged; with `verify`, nothing was touched.
            ArchiveError: not everything could be put back.
            StoreError, EngineError: what they say.
        """
        name = str(self._engine.inspect_volume(archive.name if volume is None else volume)["Name"])
        self._refuse_users(name, self._access.users(name))
        blobs = [archive.base, *([archive.increment] if archive.increment is not None else [])]
        if verify:
            for blob in blobs:
                for _ in self._store.open_blob(blob):
                    pass
        operation = f"fill-{secrets.token_hex(4)}"
        with self._access.filling(name, operation=operation) as reach:
            # Looked at again: the way here may have taken a while.
            self._refuse_users(name, self._access.users(name, passing=operation))
            _volumes.drop_attributes(reach, keep=_volumes.attributes(self._unpacked(archive.base)))
            done = 0
            for number, blob in enumerate(blobs):
                done = self._fill(reach, blob, done, beginning=_volumes.emptying() if number == 0 else b"")
            _flush(reach)
        logger.info("volume %s is filled (%s, %d bytes of tar)", name, reach.way, done)

    def remove_left_over(self, operation: str | None = None) -> list[str]:
        """Remove the helper containers of an operation that is over, all of this library's where None is named.

        Returns:
            The ids of those that were there.

        Raises:
            EngineError: the engine refused or failed.
        """
        return _volumes.remove_left_over(self._engine, operation)

    def _fill(self, reach: _volumes.Reach, blob: Descriptor, done: int, *, beginning: bytes) -> int:
        with reach.run(_volumes.extract(reach.root), stdin=True) as tar:
            tar.write(beginning)
            for data in self._unpacked(blob):
                tar.write(data)
                done += len(data)
                if self._progress is not None:
                    self._progress(reach.volume, done)
            tar.close_input()
            _volumes.check_extracted(reach.volume, tar.finish())
        return done

    def _unpacked(self, blob: Descriptor) -> Iterator[bytes]:
        return _unpacked(self._store, blob)

    def _refuse_users(self, volume: str, users: Sequence[Inspection]) -> None:
        if users:
            names = ", ".join(repr(str(user["Name"]).lstrip("/")) for user in users)
            raise VolumeAccessError(volume, f"running containers use it: {names}; stop them first")


@frozen
class _Taken:
    """One volume's archive, as far as its capture knows it."""

    size: int
    not_covered: tuple[NotCovered, ...]


class VolumeCapture:
    """A set of volumes within reach, to be captured once; made by `VolumeArchiver.begin`."""

    def __init__(
        self,
        store: BackupStore,
        draft: Draft,
        reaches: Sequence[_volumes.Reach],
        writers: ExitStack,
        anonymous: frozenset[str],
        *,
        level: int,
        progress: Progress | None,
    ) -> None:
        self._store = store
        self._draft = draft
        self._reaches = reaches
        self._stack = writers
        self._anonymous = anonymous
        self._level = level
        self._progress = progress
        self._writers: dict[str, BlobWriter] | None = None
        self._taken: dict[str, _Taken] = {}
        self._blobs: dict[str, Descriptor] | None = None
        self._crew = _Crew()

    def capture(self, *, at_rest: bool = True) -> None:
        """Archive all volumes at once, within the processors there are; to be called once, while they are at rest.

        Args:
            at_rest: False where something may write to them meanwhile; a file that changes is no error then.

        Raises:
            ArchiveError: a volume's data could not be read as a whole; the other archives are given up.
            StoreError, EngineError: what they say.
            ValueError: it was called before.
        """
        if self._writers is not None:
            raise ValueError("a capture can be taken once")
        self._writers = {
            reach.volume: self._stack.enter_context(self._draft.blob(VOLUME_ARCHIVE)) for reach in self._reaches
        }
        processors = _processors()
        together = max(1, min(processors, len(self._reaches)))
        threads = max(1, processors // together)
        with ThreadPoolExecutor(together, thread_name_prefix="docker-rollback-archive") as pool:
            jobs = [
                pool.submit(self._take, reach, self._writers[reach.volume], threads=threads, at_rest=at_rest)
                for reach in self._reaches
            ]
            try:
                finished, _ = wait(jobs, return_when=FIRST_EXCEPTION)
                failures = [error for job in jobs if job in finished and (error := job.exception()) is not None]
                if failures:
                    raise _with_notes(failures)
            except BaseException:
                self._crew.stop()
                raise

    def flush(self) -> None:
        """Make what was captured durable; `VolumeArchiver.begin` does so when its block ends."""
        if self._writers is not None and self._blobs is None:
            self._blobs = {volume: writer.close() for volume, writer in self._writers.items()}

    def seal(self) -> tuple[VolumeArchive, ...]:
        """Return the archives, in the order of the volumes, once each was read back whole.

        Raises:
            CorruptBackupError: what the store holds is not what tar printed.
            ValueError: nothing was captured, or the block of `VolumeArchiver.begin` has not ended.
        """
        if self._blobs is None:
            raise ValueError("there is nothing to seal: capture first, and leave the block of begin")
        return tuple(self._seal(reach, self._blobs[reach.volume]) for reach in self._reaches)

    def _take(self, reach: _volumes.Reach, writer: BlobWriter, *, threads: int, at_rest: bool) -> None:
        with self._crew.at_work(reach.run, _volumes.create(reach.root, reach.snapshot)) as tar:
            progress = None if self._progress is None else _for_volume(self._progress, reach.volume)
            size = _volumes.pack(tar, writer, level=self._level, threads=threads, progress=progress)
            not_covered = _volumes.check_created(reach.volume, tar.finish(), at_rest=at_rest)
        self._taken[reach.volume] = _Taken(size, not_covered)
        logger.info("volume %s is archived (%s, %d bytes, %d stored)", reach.volume, reach.way, size, writer.size)

    def _seal(self, reach: _volumes.Reach, blob: Descriptor) -> VolumeArchive:
        taken = self._taken[reach.volume]
        size = sum(len(data) for data in _unpacked(self._store, blob))
        if size != taken.size:
            reason = f"it holds {size} bytes of the {taken.size} that tar printed"
            raise CorruptBackupError(str(self._store.path), blob.digest, reason)
        return VolumeArchive(
            name=reach.volume,
            inspection=reach.inspection,
            anonymous=reach.volume in self._anonymous,
            way=reach.way,
            base=blob,
            size=size,
            not_covered=taken.not_covered,
        )


class _Crew:
    """The programs that are at work, so that one failure ends them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._working: set[Process] = set()
        self._stopped = False

    @contextmanager
    def at_work(self, run: _volumes.Run, words: Sequence[str]) -> Iterator[Process]:
        """Have a program at work for the time of a block."""
        with run(words) as process:
            with self._lock:
                self._working.add(process)
                stopped = self._stopped
            try:
                if stopped:
                    process.kill()
                yield process
            finally:
                with self._lock:
                    self._working.discard(process)

    def stop(self) -> None:
        """End every program; one that begins later ends at once."""
        with self._lock:
            self._stopped = True
            working = list(self._working)
        for process in working:
            process.kill()


def _processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _may_write(container: Inspection, volume: str) -> bool:
    """Whether a container can change a volume now; a paused one cannot."""
    if container["State"].get("Paused"):
        return False
    mounts = [mount for mount in container.get("Mounts") or () if mount.get("Name") == volume]
    return any(mount.get("RW", True) for mount in mounts)


def _unpacked(store: BackupStore, blob: Descriptor) -> Iterator[bytes]:
    try:
        yield from _volumes.unpack(store.open_blob(blob))
    except _volumes.CorruptStreamError as error:
        raise CorruptBackupError(str(store.path), blob.digest, f"its zstd stream is broken: {error}") from error


def _flush(reach: _volumes.Reach) -> None:
    with reach.run(("sync", "-f", reach.root)) as process:
        ended = process.finish()
    if ended.exit_code != 0:
        raise ArchiveError(reach.volume, f"its file system could not be flushed: {ended.stderr.strip()}")


def _for_volume(progress: Progress, volume: str) -> Callable[[int], None]:
    return lambda done: progress(volume, done)


def _with_notes(failures: Sequence[BaseException]) -> BaseException:
    """Return the first of the failures, with the others noted on it."""
    first, *others = failures
    for other in others:
        first.add_note(f"besides, {type(other).__name__}: {other}")
    return first
