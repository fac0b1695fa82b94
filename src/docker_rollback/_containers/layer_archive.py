"""Assembles the tar of a committed layer from the archives that an engine gives of single files. Pure.

An engine writes the header of a file into such an archive as it does into a layer; only the names differ. Names are
written here as Go's tar package writes them. The marks of deletions are in no archive, and nothing tells when a file
was deleted. So several tars are possible, and the right one is known by the digest that the engine gave the layer.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

from attrs import evolve, field, frozen

BLOCK: Final = 512
"""The size in bytes of a header; a tar consists of such blocks."""
_NAME: Final = 100
"""The size in bytes of a name in a header."""
_PREFIX: Final = 155
"""The size in bytes of a name's first part, where it is split."""
_MARK: Final = b".wh."
REPLACED: Final = b".wh..wh..opq"
"""The name of the mark in a folder that has replaced another one."""
_OWNERS: Final = ((b"uid", slice(108, 116), slice(265, 297)), (b"gid", slice(116, 124), slice(297, 329)))
"""The extended header of a user's and a group's number, and the places of the number and the name in a header."""
_FOLDER, _LINK, _EXTENDED = b"5", b"1", b"x"
_FILES: Final = (b"0", b"\0")
_PLAIN: Final = (*_FILES, _FOLDER, _LINK, b"2", b"3", b"4", b"6")
"""The types of the members that are understood."""

_MOST_TIMES: Final = 3600
"""How many seconds before the time of its folder a file may have been deleted."""
_MOST_HASHED: Final = 256 << 20
"""The number of bytes that are hashed at most to find that time."""


class LayerArchiveError(Exception):
    """An archive has something that is not understood, or the tar cannot be assembled."""


@frozen
class Step:
    """One part of a layer's tar.

    Attributes:
        path: an absolute path in the container.
        kind: what is taken: nothing but the mark of its deletion; its first member; all members.
    """

    path: str
    kind: Literal["mark", "first", "all"]


@frozen
class LayerMember:
    """A member of an archive, under its name in the layer."""

    name: bytes
    header: bytes
    records: Mapping[bytes, bytes]  # its extended headers
    content: bytes = b""
    target: bytes = b""

    @property
    def is_folder(self) -> bool:
        """True if it is a folder."""
        return self.header[156:157] == _FOLDER

    @property
    def size(self) -> int:
        """The number of bytes of its header, its extended headers and its content."""
        return BLOCK + sum(map(len, (*self.records, *self.records.values(), self.content)))


@frozen
class Deletion:
    """A path that a layer deletes."""

    name: bytes


Part: TypeAlias = LayerMember | Deletion


def steps(changes: Mapping[str, str]) -> list[Step]:
    """Return the parts of the tar of a layer with these changes ("added", "changed", "deleted"), in its order."""
    found = []
    for path in sorted(changes, key=lambda path: os.fsencode(path).split(b"/")):
        kind = changes[path]
        if kind == "deleted":
            found.append(Step(path, "mark"))
        elif kind != "added":
            found.append(Step(path, "first"))
        elif changes.get(posixpath.dirname(path)) != "added":
            # An archive of an added folder has all that is in it.
            found.append(Step(path, "all"))
    return found


class _Reader:
    """Reads a stream in pieces of a given size, and a limited number of bytes."""

    def __init__(self, blocks: Iterator[bytes], most: int) -> None:
        self._blocks = blocks
        self._rest = b""
        self._left = most

    def read(self, size: int) -> bytes:
        """Return so many bytes, and skip those that fill the last block of a tar."""
        padded = size + -size % BLOCK
        self._left -= padded
        if self._left < 0:
            raise LayerArchiveError("the changes are too large")
        pieces, there = [self._rest], len(self._rest)
        while there < padded:
            piece = next(self._blocks, b"")
            if not piece:
                raise LayerArchiveError("an archive ends early")
            pieces.append(piece)
            there += len(piece)
        whole = b"".join(pieces)
        self._rest = whole[padded:]
        return whole[:size]


@frozen
class Earlier:
    """What a layer of the same container shows about how its engine writes the next one.

    Attributes:
        marks: its marks of deletions and of replaced folders, by name.
        names: the names of users and groups, by their numbers as a header has them.
    """

    marks: Mapping[bytes, LayerMember] = field(factory=dict)
    names: Mapping[tuple[bytes, bytes], bytes] = field(factory=dict)

    def named(self, member: LayerMember) -> LayerMember:
        """Return a member with the names of its owners as the layer writes them: some engines use the host's names."""
        header = bytearray(member.header)
        for kind, number, name in _OWNERS:
            known = self.names.get((kind, member.records.get(kind, member.header[number])))
            header[name] = header[name] if known is None else known
        return evolve(member, header=bytes(header))


def shown_by(layer: Iterator[bytes], *, most: int) -> Earlier:
    """Return what the tar of a layer shows. Raises `LayerArchiveError`, also after `most` bytes."""
    marks: dict[bytes, LayerMember] = {}
    names: dict[tuple[bytes, bytes], bytes] = {}
    for one in members(layer, "/", most=most):
        if one.name.rpartition(b"/")[2].startswith(_MARK):
            marks[one.name] = one
        else:
            for kind, number, name in _OWNERS:
                # A large number is in an extended header alone.
                names[kind, one.records.get(kind, one.header[number])] = one.header[name]
    return Earlier(marks, names)


def mark_of(name: bytes) -> bytes:
    """Return the name of the mark of a deletion."""
    folder, _, last = name.rpartition(b"/")
    return _joined(folder, _MARK + last)


def members(archive: Iterator[bytes], path: str, *, most: int) -> Iterator[LayerMember]:
    """Yield the members of the archive of a path as they are read.

    Raises `LayerArchiveError`, also after `most` bytes.
    """
    source = _Reader(archive, most)
    parent, _, top = os.fsencode(path).strip(b"/").rpartition(b"/")
    records: dict[bytes, bytes] = {}
    while any(header := source.read(BLOCK)):
        kind, size = header[156:157], _size(header)
        if kind == _EXTENDED:
            records = dict(_records(source.read(size)))
            continue
        if kind not in _PLAIN or b"size" in records:
            raise LayerArchiveError(f"{path!r} has a member of the type {kind!r}")
        name = records.get(b"path") or _joined(_text(header, 345, _PREFIX), _text(header, 0, _NAME))
        name = name.rstrip(b"/")
        if top and name != top and not name.startswith(top + b"/"):
            raise LayerArchiveError(f"{path!r} has the member {name!r}")
        target = records.get(b"linkpath") or _text(header, 157, _NAME)
        if kind == _LINK:
            target = _joined(parent, target)
        content = source.read(size) if kind in _FILES else b""
        yield LayerMember(_joined(parent, name), header, records, content, target)
        records = {}


def proven(parts: Sequence[Part], digest: str, *, marks_have_times: bool) -> list[bytes] | None:
    """Return the pieces of the layer's tar that has a digest; None if no possible tar has it.

    Args:
        parts: the parts of the layer, in its order.
        digest: the digest that the engine gave the layer.
        marks_have_times: whether marks of deletions are written as Docker's own store does, or as containerd does.
    """
    first = next((place for place, part in enumerate(parts) if isinstance(part, Deletion)), len(parts))
    head = [written(part) for part in parts[:first] if isinstance(part, LayerMember)]
    hasher = hashlib.sha256()
    for piece in head:
        hasher.update(piece)
    for tail in _tails(parts[first:], parts, marks_have_times=marks_have_times):
        whole = hasher.copy()
        whole.update(tail)
        if "sha256:" + whole.hexdigest() == digest:
            return [*head, tail]
    return None


def _tails(parts: Sequence[Part], whole: Sequence[Part], *, marks_have_times: bool) -> Iterator[bytes]:
    """Yield what may follow the parts before the first deletion."""
    root = next((part.header for part in whole if isinstance(part, LayerMember) and _is_roots(part)), None)
    known: list[bytes | Deletion] = [written(part) if isinstance(part, LayerMember) else part for part in parts]
    gone = [part for part in parts if isinstance(part, Deletion)]
    if not gone:
        yield b"".join((*(piece for piece in known if isinstance(piece, bytes)), bytes(2 * BLOCK)))
        return
    if root is None:
        # The names of the owner are written by some versions of an engine, and not by others.
        raise LayerArchiveError("no file shows how the owner of a mark is written")

    def with_marks(mark: Callable[[Deletion], bytes]) -> bytes:
        pieces = (piece if isinstance(piece, bytes) else mark(piece) for piece in known)
        return b"".join((*pieces, bytes(2 * BLOCK)))

    if not marks_have_times:
        yield with_marks(lambda one: _mark(root, one.name, mode=0, seconds=0, owner=False))
        return
    # Overlayfs links all marks to one file, which is as old as the first deletion. Nothing in a folder that lost a
    # file is younger than the folder.
    folders = {posixpath.dirname(one.name) for one in gone}
    times = [_seconds(part.header) for part in whole if isinstance(part, LayerMember) and part.name in folders]
    newest = min(times, default=0)
    size = sum(len(piece) if isinstance(piece, bytes) else BLOCK for piece in known)
    for back in range(min(_MOST_TIMES, _MOST_HASHED // size, newest + 1)):

        def mark(one: Deletion, seconds: int = newest - back) -> bytes:
            target = gone[0].name if one is not gone[0] else b""
            return _mark(root, one.name, mode=0o600, seconds=seconds, target=target)

        yield with_marks(mark)


def _mark(root: bytes, name: bytes, *, mode: int, seconds: int, target: bytes = b"", owner: bool = True) -> bytes:
    """Return the mark of a deletion, written like another file of root's."""
    header = bytearray(root)
    header[100:108], header[124:136] = _octal(mode, 8), _octal(0, 12)
    header[136:148], header[156:157] = _octal(seconds, 12), b"0"
    if not owner:
        header[265:329] = bytes(64)
    return written(LayerMember(mark_of(name), bytes(header), {}, target=target))


def written(member: LayerMember) -> bytes:
    """Return a member as Go writes it, in the shortest format that holds its name."""
    name = member.name + (b"/" if member.is_folder else b"")
    records = {key: value for key, value in member.records.items() if key not in (b"path", b"linkpath")}
    split = _split(name)
    if not _fits(member.target):
        records[b"linkpath"] = member.target
    if not _fits(name) and (split is None or records):
        records[b"path"] = name
    header = bytearray(member.header)
    prefix, last = split if split is not None and not records else (b"", name)
    header[:_NAME], header[157 : 157 + _NAME] = _field(last, _NAME), _field(member.target, _NAME)
    header[345 : 345 + _PREFIX] = _field(prefix, _PREFIX)
    return (
        (_extended(name, records) if records else b"")
        + _summed(header)
        + member.content
        + bytes(-len(member.content) % BLOCK)
    )


def _extended(name: bytes, records: Mapping[bytes, bytes]) -> bytes:
    """Return the extended headers of a member."""
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    folder, _, last = name.rpartition(b"/")
    shown = _ascii(b"/".join(filter(None, (folder, b"PaxHeaders.0", last))))[:_NAME].rstrip(b"/")
    header = bytearray(BLOCK)
    header[: len(shown)] = shown
    header[100:124], header[124:136], header[136:148] = 3 * _octal(0, 8), _octal(len(data), 12), _octal(0, 12)
    header[156:157], header[257:265] = _EXTENDED, b"ustar\x0000"
    return _summed(header) + data + bytes(-len(data) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    length = size + len(str(size))
    length = size + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    while data:
        length, _, rest = data.partition(b" ")
        end = int(length) if length.isdigit() else 0
        key, equals, value = rest[: end - len(length) - 1].partition(b"=")
        if not (equals and value.endswith(b"\n") and 0 < end <= len(data)):
            raise LayerArchiveError("an extended header is malformed")
        yield key, value[:-1]
        data = data[end:]


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Return a long name in two parts that a header holds, or None."""
    if len(name) <= _NAME or not name.isascii():
        return None
    length = min(len(name), _PREFIX + 1)
    length -= length == len(name) and name.endswith(b"/")
    prefix = name[:length].rpartition(b"/")[0]
    last = name[len(prefix) + 1 :]
    return (prefix, last) if prefix and 0 < len(last) <= _NAME else None


def _fits(name: bytes) -> bool:
    return len(name) <= _NAME and name.isascii()


def _field(text: bytes, size: int) -> bytes:
    short = _ascii(text)
    cut = short[:size]
    if len(short) > size and cut.endswith(b"/"):
        cut = cut.rstrip(b"/")
    return cut.ljust(size, b"\0")


def _ascii(text: bytes) -> bytes:
    return bytes(letter for letter in text if 0 < letter < 128)


def _summed(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _octal(number: int, size: int) -> bytes:
    return b"%0*o\0" % (size - 1, number)


def _is_roots(member: LayerMember) -> bool:
    numbers = (member.records.get(kind, member.header[number]) for kind, number, _ in _OWNERS)
    return not any(number.strip(b"0\0 ") for number in numbers)


def _seconds(header: bytes) -> int:
    return _number(header[136:148])


def _size(header: bytes) -> int:
    return _number(header[124:136])


def _number(digits: bytes) -> int:
    try:
        return int(digits.strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise LayerArchiveError("a header has a number that is not understood") from None


def _text(header: bytes, start: int, size: int) -> bytes:
    return header[start : start + size].partition(b"\0")[0]


def _joined(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name
