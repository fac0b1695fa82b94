"""Mount points in a volume: a capture leaves out what is mounted there, and a restore neither touches nor removes it.

A program that works in a volume sees what is mounted in it, or does not: that depends on its mount namespace. It cannot
remove a mount point that it sees. A name that is a mount point in another namespace alone is removed without an error,
and the kernel then takes the mount away there. So a restore has to know those as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from attrs import frozen

from docker_rollback._host import is_read_only, mounted_below, mounted_on, outermost, spot_of
from docker_rollback._model import MountPoint, NotCovered, is_folder
from docker_rollback._volumes.access.run import Run
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.archive_stream import pieces_of

MOUNTINFO: Final = "/proc/self/mountinfo"
_DIRECTORY: Final = 0o040000
_KIND: Final = 0o170000
_MODE: Final = 0o7777

Names: TypeAlias = tuple[str, ...]
"""Paths below a volume's root."""


@frozen
class Sight:
    """How a program sees a volume.

    Attributes:
        mountinfo: the kernel's list of the mounts that it sees.
        root: the path by which it sees the volume.
    """

    mountinfo: str
    root: str

    @property
    def mounted(self) -> Names:
        """What is mounted in the volume, as far as the program sees it."""
        return tuple(mounted_below(self.mountinfo, self.root))

    @property
    def is_read_only(self) -> bool:
        """Whether the program can write nothing to the volume."""
        return is_read_only(self.mountinfo, self.root)

    def mounted_anywhere(self, *, at: str = "/") -> Names:
        """Return what is a mount point in the volume for any program of this machine that we may look at.

        Args:
            at: the path at which such a program has to see the volume. An engine has it at one path, and containers,
                which have mounts of their own in it, at others.
        """
        spot = spot_of(self.mountinfo, self.root)
        found = set(self.mounted)
        if spot is not None:
            for mountinfo in _of_all_namespaces():
                found.update(mounted_on(mountinfo, spot, at=at))
        return tuple(outermost(found))


def here(thread: str = "self") -> str:
    """Return the list of the mounts that we, or one of our threads, see; raises `OSError`."""
    return Path("/proc", thread, "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")


def _of_all_namespaces() -> Iterator[str]:
    """Yield the mounts of each mount namespace of this machine; those that we may not look at are passed over."""
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
            # It has ended, or is another user's.
            continue


def described(run: Run, root: str, names: Names) -> tuple[MountPoint, ...]:
    """Return what is known of mount points, so that their places can be made where they are gone.

    Args:
        run: starts a program next to the volume.
        root: where that sees the volume.
        names: the mount points.
    """
    found = []
    for name in names:
        with run(("stat", "-c", "%f %u %g", f"{root}/{name}")) as stat:
            said = b"".join(pieces_of(stat)).split()
            # The file system may be one that does not answer: its place is a folder all the same.
            answered = stat.finish().exit_code == 0 and len(said) == 3
        if not answered:
            found.append(MountPoint(name))
            continue
        mode = int(said[0], 16)
        is_directory = mode & _KIND == _DIRECTORY
        found.append(MountPoint(name, mode & _MODE, int(said[1]), int(said[2]), is_directory=is_directory))
    return tuple(found)


def mount_gaps(volume: str, mount_points: Sequence[MountPoint]) -> tuple[NotCovered, ...]:
    """Return the notes that no archive holds what is mounted in a volume."""
    kind = "folder" if is_folder(volume) else "volume"
    return tuple(
        NotCovered(
            f"mount point {gnu_tar.quoted(one.name)} in {kind} {volume}",
            "something else is mounted there; it is neither archived nor touched by a restore",
        )
        for one in mount_points
    )
