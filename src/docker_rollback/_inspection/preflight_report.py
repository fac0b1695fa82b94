"""The report of a preflight: everything that a backup would contain or refuse. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import evolve, field, frozen

from docker_rollback._model import Exclude, NotCovered, Observed, Project, Way, privileges
from docker_rollback.errors import UnsupportedContainerError

# The number of files that a container or volume adds to the store; the first backup of an image may add more.
_FILES = 16


@frozen
class Report:
    """The contents of a planned backup, the reasons to refuse it, and the disk space that it needs.

    Attributes:
        containers: the containers as they were found, in start order.
        joined: the names of containers that were not named, but that would break if a named one were recreated.
        guests: other running containers that write to one of the volumes or folders.
        bystanders: the ids of all other containers.
        volumes: the volumes, and bind-mounted folders by their paths, that it would contain; each with its access
            method.
        anonymous: the volumes that are removed with their container.
        not_covered: the data that it would not contain.
        refused: the reasons to refuse, by container; empty if the backup can be taken.
        excluded: the data that is excluded on request.
        sizes: the approximate size of each volume in bytes, from its last archive or a scan; None if a scan would take
            too long.
        room: the approximate size of its images and volumes in the store, in bytes, without volumes of unknown size.
        free: the number of bytes that can be written to the store's file system.
        free_files: the number of files that can be created there; None if there is no limit.
        project: the compose project that was named.
        files: the paths of the files that `include_files` asks for.
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
    files: tuple[str, ...] = ()

    def __repr__(self) -> str:
        containers = ", ".join(repr(container.name) for container in self.containers)
        volumes = ", ".join(map(repr, self.volumes))
        refused = f", refused: {', '.join(map(repr, self.refused))}" if self.refused else ""
        return (
            f"<Report on containers {containers or 'none'}, volumes {volumes or 'none'}: "
            f"about {self.room / 1e6:,.2f} MB{refused}>"
        )

    @property
    def privileges(self) -> dict[str, tuple[str, ...]]:
        """The privileges of each container that has more than an ordinary one, in plain words."""
        found = {container.name: privileges(container.inspection) for container in self.containers}
        return {name: words for name, words in found.items() if words}

    def with_now(self, found: Iterable[Observed]) -> Report:
        """Return a copy with newer observations of some containers."""
        now = {one.id: one for one in found}
        containers = tuple(now.get(one.id, one) for one in self.containers)
        return evolve(self, containers=containers, guests=tuple(now.get(one.id, one) for one in self.guests))

    @property
    def shortage(self) -> str | None:
        """A sentence about what the store's file system lacks; None if it has enough space and inodes."""
        if self.free is not None and self.free < self.room:
            return f"about {self.room / 1e6:,.2f} MB are needed, and {self.free / 1e6:,.2f} MB are free"
        files = _FILES * (1 + len(self.containers) + len(self.volumes))
        if self.free_files is not None and self.free_files < files:
            return f"about {files} files are created, and there are inodes for {self.free_files}"
        return None

    @property
    def unsized(self) -> tuple[str, ...]:
        """The volumes of unknown size, which `room` does not count."""
        return tuple(name for name, size in self.sizes.items() if size is None)

    def raise_refusals(self) -> None:
        """Raise an `UnsupportedContainerError` for the first container that is refused."""
        for name, reasons in self.refused.items():
            raise UnsupportedContainerError(name, reasons)
