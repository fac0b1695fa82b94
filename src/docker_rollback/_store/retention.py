"""Chooses the backups that a prune removes. Pure.

Backups of the same subject on one engine are a series, and only backups of the same series replace each other. So a
group's backup is not replaced by that of one member, a whole backup not by a snapshot of the container alone, a volume
archive not by that of another volume, and no backup by that of a container with the same name on another engine. States
that were kept before a rollback undid them are a series of their own: however many updates fail, the backup of the last
good state stays.
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
    """The rules for the backups of a series that stay. A backup stays if either rule keeps it, or if there is no rule.

    Args:
        count: keep this number of backups, the newest.
        age: keep the backups that are no older than this.

    Raises:
        ValueError: a rule is negative.
        TypeError: a rule has the wrong type.

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
        """Return the rules of an argument: a count, an age, both, or None for neither."""
        if isinstance(keep, Keep):
            return cls(keep.count, keep.age)
        return cls(age=keep) if isinstance(keep, timedelta) else cls(count=keep)

    def __bool__(self) -> bool:
        return self.count is not None or self.age is not None

    def wants(self, place: int, age: timedelta) -> bool:
        """Return True if a rule keeps the backup at this place of its series; the newest is at 0."""
        return (self.count is not None and place < self.count) or (self.age is not None and age <= self.age)


KeepArgument: TypeAlias = int | timedelta | Keep | None
"""The backups to keep: a number, a maximum age, both in a `Keep`, or None for all."""


@frozen
class PruneReport:
    """The result of `BackupStore.prune`.

    Attributes:
        removed: the ids of the removed backups, oldest first.
        kept: the ids of the kept backups, oldest first.
        spared: the kept backups that the rules alone would have removed, each with the reason to keep it.
        blobs: the number of removed blobs.
        freed: the number of freed bytes.
        not_swept: why no blob was removed; None if blobs were removed. The backups are off the list in any case.
        dry_run: True if nothing was changed.
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
    """The backups that the rules remove, and those that they would remove but must not."""

    removed: tuple[str, ...]
    spared: Mapping[str, str]


@frozen
class Scope:
    """The series of backups that a prune applies to; None in a field means every series."""

    # The series of exactly these containers, in addition to `project` if that is given.
    containers: Collection[str] | None = None
    project: str | None = None  # the series of this compose project
    engine: str | None = None  # the series of the engine with this identity

    def covers(self, subject: _Subject) -> bool:
        """Return True if the prune applies to the subject's series."""
        if self.containers is not None:
            wanted = tuple(sorted(set(self.containers)))
            if (wanted, self.project or "") != (subject.containers, subject.project):
                return False
        return self.engine in (None, subject.engine) and self.project in (None, subject.project)


def choose(
    backups: Iterable[Backup],
    *,
    keep: Keep,
    now: datetime,
    scope: Scope | None = None,
    needed: Mapping[str, str],
    is_sound: Callable[[Backup], bool],
) -> Choice:
    """Choose the backups to remove, of those in the scope; without a rule in `keep` none is removed.

    Backups in `needed` are kept in any case, for the reasons there. `is_sound` tells whether a backup verifies; it is
    called only if the answer matters.
    """
    removed: list[str] = []
    spared: dict[str, str] = {}
    scope = scope or Scope()
    for subject, series in sorted(_series(backups).items()) if keep else ():
        if not scope.covers(subject):
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
class _Subject:
    """The subject of a series."""

    engine: str  # the identity of its engine; empty in older backups, which form series of their own
    # The names of its containers. For a project, only the additional ones, because its own change with its versions.
    # For kept states, the containers of the rollback, because a failed update may add and remove containers.
    containers: tuple[str, ...]
    # The names of its volumes, if it has neither containers nor a project; else volumes may change.
    volumes: tuple[str, ...]
    has_data: bool  # True if it contains volume data
    is_kept: bool  # True if it contains states that were kept before a rollback undid them
    project: str  # the name of its compose project, or an empty string

    @classmethod
    def of(cls, backup: Backup) -> Self:
        """Return the subject of a backup's series."""
        project = backup.project.name if backup.project is not None else ""
        containers = backup.outside_project if project else backup.kept_for or backup.outside_project
        named = containers or project
        return cls(
            engine=backup.engine.identity,
            containers=tuple(sorted(set(containers))),
            volumes=() if named else tuple(sorted({volume.name for volume in backup.volumes})),
            has_data=bool(backup.volumes) and not backup.kept_for,
            is_kept=bool(backup.kept_for),
            project=project,
        )


def _series(backups: Iterable[Backup]) -> dict[_Subject, list[Backup]]:
    """Group backups into series, each with the newest first."""
    series: dict[_Subject, list[Backup]] = {}
    for backup in sorted(backups, key=lambda backup: (backup.created, backup.id), reverse=True):
        series.setdefault(_Subject.of(backup), []).append(backup)
    return series


def _newest_sound(series: Sequence[Backup], going: set[str], is_sound: Callable[[Backup], bool]) -> str | None:
    """Return the id of the backup that has to stay because no other one that stays could replace it."""
    if not going:
        return None
    # A backup that needs its engine does not replace one that needs the store alone.
    for backup in sorted(series, key=lambda backup: not backup.durable):
        if is_sound(backup):
            return backup.id if backup.id in going else None
    return None
