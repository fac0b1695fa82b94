"""Whether a base and an increment make a whole: every name that the increment builds upon is in the base.

An increment lists what is in each directory, but holds what has changed alone. What it lists and does not hold has to
come from its base. Where that lacks it, the file would be missing after a restore, and neither tar nor a hash would
notice.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable
from typing import Final

from docker_rollback._volumes._members import MalformedArchiveError, Members

_AT_ONCE: Final = 100_000
"""How many names are compared at a time: a million of them at once would take a hundred megabytes."""


def check_join(base: Iterable[bytes], increment: Iterable[bytes], sockets: Collection[bytes]) -> None:
    """Read two archives to their ends, and see that they make a whole.

    Args:
        base: the tar of the one.
        increment: the tar of the other.
        sockets: the paths of those that there were: no archive holds them.

    Raises:
        MalformedArchiveError: they do not.
    """
    lacking = _needed(increment, frozenset(sockets))
    there = array("q")
    members = Members()
    for data in base:
        for member in members.feed(data):
            if not member.is_directory:
                there.append(hash(member.name))
    parts = len(lacking) // _AT_ONCE + 1
    for part in range(parts):
        names = {name for name in lacking if name % parts == part}
        names.difference_update(name for name in there if name % parts == part)
        if names:
            raise MalformedArchiveError(f"it builds upon {len(names)} files that its base does not hold")


def _needed(increment: Iterable[bytes], sockets: frozenset[bytes]) -> array[int]:
    """Return the names, hashed, that an increment lists and does not hold."""
    needed = array("q")
    members = Members()
    held: set[bytes] = set()
    wanted: set[bytes] = set()
    for data in increment:
        for member in members.feed(data):
            held.add(member.name)
            for letter, name in member.entries:
                path = member.name + b"/" + name
                if letter == b"N" and path not in sockets:
                    needed.append(hash(path))
                elif letter in (b"Y", b"D") and path not in sockets:
                    wanted.add(path)
                elif letter not in (b"N", b"Y", b"D"):
                    raise MalformedArchiveError(f"it does with directories what {letter!r} stands for")
    if missing := wanted - held:
        raise MalformedArchiveError(f"it lists {len(missing)} files as its own that it does not hold")
    return needed
