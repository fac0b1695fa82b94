"""Defines the journal record of an operation in flight, from which `recover` works, and pure functions on it.

One record describes one operation on some containers: a rollback, a backup or a restore. It is replaced as a whole
before each phase that changes something. Names are chosen in advance, with the operation's id in each, so that
everything an operation created can be found from its record.
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
        spares: whether volumes added to the project since its backup stay: a plain restore knows of no update that made
            them.
        restore_tags: whether image names are moved back.
        came: the project when the rollback began. What is not in it was added later, not by the update.
        stopped: the containers stopped for a capture, other containers included, as they were before, each with the
            image that was committed while it ran. They are recreated from these if somebody removes them; empty once
            all run.
        networks: the networks of these.
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


def stand(container: Observed) -> Standing:
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
    """Return one sentence for each container that was started or changed since a record was written.

    A stopped or removed container is no work that a rollback could destroy. The rollback itself changes configurations
    and names, and does not start what it creates before all data is back.

    Args:
        record: the last record of the operation.
        found: the containers now: those of the operation, and others that use their names or volumes.
    """
    known = {standing.id: standing for standing in record.standing}
    reasons = []
    for container in found:
        before, now = known.get(container.id), stand(container)
        if before is None and now.started:
            reasons.append(f"container {container.name!r} was made and started since")
        elif before is not None and not is_same_start(container.inspection, before.started, before.restarted):
            reasons.append(f"container {container.name!r} was started since")
        elif record.phase == "rolling back":
            continue
        elif before is None:
            reasons.append(f"container {container.name!r} was made since")
        elif before.config != now.config:
            reasons.append(f"container {container.name!r} was changed since")
    return reasons


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
