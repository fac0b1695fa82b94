"""Reads the archives of volumes from the store."""

from __future__ import annotations

from collections.abc import Iterator

from docker_rollback._model import Descriptor
from docker_rollback._store import BackupStore


def read_archive(store: BackupStore, blob: Descriptor) -> Iterator[bytes]:
    """Yield an archive's tar stream; raises `CorruptBackupError` if it is damaged."""
    return store.open_tar(blob)
