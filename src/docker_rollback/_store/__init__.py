"""The one door to durable storage: an OCI image layout on disk.

`BackupStore` is the face of it. `write_atomic` and `Disk` are for those who keep other durable files, by the same
rules.
"""

from docker_rollback._store._blobs import BlobWriter
from docker_rollback._store._draft import Draft
from docker_rollback._store._files import Disk, make_folders, write_atomic
from docker_rollback._store._locks import FileLock, LockedError, is_held
from docker_rollback._store._oci import LAYER_ZSTD, LISTING_ZSTD, SNAPSHOT_FILE_ZSTD
from docker_rollback._store._records import Records
from docker_rollback._store._retention import Keep, KeepArgument, PruneReport
from docker_rollback._store._spool import FileCopy, Spool
from docker_rollback._store._store import BackupStore

VOLUME_ARCHIVE = LAYER_ZSTD
"""The media type of a volume's archive: a tar in zstd."""

SNAPSHOT_FILE = SNAPSHOT_FILE_ZSTD
"""The media type of the snapshot file that tar kept of an archive, in zstd."""

LISTING = LISTING_ZSTD
"""The media type of what is known of each file in an archive, in zstd."""

__all__ = [
    "LISTING",
    "SNAPSHOT_FILE",
    "VOLUME_ARCHIVE",
    "BackupStore",
    "BlobWriter",
    "Disk",
    "Draft",
    "FileCopy",
    "FileLock",
    "Keep",
    "KeepArgument",
    "LockedError",
    "PruneReport",
    "Records",
    "Spool",
    "is_held",
    "make_folders",
    "write_atomic",
]
