"""What was measured: samples, and their medians."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Final, TypeAlias

from attrs import frozen

SECONDS: Final = "seconds"
DOWN: Final = "seconds of downtime"
STORED: Final = "bytes stored"
MEMORY: Final = "bytes of memory"
CHANGED: Final = "bytes of changed files"
REQUESTS: Final = "requests to the engine"

BARE: Final = "docker stop and docker start"
PLAIN: Final = "docker CLI and busybox"
RESTIC: Final = "restic"
DIRECT: Final = "docker-rollback, direct"
HELPER: Final = "docker-rollback, helper"
EACH: Final = "docker stop and docker start, all at once"
ALL: Final = "docker stop and docker start, one command"
COMPOSE: Final = "docker compose stop and start"

FIRST: Final = "first backup"
SECOND: Final = "second backup, 1% changed"
ROLLBACK: Final = "rollback, 1% changed"
RESTORE: Final = "full restore"
RESTART: Final = "restart"
ENTRY: Final = "entering and leaving"
ENTERING: Final = "entering"
REMOVED: Final = "rollback of removed containers"
FURTHER: Final = "further backup, small change in the layer"


@frozen
class Key:
    """What a value is of.

    Attributes:
        subject: what was backed up.
        way: how.
        task: what was done.
        figure: what was measured.
    """

    subject: str
    way: str
    task: str
    figure: str


@frozen
class Sample:
    """One value."""

    key: Key
    value: float


Medians: TypeAlias = dict[Key, float]


def medians(samples: Iterable[Sample]) -> Medians:
    """Return the median of each figure."""
    grouped: dict[Key, list[float]] = {}
    for sample in samples:
        grouped.setdefault(sample.key, []).append(sample.value)
    return {key: median(values) for key, values in grouped.items()}
