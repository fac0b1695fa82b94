"""Reads the archives of volumes from the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from docker_rollback._model import Descriptor
from docker_rollback._store import BackupStore
from docker_rollback._volumes.tar.archive_stream import CorruptStreamError, ahead, unpack
from docker_rollback.errors import CorruptBackupError


def read_archive(store: BackupStore, blob: Descriptor) -> Iterator[bytes]:
    """Yield an archive's tar stream; raises `CorruptBackupError` if it is damaged."""
    try:
        with closing(ahead(store.open_blob(blob))) as packed:
            yield from unpack(packed)
    except CorruptStreamError as error:
        raise CorruptBackupError(str(store.path), blob.digest, f"its zstd stream is broken: {error}") from error
