"""Holds protect backups from removal: durably under a name, or by a kernel lock while a process reads them."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from docker_rollback._store import oci
from docker_rollback._store.files import is_leftover, translated, write_atomic
from docker_rollback._store.layout import Layout
from docker_rollback._store.locks import HOLDER_BYTES, FileLock, is_held

logger = logging.getLogger("docker_rollback")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
_READER = ".reading"


class Holds:
    """The holds of a store, each a small file.

    The file is named after the backup and the holder. A reader's file counts as long as it is locked. Unlike other
    lock files it belongs to a single holder, so the file of a dead reader may be removed.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._folder = layout.holds

    def add(self, backup_id: str, by: str, reason: str) -> None:
        """Hold a backup durably; only while the layout is locked."""
        write_atomic(self._path(backup_id, by), reason.encode("utf-8"), disk=self._layout.disk)

    def remove(self, backup_id: str, by: str) -> None:
        """Remove a durable hold; harmless if there is none."""
        path = self._path(backup_id, by)
        with translated(path):
            if path.exists():
                self._layout.disk.remove(path)
                self._layout.disk.sync_folder(path.parent)

    @contextmanager
    def reading(self, backup_id: str, leaves: Path | None = None) -> Iterator[None]:
        """Hold a backup until the block ends; enter it only while the layout is locked.

        If the reader is killed, `leaves`, a temporary file of it, is removed with the hold.
        """
        with FileLock(self._folder / f"{backup_id}.{secrets.token_hex(8)}{_READER}", disk=self._layout.disk) as lock:
            lock.acquire(note=f"reading backup {backup_id}")
            if leaves is not None:
                with translated(lock.path):
                    os.lseek(lock.fileno(), HOLDER_BYTES, os.SEEK_SET)
                    self._layout.disk.write(lock.fileno(), os.fsencode(leaves))
            try:
                yield
            finally:
                with suppress(OSError):
                    self._layout.disk.remove(lock.path)

    def needed(self) -> dict[str, str]:
        """Return the held backups with the reasons, and remove the holds of dead readers; only while locked."""
        needed: dict[str, str] = {}
        for backup_id, holder in self._all():
            path = self._folder / f"{backup_id}.{holder}"
            if not path.name.endswith(_READER):
                needed.setdefault(backup_id, "an unfinished rollback needs it")
            elif is_held(path):
                needed.setdefault(backup_id, "it is being read")
            else:
                self._remove_left_behind(path)
                with translated(path):
                    self._layout.disk.remove(path)
        return needed

    def held_by(self, by: str) -> tuple[str, ...]:
        """Return the ids of the backups with a durable hold of this holder."""
        return tuple(backup_id for backup_id, holder in self._all() if holder == by)

    def _all(self) -> list[tuple[str, str]]:
        """Return the backup's id and the holder of each hold, sorted."""
        with translated(self._folder):
            names = sorted(path.name for path in self._folder.iterdir()) if self._folder.exists() else []
        parts = [name.partition(".") for name in names]
        return [(backup_id, holder) for backup_id, dot, holder in parts if dot and oci.is_backup_id(backup_id)]

    def _remove_left_behind(self, path: Path) -> None:
        """Remove the temporary file of a dead reader."""
        with translated(path):
            written = path.read_bytes()[HOLDER_BYTES:] if path.exists() else b""
        left = Path(os.fsdecode(written))
        if not left.is_absolute() or not is_leftover(left.name):
            return
        try:
            self._layout.disk.remove(left)
        except OSError as error:
            logger.warning("could not remove %s, left by an interrupted export; remove it: %s", left, error.strerror)

    def _path(self, backup_id: str, by: str) -> Path:
        if _NAME.fullmatch(by) is None or by.endswith(_READER):
            raise ValueError(f"{by!r} cannot be the name of a holder")
        return self._folder / f"{backup_id}.{by}"
