"""Which large files change while their service runs: those that a base has no use for, and that need more care at rest.

A database rewrites a few pages of a file of a gigabyte, and all of that file is in the increment. What a base holds of
it is of no use then: it is passed over there. Nothing depends on the guess which files these are. What is passed over
and does not change any more is in the increment all the same, since the base lacks it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from docker_rollback._volumes.capture.scan import Ground, Large, Look

RECENT: Final = 5.0
"""Seconds: a file that was changed so shortly ago is taken to be one that changes all the time."""
MOST: Final = 256
"""So many files are named in a command line; the largest ones."""
_SECOND: Final = 1_000_000_000


def at_work(found: Look, where: Ground) -> tuple[Large, ...]:
    """Return the large files that were changed shortly before a look at them; none where no clock tells."""
    return changed_since(found.large, int((where.now - RECENT) * _SECOND)) if where.now else ()


def changed_since(large: Iterable[Large], moment: int) -> tuple[Large, ...]:
    """Return those of some large files that were changed at a moment or later, in nanoseconds since 1970."""
    return largest(one for one in large if one.changed >= moment)


def largest(files: Iterable[Large]) -> tuple[Large, ...]:
    """Return the largest of some files, of those that a command line can name, the largest first."""
    return tuple(sorted(filter(_can_be_named, files), key=lambda one: one.size, reverse=True)[:MOST])


def _can_be_named(file: Large) -> bool:
    try:
        file.path.decode()
    except UnicodeDecodeError:
        # An engine takes the words of a command as JSON.
        return False
    return True
