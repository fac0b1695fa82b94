"""Remembers between processes which large blobs were found intact, so that not every backup reads them again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from docker_rollback._model import Descriptor
from docker_rollback._store.blobs import Blobs
from docker_rollback._store.files import DISK, Disk, write_atomic
from docker_rollback.errors import StoreError

LIFETIME: Final = 24 * 3600
"""How long a proof counts, in seconds."""

WORTH: Final = 16 << 20
"""The size of a blob from which on a proof is kept, in bytes; a smaller one is quickly read."""

_MAX_SIZE: Final = 4 << 20


class Proofs:
    """The proofs in the file of a store.

    A proof says when a blob was read whole and found intact, and which inode, size and times its file had. It counts
    for a day, and only while the file is the same. Nothing depends on the file: without it, blobs are read.

    Args:
        path: the file.
        blobs: the store's blobs.
        disk: performs all changes of the file system.
    """

    def __init__(self, path: Path, blobs: Blobs, *, disk: Disk = DISK) -> None:
        self._path = path
        self._blobs = blobs
        self._disk = disk

    def cover(self, blob: Descriptor) -> bool:
        """Return True if the blob was found intact lately, and its file has not changed since."""
        if blob.size < WORTH:
            return False
        proof = self._load().get(blob.digest)
        return proof is not None and tuple(proof[1:]) == self._blobs.stamp(blob)

    def add(self, blobs: Iterable[Descriptor]) -> None:
        """Keep proofs of those blobs that this process has read whole; a failure only costs time later."""
        now = int(time.time())
        read = [blob for blob in blobs if blob.size >= WORTH and self._blobs.is_proven(blob)]
        new = {blob.digest: [now, *stamp] for blob in read if (stamp := self._blobs.stamp(blob)) is not None}
        known = self._load()
        if any(known.get(digest, [0])[1:] != proof[1:] for digest, proof in new.items()):
            with suppress(StoreError):
                write_atomic(self._path, json.dumps({**known, **new}).encode(), disk=self._disk)

    def _load(self) -> dict[str, list[int]]:
        """Return the proofs that are not too old, by digest: the time, and the file's stamp."""
        now = time.time()
        try:
            file = self._blobs.opened(self._path, self._path.name)
            if file is None:
                return {}
            with os.fdopen(file, "rb") as opened:
                raw = json.loads(opened.read(_MAX_SIZE))
            return {digest: proof for digest, proof in raw.items() if now - LIFETIME < proof[0] <= now}
        except (StoreError, OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return {}
