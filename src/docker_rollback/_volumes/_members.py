"""What a tar archive holds, told from its headers while it passes by; the content of files is skipped.

Python's own `tarfile` reads a stream too, at ten times the cost, and keeps every member in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attrs import frozen

_BLOCK: Final = 512
_DIRECTORY: Final = 0x35
_LINK: Final = 0x31
_PAX: Final = 0x78
_GLOBAL: Final = 0x67
_BASE_256: Final = 0x80
_ATTRIBUTE: Final = b"SCHILY.xattr."


class MalformedArchiveError(Exception):
    """What passes by is not the tar that we have GNU tar write."""


@frozen
class Member:
    """One member of an archive.

    Attributes:
        name: its path, as the archive has it, without a slash at the end.
        is_directory: whether it is one.
        link: the path of the member that it is another name of; None for one with content of its own.
        listing: of a directory, what was in it: entries that each begin with a letter and end with NUL.
        attributes: the names of its extended attributes.
    """

    name: bytes
    is_directory: bool
    link: bytes | None = None
    listing: bytes | None = None
    attributes: frozenset[bytes] = frozenset()

    @property
    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """What a directory's listing says: each entry's letter and name."""
        for entry in (self.listing or b"").split(b"\0"):
            if entry:
                yield entry[:1], entry[1:]


class Members:
    """Takes in an archive piece by piece, and gives out its members as their headers have passed."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0
        self._header: bytes | None = None
        self._need = _BLOCK
        self._records: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> Iterator[Member]:
        """Take in the next piece; to be exhausted before the next one. Raises `MalformedArchiveError`."""
        at, end = 0, len(data)
        if self._rest:
            data = self._rest + data
            end = len(data)
            self._rest = b""
        while True:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
            if end - at < self._need or self._skip:
                self._rest = data[at:end]
                return
            piece = data[at : at + self._need]
            at += self._need
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
            return None
        kind = piece[156]
        if kind in (_PAX, _GLOBAL):
            self._header, self._need = piece, max(_padded(_size(piece)), _BLOCK)
            return None
        records, self._records = self._records, {}
        self._skip = _padded(int(records.get(b"size") or _size(piece)))
        return _member(piece, kind, records)


def _member(header: bytes, kind: int, records: dict[bytes, bytes]) -> Member:
    name = records.get(b"GNU.sparse.name") or records.get(b"path") or _name(header)
    link = (records.get(b"linkpath") or _text(header[157:257])) if kind == _LINK else None
    attributes = frozenset(key[len(_ATTRIBUTE) :] for key in records if key.startswith(_ATTRIBUTE))
    return Member(name.rstrip(b"/"), kind == _DIRECTORY, link, records.get(b"GNU.dumpdir"), attributes)


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
    field = header[124:136]
    if field[0] & _BASE_256:
        return int.from_bytes(field, "big") & ((1 << 95) - 1)
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise MalformedArchiveError("a header's size is broken") from error


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
