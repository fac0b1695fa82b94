"""Proves that a file has not been touched since its volume was archived, so that a restore need not write it.

A file whose change time is before the start of the base has kept its content, attributes and names since then. So it
is in the same place unless a directory above it has moved. A directory that has the inode of the capture, and such a
file in it, is the same directory. docs/explanation/untouched.md has the whole argument.
"""

from __future__ import annotations

import logging
import stat
from typing import Final

from docker_rollback._host import Tree, ran_on, read_clock
from docker_rollback._model import VolumeArchive
from docker_rollback._store import BackupStore
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.tar.archive_stream import whole
from docker_rollback._volumes.tar.members import Member
from docker_rollback._volumes.tar.snapshot_file import ROOT, SnapshotFile

logger = logging.getLogger("docker_rollback")

_PERMISSIONS: Final = 0o7777


class Untouched:
    """Tells which files of an archive are untouched in their volume.

    The directories must be restored before: a link in a directory's place would lead elsewhere.

    Args:
        tree: the volume's files.
        snapshot: the directories that had not moved at the capture, and the moment before the base.
        device: the number of the file system.
    """

    def __init__(self, tree: Tree, snapshot: SnapshotFile, device: int) -> None:
        self._tree = tree
        self._moment = snapshot.began
        self._device = device
        self._folders = {folder.name: folder.inode for folder in snapshot.folders if folder.device == device}
        self._last: tuple[bytes, Tree | None] = (b"", None)

    def holds(self, member: Member) -> bool:
        """Return True if the file at a member's path is the same, unchanged, as at the capture."""
        if not member.is_file:
            return False
        folder, _, name = member.name.rpartition(b"/")
        if folder != self._last[0]:
            self._last = (folder, self._in_place(folder))
        above = self._last[1]
        if above is None:
            return False
        try:
            seen = above.status(name)
        except FileNotFoundError:
            return False
        return (
            seen.st_ctime_ns < self._moment
            and stat.S_ISREG(seen.st_mode)
            and seen.st_nlink == 1
            and seen.st_dev == self._device
            and (seen.st_size, seen.st_mtime_ns) == (member.size, member.modified)
            and (seen.st_mode & _PERMISSIONS, (seen.st_uid, seen.st_gid)) == (member.mode, member.owner)
        )

    def _in_place(self, path: bytes) -> Tree | None:
        """Return a folder if it is the same one as at the capture; None if it is another one, or gone."""
        try:
            folder = self._tree.below(path)
        except FileNotFoundError:
            return None
        return folder if folder.identity == (self._device, self._folders.get(path)) else None


def untouched(reach: Reach, archive: VolumeArchive, store: BackupStore) -> Untouched | None:
    """Return the object that identifies untouched files of an archive; None if nothing can be proven.

    Raises:
        CorruptBackupError: the archive's snapshot file is damaged.
        StoreError: the store cannot be read.
    """
    reason = _reason_against(reach, archive)
    if reason or archive.snapshot is None or reach.tree is None:
        logger.debug("volume %s: writing all files: %s", reach.volume, reason)
        return None
    try:
        snapshot = SnapshotFile.parse(whole(store.open_tar(archive.snapshot)))
        root = next(folder for folder in snapshot.folders if folder.name == ROOT)
    except (ValueError, StopIteration) as error:
        logger.debug("volume %s: writing all files: %s", reach.volume, error)
        return None
    if reach.tree.identity != (root.device, root.inode):
        logger.debug("volume %s: writing all files: it has another root", reach.volume)
        return None
    return Untouched(reach.tree, snapshot, root.device)


def _reason_against(reach: Reach, archive: VolumeArchive) -> str:
    """Return the reason why nothing can be proven; empty if there is none."""
    if archive.increment is None or archive.snapshot is None or archive.clock is None:
        return "nothing was recorded before its capture"
    if reach.way != "direct" or archive.way != "direct":
        return "a helper's times and inodes may come from another machine"
    if not ran_on(archive.clock, read_clock()):
        return "the machine was restarted, or its clock was set, since its capture"
    return ""
