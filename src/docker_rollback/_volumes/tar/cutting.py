"""Cuts a tar into pieces: the content of a large file at fixed offsets, all else where such a file begins. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from attrs import frozen

from docker_rollback._volumes.tar.members import Member, Members

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


@frozen(kw_only=True)
class CutRule:
    """Where a tar is cut. All sizes are in bytes.

    A manifest has at most 4 MiB, in which each piece takes 160 bytes, a difference twice as much, and each of base and
    increment may have as many. So there are longer pieces in very large files, and after some number of pieces there
    is no further cut. A list of pieces is limited, too, and has the path of the file with each piece, six characters
    for some bytes.

    Attributes:
        least: the size of the smallest file that is cut.
        length: the length of each piece of a file, except its last.
        huge: the size from which a file has longer pieces.
        huge_length: the length of these.
        most: how many pieces a tar has at most.
        longest_path: the length of the longest path of a file that is cut.
    """

    least: int = 4 * _MIB
    length: int = 8 * _MIB
    huge: int = 16 * _GIB
    huge_length: int = 16 * _MIB
    most: int = 6000
    longest_path: int = 400

    def length_of(self, size: int) -> int:
        """Return the length of each piece of a file of this size."""
        return self.length if size < self.huge else self.huge_length


CUT_RULE: Final = CutRule()


@frozen
class Span:
    """Where a piece of a large file is: its file's path in the tar, its offset, and its length."""

    path: bytes
    offset: int
    length: int


class Cutter:
    """Cuts one tar.

    Args:
        rule: where it is cut.
        look: called with each member as it passes.
    """

    def __init__(self, rule: CutRule = CUT_RULE, look: Callable[[Member], object] = lambda _: None) -> None:
        self._rule = rule
        self._look = look
        self._members = Members()
        self._pieces = 0

    def cut(self, chunks: Iterable[bytes]) -> Iterator[tuple[Span | None, memoryview]]:
        """Yield the tar in parts, each with its span in a large file; without a span all else.

        Parts that follow each other and have the same span are one piece; no part is empty. Raises
        `MalformedArchiveError` if it is no tar.
        """
        path, size, offset = b"", 0, 0
        for chunk in chunks:
            view, done = memoryview(chunk), 0
            for member, begin, end in self._members.extents(chunk):
                if member is not None:
                    self._look(member)
                    path, size, offset = member.name, self._size(member), 0
                at = begin
                while offset < size and at < end:
                    span = self._span(path, offset, size)
                    cut = min(end, at + span.offset + span.length - offset)
                    if done < at:
                        yield None, view[done:at]
                    yield span, view[at:cut]
                    offset += cut - at
                    at = done = cut
            if done < len(view):
                yield None, view[done:]

    def check_over(self) -> None:
        """Raise a `MalformedArchiveError` unless all of a tar has passed."""
        self._members.check_over()

    def _size(self, member: Member) -> int:
        """Return how many bytes of a member's content are to be cut; 0 if it is not."""
        rule = self._rule
        # A file with holes has a map of them before its content.
        if not member.is_file or member.has_holes or member.size < rule.least or len(member.name) > rule.longest_path:
            return 0
        # What precedes it is a piece, too.
        pieces = 1 + -(-member.size // rule.length_of(member.size))
        if self._pieces + pieces > rule.most:
            return 0
        self._pieces += pieces
        return member.size

    def _span(self, path: bytes, offset: int, size: int) -> Span:
        length = self._rule.length_of(size)
        begin = offset - offset % length
        return Span(path, begin, min(length, size - begin))
