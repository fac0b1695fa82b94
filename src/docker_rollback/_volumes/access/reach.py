"""A volume within reach: what is known of it, and how programs are run next to its files."""

from __future__ import annotations

from attrs import field, frozen

from docker_rollback._engine import Inspection
from docker_rollback._host import Tree
from docker_rollback._model import MountPoint, Paths, Way, for_find, is_file
from docker_rollback._volumes.access.run import Run
from docker_rollback._volumes.tar import gnu_tar


@frozen
class Reach:
    """A volume within reach.

    Attributes:
        volume: its name.
        inspection: everything that the engine says of it.
        way: how.
        root: where its files are, as the programs see it that `run` starts.
        snapshot: a file, not there yet, for tar's record of its directories.
        run: starts a program next to its files.
        excluded: the paths in it that are left out, and left alone.
        mount_points: the paths in it where something else is mounted. To be filled, it has those as well that no
            program next to it sees, as far as they can be known.
        read_only: whether it is to be filled, and nothing can be written to it.
        tree: its files, for what we open ourselves; None where they are not at hand.
    """

    volume: str
    inspection: Inspection
    way: Way
    root: str
    snapshot: str
    run: Run
    excluded: tuple[str, ...] = ()
    mount_points: tuple[MountPoint, ...] = ()
    read_only: bool = False
    tree: Tree | None = field(default=None, eq=False, repr=False)

    @property
    def is_file(self) -> bool:
        """Whether it is a single file of the engine's host, which `root` is the path of then."""
        return is_file(self.inspection)

    @property
    def unread(self) -> tuple[bytes, ...]:
        """The mount points, as tar has their paths."""
        return tuple(b"./" + one.name for one in self.mount_points)

    def finding(self, *tests: str, depth: int | None = None) -> tuple[str, ...]:
        """Return the command by which find goes through it, so deep at most, and into no mount point."""
        root = (self.root, *(() if depth is None else ("-maxdepth", str(depth))))
        points = [("-path", f"{for_find(self.root)}/{for_find(one.path)}") for one in self.mount_points]
        if not points:
            return ("find", *root, *tests)
        first, *others = points
        named = [*first, *(word for one in others for word in ("-o", *one))]
        return ("find", *root, "(", *named, ")", "-prune", "-o", *tests)

    def creating(self) -> tuple[str, ...]:
        """Return the command by which tar prints an archive of all of it."""
        if self.is_file:
            return gnu_tar.create_file(self.root)
        return gnu_tar.create(self.root, self.snapshot, excluded=self.excluded, passed_over=self.unread)

    @property
    def left_out(self) -> Paths:
        """The paths that are left out of its archive, excluded ones and mount points, to be asked for others."""
        return Paths(self.excluded, exact=[one.path for one in self.mount_points])
