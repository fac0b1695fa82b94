"""The base of an earlier backup, used again: what it holds still, and whether that is worth it.

Beside a base lie tar's snapshot file, by which an increment follows it, and a listing: a line for each file that it
holds, taken before it was read. A later backup looks at the volume once more. A file whose line is the same is in the
base as it is now; every other one, and nothing else, has to be in the increment. Where tar would leave one of these
out, because the clock was set back and forth since, the base is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Self

from attrs import field, frozen

from docker_rollback._host import was_set_back
from docker_rollback._model import Clock, Descriptor, VolumeArchive
from docker_rollback._volumes.capture.hash_set import Hashes
from docker_rollback._volumes.capture.listing import About, read_listing
from docker_rollback._volumes.capture.scan import Ground, Look, changed_of, path_of
from docker_rollback._volumes.tar.archive_stream import whole
from docker_rollback._volumes.tar.snapshot_file import ROOT, Place, SnapshotFile, moved

SHARE: Final = 0.5
"""What has changed since a base may weigh as much of the whole: a restore reads it twice."""
TOGETHER: Final = 1.0
"""How many times as much as their base the increments on it may take together: never twice what would be best."""
MOST: Final = 256 << 20
"""Bytes: no more of what has changed goes through tar while the service is at rest, but by a new base while it runs."""
WASTE: Final = 2
"""How many times as large as the volume a base may be: a restore reads all of it."""
OLDEST: Final = 30 * 86400.0
"""Seconds after which a new base is taken: not everything shall hang by one file for ever."""
_SECOND: Final = 1_000_000_000


@frozen
class Former:
    """The base of an earlier backup.

    Attributes:
        base: its blob.
        listing: the blob of what lies beside it.
        clock: of the machine that took it, when it began.
        snapshot: tar's snapshot file of it.
        about: what is known of it as a whole.
        lines: the lines of the files that it holds.
        followed: the bytes of tar in the increments that later backups in the store have on it.
    """

    base: Descriptor
    listing: Descriptor
    clock: Clock
    snapshot: SnapshotFile = field(repr=False)
    about: About
    lines: Hashes = field(repr=False)
    followed: int

    @classmethod
    def load(cls, archives: Sequence[VolumeArchive], read: Callable[[Descriptor], Iterable[bytes]]) -> Self | None:
        """Read what lies beside the newest base of a volume; None where it has nothing of the kind.

        Args:
            archives: those of the volume, the newest last.
            read: returns what a blob in zstd holds.

        Raises:
            ListingError, ValueError: it cannot be used.
            StoreError: what it says.
        """
        archive = archives[-1]
        if archive.snapshot is None or archive.listing is None or archive.clock is None:
            return None
        snapshot = SnapshotFile.parse(whole(read(archive.snapshot)))
        about, lines = read_listing(read(archive.listing))
        hashed = Hashes(map(hash, lines))
        # The one that came with it had no choice.
        on_it = [one for one in archives if one.base == archive.base][1:]
        sizes = {one.increment.digest: one.size - about.size for one in on_it if one.increment is not None}
        return cls(archive.base, archive.listing, archive.clock, snapshot, about, hashed, sum(sizes.values()))


class Comparison:
    """Compares a volume, while it is looked at, with what a former base holds.

    Args:
        former: that base.

    Attributes:
        kept: the hashed paths of the files that the base holds as they are.
    """

    def __init__(self, former: Former) -> None:
        self._former = former
        self._changed = 0
        self.kept = Hashes()
        self._places: dict[bytes, Place] = {}
        self._left_out: set[bytes] = set()
        self._folders = {folder.name: folder for folder in former.snapshot.folders}
        self._asked: tuple[bytes, frozenset[bytes]] = (b"", frozenset())

    def folder(self, path: bytes, place: Place) -> None:
        """Take note of a directory."""
        self._places[path] = place

    def file(self, line: bytes, weight: int) -> None:
        """Hold a file against the base."""
        if hash(line) in self._former.lines:
            self.kept.add(hash(path_of(line)))
            return
        self._changed += weight
        if changed_of(line) < self._former.snapshot.began:
            folder, _, name = path_of(line).rpartition(b"/")
            if name in self._listed(folder):
                self._left_out.add(folder)

    def _listed(self, folder: bytes) -> frozenset[bytes]:
        """Return what the base knows in a folder: whatever time it bears, tar takes what is new there."""
        if folder != self._asked[0]:
            known = self._folders.get(folder)
            self._asked = (folder, known.names if known is not None else frozenset())
        return self._asked[1]

    def why_not(self, found: Look, ground: Ground, clock: Clock, *, hastened: int) -> str:
        """Return why a new base is to be taken; empty where an increment on the former one is as good.

        Args:
            found: what the look found.
            ground: where the files lie now.
            clock: this machine's clock.
            hastened: how many bytes of what has changed nobody has to wait for at rest.
        """
        snapshot, about = self._former.snapshot, self._former.about
        began = snapshot.began / _SECOND
        root, was = self._places.get(ROOT), self._folders.get(ROOT)
        if not ground.is_that_of(about.ground) or root is None or was is None or was.inode != root.inode:
            return "it is of another folder, or the machine has started again since"
        if was_set_back(self._former.clock, clock) or not began < ground.now:
            return "the clock was set back"
        if ground.now - began > OLDEST:
            return f"it is older than {OLDEST / 86400:.0f} days"
        share = self._changed / found.weight
        if share > SHARE or self._changed - hastened > MOST:
            return f"{self._changed >> 20} MiB of {found.weight >> 20} have changed since"
        if share + self._former.followed / about.size > TOGETHER:
            return "what has changed since takes as much in several backups as a new one"
        if about.size > WASTE * found.weight:
            return "most of what it holds is gone"
        taken_whole = moved(snapshot, self._places)
        there = {place.inode for place in self._places.values()}
        if found.linked and not there.isdisjoint(self._folders[name].inode for name in taken_whole):
            return "directories were moved, and there are files with several names"
        if not self._left_out <= taken_whole:
            return "files have changed that bear times from before it"
        return ""
