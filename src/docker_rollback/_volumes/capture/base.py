"""A base, taken while its volume is in use, and what has to be known of it for an increment that misses nothing.

An increment takes what bears a time since the base began. Two kinds of change bear none, unless the moment is chosen
with care. The kernel's clock for files is a few milliseconds behind, so the moment is set back by seconds; where much
was written in these, it is left to age before, or every increment on this base would hold it. And a page
of a shared memory mapping that was dirty already marks no time when it is written once more; so the moment is taken
first, then the file system is flushed, which makes every page clean, and then the base is read.
"""

from __future__ import annotations

import logging
import os
import posixpath
import tarfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Final

from attrs import field, frozen

from docker_rollback._engine import Finished
from docker_rollback._host import read_clock
from docker_rollback._model import Clock, Descriptor, NotCovered
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.running_programs import Crew
from docker_rollback._volumes.capture.archive_options import ArchiveOptions
from docker_rollback._volumes.capture.earlier_base import Comparison, Former
from docker_rollback._volumes.capture.hash_set import Hashes
from docker_rollback._volumes.capture.hot_files import RECENT, at_work, changed_since, largest
from docker_rollback._volumes.capture.listing import About, Lister
from docker_rollback._volumes.capture.scan import LARGE, Ground, Large, Look, Onlooker, check, ground, look, run
from docker_rollback._volumes.capture.seen_files import Held, Seen
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.archive_stream import gathered, pieces_of
from docker_rollback._volumes.tar.archive_writer import ArchiveWriter
from docker_rollback._volumes.tar.members import END, Members
from docker_rollback._volumes.tar.snapshot_file import Place, SnapshotFile
from docker_rollback.errors import ArchiveError

logger = logging.getLogger("docker_rollback")

_SECOND: Final = 1_000_000_000
MARGIN: Final = 2.0
"""Seconds: more than any clock for files is behind, and than a clock is set back in small corrections."""
_YOUNG_SHARE: Final = 0.05
_YOUNG_FROM: Final = 16 << 20
"""Such a part of a volume, and so many bytes, are worth waiting for until they are older than the margin."""
_STAMPING: Final = ("btrfs", "ext2/ext3", "f2fs", "xfs")
"""File systems, as stat names them, where a flush has the next write to a mapped page stamp its file. On one in memory
it never does again, and of others too little is known."""


@frozen
class Base:
    """A base, durable in the store.

    Attributes:
        blob: the archive.
        about: what is known of it as a whole.
        snapshot: tar's snapshot file, put right for an increment.
        linked: whether a file had several names.
        not_covered: what it does not hold.
        clock: this machine's clock when it began.
        listing: the lines of the files that there were just before it was taken; of a former one, the blob of those
            that it holds.
        there: the hashed paths of what it holds beside directories; of a former one, of the files that it holds as they
            are.
        flux: the large files that an increment has to hold, as far as can be known beforehand.
    """

    blob: Descriptor
    about: About = field(repr=False)
    snapshot: SnapshotFile = field(repr=False)
    linked: bool
    not_covered: tuple[NotCovered, ...]
    clock: Clock
    listing: Lister | Descriptor = field(repr=False)
    there: Hashes = field(repr=False)
    flux: tuple[Large, ...] = ()

    @property
    def former(self) -> bool:
        """Whether an earlier backup took it."""
        return isinstance(self.listing, Descriptor)


def take_base(
    reach: Reach,
    writer: ArchiveWriter,
    crew: Crew,
    options: ArchiveOptions,
    *,
    former: Former | None = None,
    hastened: Callable[[Collection[Large]], int] = lambda _: 0,
) -> Base | None:
    """Archive a volume while it is in use, or find that a former base does; None where that is not worth it.

    Args:
        reach: the volume.
        writer: where the archive goes.
        crew: what is at work.
        options: how it is archived; it is not worth it below the weight `live_from`.
        former: a base of an earlier backup, which is used again where that is sound, and little has changed.
        hastened: tells how many bytes of large files that have changed nobody has to wait for at rest.

    Raises:
        ArchiveError, MalformedArchiveError: no base that an increment could follow came of it; the volume is fine.
        StoreError, EngineError: what they say.
    """
    sight = _Sight.of(reach, crew, former)
    found = sight.found
    if found is None:
        return None
    options.announce(reach.volume, found.size)
    if found.weight < options.live_from:
        return None
    where = ground(reach, crew)
    if where.kind not in _STAMPING:
        raise ArchiveError(reach.volume, f"what changes in it cannot be told for sure: its file system is {where.kind}")
    if former is not None and sight.comparison is not None:
        young = changed_since(found.large, former.snapshot.began)
        flux = largest({*young, *(one for one in found.large if hash(one.path) not in sight.comparison.kept)})
        reason = sight.comparison.why_not(found, where, sight.clock, hastened=hastened(flux))
        if not reason:
            return _again(reach, former, found, sight.comparison.kept, flux)
        logger.info("volume %s: a new base is taken: %s", reach.volume, reason)
    if sight.small.are_young(found):
        logger.debug("volume %s: much of it was written a moment ago, and has to age", reach.volume)
        time.sleep(MARGIN)
        sight = _Sight.of(reach, crew)
    return _new_base(reach, writer, crew, sight, where, options)


def _new_base(
    reach: Reach,
    writer: ArchiveWriter,
    crew: Crew,
    sight: _Sight,
    where: Ground,
    options: ArchiveOptions,
) -> Base | None:
    found, lister = sight.found, sight.lister
    if found is None:
        return None
    # The moment of the base is before this: what is dirty by now is flushed, and marks a time when it is written again.
    busy = _rewritten(reach, crew, at_work(found, where))
    run(reach, crew, ("sync", "-f", reach.root))
    held = Held()
    passed_over = [*reach.unread, *(one.path for one in busy)]
    command = gnu_tar.create(reach.root, reach.snapshot, excluded=reach.excluded, passed_over=passed_over)
    with crew.at_work(reach.run, command) as tar:
        told = options.progress_of(reach.volume)
        cutter = writer.write(pieces_of(tar), progress=told, look=held.see)
        finished = tar.finish()
    not_covered = gnu_tar.check_created(reach.volume, finished, at_rest=False)
    cutter.check_over()
    # What these take for a while is free again for the snapshot file.
    held.names.sort()
    lacking = list(held.lacking(lister.lines()))
    read = _snapshot(reach, crew).set_back(held.came - sight.began + MARGIN)
    snapshot = _put_right(reach.volume, read, finished, sight.folders, linked=found.linked).retaking(lacking)
    about = About(writer.size, where, held.attributes)
    flux = largest((*busy, *_begun(reach, crew, found, busy, snapshot.began)))
    return Base(writer.close(), about, snapshot, found.linked, not_covered, sight.clock, lister, held.names, flux)


@frozen
class _Sight:
    """A look at a volume, and who was told of everything in it.

    Attributes:
        began: when it began, by the monotonic clock.
        clock: this machine's clock by then.
        lister: has the line of each file.
        folders: knows the directories again.
        small: weighs what is young.
        comparison: knows what a former base holds of it; None where there is none.
        found: what the look found.
    """

    began: float
    clock: Clock
    lister: Lister
    folders: Seen
    small: _Small
    comparison: Comparison | None
    found: Look | None

    @classmethod
    def of(cls, reach: Reach, crew: Crew, former: Former | None = None) -> _Sight:
        """Look at a volume."""
        began, clock = time.monotonic(), read_clock()
        lister, folders, small = Lister(), Seen(), _Small()
        comparison = Comparison(former) if former is not None else None
        onlookers: list[Onlooker] = [lister, folders, small, *([comparison] if comparison is not None else ())]
        return cls(began, clock, lister, folders, small, comparison, look(reach, crew, onlookers))


class _Small:
    """Weighs the small files that were changed so shortly before a look that every increment would hold them."""

    def __init__(self) -> None:
        # As find prints it; by our clock, since nothing but time depends on it.
        self._since = b"%d" % (time.time() - MARGIN)
        self._weight = 0

    def folder(self, path: bytes, place: Place) -> None:
        """Pass over a directory."""

    def file(self, line: bytes, weight: int) -> None:
        """Weigh a file, unless it is large: for those there are copies."""
        if weight <= LARGE and line.split(b" ", 2)[1] >= self._since:
            self._weight += weight

    def are_young(self, found: Look) -> bool:
        """Whether they are much of what the look found."""
        return self._weight > max(_YOUNG_SHARE * found.weight, _YOUNG_FROM)


def _rewritten(reach: Reach, crew: Crew, files: Sequence[Large]) -> tuple[Large, ...]:
    """Return those of some files that were changed a while after they were made; the others may be done by now."""
    root = reach.root.encode("utf-8", "surrogateescape")
    names = [os.fsdecode(root + one.path[1:]) for one in files]
    if not names:
        return ()
    with crew.at_work(reach.run, ("stat", "--printf", "%W\\0", "--", *names)) as process:
        born = b"".join(pieces_of(process)).split(b"\0")[:-1]
        if process.finish().exit_code != 0:
            # One of them is gone.
            return ()
    # Where nobody knows when they were made, it is 0.
    made = (int(one) * _SECOND for one in born)
    return tuple(one for one, at in zip(files, made, strict=True) if 0 < at <= one.changed - RECENT * _SECOND)


def _snapshot(reach: Reach, crew: Crew) -> SnapshotFile:
    """Return what tar wrote into its snapshot file."""
    try:
        return SnapshotFile.parse(run(reach, crew, ("cat", reach.snapshot)))
    except ValueError as error:
        raise ArchiveError(reach.volume, f"tar's snapshot file cannot be used: {error}") from error


def _put_right(volume: str, read: SnapshotFile, finished: Finished, seen: Seen, *, linked: bool) -> SnapshotFile:
    """Return a snapshot file without what tar did not find any more, and the directories that had moved by then."""
    snapshot = read.forgetting(gnu_tar.vanished(volume, finished))
    if snapshot is None:
        raise ArchiveError(volume, "what vanished before it was read cannot be told")
    moved, from_elsewhere = seen.moved(snapshot)
    if linked and from_elsewhere:
        raise ArchiveError(volume, "directories were moved, and there are files with several names")
    return snapshot.without(moved)


def _begun(reach: Reach, crew: Crew, found: Look, busy: Collection[Large], moment: int) -> tuple[Large, ...]:
    """Return the large files that have begun to change since a moment, while the others were read."""
    later = look(reach, crew) if found.large else None
    known = {one.path for one in busy}
    return changed_since((one for one in later.large if one.path not in known), moment) if later is not None else ()


def _again(reach: Reach, former: Former, found: Look, kept: Hashes, flux: tuple[Large, ...]) -> Base:
    """Return a former base, for one more increment on it."""
    return Base(
        former.base,
        former.about,
        former.snapshot,
        found.linked,
        tuple(gnu_tar.socket_gap(reach.volume, gnu_tar.quoted(path)) for path in found.sockets),
        former.clock,
        former.listing,
        kept,
        flux,
    )


def attributes_of_folders(archive: Iterable[bytes]) -> dict[bytes, frozenset[bytes]]:
    """Return the names of the extended attributes of each directory in an archive that has some.

    It reads no further than its beginning, where all directories are.
    """
    found: dict[bytes, frozenset[bytes]] = {}
    members = Members()
    for data in archive:
        for member in members.feed(data):
            if not member.is_directory:
                return found
            if member.attributes:
                found[member.name] = member.attributes
    return found


def write_snapshot(reach: Reach, crew: Crew, snapshot: SnapshotFile) -> None:
    """Put a snapshot file where tar looks for it, next to the volume."""
    folder, name = posixpath.split(reach.snapshot)
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = 0o600, snapshot.size
    end = bytes(-entry.size % tarfile.BLOCKSIZE) + END
    with crew.at_work(reach.run, ("tar", "--extract", "--file=-", f"--directory={folder}"), stdin=True) as tar:
        for data in gathered(chain([entry.tobuf(tarfile.PAX_FORMAT)], snapshot.pieces(), [end])):
            tar.write(data)
        check(reach, "writing tar's snapshot file", "tar", tar.finish())
