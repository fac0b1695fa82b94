"""What a look before a backup found. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import evolve, field, frozen

from docker_rollback._model import Exclude, NotCovered, Observed, Project, Way, privileges
from docker_rollback.errors import UnsupportedContainerError

_FILES = 16
"""How many files a container or a volume adds to the store, the first backup of an image with many layers excepted."""


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
        sizes: about how many bytes each volume has, by its last archive, or by a look; None if that would take too long
            to find out.
        room: about how many bytes its images and volumes take in the store; volumes of unknown size are not counted.
        free: how many bytes may be written to the file system of the store.
        free_files: how many files may be made there; None if it sets no limit.
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
    sizes: Mapping[str, int | None] = field(factory=dict)
    room: int = 0
    free: int | None = None
    free_files: int | None = None
    project: Project | None = None
    excluded: tuple[Exclude, ...] = ()

    def __repr__(self) -> str:
        """Return the names of the containers and volumes, the needed space and the refusals, on one line."""
        containers = ", ".join(repr(container.name) for container in self.containers)
        volumes = ", ".join(map(repr, self.volumes))
        refused = f", refused: {', '.join(map(repr, self.refused))}" if self.refused else ""
        return (
            f"<Report on containers {containers or 'none'}, volumes {volumes or 'none'}: "
            f"about {self.room / 1e6:,.2f} MB{refused}>"
        )

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

    @property
    def shortage(self) -> str | None:
        """What the file system of the store has too little of, in a sentence; None if it has enough."""
        if self.free is not None and self.free < self.room:
            return f"about {self.room / 1e6:,.2f} MB are needed, and {self.free / 1e6:,.2f} MB are free"
        files = _FILES * (1 + len(self.containers) + len(self.volumes))
        if self.free_files is not None and self.free_files < files:
            return f"about {files} files are made, and there are inodes for {self.free_files}"
        return None

    @property
    def unsized(self) -> tuple[str, ...]:
        """The volumes whose size is not known, so that the room for them is not counted."""
        return tuple(name for name, size in self.sizes.items() if size is None)

    def raise_refusals(self) -> None:
        """Raise an `UnsupportedContainerError` for the first container that is refused."""
        for name, reasons in self.refused.items():
            raise UnsupportedContainerError(name, reasons)
