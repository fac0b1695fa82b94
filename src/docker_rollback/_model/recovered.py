"""The values that recovery reports: operations that it finished, and operations in flight."""

from __future__ import annotations

import shlex
from typing import Literal, TypeAlias

from attrs import frozen

Ending: TypeAlias = Literal["discarded", "rolled back", "tidied up"]
"""How recovery ended an interrupted operation: it resumed the containers and discarded the partial backup, it restored
the backup, or it removed the leftovers of an operation that had succeeded."""

Owner: TypeAlias = Literal["alive", "dead", "unknown"]
"""Whether an operation's process is alive, according to this machine's kernel; unknown for other machines."""

RecordPlace: TypeAlias = Literal["here", "elsewhere", "gone", "unknown"]
"""The place of an operation's journal record: this store, another readable store, or nowhere because the operation has
ended; unknown if its store cannot be read from here."""


@frozen
class Recovered:
    """An interrupted operation that recovery has finished.

    Attributes:
        operation: its id, which is also its backup's.
        containers: the names of its containers.
        outcome: how recovery ended it.
        kept: the id of the backup that recovery took of the state it found; None if there was nothing to keep.
        files: a sentence for each file of `include_files` that was written back, or was not.
        unwritten: the paths of those that were not; the sentences say why, and where their content is.
    """

    operation: str
    containers: tuple[str, ...]
    outcome: Ending
    kept: str | None = None
    files: tuple[str, ...] = ()
    unwritten: tuple[str, ...] = ()


@frozen
class InFlight:
    """An operation in flight, as recorded by its lock volumes in the engine.

    Attributes:
        operation: its id, which is also its backup's.
        containers: the names of its containers.
        project: the name of its compose project; None for single containers.
        host: the host name of its process.
        since: its start, in UTC (ISO 8601).
        store: the path, on that host, of the store that has its journal record.
        owner: whether its process is alive.
        record: the place of its journal record.
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
        """True if it may have been interrupted and can only be finished from another store."""
        return self.owner != "alive" and self.record in ("elsewhere", "unknown")

    @property
    def command(self) -> str:
        """The command that finishes it, on the host of its store."""
        return f"python -m docker_rollback recover --store {shlex.quote(self.store)}"

    def __str__(self) -> str:
        names = f"project {self.project!r}" if self.project is not None else ", ".join(map(repr, self.containers))
        began = f"operation {self.operation} on {names}, begun {self.since} on host {self.host!r}"
        if self.owner == "alive":
            return f"{began}, is running with the store {self.store}"
        if self.owner == "dead":
            there = "" if self.record == "elsewhere" else ", once that store is available (is its disk mounted?),"
            return f"{began}, was interrupted: its process is dead. Finish it{there} with\n    {self.command}"
        return (
            f"{began}, may be running or interrupted: its process and its store cannot be seen from here. "
            f"If that process is dead, finish it on the host of its store with\n    {self.command}"
        )
