"""The workspace of a backup that is being written, which protects its blobs from sweeps.

A workspace is a folder with temporary files, a lock that shows that its process lives, and a list of the blobs that it
needs. Pinning a blob and sweeping both hold the layout's lock, so that neither misses the other.
"""

from __future__ import annotations

import itertools
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from docker_rollback._model import Descriptor
from docker_rollback._store import oci
from docker_rollback._store.blobs import BlobWriter
from docker_rollback._store.files import open_private, translated
from docker_rollback._store.layout import Layout, index_entries
from docker_rollback._store.locks import FileLock
from docker_rollback._store.spool import FileCopy, Spool
from docker_rollback._store.sweep import DRAFT_LOCK, DRAFT_PINS, clear_dead_drafts, remove_draft, sweep
from docker_rollback._store.verify import Parts, verify
from docker_rollback.errors import StoreError


class Workspace:
    """The workspace of one draft or import. Its methods may be called from several threads."""

    def __init__(self, layout: Layout, purpose: str) -> None:
        self.layout = layout
        self._purpose = purpose
        self._folder = layout.drafts / secrets.token_hex(16)
        self._lock = FileLock(self._folder / DRAFT_LOCK, disk=layout.disk)
        self._numbers = itertools.count(1)
        self._pinned: set[str] = set()
        self._made: set[str] = set()
        self._proven: set[str] = set()
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hash ahead")
        self._hashes: dict[str, Future[bool]] = {}
        self._is_closing = False

    def open(self, check: Callable[[oci.Index], None] | None = None) -> None:
        """Create the workspace, and remove those of dead processes; `check` gets ``index.json``, and may refuse."""
        layout = self.layout
        layout.create()
        with layout.locked(f"starting {self._purpose}"):
            clear_dead_drafts(layout)
            index = layout.index()
            if check is not None:
                check(index)
            with translated(self._folder):
                layout.disk.make_folder(self._folder)
            self._lock.acquire(note=self._purpose)

    def close(self) -> None:
        """Remove temporary files, and the new blobs that nothing refers to."""
        self._is_closing = True
        try:
            self._hasher.shutdown(cancel_futures=True)
            # Best effort: the next draft or prune removes leftovers, and a failure here must not hide another.
            with suppress(StoreError), self.layout.locked(f"ending {self._purpose}"):
                remove_draft(self.layout, self._folder)
                self._lock.release()
                if self._made:
                    sweep(self.layout, only=self._made)
        finally:
            self._lock.release()

    def blob(self, media_type: str, annotations: Mapping[str, str] | None = None) -> BlobWriter:
        """Return the writer of a new blob, a context manager."""
        path = self._folder / f"{next(self._numbers)}.blob"
        return BlobWriter(path, media_type, annotations or {}, self._publish, disk=self.layout.disk)

    def spool(self) -> Spool:
        """Return a file for data that becomes a blob later."""
        return Spool(self._folder / f"{next(self._numbers)}.spool", disk=self.layout.disk)

    def scratch(self) -> BinaryIO:
        """Return an open, unnamed temporary file; raises `StoreError`."""
        with translated(self._folder):
            return cast(BinaryIO, tempfile.TemporaryFile(dir=self._folder))

    def copy(self) -> FileCopy:
        """Return a file for the copy of another file."""
        return FileCopy(self._folder / f"{next(self._numbers)}.copy", disk=self.layout.disk)

    def add_bytes(self, media_type: str, data: bytes, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """Write a small blob."""
        with self.blob(media_type, annotations) as writer:
            writer.write(data)
            return writer.close()

    def pin(self, blobs: Iterable[Descriptor]) -> None:
        """Keep stored blobs from being swept until `close`, whether they are intact or not."""
        digests = {blob.digest for blob in blobs} - self._pinned
        if digests:
            with self.layout.locked(f"pinning blobs for {self._purpose}"):
                self._pin(digests)

    def expect(self, blobs: Iterable[Descriptor]) -> None:
        """Pin stored blobs until `close`, and begin to hash them in a thread; `adopt` waits for it."""
        blobs = tuple(blobs)
        self.pin(blobs)
        for blob in blobs:
            if blob.digest not in self._hashes:
                self._hashes[blob.digest] = self._hasher.submit(self._prove, blob)

    def adopt(self, blob: Descriptor) -> bool:
        """Pin an intact stored blob until `close`; return False if it is missing or damaged."""
        hashed = self._hashes.pop(blob.digest, None)
        if hashed is not None and not hashed.cancel():
            hashed.result()
        if blob.digest in self._proven and self.layout.blobs.is_proven(blob):
            return True
        self.pin([blob])
        return self._prove(blob)

    def adopt_all(self, blobs: Sequence[Descriptor]) -> list[Descriptor]:
        """Return the blobs that `adopt` pins."""
        # The thread begins with the first blob, so that both work if this begins with the last.
        return [blob for blob in reversed(blobs) if self.adopt(blob)]

    def adopt_image(self, manifest: Descriptor) -> bool:
        """Pin all blobs of an intact stored image until `close`; return False if one is missing or damaged."""
        originals = manifest.annotations.get(oci.KNOWN_AS_KEY, "").split()
        try:
            parts = [*self.layout.tree(manifest)]
            parts += [self.layout.blobs.find(oci.JSON, digest) for digest in originals]
        except StoreError:
            return False
        return len(self.adopt_all(parts)) == len(parts)

    def list(self, backup_id: str, root: Descriptor, *, deep: bool = False) -> Parts:
        """Add a backup to ``index.json`` after everything that it refers to is durable and verified, as `verify` does.

        If a blob is missing or damaged (`CorruptBackupError`) or there is a backup of this id already (`StoreError`),
        nothing is listed.
        """
        layout = self.layout
        needed = self._pin_all(root)
        with translated(layout.blobs.folder):
            layout.disk.sync_folder(layout.blobs.folder)
        # Blobs that the caller has already read back from the disk are not read again.
        parts = verify(layout, backup_id, root, again=False, deep=deep)
        entries = index_entries(backup_id, root, parts.children)
        with layout.locked(f"listing backup {backup_id}"):
            index = layout.index()
            if any(child.name == backup_id for child in index.children):
                raise StoreError(str(layout.root), f"it holds a backup {backup_id!r} already")
            layout.replace_index(index, [*(child.raw for child in index.children), *entries])
            listed = {child.name: child.blob.digest for child in layout.index().children}
        if listed.get(backup_id) != root.digest:
            raise layout.blobs.corrupt(oci.INDEX_FILE, "it does not contain what was just written")
        self._made -= needed
        return parts

    def _publish(self, path: Path, blob: Descriptor) -> None:
        layout = self.layout
        target = layout.blobs.path(blob.digest)
        with layout.locked(f"adding a blob to {self._purpose}"), translated(path):
            self._pin({blob.digest})
            if not os.path.lexists(target):
                self._made.add(blob.digest)
            # An existing blob is replaced too: this one was just hashed, the old one may be damaged.
            layout.disk.rename(path, target)
        with translated(target):
            # `list` syncs the folder once for all names, before anything refers to them.
            layout.disk.forget(target)

    def _prove(self, blob: Descriptor) -> bool:
        """Read and hash a blob; return False if it is missing or damaged."""
        try:
            for _ in self.layout.blobs.open(blob):
                if self._is_closing:
                    return False
        except StoreError:
            # The caller will store it again, which repairs every backup that refers to it.
            return False
        self._proven.add(blob.digest)
        return True

    def _pin_all(self, root: Descriptor) -> set[str]:
        """Pin and return the digests of everything that `root` refers to, blobs of other backups included."""
        with self.layout.locked(f"pinning the blobs of {self._purpose}"):
            needed = {blob.digest for blob in self.layout.tree(root)}
            self._pin(needed)
        return needed

    def _pin(self, digests: set[str]) -> None:
        """Record that this workspace needs some blobs; only while the layout is locked, against other threads too."""
        new = digests - self._pinned
        if not new:
            return
        with translated(self._folder):
            fd = open_private(self._folder / DRAFT_PINS, os.O_WRONLY | os.O_APPEND)
            try:
                # The line break before them ends what a write that failed left of a digest.
                self.layout.disk.write(fd, "\n".join(["", *new, ""]).encode("ascii"))
            finally:
                os.close(fd)
        self._pinned |= new
