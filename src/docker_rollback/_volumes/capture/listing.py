"""What is kept beside a base for later backups: a line for each file that it holds, as it was just before it was read.

A line is what find prints of a file: the number of its inode, when it was last changed, when it was last written to,
its size, its path. The first line of all is about the base as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, Self

from attrs import field, frozen

from docker_rollback._volumes.capture.hash_set import Hashes
from docker_rollback._volumes.capture.scan import Ground, path_of
from docker_rollback._volumes.tar.archive_stream import split
from docker_rollback._volumes.tar.snapshot_file import Place
from docker_rollback._zstd import Packer, packed, unpack

_AT_ONCE: Final = 10_000


class ListingError(ValueError):
    """A listing is not what this version wrote."""


@frozen
class About:
    """What has to be known of a base as a whole.

    Attributes:
        size: bytes of tar in it.
        ground: where its files lay.
        attributes: the names of the extended attributes of each directory that has some.
    """

    size: int
    ground: Ground
    attributes: Mapping[bytes, frozenset[bytes]] = field(repr=False)

    def written(self) -> bytes:
        """Return it as the first line of a listing."""
        attributes = {_text(name): sorted(map(_text, names)) for name, names in self.attributes.items()}
        place = {"kind": self.ground.kind, "filesystem": self.ground.filesystem, "boot": self.ground.boot}
        return json.dumps({"size": self.size, "ground": place, "attributes": attributes}).encode("ascii")

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Read it; raises `ListingError` for anything else."""
        try:
            read = json.loads(line)
            attributes = {_bytes(name): frozenset(map(_bytes, names)) for name, names in read["attributes"].items()}
            return cls(int(read["size"]), Ground(**read["ground"], now=0), attributes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ListingError("a listing does not begin as one does") from error


class Lister:
    """Writes down the lines of a look, compressed, until it is known which of them a base holds."""

    def __init__(self) -> None:
        # zstd's own level takes twice the time and five megabytes more, and shrinks these lines less.
        self._packer = Packer(level=1)
        self._waiting: list[bytes] = []
        self._packed: list[bytes] = []
        self._is_whole = False

    def folder(self, path: bytes, place: Place) -> None:
        """Pass over a directory: those are in the snapshot file."""

    def file(self, line: bytes, _: int) -> None:
        """Write down a file."""
        self._waiting.append(line)
        if len(self._waiting) >= _AT_ONCE:
            self._pack()

    def written(self, about: About, held: Hashes) -> Iterator[bytes]:
        """Yield the listing of a base, in zstd.

        Args:
            about: what is known of it as a whole.
            held: the hashed paths of the files that it holds.
        """
        return packed(_together(about.written(), (line for line in self.lines() if hash(path_of(line)) in held)))

    def lines(self) -> Iterator[bytes]:
        """Yield all lines; nothing more can be written down from now on."""
        if not self._is_whole:
            self._pack()
            self._packed.append(self._packer.end())
            self._is_whole = True
        return _split(unpack(self._packed))

    def _pack(self) -> None:
        self._packed.append(self._packer.add(_ended(self._waiting)))
        self._waiting.clear()


def read_listing(pieces: Iterable[bytes]) -> tuple[About, Iterator[bytes]]:
    """Read a listing: return what it says of the base as a whole, and an iterator of its lines."""
    lines = _split(pieces)
    return About.parse(next(lines, b"")), lines


def _together(first: bytes, lines: Iterator[bytes]) -> Iterator[bytes]:
    """Yield lines a good many at a time."""
    yield _ended([first])
    while some := list(islice(lines, _AT_ONCE)):
        yield _ended(some)


def _ended(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\0" for line in lines)


def _split(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = yield from split(pieces)
    if rest:
        raise ListingError("a listing is cut short")


def _text(name: bytes) -> str:
    return name.decode("latin-1")


def _bytes(name: str) -> bytes:
    return name.encode("latin-1")
