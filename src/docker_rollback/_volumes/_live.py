"""A base, taken while its volume is in use, and what has to be known of it for an increment that misses nothing.

An increment takes what bears a time since the base began. Two kinds of change bear none, unless the moment is chosen
with care. The kernel's clock for files is a few milliseconds behind, so the moment is set back by seconds. And a page
of a shared memory mapping that was dirty already marks no time when it is written once more; so the moment is taken
first, then the file system is flushed, which makes every page clean, and then the base is read.
"""

from __future__ import annotations

import io
import logging
import posixpath
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from attrs import field, frozen

from docker_rollback._engine.port import Finished
from docker_rollback._model import Clock, Descriptor, NotCovered
from docker_rollback._store import BlobWriter
from docker_rollback._volumes import _tar
from docker_rollback._volumes._access import Reach
from docker_rollback._volumes._clock import read_clock
from docker_rollback._volumes._crew import Crew
from docker_rollback._volumes._members import Members
from docker_rollback._volumes._snapshot_file import SnapshotFile
from docker_rollback._volumes._stream import PIECE, pack
from docker_rollback.errors import ArchiveError

logger = logging.getLogger("docker_rollback")

MARGIN: Final = 2.0
"""Seconds: more than any clock for files is behind, and than a clock is set back in small corrections."""
_STAMPING: Final = ("btrfs", "ext2/ext3", "f2fs", "xfs")
"""File systems, as stat names them, where a flush has the next write to a mapped page stamp its file. On one in memory
it never does again, and of others too little is known."""
_A_FILE: Final = 16 << 10
"""How many bytes a file counts for, beside its own: what reading them would take as long as opening it."""
_MAY_VANISH: Final = (0, 1)
"""How find ends: 1 where something vanished before it."""


@frozen
class Look:
    """What a quick look at a volume in use found.

    Attributes:
        weight: the bytes of its files, and some more for each.
        linked: whether a file has several names.
    """

    weight: int
    linked: bool


@frozen
class Base:
    """A base, durable in the store.

    Attributes:
        blob: the archive.
        size: bytes of tar.
        snapshot: tar's snapshot file, put right for an increment.
        linked: whether a file had several names.
        attributes: the names of the extended attributes of each directory that has some.
        not_covered: what it does not hold.
        clock: this machine's clock when it began.
    """

    blob: Descriptor
    size: int
    snapshot: SnapshotFile = field(repr=False)
    linked: bool
    attributes: Mapping[bytes, frozenset[bytes]] = field(repr=False)
    not_covered: tuple[NotCovered, ...]
    clock: Clock


def look(reach: Reach, crew: Crew) -> Look | None:
    """Take a quick look at a volume; None where there is no GNU find next to it."""
    weight, linked = 0, False
    with crew.at_work(reach.run, ("find", reach.root, "-printf", "%y %n %b\\n")) as find:
        rest = b""
        while data := find.read(PIECE):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                kind, names, blocks = line.split()
                weight += int(blocks) * 512 + _A_FILE
                linked = linked or (kind != b"d" and names != b"1")
        finished = find.finish()
    if finished.exit_code not in _MAY_VANISH or not weight:
        logger.debug("volume %s: no look at it: %s", reach.volume, finished.stderr[:300])
        return None
    return Look(weight, linked)


def take_base(
    reach: Reach,
    writer: BlobWriter,
    crew: Crew,
    *,
    live_from: int,
    level: int,
    threads: int,
    progress: Callable[[int], None] | None,
) -> Base | None:
    """Archive a volume while it is in use; None where it is so small that it is not worth it.

    Args:
        reach: the volume.
        writer: where the archive goes.
        crew: what is at work.
        live_from: the weight from which on it is worth it.
        level: of zstd.
        threads: how many compress.
        progress: told the bytes so far.

    Raises:
        ArchiveError: no base that an increment could follow came of it; the volume is fine.
        StoreError, EngineError: what they say.
    """
    began, clock = time.monotonic(), read_clock()
    found = look(reach, crew)
    if found is None or found.weight < live_from:
        return None
    stamping = _run(reach, crew, ("stat", "-f", "-c", "%T", reach.root)).decode("utf-8", "replace").strip()
    if stamping not in _STAMPING:
        raise ArchiveError(reach.volume, f"what changes in it cannot be told for sure: its file system is {stamping}")
    _run(reach, crew, ("sync", "-f", reach.root))
    head = Head()
    with crew.at_work(reach.run, _tar.create(reach.root, reach.snapshot)) as tar:
        size = pack(tar, writer, level=level, threads=threads, progress=progress, look=head.feed)
        finished = tar.finish()
    not_covered = _tar.check_created(reach.volume, finished, at_rest=False)
    missed = _tar.vanished(reach.volume, finished)
    try:
        read = SnapshotFile.parse(_run(reach, crew, ("cat", reach.snapshot)))
    except ValueError as error:
        raise ArchiveError(reach.volume, f"tar's snapshot file cannot be used: {error}") from error
    snapshot = read.set_back(head.came - began + MARGIN).forgetting(missed)
    if snapshot is None:
        raise ArchiveError(reach.volume, "what vanished before it was read cannot be told")
    return Base(writer.close(), size, snapshot, found.linked, head.attributes, not_covered, clock)


class Head:
    """The beginning of an archive, where all directories are, told while it passes by.

    Attributes:
        came: when the first of it came, by the monotonic clock.
        attributes: the names of the extended attributes of each directory that has some.
    """

    def __init__(self) -> None:
        self.came = time.monotonic()
        self.attributes: dict[bytes, frozenset[bytes]] = {}
        self._members: Members | None = None
        self._over = False

    def feed(self, data: bytes) -> None:
        """Take in the next piece; raises `MalformedArchiveError`."""
        if self._over:
            return
        if self._members is None:
            self._members, self.came = Members(), time.monotonic()
        for member in self._members.feed(data):
            if not member.is_directory:
                self._over = True
                return
            if member.attributes:
                self.attributes[member.name] = member.attributes


def write_snapshot(reach: Reach, crew: Crew, snapshot: SnapshotFile) -> None:
    """Put a snapshot file where tar looks for it, next to the volume."""
    data = snapshot.written()
    folder, name = posixpath.split(reach.snapshot)
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = 0o600, len(data)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry, io.BytesIO(data))
    with crew.at_work(reach.run, ("tar", "--extract", "--file=-", f"--directory={folder}"), stdin=True) as tar:
        tar.write(packed.getbuffer())
        _check(reach, "writing tar's snapshot file", tar.finish())


def _run(reach: Reach, crew: Crew, words: tuple[str, ...]) -> bytes:
    """Run a program next to a volume, and return what it prints."""
    with crew.at_work(reach.run, words) as process:
        printed = b"".join(_output(process.read))
        _check(reach, words[0], process.finish())
    return printed


def _check(reach: Reach, doing: str, finished: Finished) -> None:
    if finished.exit_code != 0:
        raise ArchiveError(reach.volume, f"{doing} failed with {finished.exit_code}: {finished.stderr[:300].strip()}")


def _output(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while data := read(PIECE):
        yield data
