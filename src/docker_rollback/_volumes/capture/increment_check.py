"""Whether a base and an increment make a whole: every name that the increment builds upon is in the base.

An increment lists what is in each directory, but holds what has changed alone. What it lists and does not hold has to
come from its base. Where that lacks it, the file would be missing after a restore, and neither tar nor a hash would
notice.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable

from docker_rollback._model import NONE, Paths
from docker_rollback._volumes.capture.hash_set import Hashes
from docker_rollback._volumes.tar.members import MalformedArchiveError, Members


def check_alone(archive: Iterable[bytes]) -> None:
    """Read an archive to its end, and see that it is whole, and that tar can put all of it back.

    Raises:
        PathTooLongError: tar cannot.
        MalformedArchiveError: it is not whole.
    """
    members = Members()
    for data in archive:
        for _ in members.feed(data):
            pass
    members.check_over()


def check_join(there: Hashes, increment: Iterable[bytes], sockets: Collection[bytes], left_out: Paths = NONE) -> None:
    """Read an increment to its end, and see that it and its base make a whole.

    Args:
        there: the hashed paths of what the base holds.
        increment: the tar of the increment.
        sockets: the paths of those that there were: no archive holds them.
        left_out: the paths that are left out on purpose.

    Raises:
        PathTooLongError: tar cannot put it back.
        MalformedArchiveError: they do not.
    """
    members, ours = Members(), frozenset(sockets)
    held, wanted, lacking = Hashes(), array("q"), 0
    for data in increment:
        for member in members.feed(data):
            held.add(hash(member.name))
            for letter, name in member.entries:
                path = member.name + b"/" + name
                if letter not in (b"N", b"Y", b"D"):
                    raise MalformedArchiveError(f"it does with directories what {letter!r} stands for")
                if path in ours:
                    continue
                if letter != b"N":
                    wanted.append(hash(path))
                elif hash(path) not in there and path not in left_out:
                    lacking += 1
    members.check_over()
    if missing := sum(one not in held for one in wanted):
        raise MalformedArchiveError(f"it lists {missing} files as its own that it does not hold")
    if lacking:
        raise MalformedArchiveError(f"it builds upon {lacking} files that its base does not hold")
