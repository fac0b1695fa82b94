"""Parses the headers of a tar archive while it streams by, and skips the content of files.

Python's own `tarfile` can read a stream too, at ten times the cost, and keeps every member in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Final

from attrs import field, frozen

from docker_rollback._volumes.tar.archive_stream import split

DUMPDIR: Final = b"GNU.dumpdir"  # the record that lists the entries of a directory
END: Final = bytes(1024)  # two empty blocks: the end of an archive
_BLOCK: Final = 512
_SECOND: Final = 1_000_000_000
_EMPTY: Final = bytes(_BLOCK)
# The header fields that are always read: name, size, letter of the kind, and prefix of a long name.
_HEADER: Final = Struct("100s24x12s20xc188x155s12x")
_HARD_LINK: Final = b"1"
_DIRECTORY: Final = b"5"
_FILES: Final = (b"0", b"\0")
_PAX: Final = b"x"
_BEFORE: Final = (_PAX, b"g")  # headers that describe the next ones; a global header is skipped
_BASE_256: Final = 0x80
_DIGITS: Final = 20  # the most digits of a number of 64 bits
_MOMENT: Final = re.compile(rb"-?[0-9]{1,20}(\.[0-9]*)?")
ATTRIBUTE: Final = b"SCHILY.xattr."  # the prefix of an extended attribute's record; its `quoted` name follows
# How many bytes of a directory's list are split at a time; splitting takes five times their memory.
_AT_ONCE: Final = 64 << 10


# Bytes of a path that tar can restore: it sets attributes by ``/proc/self/fd/NUMBER/PATH``, of 4,095 bytes.
LONGEST_PATH: Final = 4096 - 32


class MalformedArchiveError(Exception):
    """The stream is not an archive as GNU tar writes it for us."""


class PathTooLongError(MalformedArchiveError):
    """The archive has a path that tar can archive but not restore."""


@frozen
class Member:
    """A member of an archive; rarely used properties are read from its headers on access."""

    name: bytes  # its path in the archive, without a trailing slash
    kind: bytes  # the letter of its kind
    size: int  # the length of its content, including holes
    head: bytes = field(repr=False)  # all of its headers, unchanged
    records: Mapping[bytes, bytes] = field(repr=False)

    @property
    def header(self) -> bytes:
        """The last of its headers, in ustar format."""
        return self.head[-_BLOCK:]

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.kind == _DIRECTORY

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file with its content in this archive."""
        return self.kind in _FILES

    @property
    def has_holes(self) -> bool:
        """Whether it is a file that the archive holds without its holes, and with a map of them."""
        return b"GNU.sparse.realsize" in self.records or b"GNU.sparse.major" in self.records

    @property
    def link(self) -> bytes:
        """The path of the member that it is a hard link to; empty if it is none."""
        if self.kind != _HARD_LINK:
            return b""
        return self.records.get(b"linkpath") or _text(self.header[157:257])

    @property
    def listing(self) -> bytes | None:
        """The list of a directory: entries that each begin with a letter and end with NUL."""
        return self.records.get(DUMPDIR)

    @property
    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """The letter and name of each entry in a directory's list."""
        listing = self.listing or b""
        for entry in split(listing[at : at + _AT_ONCE] for at in range(0, len(listing), _AT_ONCE)):
            if entry:
                yield entry[:1], entry[1:]

    @property
    def attributes(self) -> frozenset[bytes]:
        """The names of its extended attributes."""
        return frozenset(unquoted(key[len(ATTRIBUTE) :]) for key in self.records if key.startswith(ATTRIBUTE))

    @property
    def mode(self) -> int:
        """Its permissions."""
        return _number(self.header[100:108])

    @property
    def owner(self) -> tuple[int, int]:
        """Its owner and its group."""
        header, uid, gid = self.header, self.records.get(b"uid"), self.records.get(b"gid")
        return _decimal(uid, _number(header[108:116])), _decimal(gid, _number(header[116:124]))

    @property
    def modified(self) -> int:
        """Its modification time, in nanoseconds since 1970."""
        recorded = self.records.get(b"mtime")
        return _number(self.header[136:148]) * _SECOND if recorded is None else _nanoseconds(recorded)


class Members:
    """Takes an archive piece by piece, and yields each member once its headers are complete."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        self._missing = 0
        self._left = 0
        self._is_over = False

    def check_over(self) -> None:
        """Raise a `MalformedArchiveError` unless the archive is complete, including its end block."""
        if self._left or self._missing or not self._is_over:
            raise MalformedArchiveError("it is cut short")

    def feed(self, data: bytes) -> Iterator[Member]:
        """Take the next piece; exhaust the iterator before the next call. Raises `MalformedArchiveError`."""
        for member, _, _ in self.extents(data):
            if member is not None:
                yield member

    def parts(self, data: bytes) -> Iterator[Member | memoryview]:
        """Do the same as `feed`, and also yield the content after each member's headers, piece by piece."""
        view = memoryview(data)
        for member, begin, end in self.extents(data):
            if member is not None:
                yield member
            if begin < end:
                yield view[begin:end]

    def extents(self, data: bytes) -> Iterator[tuple[Member | None, int, int]]:
        """Do the same as `parts`, with the start and end of the content in place of the content.

        Content at the beginning of a piece is yielded without a member, and so is an incomplete rest of headers.
        """
        size = len(data)
        at = min(self._left, size)
        self._left -= at
        yield None, 0, at
        while at < size:
            if self._missing:
                piece = data[at : at + self._missing]
                at += len(piece)
                member, follows = self._rest_of_headers(piece)
            else:
                begun = at
                member, at, follows = _headers(data, begun)
                if at > size:
                    self._begun, self._missing = [data[begun:]], at - size
                    return
            self._is_over = member is None and not self._missing
            begin, at = at, min(at + follows, size)
            self._left = follows - (at - begin)
            yield member, begin, at

    def _rest_of_headers(self, data: bytes) -> tuple[Member | None, int]:
        """Take more of headers that began in an earlier piece; return the same as `_headers` once they are complete."""
        self._begun.append(data)
        self._missing -= len(data)
        if self._missing:
            return None, 0
        begun = b"".join(self._begun)
        member, end, follows = _headers(begun, 0)
        self._missing = end - len(begun)
        self._begun = [begun] if self._missing else []
        return member, follows


def quoted(name: bytes) -> bytes:
    """Return an attribute's name as tar writes it; an unquoted equals sign would end it."""
    return name.replace(b"%", b"%25").replace(b"=", b"%3D")


def unquoted(name: bytes) -> bytes:
    """Return an attribute's name from the form in which tar writes it."""
    return name.replace(b"%3D", b"=").replace(b"%25", b"%")


def _headers(data: bytes, at: int) -> tuple[Member | None, int, int]:
    """Read the headers at an offset; return their member, the offset of their end, and the length of the content.

    The member is None for an empty block, and for headers that go beyond the data; the offset is then the least length
    of data that is needed.
    """
    if data.startswith(_EMPTY, at):
        return None, at + _BLOCK, 0
    begin = at
    records: dict[bytes, bytes] = {}
    while (end := at + _BLOCK) <= len(data):
        name, digits, kind, prefix = _HEADER.unpack_from(data, at)
        size = _number(digits)
        if kind not in _BEFORE:
            stored = _decimal(records.get(b"size"), size)
            whole = _decimal(records.get(b"GNU.sparse.realsize"), stored)
            member = Member(_path(prefix, name, records), kind, whole, data[begin:end], records)
            return member, end, _padded(stored)
        at = end + _padded(size)
        if kind == _PAX and at <= len(data):
            records = _records(data[end : end + size])
    return None, end, 0


def _records(data: bytes) -> dict[bytes, bytes]:
    records = {}
    at, size = 0, len(data)
    while at < size:
        space = data.find(b" ", at, at + 20)
        length = data[at:space]
        if space < 0 or not length.isdigit() or not space < (end := at + int(length)) <= size:
            raise MalformedArchiveError("a header's records are broken")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key] = value
        at = end
    return records


def _path(prefix: bytes, name: bytes, records: Mapping[bytes, bytes]) -> bytes:
    path = records.get(b"GNU.sparse.name") or records.get(b"path")
    if path is None:
        path = _text(name)
        if above := _text(prefix):
            path = above + b"/" + path
    if len(path) > LONGEST_PATH:
        raise PathTooLongError(f"a path of {len(path)} bytes is too long to be restored: {path[:80]!r}...")
    return path.rstrip(b"/")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(text: bytes) -> int:
    if text[0] & _BASE_256:
        return int.from_bytes(text, "big") & ((1 << (8 * len(text) - 1)) - 1)
    digits = text.strip(b" \0") or b"0"
    # A size below zero would lead back to where it was read, again and again.
    if not digits.isdigit():
        raise MalformedArchiveError("a header's number is broken")
    try:
        return int(digits, 8)
    except ValueError as error:
        raise MalformedArchiveError("a header's number is broken") from error


def _decimal(text: bytes | None, default: int) -> int:
    if not text:
        return default
    if not text.isdigit() or len(text) > _DIGITS:
        raise MalformedArchiveError("a record's number is broken")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    if _MOMENT.fullmatch(text) is None:
        raise MalformedArchiveError("a record's time is broken")
    seconds, _, fraction = text.partition(b".")
    return int(seconds + fraction[:9].ljust(9, b"0"))


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
