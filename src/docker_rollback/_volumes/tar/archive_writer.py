"""Writes tars into the store in pieces; pieces that the store has are not stored again."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from itertools import chain, groupby
from operator import itemgetter
from types import TracebackType
from typing import Final, Self

from attrs import evolve, field, frozen

from docker_rollback._model import Descriptor, VolumeArchive
from docker_rollback._store import (
    PIECES,
    VOLUME_ARCHIVE,
    BackupStore,
    BlobWriter,
    Content,
    Digest,
    Draft,
    Needed,
    Piece,
    write_pieces,
)
from docker_rollback._volumes.tar.cutting import CUT_RULE, CutRule, Cutter, Span
from docker_rollback._volumes.tar.members import Member
from docker_rollback._zstd import Packer, can_be_needed, difference, frame
from docker_rollback.errors import StoreError

logger = logging.getLogger("docker_rollback")

_MEMORY: Final = 40 << 20
"""The most bytes of memory that pieces of all volumes of a capture take at once."""
_COST: Final = 5
"""How many times its length a difference takes: the piece, twice what it needs, and the tables of zstd for the two."""
_SMALL: Final = 1 << 20
"""Up to how many bytes a part of a tar without large files is one frame that is made like any other piece."""
_SYNCS: Final = 4
"""How many blobs are written to the disk at once."""
_WORTH: Final = 2
"""How many times smaller than a plain piece a difference has to be: it keeps another blob, and takes longer to read."""
_PLAIN: Final = 4
"""How many times smaller than its content a plain piece is taken to be at best, before it is made."""
_LOOKS_BACK: Final = 2
"""In how many of the last archives of a volume pieces are looked up."""


class Memory:
    """The memory that the pieces at work may take, in all threads together.

    Args:
        size: how many bytes that is.
    """

    def __init__(self, size: int = _MEMORY) -> None:
        self._size = size
        self._taken = 0
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait until so many bytes are free, or nothing is taken, and take them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._size)
            self._taken += size

    def give_back(self, size: int) -> None:
        """Give back as many bytes as were taken."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()


@frozen
class Known:
    """The pieces that the store has, by which a tar is stored in fewer bytes.

    Attributes:
        same: the pieces that may be referred to again, by the hash and the length of their content.
        near: plain pieces, by the path and the offset of a content that is much like theirs.
    """

    same: Mapping[tuple[str, int | None], Piece] = field(factory=dict, repr=False)
    near: Mapping[tuple[str, int], Needed] = field(factory=dict, repr=False)

    @classmethod
    def of(cls, store: BackupStore, archives: Sequence[VolumeArchive], base: Descriptor | None = None) -> Self:
        """Look up the pieces of the last archives of a volume.

        Args:
            store: the store that has them.
            archives: the archives, the newest last.
            base: what an increment is to follow; None for a base.

        Raises:
            StoreError, CorruptBackupError: the list of their pieces cannot be read.
        """
        tars = {tar.digest: tar for archive in archives[-_LOOKS_BACK:] for tar in archive.tars}
        if base is not None:
            # A new one is newer than all others; one that serves again is as old as it was.
            tars.setdefault(base.digest, base)
        same: dict[tuple[str, int | None], Piece] = {}
        near: dict[tuple[str, int], Needed] = {}
        for tar in tars.values():
            for piece in store.pieces(tar):
                if piece.content is not None:
                    same[piece.content.sha256, piece.length] = piece
                    near[piece.content.path, piece.content.offset] = piece.plain
        return cls(same, near)

    @property
    def blobs(self) -> Iterator[Descriptor]:
        """The blobs of all of them; one may come more than once."""
        for piece in self.same.values():
            yield piece.blob
            yield piece.plain.blob
        for needed in self.near.values():
            yield needed.blob


class ArchiveWriter:
    """Writes one tar into the store, in a block; it is stored at `close`.

    Args:
        store: the store.
        draft: the backup that the tar is for.
        level: zstd's compression level; 1 is the best trade of time for size with most data.
        threads: the number of threads that hash and compress, in addition to the caller's.
        memory: what the pieces at work may take.
        known: the pieces that the store has.
        rule: where the tar is cut.

    Attributes:
        size: how many bytes of tar were written so far.
    """

    def __init__(
        self,
        store: BackupStore,
        draft: Draft,
        *,
        level: int,
        threads: int,
        memory: Memory | None = None,
        known: Known | None = None,
        rule: CutRule = CUT_RULE,
    ) -> None:
        self._store = store
        self._draft = draft
        self._level = level
        self._threads = threads
        self._memory = memory or Memory()
        self._known = known or Known()
        self._rule = rule
        self._pieces: list[Piece] = []
        self._writers: list[BlobWriter] = []
        self._held = ExitStack()
        self._guard = threading.Lock()
        self.size = 0

    def write(
        self,
        chunks: Iterable[bytes],
        *,
        progress: Callable[[int], None] | None = None,
        look: Callable[[Member], object] = lambda _: None,
    ) -> Cutter:
        """Write a whole tar, and return its cutter, which knows whether it was complete.

        Args:
            chunks: the tar.
            progress: called after each chunk, with the bytes so far.
            look: called with each member.

        Raises:
            MalformedArchiveError: it is no tar.
            StoreError: it could not be stored.
        """
        cutter = Cutter(self._rule, look)
        jobs: deque[Future[Piece]] = deque()
        pool = ThreadPoolExecutor(max(1, self._threads), thread_name_prefix="storing pieces")
        try:
            for span, group in groupby(cutter.cut(self._counted(chunks, progress)), key=itemgetter(0)):
                parts = (part for _, part in group)
                jobs.append(self._packed_at_once(pool, parts) if span is None else self._queued(pool, span, parts))
                while jobs and jobs[0].done():
                    self._pieces.append(jobs.popleft().result())
            self._pieces.extend(job.result() for job in jobs)
        finally:
            pool.shutdown(cancel_futures=True)
        # All archives of a backup wait for their `close`, and this may have 20 MB.
        self._known = Known()
        return cutter

    def close(self) -> Descriptor:
        """Store the tar durably; return its only blob, or the list of its pieces.

        Raises:
            StoreError: it could not be stored.
        """
        if not self._pieces:
            self._pieces.append(self._plain((), 0))
        with ThreadPoolExecutor(_SYNCS, thread_name_prefix="syncing pieces") as pool:
            for _ in pool.map(BlobWriter.sync, self._writers):
                pass
        blobs = [writer.close() for writer in self._writers]
        if len(self._pieces) == 1 and self._pieces[0].content is None:
            return blobs[0]
        with self._draft.blob(PIECES) as writer:
            for data in write_pieces(self._pieces):
                writer.write(data)
            return writer.close()

    def __enter__(self) -> Self:
        self._draft.pin(self._known.blobs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def _counted(self, chunks: Iterable[bytes], progress: Callable[[int], None] | None) -> Iterator[bytes]:
        for chunk in chunks:
            yield chunk
            self.size += len(chunk)
            if progress is not None:
                progress(self.size)

    # What is of no large file

    def _packed_at_once(self, pool: ThreadPoolExecutor, parts: Iterable[memoryview]) -> Future[Piece]:
        """Store a part of the tar of any length, which does not have to fit into the memory."""
        begin: list[memoryview] = []
        size = 0
        for part in parts:
            begin.append(part)
            size += len(part)
            if size > _SMALL:
                break
        else:
            return pool.submit(self._plain, begin, size)
        whole = _Counted(chain(begin, parts))
        done = Future[Piece]()
        blob = self._stored(_stream(whole, level=self._level, threads=self._threads))
        done.set_result(Piece(Digest(blob.digest), blob.size, whole.size))
        return done

    # The content of large files

    def _queued(self, pool: ThreadPoolExecutor, span: Span, parts: Iterable[memoryview]) -> Future[Piece]:
        """Have a piece of a large file stored by another thread."""
        cost = span.length * (_COST if (span.path.decode("latin-1"), span.offset) in self._known.near else 1)
        self._memory.take(cost)
        try:
            job = pool.submit(self._kept, span, tuple(parts))
        except BaseException:
            self._memory.give_back(cost)
            raise
        job.add_done_callback(lambda _: self._memory.give_back(cost))
        return job

    def _kept(self, span: Span, parts: Sequence[memoryview]) -> Piece:
        hasher = hashlib.sha256()
        for part in parts:
            hasher.update(part)
        length = sum(map(len, parts))
        content = Content(span.path.decode("latin-1"), span.offset, hasher.hexdigest())
        same = self._known.same.get((content.sha256, length))
        if same is not None and self._draft.adopt(same.blob) and self._draft.adopt(same.plain.blob):
            return evolve(same, content=content)
        near = self._known.near.get((content.path, content.offset))
        piece = self._plain(parts, length) if near is None else self._smaller(near, parts, length)
        return evolve(piece, content=content)

    def _smaller(self, near: Needed, parts: Sequence[memoryview], length: int) -> Piece:
        """Store the difference to a plain piece, or a plain piece if that is not much larger."""
        try:
            needed = self._store.read_needed(near)
        except StoreError as error:
            logger.warning("a piece of an earlier backup is not used again: %s", error)
            needed = b""
        made = _at_most(length // _WORTH, difference(parts, needed)) if can_be_needed(needed) else None
        if made is None:
            return self._plain(parts, length)
        size = sum(map(len, made))
        if size * _WORTH * _PLAIN > length:
            plain = list(frame(parts, level=self._level))
            if sum(map(len, plain)) < size * _WORTH:
                return self._written(plain, length)
        return self._written(made, length, needs=near)

    def _plain(self, parts: Sequence[memoryview], length: int) -> Piece:
        return self._written(frame(parts, level=self._level), length)

    def _written(self, compressed: Iterable[bytes], length: int, *, needs: Needed | None = None) -> Piece:
        blob = self._stored(compressed)
        return Piece(Digest(blob.digest), blob.size, length, needs=needs)

    def _stored(self, compressed: Iterable[bytes]) -> Descriptor:
        """Write a blob that waits for `close`."""
        with ExitStack() as attempt:
            writer = attempt.enter_context(self._draft.blob(VOLUME_ARCHIVE))
            for data in compressed:
                writer.write(data)
            blob = writer.pause()
            with self._guard:
                self._writers.append(writer)
                self._held.push(attempt.pop_all())
        return blob


class ArchiveWriters:
    """Makes the writers of one backup, which share the memory that pieces may take.

    Args:
        store: the store.
        draft: the backup.
        level: zstd's compression level.
        rule: where tars are cut.
        earlier: returns the earlier archives of each volume, the newest last.
    """

    def __init__(
        self,
        store: BackupStore,
        draft: Draft,
        *,
        level: int,
        rule: CutRule,
        earlier: Callable[[], Mapping[str, Sequence[VolumeArchive]]],
    ) -> None:
        self._store = store
        self._draft = draft
        self._level = level
        self._rule = rule
        self._find_earlier = earlier
        self._memory = Memory()

    @cached_property
    def _earlier(self) -> Mapping[str, Sequence[VolumeArchive]]:
        return self._find_earlier()

    def earlier(self, volume: str) -> Sequence[VolumeArchive]:
        """Return the earlier archives of a volume, the newest last; raises `StoreError`."""
        return self._earlier.get(volume, ())

    def writer(self, volume: str, *, threads: int, base: Descriptor | None = None) -> ArchiveWriter:
        """Return a writer for a tar of a volume.

        Args:
            volume: the volume's name.
            threads: the number of threads that hash and compress.
            base: what an increment is to follow; None for a base.

        Raises:
            StoreError: the store cannot be written, or the base's list of pieces cannot be read.
        """
        try:
            known = Known.of(self._store, self.earlier(volume), base)
        except StoreError as error:
            logger.warning("volume %s: the pieces of its last archives are not used again: %s", volume, error)
            known = Known.of(self._store, (), base)
        return ArchiveWriter(
            self._store,
            self._draft,
            level=self._level,
            threads=threads,
            memory=self._memory,
            known=known,
            rule=self._rule,
        )


def _at_most(size: int, compressed: Iterable[bytes]) -> list[bytes] | None:
    """Return all of it, or None as soon as it has more bytes than that."""
    made, total = [], 0
    for data in compressed:
        made.append(data)
        total += len(data)
        if total > size:
            return None
    return made


class _Counted:
    """Yields parts, and counts their bytes."""

    def __init__(self, parts: Iterable[memoryview]) -> None:
        self._parts = parts
        self.size = 0

    def __iter__(self) -> Iterator[memoryview]:
        for part in self._parts:
            self.size += len(part)
            yield part


def _stream(parts: Iterable[memoryview], *, level: int, threads: int) -> Iterator[bytes]:
    packer = Packer(level=level, threads=threads)
    for part in parts:
        if data := packer.add(part):
            yield data
    yield packer.end()
