"""Which backups may go; pure.

Backups of the same things are one series: a group is not thinned out by the backups of one of its members, a whole
backup not by a snapshot of the container alone, an archive of one volume not by one of another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

from attrs import field, frozen

from docker_rollback._model import Backup


@frozen
class PruneReport:
    """What a `BackupStore.prune` did, or would do.

    Attributes:
        removed: the ids of the backups that went, oldest first.
        kept: the ids of those that stayed, oldest first.
        spared: of the kept, those that the rule alone would have removed, each with the reason why it stayed.
        blobs: how many blobs went with them, or belonged to nothing.
        freed: the bytes that this gave back.
        not_swept: why no blob was removed, where that is so; the backups are gone from the list all the same.
        dry_run: whether nothing was touched.
    """

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    spared: Mapping[str, str] = field(factory=dict)
    blobs: int = 0
    freed: int = 0
    not_swept: str | None = None
    dry_run: bool = False


@frozen
class Choice:
    """What a rule removes, and what it would but must not."""

    removed: tuple[str, ...]
    spared: Mapping[str, str]


def choose(
    backups: Iterable[Backup],
    *,
    keep: int | None,
    max_age: float | None,
    now: datetime,
    containers: Collection[str] | None,
    needed: Mapping[str, str],
    is_sound: Callable[[Backup], bool],
) -> Choice:
    """Choose the backups that go.

    Args:
        backups: all that there are.
        keep: how many of each series stay for their number; None for no such rule.
        max_age: those younger than this many seconds stay for their age; None for no such rule.
        now: the time.
        containers: only the series of exactly these containers; every series where None.
        needed: backups that stay whatever the rule says, with the reason.
        is_sound: whether a backup verifies; asked only where the answer decides.
    """
    removed: list[str] = []
    spared: dict[str, str] = {}
    for things, series in sorted(_series(backups).items()):
        if containers is not None and things[0] != tuple(sorted(set(containers))):
            continue
        going = [
            backup
            for number, backup in enumerate(series)
            if not (keep is not None and number < keep)
            and not (max_age is not None and (now - backup.created).total_seconds() <= max_age)
        ]
        spared.update({backup.id: needed[backup.id] for backup in going if backup.id in needed})
        going = [backup for backup in going if backup.id not in needed]
        last = _newest_sound(series, {backup.id for backup in going}, is_sound)
        if last is not None:
            spared[last] = "it is the newest backup of its containers that verifies"
        removed.extend(backup.id for backup in reversed(going) if backup.id != last)
    return Choice(tuple(removed), spared)


_Things = tuple[tuple[str, ...], tuple[str, ...], bool]
"""What a series is of: containers, or else volumes; and whether there is data of volumes in it."""


def _series(backups: Iterable[Backup]) -> dict[_Things, list[Backup]]:
    """Sort backups into series, newest first in each."""
    series: dict[_Things, list[Backup]] = {}
    for backup in sorted(backups, key=lambda backup: (backup.created, backup.id), reverse=True):
        containers = tuple(sorted({container.name for container in backup.containers}))
        # The volumes of a container come and go with its versions; without one they are what the series is of.
        volumes = () if containers else tuple(sorted({volume.name for volume in backup.volumes}))
        series.setdefault((containers, volumes, bool(backup.volumes)), []).append(backup)
    return series


def _newest_sound(series: Sequence[Backup], going: set[str], is_sound: Callable[[Backup], bool]) -> str | None:
    """Return the id of the one that must not go because no backup that stays can take its place."""
    if not going:
        return None
    # One that needs its engine to be restored is no match for one that needs the store alone.
    for backup in sorted(series, key=lambda backup: not backup.durable):
        if is_sound(backup):
            return backup.id if backup.id in going else None
    return None
