"""What a tar archive holds, told from its headers while it passes by; the content of files is skipped.

Python's own `tarfile` reads a stream too, at ten times the cost, and keeps every member in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from attrs import field, frozen

DUMPDIR: Final = b"GNU.dumpdir"
"""The record of a directory that lists what was in it."""
END: Final = bytes(1024)
"""Two empty blocks: the end of an archive."""
_BLOCK: Final = 512
_SECOND: Final = 1_000_000_000
_DIRECTORY: Final = 0x35
_LINK: Final = 0x31
_FILES: Final = b"\x000"
"""The letters of regular files."""
_PAX: Final = 0x78
_GLOBAL: Final = 0x67
_BASE_256: Final = 0x80
_ATTRIBUTE: Final = b"SCHILY.xattr."


_LONGEST_PATH: Final = 4096 - 32
"""Bytes of a path that tar can put back: it sets attributes by ``/proc/self/fd/NUMBER/PATH``, of 4,095 bytes."""


class MalformedArchiveError(Exception):
    """What passes by is not the tar that we have GNU tar write."""


class PathTooLongError(MalformedArchiveError):
    """What passes by has a path that tar can write into an archive, and not put back."""


@frozen
class Member:
    """One member of an archive.

    Attributes:
        name: its path, as the archive has it, without a slash at the end.
        is_directory: whether it is one.
        link: the path of the member that it is another name of; None for one with content of its own.
        listing: of a directory, what was in it: entries that each begin with a letter and end with NUL.
        attributes: the names of its extended attributes.
        head: all of its headers, as they came.
        header: the last of them, and the one that every tar has.
        records: what those before it say.
    """

    name: bytes
    is_directory: bool
    link: bytes | None
    listing: bytes | None
    attributes: frozenset[bytes]
    head: bytes = field(repr=False)
    header: bytes = field(repr=False)
    records: Mapping[bytes, bytes] = field(repr=False)

    @property
    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """What a directory's listing says: each entry's letter and name."""
        for entry in (self.listing or b"").split(b"\0"):
            if entry:
                yield entry[:1], entry[1:]

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file that has its content here."""
        return self.header[156] in _FILES

    @property
    def mode(self) -> int:
        """Its mode, without its kind."""
        return _number(self.header[100:108])

    @property
    def owner(self) -> tuple[int, int]:
        """Its owner and its group."""
        uid, gid = self.records.get(b"uid"), self.records.get(b"gid")
        return int(uid or _number(self.header[108:116])), int(gid or _number(self.header[116:124]))

    @property
    def size(self) -> int:
        """How long its content is, holes included."""
        told = self.records.get(b"GNU.sparse.realsize") or self.records.get(b"size")
        return int(told or _number(self.header[124:136]))

    @property
    def modified(self) -> int:
        """When its content was changed last, in nanoseconds since 1970."""
        told = self.records.get(b"mtime")
        return _number(self.header[136:148]) * _SECOND if told is None else _nanoseconds(told)


class Members:
    """Takes in an archive piece by piece, and gives out its members as their headers have passed."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0
        self._header: bytes | None = None
        self._need = _BLOCK
        self._head: list[bytes] = []
        self._records: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> Iterator[Member]:
        """Take in the next piece; to be exhausted before the next one. Raises `MalformedArchiveError`."""
        for part in self.parts(data):
            if isinstance(part, Member):
                yield part

    def parts(self, data: bytes) -> Iterator[Member | memoryview]:
        """Do as `feed`, and give out what follows each member's headers as well, as it comes."""
        at, end = 0, len(data)
        if self._rest:
            data = self._rest + data
            end = len(data)
            self._rest = b""
        view = memoryview(data)
        while True:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                yield view[at : at + step]
                at += step
            if end - at < self._need or self._skip:
                self._rest = data[at:end]
                return
            piece = data[at : at + self._need]
            at += self._need
            self._head.append(piece)
            member = self._take(piece)
            if member is not None:
                yield member

    def _take(self, piece: bytes) -> Member | None:
        """Take in a header, or the records that one announced."""
        if self._header is not None:
            size = _size(self._header)
            if self._header[156] == _PAX:
                self._records = _records(piece[:size])
            self._header, self._need = None, _BLOCK
            return None
        if not piece.rstrip(b"\0"):
            self._head.clear()
            return None
        kind = piece[156]
        if kind in (_PAX, _GLOBAL):
            self._header, self._need = piece, max(_padded(_size(piece)), _BLOCK)
            return None
        records, self._records = self._records, {}
        self._skip = _padded(int(records.get(b"size") or _size(piece)))
        head = b"".join(self._head)
        self._head.clear()
        return _member(head, piece, kind, records)


def _member(head: bytes, header: bytes, kind: int, records: dict[bytes, bytes]) -> Member:
    name = records.get(b"GNU.sparse.name") or records.get(b"path") or _name(header)
    if len(name) > _LONGEST_PATH:
        raise PathTooLongError(f"a path of {len(name)} bytes is too long to be put back: {name[:80]!r}...")
    link = (records.get(b"linkpath") or _text(header[157:257])) if kind == _LINK else None
    attributes = frozenset(key[len(_ATTRIBUTE) :] for key in records if key.startswith(_ATTRIBUTE))
    listing = records.get(DUMPDIR)
    return Member(name.rstrip(b"/"), kind == _DIRECTORY, link, listing, attributes, head, header, records)


def _records(data: bytes) -> dict[bytes, bytes]:
    records = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = data[at:space] if space > 0 else b""
        if not length.isdigit() or not space - at < int(length) <= len(data) - at:
            raise MalformedArchiveError("a header's records are broken")
        end = at + int(length)
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key] = value
        at = end
    return records


def _name(header: bytes) -> bytes:
    prefix = _text(header[345:500])
    return prefix + b"/" + _text(header[:100]) if prefix else _text(header[:100])


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _size(header: bytes) -> int:
    return _number(header[124:136])


def _number(text: bytes) -> int:
    if text[0] & _BASE_256:
        return int.from_bytes(text, "big") & ((1 << (8 * len(text) - 1)) - 1)
    try:
        return int(text.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise MalformedArchiveError("a header's number is broken") from error


def _nanoseconds(told: bytes) -> int:
    whole, _, fraction = told.partition(b".")
    seconds, part = abs(int(whole)), int(fraction.ljust(9, b"0")[:9] or b"0")
    return (-1 if whole.startswith(b"-") else 1) * (seconds * _SECOND + part)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
