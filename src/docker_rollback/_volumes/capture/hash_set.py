"""Very many names, or lines, of which only their hashes are kept."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from itertools import chain
from typing import Final

_BITS: Final = 8
_SHIFT: Final = 64 - _BITS
_PARTS: Final = 1 << _BITS
_AT_ONCE: Final = 1 << 15


class Hashes:
    """Names, or lines, that are asked for by their hashes: a million take eight megabytes, also while they are sorted.

    They are kept in parts, by their first bits. What comes is added to these many at a time, and no part grows where it
    lies: of arrays that do, all at once, as much again would be lost in the gaps between them.

    Args:
        hashed: the first of them.
    """

    def __init__(self, hashed: Iterable[int] = ()) -> None:
        self._new: list[int] = []
        # The first bit is a sign: a part is found from the list's end where it is set.
        self._parts: list[list[array[int]]] = [[] for _ in range(_PARTS)]
        self._is_sorted = True
        for one in hashed:
            self.add(one)

    def add(self, hashed: int) -> None:
        """Take one more."""
        self._new.append(hashed)
        self._is_sorted = False
        if len(self._new) >= _AT_ONCE:
            self._distribute()

    def __contains__(self, hashed: int) -> bool:
        self.sort()
        for part in self._parts[hashed >> _SHIFT]:
            at = bisect_left(part, hashed)
            return at < len(part) and part[at] == hashed
        return False

    def _distribute(self) -> None:
        new = sorted(self._new)
        self._new.clear()
        at = 0
        while at < len(new):
            number = new[at] >> _SHIFT
            end = bisect_left(new, (number + 1) << _SHIFT, at)
            self._parts[number].append(array("q", new[at:end]))
            at = end

    def sort(self) -> None:
        """Make ready to be asked; what that takes is free again for what comes next in the same thread."""
        if self._is_sorted:
            return
        self._distribute()
        for part in self._parts:
            if len(part) > 1:
                part[:] = [array("q", sorted(chain.from_iterable(part)))]
        self._is_sorted = True
