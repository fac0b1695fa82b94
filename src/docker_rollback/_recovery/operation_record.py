"""Defines the journal record of an operation in flight, from which `recover` works, and pure functions on it.

A record describes one operation on some containers: a rollback, a backup or a restore. It is replaced as a whole before
each phase that changes anything. Names are chosen in advance and contain the operation's id, so that everything that an
operation created can be found from its record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, TypeAlias

from attrs import field, frozen

from docker_rollback._containers import PROJECT_MARK, project_key
from docker_rollback._inspection import is_same_start, refers, restart_count, started_at, user_endpoints
from docker_rollback._model import ContainerSnapshot, Detached, NetworkRecord, Observed, Project, Resting

Phase: TypeAlias = Literal["capturing", "updating", "committed", "rolling back", "restored"]
"""The phase of an operation, by its record.

- capturing: containers may be stopped; there is no valid backup yet.
- updating: the backup is durable and the containers are in their previous state; the update is in progress.
- committed: the update is final.
- rolling back: the backup is being restored; volumes may hold a part of their data, and no container starts.
- restored: all data is back; the containers are being started, and nothing is restored again.
"""


@frozen
class Standing:
    """A container as it stood when a record was written.

    Attributes:
        id: its full id.
        name: its name.
        started: its last start, in the engine's words; equal texts mean the same run.
        config: a digest of its configuration.
        restarted: how often its restart policy had restarted it.
    """

    id: str
    name: str
    started: str
    config: str
    restarted: int = 0


@frozen
class Record:
    """The journal record of an operation in flight.

    Attributes:
        operation: its id, which is that of its backup.
        phase: its phase.
        written: when the record was written, in UTC.
        host: the host name of the process that runs the operation.
        pid: the id of that process.
        engine: the identity of the engine.
        containers: the operation's containers in start order, each with how its capture quiesced it.
        volumes: the volumes of these containers.
        guests: other containers that are stopped meanwhile.
        detached: other containers that are detached from a network while it is recreated.
        standing: the containers at the time of writing: those of the operation, and others with their names or volumes.
        kept: the id of the backup in which `recover` keeps the state that it found.
        project: the name of the compose project that the operation covers.
        spares: whether volumes that were added to the project since its backup stay. A plain restore cannot know that
            an update added them.
        restore_tags: whether image names are moved back.
        files_host: the machine on which the backup's files are written back; empty for none.
        came: the project when the rollback began. Anything that is not in it was added later, not by the update.
        stopped: the snapshots of the containers that are stopped for a capture, with images that were committed while
            they ran. A container that somebody removes is recreated from its snapshot. Empty once all run.
        networks: the networks of the stopped containers.
    """

    operation: str
    phase: Phase
    written: datetime
    host: str
    pid: int
    engine: str
    containers: tuple[Resting, ...]
    volumes: tuple[str, ...] = ()
    guests: tuple[Resting, ...] = ()
    detached: tuple[Detached, ...] = ()
    standing: tuple[Standing, ...] = field(default=(), repr=False)
    kept: str | None = None
    project: str | None = None
    spares: bool = False
    came: Project | None = None
    restore_tags: bool = True
    files_host: str = ""
    stopped: tuple[ContainerSnapshot, ...] = field(default=(), repr=False)
    networks: tuple[NetworkRecord, ...] = field(default=(), repr=False)

    @property
    def key(self) -> str:
        """The name of the record in the journal; it includes the engine, as one backup can be restored on several."""
        return f"{self.operation}.{hashlib.sha256(self.engine.encode()).hexdigest()[:8]}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its containers."""
        return tuple(container.name for container in self.containers)

    @property
    def marked(self) -> tuple[Resting, ...]:
        """The containers that have a lock volume during the operation; a project has one by a name of its own."""
        if self.project is None:
            return self.containers
        # No container's name has this prefix. The id is the key of the project's lock.
        mark = Resting(id=project_key(self.project), name=PROJECT_MARK + self.project, how="none", started="")
        return (*self.containers, mark)

    def concerns(self, references: Collection[str], project: str | None = None) -> bool:
        """Return True if the record covers this project or any of these containers (name, id or id prefix)."""
        return (project is not None and project == self.project) or any(
            refers(reference, container.name, container.id) for reference in references for container in self.containers
        )


def standing_of(container: Observed) -> Standing:
    """Return the part of a container that a record keeps."""
    inspection = container.inspection
    chosen = {
        "Name": container.name,
        "Config": inspection["Config"],
        "HostConfig": inspection["HostConfig"],
        "Endpoints": user_endpoints(inspection),
    }
    return Standing(
        container.id, container.name, started_at(inspection), _digest(chosen), restarted=restart_count(inspection)
    )


def interference(record: Record, found: Iterable[Observed]) -> list[str]:
    """Return a sentence for each container that was started or changed since a record was written.

    Args:
        record: the last record of the operation.
        found: the containers now: those of the operation, and others that use their names or volumes.
    """
    known = {standing.id: standing for standing in record.standing}
    reasons = []
    # A stopped or removed container is no work that a rollback could destroy.
    for container in found:
        before, now = known.get(container.id), standing_of(container)
        if before is None and now.started:
            reasons.append(f"container {container.name!r} was created and started since")
        elif before is not None and not is_same_start(container.inspection, before.started, before.restarted):
            reasons.append(f"container {container.name!r} was started since")
        elif record.phase == "rolling back":
            # The rollback itself changes configurations and names, and starts nothing before all data is restored.
            continue
        elif before is None:
            reasons.append(f"container {container.name!r} was created since")
        elif before.config != now.config:
            reasons.append(f"container {container.name!r} was changed since")
    return reasons


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
