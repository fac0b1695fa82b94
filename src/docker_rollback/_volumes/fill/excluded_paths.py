"""What a restore leaves alone in a volume: paths that its archive left out on purpose, and mount points.

tar removes from each directory what the archive does not list in it. An archive lists what was left out as well, if
it was there at the capture. For what came later, the directories' lists are amended as they pass by.

A mount point stays with the folders that lead to it, whether it was there at the capture or not, and nothing below it
is written. One that was there and has lost its name gets an empty one.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Self

from docker_rollback._model import NONE, Exclude, MountPoint, NotCovered, Paths, VolumeArchive, left_out
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.archive_stream import pieces_of, split
from docker_rollback._volumes.tar.headers import NOTHING, listing_more, listing_with, of_folder, of_mount_point
from docker_rollback._volumes.tar.members import END, Member, Members
from docker_rollback._volumes.tar.snapshot_file import ROOT
from docker_rollback.errors import ArchiveError

logger = logging.getLogger("docker_rollback")

_STAYS: Final = b"N"
"""Listed as what is not in the archive, of whatever kind: tar removes what is of another kind than it lists."""


class Listed:
    """Looks at an archive as it passes by, for what its directories list that was left out.

    Args:
        excluded: the paths that are left out.
    """

    def __init__(self, excluded: Collection[str]) -> None:
        self._paths = {path: Paths([path]) for path in excluded}
        self._found: set[str] = set()

    def passing(self, archive: Iterable[bytes]) -> Iterator[bytes]:
        """Yield an archive as it comes."""
        members = Members()
        over = not self._paths
        for data in archive:
            yield data
            for member in () if over else members.feed(data):
                if not member.is_directory:
                    # They come first.
                    over = True
                    break
                for _, name in member.entries:
                    path = member.name + b"/" + name
                    self._found.update(one for one, paths in self._paths.items() if paths.begins(path))

    def gaps(self, volume: str) -> tuple[NotCovered, ...]:
        """Return what the archive does not hold; a path of which there was nothing is told in the log as well."""
        for path in self._paths.keys() - self._found:
            logger.warning("volume %s: there is nothing of the kind of %r, which is excluded", volume, path)
        return tuple(left_out(Exclude(volume, path), found=path in self._found) for path in self._paths)


class Spared:
    """What a volume has now that a restore leaves alone, and archives amended so that tar removes none of it.

    Args:
        names: the names that stay, by the folders in which they are.
        mounted: the paths of those that are mount points: they stay, also where the archive has not their folder.
        absent: the mount points of the capture whose names are gone, by their folders: they are made again, empty.
        left_out: the paths that are excluded, or were mount points.
        strays: the folders on the way to mount points that the archive does not have, by their paths; known once
            `within` has looked. They stay, with nothing in them but the way.
    """

    def __init__(
        self,
        names: Mapping[bytes, Collection[bytes]],
        *,
        mounted: Collection[bytes] = (),
        absent: Mapping[bytes, Sequence[MountPoint]] | None = None,
        left_out: Paths = NONE,
        strays: Collection[bytes] = (),
    ) -> None:
        self.mounted = frozenset(mounted)
        self.strays = frozenset(strays)
        self._absent = dict(absent or {})
        self._left_out = left_out
        self._names = {folder: frozenset(found) for folder, found in names.items()}
        ways = [other.rpartition(b"/") for other in self.folders if other != ROOT]
        self._staying = {
            folder: self._names.get(folder, frozenset()).union(name for above, _, name in ways if above == folder)
            for folder in self.folders
        }

    @classmethod
    def look(cls, reach: Reach, archive: VolumeArchive) -> Self:
        """Look for it; a path below another one that is excluded does not count.

        Raises:
            ArchiveError: there is no telling; nothing was touched.
        """
        excluded = Paths(archive.excluded)
        mounted = frozenset(reach.unread)
        absent = {b"./" + one.name: one for one in archive.mount_points if b"./" + one.name not in mounted}
        names: dict[bytes, set[bytes]] = {}
        deepest = max(
            (path.count("/") for path in (*archive.excluded, *(one.path for one in absent.values()))), default=-1
        )
        for path, is_directory in _all_below(reach, deepest + 1) if deepest >= 0 else ():
            folder, _, name = path.rpartition(b"/")
            known = absent.get(path)
            if known is not None and known.is_directory == is_directory:
                del absent[path]
            elif path not in excluded or folder in excluded:
                continue
            names.setdefault(folder, set()).add(name)
        for path in mounted:
            folder, _, name = path.rpartition(b"/")
            if folder not in excluded:
                names.setdefault(folder, set()).add(name)
        missing: dict[bytes, list[MountPoint]] = {}
        for path, point in absent.items():
            missing.setdefault(path.rpartition(b"/")[0], []).append(point)
        left_out = Paths(archive.excluded, exact=[one.path for one in archive.mount_points])
        return cls(names, mounted=mounted, absent=missing, left_out=left_out)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self._names or self._absent)

    @property
    def folders(self) -> tuple[bytes, ...]:
        """The folders on the way to them, the outer ones first."""
        found = {b"."} if self._names else set()
        for folder in self._names:
            parts = folder.split(b"/")
            found.update(b"/".join(parts[:end]) for end in range(1, len(parts) + 1))
        return tuple(sorted(found))

    @property
    def paths(self) -> frozenset[bytes]:
        """The paths that a restore leaves alone, each with everything below it; known once `within` has looked."""
        named = {folder + b"/" + name for folder, found in self._names.items() for name in found}
        return self.mounted.union(path for path in named if path in self._left_out)

    @property
    def staying(self) -> Mapping[bytes, Collection[bytes]]:
        """The names that stay, those of folders on the way too, by each folder that has one; the root in any case."""
        return self._staying or {ROOT: frozenset()}

    def emptying(self) -> bytes:
        """Return the beginning of an archive that has `extract` remove all but these before it goes on."""
        if not self._names:
            return gnu_tar.emptying()
        return b"".join(of_folder(path, listing_with(b"", _STAYS, stay)) for path, stay in self._staying.items())

    def within(self, volume: str, listings: Mapping[bytes, bytes]) -> Self:
        """Return this for a capture with these folders: what is in any other folder goes, but for mount points.

        Args:
            volume: the volume's name.
            listings: what was in each folder.

        Raises:
            ArchiveError: the archive has something else where something is mounted now; nothing was touched.
        """
        names = {folder: set(found) for folder, found in self._names.items() if folder in listings}
        strays: set[bytes] = set()
        for path in sorted(self.mounted):
            *parts, _ = path.split(b"/")
            folders = [b"/".join(parts[:end]) for end in range(1, len(parts) + 1)]
            for folder, child in zip(folders, (*folders[1:], path), strict=True):
                if child in self._left_out and folder in listings:
                    names.setdefault(folder, set()).add(child.rpartition(b"/")[2])
                    break
                self._check_free(volume, folder, child, path, listings)
                if child == path or child not in listings:
                    names.setdefault(folder, set()).add(child.rpartition(b"/")[2])
                if folder not in listings:
                    strays.add(folder)
        return type(self)(names, mounted=self.mounted, absent=self._absent, left_out=self._left_out, strays=strays)

    def _check_free(
        self, volume: str, folder: bytes, child: bytes, mounted: bytes, listings: Mapping[bytes, bytes]
    ) -> None:
        """Raise an `ArchiveError` if the archive has something at a mount point, or no folder on the way to it."""
        had = listings.get(child)
        name = child.rpartition(b"/")[2]
        was_file = had is None and any(entry[1:] == name for entry in listings.get(folder, b"").split(b"\0"))
        if was_file or (child == mounted and had not in (None, b"", NOTHING)):
            raise ArchiveError(
                volume,
                f"something is mounted at {gnu_tar.quoted(mounted)} by now, and the backup has files there; nothing "
                "was touched in it. Unmount it, then restore again",
            )

    def directory(self, member: Member, *, is_last: bool = True) -> bytes:
        """Return the headers of a directory, which list what is to stay in it too; nothing for a mount point.

        Args:
            member: the directory.
            is_last: False in a base that an increment follows, as for `amended`.
        """
        if member.name in self.mounted:
            return b""
        staying = self._names if is_last else self._staying
        made = [of_mount_point(one) for one in (self._absent.get(member.name, ()) if is_last else ())]
        return b"".join([listing_more(member, _STAYS, staying.get(member.name, ())), *made])

    def amended(self, archive: Iterable[bytes], *, is_last: bool = True) -> Iterator[bytes | memoryview]:
        """Yield an archive whose directories list what is to stay.

        Args:
            archive: a base or an increment.
            is_last: False for a base that an increment follows. The folders on the way may be in that alone, and must
                outlast this one: they are listed too, and what the base has in their place is left out. So is what it
                has in a stray folder: that was gone at the capture, and the increment does not remove what stays.
        """
        if not self:
            yield from archive
            return
        members, is_wanted = Members(), True
        unwanted = Paths(exact=[path[2:].decode("utf-8", "surrogateescape") for path in self.mounted | self.strays])
        for data in archive:
            for part in members.parts(data):
                if not isinstance(part, Member):
                    if is_wanted:
                        yield part
                    continue
                in_the_way = not (is_last or part.is_directory) and part.name in self._staying
                is_wanted = not in_the_way and part.name not in unwanted and part.link not in unwanted
                if is_wanted:
                    yield self.directory(part, is_last=is_last) if part.is_directory else part.head
        yield END


def _all_below(reach: Reach, depth: int) -> Iterator[tuple[bytes, bool]]:
    """Yield the path of everything in a volume down to a depth, and whether that is a directory."""
    with reach.run(reach.finding("-printf", "%y %P\\0", depth=depth)) as find:
        for line in split(pieces_of(find)):
            kind, _, path = line.partition(b" ")
            if path:
                yield b"./" + path, kind == b"d"
        finished = find.finish()
    if finished.exit_code != 0:
        raise gnu_tar.failed(
            reach.volume, "looking for its excluded paths, before anything is touched,", "find", finished
        )
