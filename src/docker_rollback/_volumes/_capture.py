"""A set of volumes, captured at once: tar of each at work together, compressed, hashed, and read back."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

from attrs import frozen

from docker_rollback._engine.port import Process
from docker_rollback._model import Descriptor, NotCovered, VolumeArchive
from docker_rollback._store import VOLUME_ARCHIVE, BackupStore, BlobWriter, Draft
from docker_rollback._volumes import _tar
from docker_rollback._volumes._access import Reach, Run
from docker_rollback._volumes._stream import CorruptStreamError, pack, unpack
from docker_rollback.errors import CorruptBackupError, EngineError

logger = logging.getLogger("docker_rollback")

Progress: TypeAlias = Callable[[str, int], None]
"""Told a volume's name and the bytes of tar that were read or written so far; called from several threads."""


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
        reaches: Sequence[Reach],
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

    def _take(self, reach: Reach, writer: BlobWriter, *, threads: int, at_rest: bool) -> None:
        with self._crew.at_work(reach.run, _tar.create(reach.root, reach.snapshot)) as tar:
            progress = None if self._progress is None else _for_volume(self._progress, reach.volume)
            size = pack(tar, writer, level=self._level, threads=threads, progress=progress)
            not_covered = _tar.check_created(reach.volume, tar.finish(), at_rest=at_rest)
        self._taken[reach.volume] = _Taken(size, not_covered)
        logger.info("volume %s is archived (%s, %d bytes, %d stored)", reach.volume, reach.way, size, writer.size)

    def _seal(self, reach: Reach, blob: Descriptor) -> VolumeArchive:
        taken = self._taken[reach.volume]
        size = sum(len(data) for data in read_archive(self._store, blob))
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
    def at_work(self, run: Run, words: Sequence[str]) -> Iterator[Process]:
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
            try:
                process.kill()
            except EngineError as error:
                # The failure for which they are ended is the one to tell of; this may well be its other face.
                logger.debug("a program could not be ended: %s", error)


def read_archive(store: BackupStore, blob: Descriptor) -> Iterator[bytes]:
    """Yield the tar that an archive holds; raises `CorruptBackupError` where it is damaged."""
    try:
        yield from unpack(store.open_blob(blob))
    except CorruptStreamError as error:
        raise CorruptBackupError(str(store.path), blob.digest, f"its zstd stream is broken: {error}") from error


def _processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _for_volume(progress: Progress, volume: str) -> Callable[[int], None]:
    return lambda done: progress(volume, done)


def _with_notes(failures: Sequence[BaseException]) -> BaseException:
    """Return the first of the failures, with the others noted on it."""
    first, *others = failures
    for other in others:
        first.add_note(f"besides, {type(other).__name__}: {other}")
    return first
