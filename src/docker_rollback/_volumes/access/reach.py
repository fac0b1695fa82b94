"""Access to one volume: its properties, and the function that runs programs on its files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import field, frozen

from docker_rollback._engine import Finished, Inspection, Process
from docker_rollback._host import Tree
from docker_rollback._model import MountPoint, Paths, Way, for_find, is_file
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.archive_stream import pieces_of, whole


class Run(Protocol):
    """Starts a program by its bare name and arguments, with access to a volume's files and an optional input."""

    def __call__(self, words: Sequence[str], /, *, stdin: bool = False) -> Process: ...


def output_of(run: Run, *words: str) -> tuple[bytes, Finished]:
    """Run a program that prints a few lines; return its output, and how it ended."""
    with run(words) as process:
        return whole(pieces_of(process)), process.finish()


@frozen
class Reach:
    """Access to a volume."""

    volume: str
    inspection: Inspection  # the engine's inspection of it
    way: Way
    root: str  # the path of its files, as seen by the programs that `run` starts
    snapshot: str  # the path of a new file for tar's record of directories
    run: Run  # starts a program that sees its files
    excluded: tuple[str, ...] = ()  # the paths in it that are neither archived nor restored
    # The paths in it at which something else is mounted. For a fill they include, as far as known, mount points that
    # only other mount namespaces see.
    mount_points: tuple[MountPoint, ...] = ()
    read_only: bool = False  # whether it is to be filled and cannot be written to
    # Its files, for our own system calls; None if this process cannot open them.
    tree: Tree | None = field(default=None, eq=False, repr=False)

    @property
    def is_file(self) -> bool:
        """Whether it is a single file of the engine's host; `root` is then the file's path."""
        return is_file(self.inspection)

    @property
    def unread(self) -> tuple[bytes, ...]:
        """The paths of the mount points, as tar writes them."""
        return tuple(b"./" + one.name for one in self.mount_points)

    def finding(self, *tests: str, depth: int | None = None) -> tuple[str, ...]:
        """Return a find command for its files, down to a depth, that does not descend into mount points."""
        root = (self.root, *(() if depth is None else ("-maxdepth", str(depth))))
        points = [("-path", f"{for_find(self.root)}/{for_find(one.path)}") for one in self.mount_points]
        if not points:
            return ("find", *root, *tests)
        first, *others = points
        named = [*first, *(word for one in others for word in ("-o", *one))]
        return ("find", *root, "(", *named, ")", "-prune", "-o", *tests)

    def creating(self) -> tuple[str, ...]:
        """Return the tar command that prints an archive of all of it."""
        if self.is_file:
            return gnu_tar.create_file(self.root)
        return gnu_tar.create(self.root, self.snapshot, excluded=self.excluded, passed_over=self.unread)

    @property
    def left_out(self) -> Paths:
        """The paths that are not in its archive: excluded ones and mount points."""
        return Paths(self.excluded, exact=[one.path for one in self.mount_points])
