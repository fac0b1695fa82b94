"""What a look before a backup found. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import evolve, field, frozen

from docker_rollback._exclude import Exclude
from docker_rollback._model import NotCovered, Observed, Project, Way
from docker_rollback._privileges import privileges
from docker_rollback.errors import UnsupportedContainerError


@frozen
class Report:
    """What a backup would cover, what would be refused, and how much room it needs.

    Attributes:
        containers: the containers, as they were found, in the order in which they start.
        joined: the names of those that nobody named, but which would break if another one were made anew.
        guests: running containers outside that write to a volume or to one of those folders of theirs.
        bystanders: the ids of all other containers that there were.
        volumes: the volumes, and the folders of the host by their paths, whose data it would hold, and the way to each.
        anonymous: those of them that go with their container.
        not_covered: what it would not hold.
        refused: why it would not begin, by container; empty where nothing stands against it.
        excluded: what it would leave out on purpose.
        room: bytes that its images may take in the store, an estimate; what the volumes take is not counted.
        project: the compose project that was asked for.
    """

    containers: tuple[Observed, ...]
    joined: tuple[str, ...] = ()
    guests: tuple[Observed, ...] = ()
    bystanders: tuple[str, ...] = ()
    volumes: Mapping[str, Way] = field(factory=dict)
    anonymous: frozenset[str] = frozenset()
    not_covered: tuple[NotCovered, ...] = ()
    refused: Mapping[str, tuple[str, ...]] = field(factory=dict)
    room: int = 0
    project: Project | None = None
    excluded: tuple[Exclude, ...] = ()

    @property
    def privileges(self) -> dict[str, tuple[str, ...]]:
        """What each container may do to its host beyond an ordinary one, in plain words; the others are left out."""
        found = {container.name: privileges(container.inspection) for container in self.containers}
        return {name: words for name, words in found.items() if words}

    def with_now(self, found: Iterable[Observed]) -> Report:
        """Return the same with some containers as they were found now."""
        now = {one.id: one for one in found}
        containers = tuple(now.get(one.id, one) for one in self.containers)
        return evolve(self, containers=containers, guests=tuple(now.get(one.id, one) for one in self.guests))

    def raise_refusals(self) -> None:
        """Raise an `UnsupportedContainerError` for the first container that is refused."""
        for name, reasons in self.refused.items():
            raise UnsupportedContainerError(name, reasons)
