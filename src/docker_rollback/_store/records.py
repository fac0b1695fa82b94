"""Small durable records next to the backups, such as the journal's; each is a file that is replaced atomically."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, suppress
from typing import TypeVar

from docker_rollback._store import codec
from docker_rollback._store.files import is_leftover, translated, write_atomic
from docker_rollback._store.layout import Layout
from docker_rollback._store.oci import MAX_MANIFEST
from docker_rollback.errors import StoreError, StoreFullError, UnsupportedFormatError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}", re.ASCII)
_SUFFIX = ".json"

T = TypeVar("T")


class Records:
    """The records of one kind in a store: values as JSON, by name.

    Recovery depends on them, so writing one works on a full disk too, as long as the store's reserve lasts.
    """

    def __init__(self, layout: Layout, folder: str) -> None:
        self._layout = layout
        self._path = layout.root / folder
        self._folder = folder

    def put(self, name: str, value: object) -> None:
        """Write or replace a record durably. If that raises a `StoreError`, its old content remains."""
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} cannot be the name of a record")
        path, data = self._path / (name + _SUFFIX), codec.dump(value, self._folder)
        if not self._path.exists():
            self._layout.create()
        with self._writing():
            try:
                write_atomic(path, data, disk=self._layout.disk)
            except StoreFullError:
                self._layout.spend_reserve()
                write_atomic(path, data, disk=self._layout.disk)

    def remove(self, name: str) -> None:
        """Remove a record durably; harmless if there is none."""
        if not self._path.exists():
            return
        with translated(self._path):
            self._layout.disk.remove(self._path / (name + _SUFFIX))
            self._layout.disk.sync_folder(self._path)
        if not self._layout.reserve.exists():
            with suppress(StoreError), self._layout.locked("keeping a reserve"):
                self._layout.keep_reserve()

    def sweep(self) -> None:
        """Remove the temporary files of dead writers."""
        if not self._path.exists():
            return
        with self._writing(), translated(self._path):
            for path in [path for path in self._path.iterdir() if is_leftover(path.name)]:
                self._layout.disk.remove(path)

    def _writing(self) -> AbstractContextManager[None]:
        return self._layout.holding(self._folder, "writing a record", of=self._path)

    def is_there(self) -> bool:
        """Return True if a record was ever written here."""
        with translated(self._path):
            return self._path.exists()

    def names(self) -> list[str]:
        """Return the sorted names of all records."""
        with translated(self._path):
            found = [path.name for path in self._path.iterdir()] if self._path.exists() else []
        return sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX))

    def get(self, name: str, kind: type[T]) -> T | None:
        """Return a record as a value of `kind`; None if there is none.

        Raises:
            CorruptBackupError: it is damaged; the error names the file.
            UnsupportedFormatError: a newer version of this library wrote it.
        """
        record = f"{self._folder}/{name}{_SUFFIX}"
        data = self._layout.read_file(record, MAX_MANIFEST)
        if data is None:
            return None
        try:
            return self._layout.parsed(lambda raw: codec.load(raw, kind, self._folder), data, record)
        except codec.NewerFormatError as error:
            raise UnsupportedFormatError(str(self._layout.root), f"{record}: {error}") from None
