"""What a restore leaves alone in a volume: paths that its archive left out on purpose.

tar removes from each directory what the archive does not list in it. An archive lists what was left out as well, if
it was there at the capture. For what came later, the directories' lists are amended as they pass by.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final, Self

from docker_rollback._exclude import Exclude, Paths
from docker_rollback._model import NotCovered, left_out
from docker_rollback._volumes import _tar
from docker_rollback._volumes._access import Reach
from docker_rollback._volumes._headers import listing_more, listing_with, of_folder
from docker_rollback._volumes._members import END, Member, Members
from docker_rollback._volumes._snapshot_file import ROOT
from docker_rollback._volumes._stream import pieces_of, split

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
    """The excluded paths that a volume has now, and archives amended so that tar removes none of them.

    Args:
        names: their names, by the folders in which they are.
    """

    def __init__(self, names: Mapping[bytes, Collection[bytes]]) -> None:
        self._names = {folder: frozenset(found) for folder, found in names.items()}
        ways = [other.rpartition(b"/") for other in self.folders if other != ROOT]
        self._staying = {
            folder: self._names.get(folder, frozenset()).union(name for above, _, name in ways if above == folder)
            for folder in self.folders
        }

    @classmethod
    def look(cls, reach: Reach, excluded: Collection[str]) -> Self:
        """Look for them; a path below another one that is excluded does not count.

        Raises:
            ArchiveError: there is no telling; nothing was touched.
        """
        paths = Paths(excluded)
        names: dict[bytes, set[bytes]] = {}
        for path in _all_below(reach) if excluded else ():
            folder, _, name = path.rpartition(b"/")
            if path in paths and folder not in paths:
                names.setdefault(folder, set()).add(name)
        return cls(names)

    @property
    def folders(self) -> tuple[bytes, ...]:
        """The folders on the way to them, the outer ones first."""
        found = {b"."} if self._names else set()
        for folder in self._names:
            parts = folder.split(b"/")
            found.update(b"/".join(parts[:end]) for end in range(1, len(parts) + 1))
        return tuple(sorted(found))

    def emptying(self) -> bytes:
        """Return the beginning of an archive that has `extract` remove all but these before it goes on."""
        if not self._names:
            return _tar.emptying()
        return b"".join(of_folder(path, listing_with(b"", _STAYS, stay)) for path, stay in self._staying.items())

    def within(self, folders: Collection[bytes]) -> Self:
        """Return those of them whose folder is one of these; with any other, they go."""
        return type(self)({folder: names for folder, names in self._names.items() if folder in folders})

    def head(self, member: Member) -> bytes:
        """Return the headers of a directory, which list what is to stay in it too."""
        return listing_more(member, _STAYS, self._names.get(member.name, ()))

    def amended(self, archive: Iterable[bytes], *, is_last: bool = True) -> Iterator[bytes | memoryview]:
        """Yield an archive whose directories list what is to stay.

        Args:
            archive: a base or an increment.
            is_last: False for a base that an increment follows. The folders on the way may be in that alone, and must
                outlast this one: they are listed too, and what the base has in their place is left out.
        """
        if not self._names:
            yield from archive
            return
        members, is_wanted = Members(), True
        staying = self._names if is_last else self._staying
        for data in archive:
            for part in members.parts(data):
                if isinstance(part, Member):
                    is_wanted = is_last or part.is_directory or part.name not in self._staying
                if is_wanted:
                    yield listing_more(part, _STAYS, staying.get(part.name, ())) if isinstance(part, Member) else part
        yield END


def _all_below(reach: Reach) -> Iterator[bytes]:
    """Yield the path of everything in a volume."""
    with reach.run(("find", reach.root, "-printf", "%P\\0")) as find:
        yield from (b"./" + path for path in split(pieces_of(find)) if path)
        finished = find.finish()
    if finished.exit_code != 0:
        raise _tar.failed(reach.volume, "looking for its excluded paths, before anything is touched,", "find", finished)
