"""The durable note of an operation in flight, from which `recover` works. Values, and what can be told from them alone.

One record stands for one operation on some containers: a rollback, a backup or a restore. It is replaced as a whole
before each phase that changes something. Names are chosen ahead (the operation's id is in every name of ours), so
whatever an operation made can be found from its record.
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
"""How far an operation has come, as far as its record knows.

- capturing: containers may be at rest; there is no backup that counts.
- updating: the backup is durable and the containers do what they did; the update is at work.
- committed: the update stands, whatever happens from now on.
- rolling back: the backup is being put back; volumes may hold a part of their data, and nothing starts.
- restored: all data is back; from here on the containers are started, and nothing is put back again.
"""


@frozen
class Standing:
    """A container as it stood when a record was written.

    Attributes:
        id: its full id.
        name: its name.
        started: when it was started last, as its engine says it; equal texts mean the same run.
        config: a digest of its configuration.
        restarted: how often its engine had started it again by its restart policy.
    """

    id: str
    name: str
    started: str
    config: str
    restarted: int = 0


@frozen
class Record:
    """What is known of an operation in flight.

    Attributes:
        operation: its id, which is that of its backup.
        phase: how far it has come.
        written: when this was written, in UTC.
        host: the host's name of its owner.
        pid: the process of its owner.
        engine: the identity of the engine that it works on.
        containers: its containers, in the order in which they start, and how its capture brought each to rest.
        volumes: the volumes of these.
        guests: containers outside that rest meanwhile.
        detached: containers outside that are off a network until it is made again.
        standing: what stood when this was written: its containers, and whatever else uses their names or volumes.
        kept: the id of the backup in which `recover` keeps the state that it found.
        project: the name of the compose project that it is of.
        spares: whether volumes that came to the project since its backup stay: a restore by itself knows of no update
            that made them.
        restore_tags: whether names of images are led back.
        came: what there was of the project when the way back began. What is not in it came later, and is no update's.
        stopped: the containers that are stopped for a capture, guests included, as they were before, each with what was
            committed of it while it ran. From these they are recreated where somebody removes them; empty once all run.
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
        """The name of its note: one backup can be restored on several engines."""
        return f"{self.operation}.{hashlib.sha256(self.engine.encode()).hexdigest()[:8]}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its containers."""
        return tuple(container.name for container in self.containers)

    @property
    def marked(self) -> tuple[Resting, ...]:
        """What has a mark in the engine as long as it lasts: its containers, and its project by a name of its own."""
        if self.project is None:
            return self.containers
        # No container's name begins so; the id is the key of its lock.
        mark = Resting(id=project_key(self.project), name=PROJECT_MARK + self.project, how="none", started="")
        return (*self.containers, mark)

    def concerns(self, references: Collection[str], project: str | None = None) -> bool:
        """Whether it is of a project, or one of some names and ids is of a container of it; the beginning will do."""
        return (project is not None and project == self.project) or any(
            refers(reference, container.name, container.id) for reference in references for container in self.containers
        )


def stand(container: Observed) -> Standing:
    """Return what a record keeps of a container."""
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
    """Return what somebody started or changed since a record was written, a sentence each.

    What was stopped or removed since is no work that a rollback could destroy. While it is rolling back, configurations
    and names change by the rollback itself, and what it makes is not started before all data is back.

    Args:
        record: the last one of the operation.
        found: what stands now: its containers, and whatever else uses their names or volumes.
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
