"""Restores a single file of the engine's host by writing to its existing inode.

A container binds the inode of a file. If the file were replaced, a running container would keep the old one. A helper
mounts the file alone.

A process that dies meanwhile leaves a partly written file; the next restore writes all of it.
"""

from __future__ import annotations

from docker_rollback._model import VolumeArchive
from docker_rollback._store import BackupStore
from docker_rollback._volumes.access.helper_image import SCRATCH
from docker_rollback._volumes.access.reach import Reach, output_of
from docker_rollback._volumes.capture.scan import check
from docker_rollback._volumes.fill.read_only import check_same, differences
from docker_rollback._volumes.fill.volume_root import drop_attributes
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback.errors import ArchiveError, VolumeAccessError


def fill_file(reach: Reach, archive: VolumeArchive, store: BackupStore) -> None:
    """Restore a file from its archive, unless it is already the same; this can be repeated.

    Raises:
        ArchiveError: not everything could be restored; or the file is read-only, and differs.
        CorruptBackupError: the archive is damaged.
        StoreError, EngineError: the store or the engine failed.
    """
    if reach.read_only:
        check_same(reach, archive, store)
        return
    if not differences(reach, archive, store):
        return
    drop_attributes(reach, keep=gnu_tar.attributes(store.open_tar(archive.base)))
    # tar would replace a file that has attributes. cp writes into the existing file, from a complete copy.
    with reach.run(gnu_tar.extract_file(SCRATCH), stdin=True) as tar:
        for data in store.open_tar(archive.base):
            tar.write(data)
        tar.close_input()
        gnu_tar.check_extracted(reach.volume, tar.finish())
    kept = "--preserve=mode,ownership,timestamps,xattr"
    with reach.run(("cp", kept, "--", f"{SCRATCH}/{gnu_tar.FILE}", reach.root)) as cp:
        check(reach, "writing it", "cp", cp.finish())
    check_current(reach)


def check_writable(reach: Reach) -> None:
    """Raise a `VolumeAccessError` unless the file's helper has a cp that keeps owner, times and attributes."""
    if b"coreutils" not in output_of(reach.run, "cp", "--version")[0]:
        raise VolumeAccessError(reach.volume, "its helper container has no cp of GNU coreutils to write the file with")


def check_current(reach: Reach) -> None:
    """Raise an `ArchiveError` if another file has replaced the one that the helper mounts."""
    names, finished = output_of(reach.run, "stat", "-c", "%h", reach.root)
    check(reach, "looking at it", "stat", finished)
    if names.strip() == b"0":
        raise ArchiveError(
            reach.volume,
            "somebody replaced or removed the file meanwhile; stop the programs of the engine's host that do, then "
            "try again",
        )
