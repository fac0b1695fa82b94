"""Which backups may go; pure.

Backups of the same things on one engine are one series: a group is not thinned out by the backups of one of its
members, a whole backup not by a snapshot of the container alone, an archive of one volume not by one of another, and
none by those of a container that only has the same name on another engine. States that were kept before a rollback
undid them are a series of their own as well: however many updates fail, the backup of the last good state stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import NoneType
from typing import Self, TypeAlias

from attrs import field, frozen

from docker_rollback._arguments import instance
from docker_rollback._model import Backup


@frozen
class Keep:
    """Which backups of a series stay: those that either rule wants; all of them where there is no rule.

    Args:
        count: so many, the newest.
        age: those that are no older than this.

    Raises:
        ValueError: a rule is negative.
        TypeError: a rule is not of its type.

    Example:
        >>> rollback("web", keep=Keep(count=3, age=timedelta(days=30)))
    """

    count: int | None = None
    age: timedelta | None = None

    def __attrs_post_init__(self) -> None:
        instance("keep", self.count, (int, NoneType), what="a number of backups, a timedelta, a Keep or None")
        instance("the age of a Keep", self.age, (timedelta, NoneType), what="a timedelta or None")
        if (self.count is not None and self.count < 0) or (self.age is not None and self.age < timedelta()):
            raise ValueError(f"keep is not negative; {self.count if self.age is None else self.age!r} was given")

    @classmethod
    def of(cls, keep: KeepArgument) -> Self:
        """Return the rules that an argument stands for: a count, an age, both, or None for neither."""
        if isinstance(keep, Keep):
            return cls(keep.count, keep.age)
        return cls(age=keep) if isinstance(keep, timedelta) else cls(count=keep)

    def __bool__(self) -> bool:
        return self.count is not None or self.age is not None

    def wants(self, place: int, age: timedelta) -> bool:
        """Whether the backup at a place of its series stays; the newest is at 0."""
        return (self.count is not None and place < self.count) or (self.age is not None and age <= self.age)


KeepArgument: TypeAlias = int | timedelta | Keep | None
"""Which backups are to stay: so many, those younger than an age, both by `Keep`, or all of them for None."""


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


@frozen
class Scope:
    """The series of backups that a rule is for.

    Attributes:
        containers: only the series of exactly these containers, besides those of `project`; None takes every series.
        project: only the series of this compose project; None takes every series.
        engine: only the series of the engine with this identity; None takes every series.
    """

    containers: Collection[str] | None = None
    project: str | None = None
    engine: str | None = None

    def covers(self, things: _Things) -> bool:
        """Return True if the rule is for the series of these things."""
        if self.containers is not None:
            wanted = tuple(sorted(set(self.containers)))
            if (wanted, self.project or "") != (things.containers, things.project):
                return False
        return self.engine in (None, things.engine) and self.project in (None, things.project)


def choose(
    backups: Iterable[Backup],
    *,
    keep: Keep,
    now: datetime,
    scope: Scope | None = None,
    needed: Mapping[str, str],
    is_sound: Callable[[Backup], bool],
) -> Choice:
    """Choose the backups that go.

    Args:
        backups: all that there are.
        keep: what stays of each series; without a rule no backup goes.
        now: the time.
        scope: the series to choose from; None takes all.
        needed: backups that stay whatever the rule says, with the reason.
        is_sound: whether a backup verifies; asked only where the answer decides.
    """
    removed: list[str] = []
    spared: dict[str, str] = {}
    scope = scope or Scope()
    for things, series in sorted(_series(backups).items()) if keep else ():
        if not scope.covers(things):
            continue
        going = [backup for place, backup in enumerate(series) if not keep.wants(place, now - backup.created)]
        spared.update({backup.id: needed[backup.id] for backup in going if backup.id in needed})
        going = [backup for backup in going if backup.id not in needed]
        last = _newest_sound(series, {backup.id for backup in going}, is_sound)
        if last is not None:
            spared[last] = "it is the newest backup of its containers that verifies"
        removed.extend(backup.id for backup in reversed(going) if backup.id != last)
    return Choice(tuple(removed), spared)


@frozen(order=True)
class _Things:
    """What a series is of.

    Attributes:
        engine: the identity of its engine. Backups of engines without one, taken before it was kept, are series of
            their own.
        containers: their names. Of a project those that are named beside it: its own come and go with its versions. Of
            kept states those that the rollback was of: what a failed update leaves may have others, and lack some.
        volumes: the names of volumes, where there are neither containers nor a project: else they come and go, too.
        has_data: whether there is data of volumes in it.
        is_kept: whether it is of states that were kept before a rollback undid them.
        project: the name of a project, or nothing.
    """

    engine: str
    containers: tuple[str, ...]
    volumes: tuple[str, ...]
    has_data: bool
    is_kept: bool
    project: str

    @classmethod
    def of(cls, backup: Backup) -> Self:
        """Return what the series of a backup is of."""
        project = backup.project.name if backup.project is not None else ""
        containers = backup.beside if project else backup.kept_for or backup.beside
        named = containers or project
        return cls(
            engine=backup.engine.identity,
            containers=tuple(sorted(set(containers))),
            volumes=() if named else tuple(sorted({volume.name for volume in backup.volumes})),
            has_data=bool(backup.volumes) and not backup.kept_for,
            is_kept=bool(backup.kept_for),
            project=project,
        )


def _series(backups: Iterable[Backup]) -> dict[_Things, list[Backup]]:
    """Sort backups into series, newest first in each."""
    series: dict[_Things, list[Backup]] = {}
    for backup in sorted(backups, key=lambda backup: (backup.created, backup.id), reverse=True):
        series.setdefault(_Things.of(backup), []).append(backup)
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
