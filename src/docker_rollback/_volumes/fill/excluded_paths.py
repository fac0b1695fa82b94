"""Keeps excluded paths and mount points out of a restore.

tar removes from each directory the entries that the archive does not list in it. An archive also lists excluded entries
that existed at the capture. Later ones are added to the directories' lists in the stream.

A mount point stays, with the folders that lead to it, whether it existed at the capture or not, and nothing below it is
written. A mount point of the capture that is missing is recreated, empty.
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

# The letter of an entry that is not in the archive, for any kind of file; with others tar removes another kind.
_STAYS: Final = b"N"


class Listed:
    """Finds the excluded paths that an archive's directories list, while the archive streams by.

    Args:
        excluded: the excluded paths.
    """

    def __init__(self, excluded: Collection[str]) -> None:
        self._paths = {path: Paths([path]) for path in excluded}
        self._found: set[str] = set()

    def passing(self, archive: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the archive unchanged."""
        members = Members()
        over = not self._paths
        for data in archive:
            yield data
            for member in () if over else members.feed(data):
                if not member.is_directory:
                    # Directories come first.
                    over = True
                    break
                for _, name in member.entries:
                    path = member.name + b"/" + name
                    self._found.update(one for one, paths in self._paths.items() if paths.begins(path))

    def gaps(self, volume: str) -> tuple[NotCovered, ...]:
        """Return the `NotCovered` entries; a path that matched nothing is also logged."""
        for path in self._paths.keys() - self._found:
            logger.warning("volume %s: nothing matches the excluded path %r", volume, path)
        return tuple(left_out(Exclude(volume, path), found=path in self._found) for path in self._paths)


class KeptPaths:
    """The paths in a volume that a restore leaves alone; amends archives so that tar removes none of them.

    Args:
        names: the names that stay, by their folders.
        mounted: the paths of current mount points: they stay even if the archive does not have their folders.
        absent: the missing mount points of the capture, by their folders: they are recreated, empty.
        left_out: the paths that are excluded, or were mount points at the capture.
        strays: the folders that lead to mount points and are not in the archive; set by `within`. They stay, with only
            the path to the mount point in them.
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
        """Scan a volume for them; a path below another excluded one does not count.

        Raises:
            ArchiveError: the scan failed; nothing was touched.
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
        """Return True if there are any."""
        return bool(self._names or self._absent)

    @property
    def folders(self) -> tuple[bytes, ...]:
        """The folders that lead to them, the outermost first."""
        found = {b"."} if self._names else set()
        for folder in self._names:
            parts = folder.split(b"/")
            found.update(b"/".join(parts[:end]) for end in range(1, len(parts) + 1))
        return tuple(sorted(found))

    @property
    def paths(self) -> frozenset[bytes]:
        """The paths that a restore leaves alone, each with everything below it; complete after `within`."""
        named = {folder + b"/" + name for folder, found in self._names.items() for name in found}
        return self.mounted.union(path for path in named if path in self._left_out)

    @property
    def staying(self) -> Mapping[bytes, Collection[bytes]]:
        """The names that stay, including those of folders that lead to them, by their folder; always has the root."""
        return self._staying or {ROOT: frozenset()}

    def emptying(self) -> bytes:
        """Return the beginning of an archive with which `extract` first removes everything else."""
        if not self._names:
            return gnu_tar.emptying()
        return b"".join(of_folder(path, listing_with(b"", _STAYS, stay)) for path, stay in self._staying.items())

    def within(self, volume: str, listings: Mapping[bytes, bytes]) -> Self:
        """Return the paths that stay, given a capture's folders: in other folders, only mount points stay.

        Args:
            volume: the volume's name.
            listings: the capture's list of each folder.

        Raises:
            ArchiveError: the archive has files at the place of a mount point; nothing was touched.
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
        """Raise an `ArchiveError` if the archive has files at a mount point, or a file in place of a parent folder."""
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
        """Return a directory's headers, with the names that stay in its list; empty for a mount point.

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
        """Yield an archive whose directories list the names that stay.

        Args:
            archive: a base or an increment.
            is_last: False for a base that an increment follows. Folders that lead to the paths may be in the increment
                alone, and must survive the base: they are listed too, and members of the base in their place are
                skipped. So are members in a stray folder: it was gone at the capture, and the increment does not
                remove its files because it stays.
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
    """Yield every path in a volume down to a depth, and whether it is a directory."""
    with reach.run(reach.finding("-printf", "%y %P\\0", depth=depth)) as find:
        for line in split(pieces_of(find)):
            kind, _, path = line.partition(b" ")
            if path:
                yield b"./" + path, kind == b"d"
        finished = find.finish()
    if finished.exit_code != 0:
        raise gnu_tar.failed(
            reach.volume, "scanning it for excluded paths, before anything is touched,", "find", finished
        )
