"""Reads and corrects tar's snapshot file: the start of a pass and every directory that it saw; pure.

GNU tar keeps this file between a base and an increment. It has a first line, the start of the pass (seconds NUL
nanoseconds NUL), then for each directory six fields that end with NUL (whether it is on NFS, its mtime's seconds and
nanoseconds, its device, its inode, its name), its entries, each ended by NUL, and two NULs.

tar trusts this file. So it is corrected before an increment: the start is set back, and files that the pass failed to
read are removed from it, and so is every directory that has moved since. tar archives a directory without a record
completely. For a directory that it knows at another place it writes a rename, and it cannot extract several renames
that form a circle.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final, Self

from attrs import evolve, field, frozen

_HEAD: Final = re.compile(rb"GNU tar-[^\n]*-2\n(\d+)\0(\d+)\0")
_FOLDER: Final = re.compile(rb"(\d+)\0(-?\d+)\0(\d+)\0(\d+)\0(\d+)\0([^\0]+)\0")
_SECOND: Final = 1_000_000_000
ROOT: Final = b"."


@frozen
class Folder:
    """A directory as recorded by a pass."""

    name: bytes  # its path below the root, which itself is ``.``
    device: int  # the number of its file system
    inode: int
    record: bytes = field(repr=False)  # its record in the snapshot file

    @property
    def names(self) -> frozenset[bytes]:
        """The names of its recorded entries."""
        return frozenset(entry[1:] for entry in _entries(self.record)[1] if entry)


@frozen
class Place:
    """The current state of a directory."""

    inode: int
    # The time of its last change other than one of its entries, in nanoseconds since 1970; 0 if its entries changed
    # last.
    turned: int


@frozen
class SnapshotFile:
    """A snapshot file."""

    line: bytes
    began: int  # the start of the pass, in nanoseconds since 1970
    folders: tuple[Folder, ...] = field(repr=False)  # the directories, in the order of the file

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse a snapshot file; raises `ValueError` unless every byte of it is as expected."""
        head = _HEAD.match(data)
        if head is None:
            raise ValueError("it does not begin as a snapshot file does")
        folders: list[Folder] = []
        at = head.end()
        while at < len(data):
            match = _FOLDER.match(data, at)
            # In an empty directory's record, the last NUL of the name is followed by two more.
            end = data.find(b"\0\0\0" if match is None else b"\0\0", match.end() - 1 if match else at)
            if match is None or end < 0 or data[end + 2 : end + 3] != b"\0":
                raise ValueError(f"it is broken after {len(folders)} directories")
            end += 3
            folders.append(Folder(match[6], int(match[4]), int(match[5]), data[at:end]))
            at = end
        read = cls(data[: data.index(b"\n") + 1], int(head[1]) * _SECOND + int(head[2]), tuple(folders))
        # The records hold the rest byte for byte.
        if next(read.pieces()) != head[0]:
            raise ValueError("it has a shape of its own")
        return read

    @property
    def size(self) -> int:
        """The size of the file, in bytes."""
        return sum(map(len, self.pieces()))

    def written(self) -> bytes:
        """Return the content of the file."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """Yield the content of the file piece by piece: a million files make some twenty megabytes."""
        yield self.line + b"%d\0%d\0" % divmod(self.began, _SECOND)
        for folder in self.folders:
            yield folder.record

    def set_back(self, seconds: float) -> SnapshotFile:
        """Return a copy with an earlier start: files that have changed since then are archived again."""
        return evolve(self, began=max(0, self.began - int(seconds * _SECOND)))

    def without(self, gone: Collection[bytes]) -> SnapshotFile:
        """Return a copy without these directories, so that they are archived completely at their present places."""
        return evolve(self, folders=tuple(folder for folder in self.folders if folder.name not in gone))

    def retaking(self, files: Iterable[bytes]) -> SnapshotFile:
        """Return a copy without these files, so that they are archived again, regardless of their times."""
        names: dict[bytes, set[bytes]] = {}
        for path in files:
            above, _, name = path.rpartition(b"/")
            names.setdefault(above, set()).add(name)
        folders = (
            evolve(folder, record=_without_entries(folder, names[folder.name])) if folder.name in names else folder
            for folder in self.folders
        )
        return evolve(self, folders=tuple(folders))

    def forgetting(self, missed: Iterable[bytes]) -> SnapshotFile | None:
        """Return a copy without paths that the pass could not read; None if a path's folder is not recorded.

        Args:
            missed: the paths of files and directories, below the root.
        """
        folders = {folder.name: folder for folder in self.folders}
        for path in missed:
            if path in folders:
                for name in [name for name in folders if name == path or name.startswith(path + b"/")]:
                    del folders[name]
                continue
            above, _, name = path.rpartition(b"/")
            parent = folders.get(above)
            if parent is not None:
                folders[above] = evolve(parent, record=_without_entries(parent, {name}))
            elif not any(path.startswith(other + b"/") for other in missed):
                return None
        return evolve(self, folders=tuple(folders.values()))


def moved(snapshot: SnapshotFile, now: Mapping[bytes, Place]) -> set[bytes]:
    """Return the directories of a snapshot file that an increment must archive completely. Pure.

    These are the missing ones, and those with a change other than one of their entries: they may have been moved away
    while the base was read, and back before its end. So may the directories below them, and the base may have other
    files under their names.
    """
    gone = set()
    turned: list[bytes] = []
    for folder in snapshot.folders:
        place = now.get(folder.name)
        if place is None or place.inode != folder.inode:
            gone.add(folder.name)
        elif place.turned >= snapshot.began and folder.name != ROOT:
            turned.append(folder.name)
    if turned:
        whole = set(turned)
        gone |= {folder.name for folder in snapshot.folders if _within(folder.name, whole)}
    return gone


def _without_entries(folder: Folder, names: Collection[bytes]) -> bytes:
    head, entries = _entries(folder.record)
    kept = b"".join(entry + b"\0" for entry in entries if entry and entry[1:] not in names)
    return head + kept + b"\0\0"


def _entries(record: bytes) -> tuple[bytes, list[bytes]]:
    """Return the fields of a directory's record, and its entries; some may be empty."""
    match = _FOLDER.match(record)
    if match is None:
        raise ValueError("a directory's record is broken")
    return record[: match.end()], record[match.end() : -2].split(b"\0")


def _within(name: bytes, folders: Collection[bytes]) -> bool:
    while name:
        if name in folders:
            return True
        name = name.rpartition(b"/")[0]
    return False
