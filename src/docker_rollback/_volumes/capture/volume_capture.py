"""A set of volumes, captured at once: tar of each at work together, compressed, hashed, and read back."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager

from attrs import define, evolve

from docker_rollback._engine import Process
from docker_rollback._model import Descriptor, NotCovered, VolumeArchive
from docker_rollback._store import LISTING, SNAPSHOT_FILE, BackupStore, Draft, Spool
from docker_rollback._volumes.access import mount_points
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.retries import tried
from docker_rollback._volumes.access.running_programs import Crew
from docker_rollback._volumes.access.single_file import check_current
from docker_rollback._volumes.capture.archive_options import ArchiveOptions
from docker_rollback._volumes.capture.base import Base
from docker_rollback._volumes.capture.increment import Increment, UnsoundError
from docker_rollback._volumes.capture.increment_check import check_alone, check_join
from docker_rollback._volumes.capture.listing import Lister
from docker_rollback._volumes.capture.live_pass import LivePass
from docker_rollback._volumes.fill.excluded_paths import Listed
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.archive_stream import gathered, pieces_of
from docker_rollback._volumes.tar.archive_writer import ArchiveWriter, ArchiveWriters
from docker_rollback._volumes.tar.members import MalformedArchiveError, PathTooLongError
from docker_rollback._zstd import packed
from docker_rollback.errors import ArchiveError, CorruptBackupError, EngineError

logger = logging.getLogger("docker_rollback")


@define(eq=False)
class _Work:
    """One volume in its capture.

    Attributes:
        reach: the volume.
        base: what was archived of it while it was in use; None where that was not done, or cannot be built upon.
        increment: what is to follow the base.
        waiting: tar, which waits to archive all of it, where there is no base.
        spool: where its increment is put aside until the service runs again.
        writer: where its archive goes, or its increment.
        size: bytes of tar.
        not_covered: what no archive holds.
    """

    reach: Reach
    base: Base | None = None
    increment: Increment | None = None
    waiting: Process | None = None
    spool: Spool | None = None
    writer: ArchiveWriter | None = None
    size: int = 0
    not_covered: tuple[NotCovered, ...] = ()


class VolumeCapture:
    """A set of volumes within reach, to be captured once; made by `VolumeArchiver.begin`.

    `live_pass`, where it is wanted, comes first and while the volumes are in use; `capture` while they are at rest;
    `seal` when they may be in use again.
    """

    def __init__(
        self,
        store: BackupStore,
        draft: Draft,
        reaches: Sequence[Reach],
        writers: ExitStack,
        anonymous: frozenset[str],
        *,
        options: ArchiveOptions,
        formers: Callable[[], Mapping[str, Sequence[VolumeArchive]]] = dict,
    ) -> None:
        self._store = store
        self._draft = draft
        self._works = [_Work(reach) for reach in reaches]
        self._stack = writers
        self._anonymous = anonymous
        self._options = options
        self._writers = ArchiveWriters(store, draft, level=options.level, rule=options.rule, earlier=formers)
        self._begun = self._ready = False
        self._crew = Crew()
        self._standing_by = ExitStack()

    def live_pass(self) -> None:
        """Archive the volumes while they are in use, the small ones excepted, and have all ready for `capture`.

        What is archived here is durable when this returns. Where it comes to nothing for a volume, because too much
        changes in it, that is no error: `capture` archives all of it.

        Raises:
            StoreError, EngineError: what they say.
            ValueError: it was called before, or `capture` was.
        """
        if self._ready or self._begun:
            raise ValueError("a live pass comes once, and first")
        self._ready = True
        live = LivePass(
            self._store,
            self._draft,
            self._crew,
            self._options,
            copies=self._stack,
            standing_by=self._standing_by,
            writers=self._writers,
        )

        def prepare(work: _Work, threads: int) -> None:
            work.base, work.increment, work.waiting = live.prepare(work.reach, threads)

        self._together(prepare)

    def capture(self, *, at_rest: bool = True, ready: Callable[[str], bool] = lambda _: True) -> None:
        """Archive all volumes at once, within the processors there are; to be called once, while they are at rest.

        Args:
            at_rest: False where something may write to them meanwhile; a file that changes is no error then.
            ready: waits until a volume can be archived; returns False if it is given up.

        Raises:
            ArchiveError: a volume's data could not be read as a whole; the other archives are given up.
            StoreError, EngineError: what they say.
            ValueError: it was called before.
        """
        if self._begun:
            raise ValueError("a capture can be taken once")
        self._begun = True
        self._together(lambda work, threads: self._take(work, threads, at_rest=at_rest), ready)

    @contextmanager
    def capturing(
        self, ended: Callable[[str, threading.Event], bool], *, at_rest: bool = True
    ) -> Iterator[Callable[[], None]]:
        """Capture each volume as soon as those who write to it have ended, during a block that ends them.

        Args:
            ended: waits until those who write to a volume have ended, or the event is set; returns whether they have,
                as far as it knows.
            at_rest: as for `capture`.

        Yields:
            A callable for the time when all have ended for sure; it returns when all is captured, and raises as
            `capture` does.
        """
        sure, given_up = threading.Event(), threading.Event()
        # An engine that stops a container unmounts its file system, and the kernel flushes for that what is dirty
        # anywhere on the disk: the service would wait for what is written until then.
        writes_much = any(work.increment.is_aside for work in self._works if work.increment is not None)

        def ready(volume: str) -> bool:
            if not writes_much and ended(volume, sure):
                logger.debug("nobody writes to volume %s any more, as far as the kernel knows", volume)
            else:
                sure.wait()
            return not given_up.is_set()

        def finish() -> None:
            sure.set()
            taking.result()

        with ThreadPoolExecutor(1, thread_name_prefix="capture") as pool:
            try:
                taking = pool.submit(lambda: self.capture(at_rest=at_rest, ready=ready))
                yield finish
            except BaseException:
                given_up.set()
                self.stop()
                raise
            finally:
                sure.set()

    def stop(self) -> None:
        """End all that is at work, from whatever thread; what waits for it fails."""
        self._crew.stop()

    def stand_down(self) -> None:
        """End the programs that wait; `VolumeArchiver.begin` does so when its block ends."""
        self._standing_by.close()

    def seal(self) -> tuple[VolumeArchive, ...]:
        """Make what was captured durable, and return the archives, in the order of the volumes, each read back whole.

        It is best called once the service runs again, and within the block of `VolumeArchiver.begin`.

        Raises:
            CorruptBackupError: what the store holds is not what tar printed, or an increment does not fit its base.
            StoreError, EngineError: what they say.
            ValueError: nothing was captured.
        """
        if not self._begun:
            raise ValueError("there is nothing to seal: capture first")
        self._together(self._fetch)
        self.stand_down()
        self._together(self._pack)
        blobs = {work.reach.volume: work.writer.close() for work in self._works if work.writer is not None}
        return tuple(self._seal(work, blobs[work.reach.volume]) for work in self._works)

    def _together(self, do: Callable[[_Work, int], None], ready: Callable[[str], bool] = lambda _: True) -> None:
        """Do something to all volumes at once, given how many threads may compress for each; one failure ends all.

        Each volume waits until it is ready, then for its turn.
        """
        processors = _processors()
        together = max(1, min(processors, len(self._works)))
        threads = max(1, processors // together)
        turns = threading.Semaphore(together)

        def do_in_turn(work: _Work) -> None:
            if ready(work.reach.volume):
                with turns:
                    do(work, threads)

        with ThreadPoolExecutor(len(self._works) or 1, thread_name_prefix="docker-rollback-archive") as pool:
            jobs = [pool.submit(do_in_turn, work) for work in self._works]
            try:
                finished, _ = wait(jobs, return_when=FIRST_EXCEPTION)
                failures = [error for job in jobs if job in finished and (error := job.exception()) is not None]
                if failures:
                    raise _with_notes(failures)
            except BaseException:
                self._crew.stop()
                raise

    def _take(self, work: _Work, threads: int, *, at_rest: bool) -> None:
        if work.increment is not None and at_rest and self._take_increment(work, work.increment):
            return
        reach, work.base = work.reach, None
        tried(
            lambda: self._take_all(work, threads, at_rest=at_rest),
            doing=f"volume {reach.volume}: archiving it",
            given_up=lambda: self._crew.stopped,
        )
        logger.info("volume %s is archived (%s, %d bytes)", reach.volume, reach.way, work.size)

    def _take_all(self, work: _Work, threads: int, *, at_rest: bool) -> None:
        reach = work.reach
        with ExitStack() as attempt:
            writer = attempt.enter_context(self._writers.writer(reach.volume, threads=threads))
            with ExitStack() as at_work:
                # Good for one try: where it fails, a new one is started.
                tar, work.waiting = work.waiting, None
                if tar is None:
                    tar = at_work.enter_context(self._crew.at_work(reach.run, reach.creating()))
                else:
                    tar.write(gnu_tar.GO)
                    tar.close_input()
                told = self._options.progress_of(reach.volume)
                try:
                    writer.write(pieces_of(tar), progress=told)
                except MalformedArchiveError as error:
                    raise ArchiveError(reach.volume, str(error)) from error
                work.not_covered = gnu_tar.check_created(reach.volume, tar.finish(), at_rest=at_rest)
                if reach.is_file:
                    check_current(reach)
            work.writer, work.size = writer, writer.size
            self._stack.push(attempt.pop_all())

    def _take_increment(self, work: _Work, increment: Increment) -> bool:
        """Put aside what has changed since the base; tell whether that is enough.

        It is not compressed and not hashed yet: that takes several times as long as reading it.
        """
        reach, base = work.reach, work.base
        if base is None:
            return False
        with ExitStack() as attempt:
            spool = attempt.enter_context(self._draft.spool())
            # How much has changed nobody knows.
            self._options.announce(reach.volume, None)
            told = self._options.progress_of(reach.volume, base.about.size)
            try:
                work.size, work.not_covered = increment.take(spool, progress=told)
            except (UnsoundError, MalformedArchiveError, ArchiveError, EngineError) as error:
                if isinstance(error, ArchiveError | EngineError) and error.permanent:
                    raise
                logger.warning("volume %s: all of it is archived at rest: %s", reach.volume, error)
                increment.copies.drop()
                return False
            work.spool = spool
            self._stack.push(attempt.pop_all())
        logger.info("volume %s: what changed is archived (%s, %d bytes)", reach.volume, reach.way, work.size)
        return True

    def _fetch(self, work: _Work, _: int) -> None:
        if work.spool is not None and work.increment is not None:
            work.increment.fetch(work.spool)

    def _pack(self, work: _Work, threads: int) -> None:
        """Make a blob of what was put aside."""
        if work.spool is not None and work.increment is not None:
            base = work.base.blob if work.base is not None else None
            work.writer = self._stack.enter_context(self._writers.writer(work.reach.volume, threads=threads, base=base))
            whole = self._going(work, gathered(work.increment.copies.joined(pieces_of(work.spool))))
            try:
                work.writer.write(whole)
                work.size = work.writer.size
            except MalformedArchiveError as error:
                raise ArchiveError(work.reach.volume, str(error)) from error

    def _going(self, work: _Work, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the same, for as long as not all is ended."""
        for piece in pieces:
            if self._crew.stopped:
                raise ArchiveError(work.reach.volume, "archiving it was ended")
            yield piece

    def _seal(self, work: _Work, blob: Descriptor) -> VolumeArchive:
        reach, base = work.reach, work.base
        listed = Listed(reach.excluded)
        reader = listed.passing(self._reader(blob, work.size))
        archive = VolumeArchive(
            name=reach.volume,
            inspection=reach.inspection,
            anonymous=reach.volume in self._anonymous,
            way=reach.way,
            base=blob,
            size=work.size,
            excluded=reach.excluded,
            mount_points=reach.mount_points,
        )
        mounted = mount_points.mount_gaps(reach.volume, reach.mount_points)
        if base is None or work.increment is None:
            with self._proving(reach, blob):
                check_alone(reader)
            archive = evolve(archive, base_stored=self._stored(blob))
            return evolve(archive, not_covered=(*work.not_covered, *listed.gaps(reach.volume), *mounted))
        if not base.former:
            # Its checksum tells that what comes back is what tar printed, and that was looked into when it was. What an
            # earlier backup has proven of its base was hashed again, and that is enough.
            for _ in self._reader(base.blob, base.about.size):
                pass
        with self._proving(reach, blob):
            check_join(base.there, reader, gnu_tar.sockets(reach.volume, work.not_covered), reach.left_out)
        return evolve(
            archive,
            base=base.blob,
            increment=blob,
            base_stored=self._stored(base.blob),
            increment_stored=self._stored(blob, but=base.blob),
            size=base.about.size + work.size,
            not_covered=(*work.not_covered, *listed.gaps(reach.volume), *mounted),
            snapshot=self._keep(SNAPSHOT_FILE, packed(work.increment.snapshot.pieces())),
            clock=base.clock,
            listing=self._keep(LISTING, base.listing.written(base.about, base.there))
            if isinstance(base.listing, Lister)
            else base.listing,
        )

    @contextmanager
    def _proving(self, reach: Reach, blob: Descriptor) -> Iterator[None]:
        """Say what it means where an archive turns out to be none."""
        try:
            yield
        except PathTooLongError as error:
            raise ArchiveError(reach.volume, str(error)) from error
        except MalformedArchiveError as error:
            raise CorruptBackupError(str(self._store.path), blob.digest, str(error)) from error

    def _stored(self, tar: Descriptor, but: Descriptor | None = None) -> int:
        """Return the size of all blobs of a stored tar, in bytes, but for those of another one."""
        others = {blob.digest for blob in self._store.blobs_of(but)} if but is not None else set()
        return sum(blob.size for blob in self._store.blobs_of(tar) if blob.digest not in others)

    def _keep(self, kind: str, pieces: Iterable[bytes]) -> Descriptor:
        """Store what lies beside a base."""
        with self._draft.blob(kind) as writer:
            for piece in pieces:
                writer.write(piece)
            return writer.close()

    def _reader(self, blob: Descriptor, wanted: int) -> Iterator[bytes]:
        """Yield the tar that an archive holds; raises `CorruptBackupError` where it is not as long as it was."""
        size = 0
        for data in self._store.open_tar(blob):
            if self._crew.stopped:
                raise CorruptBackupError(str(self._store.path), blob.digest, "it was not read back to its end")
            size += len(data)
            yield data
        if size != wanted:
            reason = f"it holds {size} bytes of the {wanted} that tar printed"
            raise CorruptBackupError(str(self._store.path), blob.digest, reason)


def _processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _with_notes(failures: Sequence[BaseException]) -> BaseException:
    """Return the first of the failures, with the others noted on it."""
    first, *others = failures
    for other in others:
        first.add_note(f"besides, {type(other).__name__}: {other}")
    return first
