"""Durable storage of backups, in an OCI image layout on disk. `BackupStore` is its public class."""

from docker_rollback._store.blobs import BlobWriter
from docker_rollback._store.draft import Draft
from docker_rollback._store.image_import import ImageParts
from docker_rollback._store.locks import FileLock, is_held
from docker_rollback._store.oci import FILE, LISTING, PIECES, SNAPSHOT_FILE, VOLUME_ARCHIVE, Digest, digest_of
from docker_rollback._store.pieces import Content, Needed, Piece, write_pieces
from docker_rollback._store.retention import Keep, KeepArgument, PruneReport
from docker_rollback._store.spool import FileCopy, Spool
from docker_rollback._store.store import BackupStore
