"""Finds mount points in a volume, which a capture leaves out, and a restore neither touches nor removes.

Whether a program sees a mount in a volume depends on its mount namespace. It cannot remove a mount point that it sees.
A name that is a mount point only in another namespace can be removed without an error, and the kernel then detaches the
mount there. So a restore has to know those mount points as well.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from attrs import frozen

from docker_rollback._host import is_read_only, mounted_below, mounted_on, outermost, spot_of
from docker_rollback._model import MountPoint, NotCovered, is_folder
from docker_rollback._volumes.access.reach import Run, output_of
from docker_rollback._volumes.tar import gnu_tar

MOUNTINFO: Final = "/proc/self/mountinfo"

Names: TypeAlias = tuple[str, ...]
"""Paths below a volume's root."""


@frozen
class Sight:
    """A program's view of a volume."""

    mountinfo: str  # the kernel's list of mounts in the program's namespace
    root: str  # the path of the volume there

    @property
    def mounted(self) -> Names:
        """The mount points in the volume that the program sees."""
        return tuple(mounted_below(self.mountinfo, self.root))

    @property
    def is_read_only(self) -> bool:
        """Whether the volume is read-only for the program."""
        return is_read_only(self.mountinfo, self.root)

    def mounted_anywhere(self, *, at: str = "/") -> Names:
        """Return the mount points in the volume in any mount namespace of this machine that we can read.

        Args:
            at: the path of the volume in those namespaces. The engine has it at one path; containers, which have
                mounts of their own in it, have it at others.
        """
        spot = spot_of(self.mountinfo, self.root)
        found = set(self.mounted)
        if spot is not None:
            for mountinfo in _of_all_namespaces():
                found.update(mounted_on(mountinfo, spot, at=at))
        return tuple(outermost(found))


def here(thread: str = "self") -> str:
    """Return our mountinfo, or that of one of our threads; raises `OSError`."""
    return Path("/proc", thread, "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")


def _of_all_namespaces() -> Iterator[str]:
    """Yield the mountinfo of each mount namespace of this machine; unreadable ones are skipped."""
    seen = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            namespace = (process / "ns/mnt").readlink()
            if namespace not in seen:
                yield here(process.name)
                seen.add(namespace)
        except OSError:
            # The process has ended, or belongs to another user.
            continue


def described(run: Run, root: str, names: Names) -> tuple[MountPoint, ...]:
    """Return the mount points with their modes and owners, so that a restore can recreate missing ones.

    Args:
        run: starts a program that sees the volume.
        root: the path of the volume there.
        names: the mount points.
    """
    found = []
    for name in names:
        said, finished = output_of(run, "stat", "-c", "%f %u %g", f"{root}/{name}")
        numbers = said.split()
        if finished.exit_code != 0 or len(numbers) != 3:
            # The file system does not answer; a folder is assumed.
            found.append(MountPoint(name))
            continue
        mode, uid, gid = int(numbers[0], 16), int(numbers[1]), int(numbers[2])
        found.append(MountPoint(name, stat.S_IMODE(mode), uid, gid, is_directory=stat.S_ISDIR(mode)))
    return tuple(found)


def mount_gaps(volume: str, mount_points: Sequence[MountPoint]) -> tuple[NotCovered, ...]:
    """Return the `NotCovered` entries for mount points in a volume."""
    kind = "folder" if is_folder(volume) else "volume"
    return tuple(
        NotCovered(
            f"mount point {gnu_tar.quoted(one.name)} in {kind} {volume}",
            "something else is mounted there; it is neither archived nor touched by a restore",
        )
        for one in mount_points
    )
