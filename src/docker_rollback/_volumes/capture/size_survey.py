"""How large a volume is, before it is archived: by its last archive, or by a look that goes through so many names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from attrs import field, frozen

from docker_rollback._model import Backup, MountPoint, VolumeArchive, Way
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.running_programs import Crew
from docker_rollback._volumes.capture.scan import look
from docker_rollback._volumes.tar.archive_stream import pieces_of, whole

MOST_NAMES: Final = 200_000
"""How many names a look goes through, which takes half a second."""
_SHARE: Final = 0.5
"""How much of a volume's size its archive takes in zstd; measured at 0.39 for a database."""


@frozen
class Survey:
    """What is known of a volume before its capture.

    Attributes:
        volume: its name.
        way: how its data is reached.
        mount_points: the names in it where something else is mounted.
        size: about how many bytes of tar it makes; None if that takes longer to find out than a check may take.
        room: about how many bytes its archive takes in the store; None likewise.
        options: what its driver was given.
        is_empty: whether nothing is in it; looked for if it has options.
    """

    volume: str
    way: Way
    mount_points: tuple[MountPoint, ...] = ()
    size: int | None = None
    room: int | None = None
    options: Mapping[str, str] = field(factory=dict)
    is_empty: bool = False


class _TooManyNamesError(Exception):
    """A volume has more names than a look goes through."""


class _Counter:
    """Counts the names in a volume, and ends the look when those are too many."""

    def __init__(self) -> None:
        self._left = MOST_NAMES

    def folder(self, *_: object) -> None:
        """Count a directory."""
        self._count()

    def file(self, *_: object) -> None:
        """Count anything else."""
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _TooManyNamesError


def earlier(backups: Iterable[Backup], identity: str, reaches: Iterable[Reach]) -> dict[str, list[VolumeArchive]]:
    """Return of each volume its archives, the newest last, if they left out the same as the next one is to.

    Args:
        backups: those that may have some.
        identity: of the engine that has the volumes.
        reaches: the volumes.
    """
    wanted = {one.volume: (one.excluded, [point.path for point in one.mount_points]) for one in reaches}
    found: dict[str, list[VolumeArchive]] = {}
    for backup in backups:
        for one in backup.volumes if backup.engine.identity == identity else ():
            if wanted.get(one.name) == (one.excluded, [point.path for point in one.mount_points]):
                found.setdefault(one.name, []).append(one)
    return found


def survey(reach: Reach, archives: Sequence[VolumeArchive], *, looks: bool) -> Survey:
    """Return what is known of a volume within reach.

    Args:
        reach: the volume.
        archives: earlier archives of it, the newest last.
        looks: whether the volume itself is looked at if there is none.

    Raises:
        VolumeAccessError: a path in it is too long to be restored.
    """
    size, room = _known(archives[-1]) if archives else _seen(reach) if looks else (None, None)
    options = reach.inspection.get("Options") or {}
    is_empty = bool(options) and _is_empty(reach)
    return Survey(reach.volume, reach.way, reach.mount_points, size, room, options, is_empty)


def _is_empty(reach: Reach) -> bool:
    """Return True if nothing is in a volume; False also if there is no find to tell."""
    with reach.run(reach.finding("-printf", "%P", depth=1)) as find:
        # Of the root, it prints nothing.
        printed = whole(pieces_of(find))
        return find.finish().exit_code == 0 and not printed


def _known(last: VolumeArchive) -> tuple[int, int]:
    # A base that serves again is in the store already.
    return last.size, last.stored[0 if last.increment is None else 1]


def _seen(reach: Reach) -> tuple[int, int] | tuple[None, None]:
    try:
        seen = look(reach, Crew(), [_Counter()])
    except _TooManyNamesError:
        return None, None
    return (None, None) if seen is None else (seen.size, int(seen.size * _SHARE))
