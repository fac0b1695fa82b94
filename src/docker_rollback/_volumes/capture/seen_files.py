"""Whether a base holds the files that a look saw just before it, each under its name.

While a base is read, a directory may stand in another one's place. Once it is back, and something is made in it, its
times are those of any other directory, and those of its files are old: the base has other files under their names, and
no increment would take them. But two files rarely have their name, their size and the time when they were last written
to in common; and a directory that was elsewhere before has another number.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from docker_rollback._volumes.capture.hash_set import Hashes
from docker_rollback._volumes.capture.scan import nanoseconds, path_of
from docker_rollback._volumes.tar.members import Member
from docker_rollback._volumes.tar.snapshot_file import ROOT, Place, SnapshotFile


class Held:
    """Takes note of what is in a base while it passes by.

    Attributes:
        came: when the first of it came, by the monotonic clock.
        names: the hashed paths of all that it holds but directories.
        attributes: the names of the extended attributes of each directory that has some.
    """

    def __init__(self) -> None:
        self.came = 0.0
        self.names = Hashes()
        self.attributes: dict[bytes, frozenset[bytes]] = {}
        self._files = Hashes()

    def see(self, member: Member) -> None:
        """Take in the next member."""
        self.came = self.came or time.monotonic()
        if not member.is_directory:
            size = (member.size,) if member.is_file else ()
            self._files.add(hash((member.name, member.modified, *size)))
            self.names.add(hash(member.name))
        elif attributes := member.attributes:
            self.attributes[member.name] = attributes

    def lacking(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the paths of those files of a look that it does not hold as they were seen."""
        for line in lines:
            _, _, modified, size, _ = line.split(b" ", 4)
            path, when = path_of(line), nanoseconds(modified)
            if hash((path, when, int(size))) not in self._files and hash((path, when)) not in self._files:
                yield path


class Seen:
    """Takes note of the directories in a look."""

    def __init__(self) -> None:
        self._folders = Hashes()
        self._inodes = Hashes()

    def folder(self, path: bytes, place: Place) -> None:
        """Take note of a directory."""
        self._folders.add(hash((path, place.inode)))
        self._inodes.add(hash((place.inode,)))

    def file(self, line: bytes, weight: int) -> None:
        """Pass over a file."""

    def moved(self, snapshot: SnapshotFile) -> tuple[set[bytes], bool]:
        """Return the directories of a snapshot file that were not seen there, and whether any was seen elsewhere."""
        others = [
            folder
            for folder in snapshot.folders
            if folder.name != ROOT and hash((folder.name, folder.inode)) not in self._folders
        ]
        return {folder.name for folder in others}, any(hash((folder.inode,)) in self._inodes for folder in others)
