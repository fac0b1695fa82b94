"""The OCI image layout on disk: its files, its ``index.json``, and the references between blobs."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from attrs import evolve

from docker_rollback._model import Descriptor
from docker_rollback._store import oci
from docker_rollback._store.blobs import Blobs
from docker_rollback._store.files import (
    DISK,
    FOLDER_MODE,
    Disk,
    is_leftover,
    make_folders,
    store_error,
    translated,
    write_atomic,
)
from docker_rollback._store.locks import FileLock, LockedError
from docker_rollback._store.strict_json import MalformedError, dump_json
from docker_rollback.errors import StoreError, StoreFullError, UnsupportedFormatError

logger = logging.getLogger("docker_rollback")

_RESERVE = 256 << 10

PATIENCE = 120.0  # seconds that a short change of the store waits for another one

T = TypeVar("T")


class Layout:
    """An OCI image layout on disk, with the folders for locks, drafts, holds and the journal."""

    def __init__(self, root: Path, *, disk: Disk = DISK) -> None:
        self.root = root
        self.disk = disk
        self.blobs: Blobs = Blobs(root, disk=disk)
        self.locks: Path = root / "locks"
        self.drafts: Path = root / "drafts"
        self.holds: Path = root / "holds"
        self.journal: Path = root / "journal"
        self.replaced: Path = root / "replaced"
        self.reserve: Path = root / "locks" / "reserve"

    def create(self) -> None:
        """Create the missing files and folders; raises `StoreNotWritableError` or `StoreFullError`."""
        ours = (self.locks, self.drafts, self.holds, self.journal)
        for folder in (self.root, self.blobs.folder.parent, self.blobs.folder, *ours):
            make_folders(folder, disk=self.disk)
        self._warn_if_open()
        layout = self.root / oci.LAYOUT_FILE
        index = self.root / oci.INDEX_FILE
        if layout.exists() and index.exists():
            return
        with self.locked("creating the layout"):
            if not layout.exists():
                write_atomic(layout, oci.LAYOUT_JSON, disk=self.disk)
            if not index.exists():
                # An empty index next to existing blobs would give them all up.
                if self._has_blobs():
                    raise self.blobs.corrupt(oci.INDEX_FILE, "it is missing")
                empty = oci.dump_index([], annotations={oci.FORMAT_KEY: str(oci.STORE_FORMAT)})
                write_atomic(index, empty, disk=self.disk)
            self.keep_reserve()

    def locked(self, note: str) -> AbstractContextManager[None]:
        """Hold the lock for adding and removing names and blobs; only for moments."""
        return self.holding("store", note, of=self.root)

    @contextmanager
    def holding(self, name: str, note: str, *, of: Path) -> Iterator[None]:
        """Hold one of the locks for a short change of the folder `of`.

        Raises a `StoreError` that names the folder if it stayed locked for `PATIENCE` seconds.
        """
        with FileLock(self.locks / f"{name}.lock", disk=self.disk) as lock:
            try:
                lock.acquire(PATIENCE, note=note)
            except LockedError as holder:
                raise StoreError(str(of), f"it stayed locked for {PATIENCE:.0f} seconds: {holder}") from None
            yield

    def index(self) -> oci.Index:
        """Read ``index.json``; the index of a store that does not exist yet is empty.

        Raises `CorruptBackupError`, or `UnsupportedFormatError` if it was written in a newer format.
        """
        data = self.read_file(oci.INDEX_FILE, oci.MAX_INDEX)
        if data is None:
            if not self._has_blobs():
                return oci.Index((), {"schemaVersion": 2, "manifests": []})
            # The first backup of another process may have created both since.
            data = self.read_file(oci.INDEX_FILE, oci.MAX_INDEX)
        if data is None:
            raise self.blobs.corrupt(oci.INDEX_FILE, "it is missing")
        layout = self.read_file(oci.LAYOUT_FILE, oci.MAX_MANIFEST)
        if layout is None:
            raise self.blobs.corrupt(oci.LAYOUT_FILE, "it is missing")
        self.parsed(oci.parse_layout, layout, oci.LAYOUT_FILE)
        index = self.parsed(oci.parse_index, data, oci.INDEX_FILE)
        version = index.annotations.get(oci.FORMAT_KEY, "1")
        if not (version.isascii() and version.isdecimal() and len(version) < 10):
            raise self.blobs.corrupt(oci.INDEX_FILE, "it does not say its format")
        if int(version) > oci.STORE_FORMAT:
            raise UnsupportedFormatError(
                str(self.root), f"it has format {version}, and this version reads formats up to {oci.STORE_FORMAT}"
            )
        return index

    def replace_index(self, index: oci.Index, children: Sequence[Mapping[str, Any]], *, to_free: bool = False) -> None:
        """Write ``index.json`` with other entries than it was read with; only while `locked`.

        A change that frees disk space (`to_free`) may use the reserve.
        """
        raw = dict(index.raw)
        raw["manifests"] = [dict(child) for child in children]
        raw["annotations"] = {**index.annotations, oci.FORMAT_KEY: str(oci.STORE_FORMAT)}
        try:
            write_atomic(self.root / oci.INDEX_FILE, dump_json(raw), disk=self.disk)
        except StoreFullError:
            if not to_free:
                raise
            self.spend_reserve()
            write_atomic(self.root / oci.INDEX_FILE, dump_json(raw), disk=self.disk)

    def spend_reserve(self) -> None:
        """Free the reserve, for a write that must not fail."""
        with translated(self.reserve):
            self.disk.remove(self.reserve)

    def keep_reserve(self) -> None:
        """Reserve some disk space, so that old backups can be deleted when the disk is full; best effort."""
        with suppress(StoreError):
            if not self.reserve.exists():
                # Random bytes, because some file systems allocate nothing for zeros.
                write_atomic(self.reserve, os.urandom(_RESERVE), disk=self.disk)

    def parsed(self, parse: Callable[[bytes], T], data: bytes, blob: str) -> T:
        """Parse the content of a blob or file; raises a `CorruptBackupError` that names it."""
        try:
            return parse(data)
        except MalformedError as error:
            raise self.blobs.corrupt(blob, str(error)) from error

    def manifest(self, blob: Descriptor) -> oci.Manifest:
        """Read and verify a manifest."""
        return self.parsed(oci.parse_manifest, self.blobs.read(blob, oci.MAX_MANIFEST), blob.digest)

    def child_index(self, blob: Descriptor) -> oci.Index:
        """Read and verify an index that is a blob."""
        return self.parsed(oci.parse_index, self.blobs.read(blob, oci.MAX_MANIFEST), blob.digest)

    def tree(
        self, blob: Descriptor, *, absent: Callable[[Descriptor, StoreError], None] | None = None
    ) -> Iterator[Descriptor]:
        """Yield a blob and all blobs that it refers to, directly or indirectly; a digest may come more than once.

        `absent` is called with a blob that cannot be read, so that its references are unknown, and with the error; by
        default the error is raised.
        """
        seen: set[str] = set()
        todo = [blob]
        while todo:
            blob = todo.pop()
            yield blob
            if blob.digest in seen:
                continue
            seen.add(blob.digest)
            try:
                if blob.media_type in oci.INDEXES:
                    todo.extend(child.blob for child in self.child_index(blob).children)
                elif blob.media_type in oci.MANIFESTS:
                    manifest = self.manifest(blob)
                    todo.extend((manifest.config, *manifest.layers))
            except StoreError as error:
                if absent is None:
                    raise
                absent(blob, error)

    def image_layers(self) -> dict[str, Descriptor]:
        """Return the gzipped layers of all images in the index, by the digests of their uncompressed content."""
        known: dict[str, Descriptor] = {}
        for child in self.index().children:
            if child.blob.media_type not in oci.MANIFESTS:
                continue
            try:
                known.update(self.layers_of(child.blob))
            except StoreError as error:
                logger.warning("skipping damaged image: %s", error)
        return known

    def layers_of(self, manifest: Descriptor) -> dict[str, Descriptor]:
        """Return the gzipped layers of an image, by the digests of their uncompressed content."""
        parts = self.manifest(manifest)
        if parts.config.media_type not in oci.IMAGE_CONFIGS:
            return {}
        data = self.blobs.read(parts.config, oci.MAX_MANIFEST)
        ids = self.parsed(oci.diff_ids, data, parts.config.digest)
        if len(ids) != len(parts.layers):
            raise self.blobs.corrupt(manifest.digest, "it has another number of layers than its config")
        return {
            diff_id: Descriptor(oci.LAYER_GZIP, layer.digest, layer.size)
            for diff_id, layer in zip(ids, parts.layers, strict=True)
            if layer.media_type.endswith(("+gzip", ".gzip"))
        }

    def leftovers(self) -> Iterator[Path]:
        """Yield the temporary files of dead writers. The caller holds the lock, which live writers hold too."""
        for folder in (self.root, self.locks, self.drafts, self.holds):
            with translated(folder):
                found = list(os.scandir(folder)) if folder.exists() else []
            for entry in found:
                if is_leftover(entry.name) and entry.is_file(follow_symlinks=False):
                    yield Path(entry.path)

    def why_absent(self) -> str | None:
        """Return why there is no store here; None if there is one. An empty folder is an empty store."""
        ours = {oci.LAYOUT_FILE, oci.INDEX_FILE, self.journal.name, self.drafts.name, self.blobs.folder.parent.name}
        try:
            names = {path.name for path in self.root.iterdir()}
        except FileNotFoundError:
            return "there is no such folder"
        except NotADirectoryError:
            return "it is not a folder"
        except OSError as error:
            raise StoreError(str(self.root), f"it cannot be read ({error.strerror})") from error
        # A new file system contains only this folder.
        return None if names & ours or names <= {"lost+found"} else "the folder contains something else"

    def _has_blobs(self) -> bool:
        try:
            with os.scandir(self.blobs.folder) as entries:
                return next(entries, None) is not None
        except OSError:
            return False

    def read_file(self, name: str, limit: int) -> bytes | None:
        """Return the content of a file of the layout, at most `limit` bytes; None if it is missing."""
        file = self.blobs.opened(self.root / name, name)
        if file is None:
            return None
        with os.fdopen(file, "rb") as source:
            try:
                data = source.read(limit + 1)
            except OSError as error:
                raise self.blobs.corrupt(name, f"it cannot be read ({error.strerror})") from error
        if len(data) > limit:
            raise self.blobs.corrupt(name, f"it is longer than {limit} bytes")
        return data

    def _warn_if_open(self) -> None:
        try:
            found = self.root.stat()
        except OSError as error:
            raise store_error(error, self.root) from error
        if found.st_uid != os.geteuid():
            logger.warning("the store %s belongs to another user (%d), and contains secrets", self.root, found.st_uid)
        if found.st_mode & 0o777 & ~FOLDER_MODE:
            logger.warning(
                "the store %s is open to other users (mode %04o), and contains secrets: chmod 700 it",
                self.root,
                stat.S_IMODE(found.st_mode),
            )


def index_entries(backup_id: str, root: Descriptor, children: Iterable[oci.Child]) -> list[dict[str, Any]]:
    """Return the entries of ``index.json`` for a backup and the children of its index.

    Every name is set here, so that an imported backup cannot take the name of another one.
    """
    named = evolve(root, annotations={oci.REF_NAME: backup_id})
    entries = [oci.dump_descriptor(named, artifact_type=oci.BACKUP)]
    for number, child in enumerate(children, start=1):
        annotations = {**child.blob.annotations, oci.REF_NAME: oci.child_name(backup_id, number)}
        entries.append(
            oci.dump_descriptor(evolve(child.blob, annotations=annotations), artifact_type=child.artifact_type)
        )
    return entries
