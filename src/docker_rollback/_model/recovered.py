"""What recovery reports: what it has finished, and what is in flight or unfinished where it cannot finish it."""

from __future__ import annotations

import shlex
from typing import Literal, TypeAlias

from attrs import frozen

Ending: TypeAlias = Literal["discarded", "rolled back", "tidied up"]
"""What became of an operation that was cut off: its containers do what they did before it and its half-made backup is
gone; its backup was put back; or it had ended well already, and what was left of it is gone."""

Owner: TypeAlias = Literal["alive", "dead", "unknown"]
"""Whether the process of an operation lives: as this machine's kernel tells, unknown where it cannot."""

RecordPlace: TypeAlias = Literal["here", "elsewhere", "gone", "unknown"]
"""Where the journal record of an operation is: in this store, in another one that can be read, or in neither because it
has ended; unknown where its store cannot be read from here."""


@frozen
class Recovered:
    """An operation that was cut off, and is finished now.

    Attributes:
        operation: its id, which is that of its backup.
        containers: the names of its containers.
        outcome: what became of it.
        kept: the id of the backup of the state that was found; None where there was nothing to keep.
    """

    operation: str
    containers: tuple[str, ...]
    outcome: Ending
    kept: str | None = None


@frozen
class InFlight:
    """An operation that its lock volumes in the engine tell of.

    Attributes:
        operation: its id, which is that of its backup.
        containers: the names of its containers.
        project: the name of the compose project that it is of; None for containers alone.
        host: the name of the host of its process.
        since: when it began, in UTC (ISO 8601).
        store: the path, on that host, of the store that has its journal record.
        owner: whether its process lives.
        record: where its journal record is.
    """

    operation: str
    containers: tuple[str, ...]
    project: str | None
    host: str
    since: str
    store: str
    owner: Owner
    record: RecordPlace

    @property
    def is_unfinished_elsewhere(self) -> bool:
        """Return True if it may be cut off, and another store than this one is needed to finish it."""
        return self.owner != "alive" and self.record in ("elsewhere", "unknown")

    @property
    def command(self) -> str:
        """The command that finishes it, where its store is."""
        return f"python -m docker_rollback recover --store {shlex.quote(self.store)}"

    def __str__(self) -> str:
        names = f"project {self.project!r}" if self.project is not None else ", ".join(map(repr, self.containers))
        began = f"operation {self.operation} on {names}, begun {self.since} on host {self.host!r}"
        if self.owner == "alive":
            return f"{began}, is at work with the store {self.store}"
        if self.owner == "dead":
            there = "" if self.record == "elsewhere" else ", once that store is there (is its disk mounted?)"
            return f"{began}, was cut off: its process is dead. Finish it{there} by\n    {self.command}"
        return (
            f"{began}, may be at work or cut off: its process and its store cannot be seen from here. "
            f"If that process is dead, finish it where the store is, by\n    {self.command}"
        )
