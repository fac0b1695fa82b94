"""A backup in the making."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from docker_rollback._model import Backup, Descriptor, VolumeArchive
from docker_rollback._store import _codec, _oci
from docker_rollback._store._blobs import BlobWriter
from docker_rollback._store._files import FILE_MODE, translated
from docker_rollback._store._intake import ImageIntake
from docker_rollback._store._layout import Layout
from docker_rollback._store._locks import FileLock
from docker_rollback._store._sweep import DRAFT_LOCK, DRAFT_PINS, clear_dead_drafts, remove_draft, sweep
from docker_rollback._store._verify import verify
from docker_rollback.errors import StoreError


class Draft:
    """A backup in the making: inert until entered, single-use, gone without a trace unless committed.

    Everything that it writes is safe from a `prune` or `delete` at work elsewhere, and nothing of it is listed before
    `commit`. Its methods may be called from several threads.

    Example:
        >>> with store.draft("20260102T030405-web") as draft:
        ...     with draft.blob("application/vnd.oci.image.layer.v1.tar+zstd") as writer:
        ...         writer.write(archive)
        ...         base = writer.close()
        ...     draft.commit(backup)
    """

    def __init__(self, layout: Layout, backup_id: str, *, threads: int) -> None:
        self.backup_id = backup_id
        self._layout = layout
        self._threads = threads
        self._folder = layout.drafts / f"{backup_id}.{secrets.token_hex(8)}"
        self._lock = FileLock(self._folder / DRAFT_LOCK, disk=layout.disk)
        self._numbers = itertools.count(1)
        self._guard = threading.RLock()
        self._pinned: set[str] = set()
        self._made: set[str] = set()
        self._proven: set[str] = set()
        self._layers: dict[str, Descriptor] | None = None
        self._state = "new"

    def __enter__(self) -> Self:
        if self._state != "new":
            raise ValueError("a draft can be entered once")
        layout = self._layout
        layout.create()
        with layout.locked(f"beginning backup {self.backup_id}"):
            clear_dead_drafts(layout)
            if any(child.name == self.backup_id for child in layout.index().children):
                raise StoreError(str(layout.root), f"it holds a backup {self.backup_id!r} already")
            with translated(self._folder):
                layout.disk.make_folder(self._folder)
            self._lock.acquire(note=f"backup {self.backup_id}")
        self._state = "open"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        committed = self._state == "committed"
        self._state = "closed"
        try:
            # Best effort: the next draft or prune sweeps up what is left, and no failure here may hide the block's.
            with suppress(StoreError):
                self._give_back(keep_blobs=committed)
        finally:
            self._lock.release()

    def blob(self, media_type: str, annotations: Mapping[str, str] | None = None) -> BlobWriter:
        """Begin a blob.

        Args:
            media_type: what it is.
            annotations: what its descriptor says of it beyond that; no secrets.

        Returns:
            Its writer, a context manager.
        """
        self._check_open()
        path = self._folder / f"{next(self._numbers)}.blob"
        return BlobWriter(path, media_type, annotations or {}, self._publish, disk=self._layout.disk)

    def add_bytes(self, media_type: str, data: bytes, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """Write a small blob whole."""
        with self.blob(media_type, annotations) as writer:
            writer.write(data)
            return writer.close()

    def add_image(self, archive: Iterator[bytes], *, layers: Sequence[str]) -> Descriptor:
        """Take in an image as an engine exports it, as a stream.

        Layers that are plain are compressed with gzip; those that the store holds already are not stored again; what
        comes compressed is kept to the letter, its manifest too.

        Args:
            archive: what the engine's save sends, in any layout.
            layers: the digests of the image's uncompressed layers, lowest first, as the engine's inspection lists
                them (`RootFS.Layers`).

        Returns:
            The image's manifest.

        Raises:
            EngineError: the archive is broken, lacks a part, or is of another image than `layers` say.
            StoreFullError: there is no room.

        Whatever `archive` raises comes out untouched.
        """
        self._check_open()
        with self._guard:
            if self._layers is None:
                self._layers = self._layout.image_layers()
            held = {layer: blob for layer in layers if (blob := self._layers.get(layer)) is not None}
        sound = {layer: blob for layer, blob in held.items() if self.adopt(blob)}
        intake = ImageIntake(self, layers, sound, threads=self._threads)
        manifest, found = intake.take(archive)
        with self._guard:
            self._layers.update(found)
        return manifest

    def adopt(self, blob: Descriptor) -> bool:
        """Whether the store holds a blob, whole; if so, keep it from being removed while this draft lives."""
        with self._guard:
            if blob.digest in self._proven:
                return True
        with self._layout.locked("adopting a blob"):
            if not self._layout.blobs.has(blob):
                return False
            self._pin(blob.digest)
        try:
            self._layout.blobs.prove(blob)
        except StoreError:
            # Rotten: it will be stored again, which mends every backup that holds it.
            return False
        with self._guard:
            self._proven.add(blob.digest)
        return True

    def commit(self, backup: Backup) -> None:
        """Make the backup one of the store's, durably: read back and verified first, listed last.

        Raises:
            CorruptBackupError: something that `backup` refers to is not in the store, or not what was written.
            StoreError: it could not be written; it is not listed.
        """
        self._check_open()
        if backup.id != self.backup_id:
            raise ValueError(f"the draft is of backup {self.backup_id!r}, not {backup.id!r}")
        self.publish(self._write_manifests(backup))

    def publish(self, root: Descriptor) -> None:
        """List the backup whose index is `root`, once all that it refers to is durable and proven."""
        layout = self._layout
        self._keep_all(root)
        with translated(layout.blobs.folder):
            layout.disk.sync_folder(layout.blobs.folder)
        children = verify(layout, self.backup_id, root, proven=self._proven).children
        entries = [_oci.dump_descriptor(root, artifact_type=_oci.BACKUP), *(child.raw for child in children)]
        with layout.locked(f"listing backup {self.backup_id}"):
            index = layout.index()
            if any(child.name == self.backup_id for child in index.children):
                raise StoreError(str(layout.root), f"it holds a backup {self.backup_id!r} already")
            layout.replace_index(index, [*(child.raw for child in index.children), *entries])
            listed = {child.name: child.blob.digest for child in layout.index().children}
        if listed.get(self.backup_id) != root.digest:
            raise layout.blobs.corrupt(_oci.INDEX_FILE, "it does not hold what was just written")
        self._state = "committed"

    def _write_manifests(self, backup: Backup) -> Descriptor:
        names = (f"{backup.id}.{number}" for number in itertools.count(1))
        empty = self.add_bytes(_oci.EMPTY, _oci.EMPTY_JSON)
        images = _images_of(backup)
        # The index by which an engine knew an image rides along as a file: as an index, it would make every tool
        # look for the platforms that the engine never fetched.
        letters = [self._letter(image) for image in images if _oci.INDEX_KEY in image.annotations]
        data = _codec.dump_backup(backup)
        record = self.add_bytes(_oci.RECORD_JSON, data, {_oci.TITLE: "backup.json"})
        children = [
            self._artifact(_oci.RECORD, empty, [record, *letters], next(names)),
            *(_named(image, next(names)) for image in images),
            *(
                self._artifact(_oci.VOLUME, empty, _archives(volume), next(names), {_oci.VOLUME_KEY: volume.name})
                for volume in backup.volumes
            ),
        ]
        annotations = {_oci.CREATED: backup.created.isoformat(), _oci.FORMAT_KEY: str(_oci.FORMAT)}
        index = _oci.dump_index(children, artifact_type=_oci.BACKUP, annotations=annotations)
        return self.add_bytes(_oci.INDEX, index, {_oci.REF_NAME: backup.id})

    def _letter(self, image: Descriptor) -> Descriptor:
        digest = image.annotations[_oci.INDEX_KEY]
        path = self._layout.blobs.path(digest)
        with translated(path):
            size = path.stat().st_size
        return Descriptor(_oci.JSON, digest, size, {_oci.TITLE: f"{digest.removeprefix('sha256:')}.json"})

    def _artifact(
        self,
        kind: str,
        empty: Descriptor,
        layers: Sequence[Descriptor],
        name: str,
        annotations: Mapping[str, str] | None = None,
    ) -> dict[str, object]:
        data = _oci.dump_manifest(empty, layers, artifact_type=kind, annotations=annotations)
        manifest = self.add_bytes(_oci.MANIFEST, data, {_oci.REF_NAME: name, **(annotations or {})})
        return _oci.dump_descriptor(manifest, artifact_type=kind)

    def _publish(self, path: Path, blob: Descriptor) -> None:
        layout = self._layout
        target = layout.blobs.path(blob.digest)
        with layout.locked("adding a blob"):
            self._pin(blob.digest)
            with translated(path):
                known = target.exists()
                # Also over one that is there: the new one was written and hashed a moment ago, the old one may rot.
                layout.disk.rename(path, target)
        with translated(layout.blobs.folder):
            layout.disk.sync_folder(layout.blobs.folder)
            layout.disk.forget(target)
        if not known:
            with self._guard:
                self._made.add(blob.digest)

    def _keep_all(self, root: Descriptor) -> None:
        """Keep everything that `root` refers to from being removed, old blobs of other backups included."""

        def absent(_: Descriptor, error: StoreError) -> None:
            raise error

        with self._layout.locked(f"keeping the parts of backup {self.backup_id}"):
            for blob in self._layout.tree(root, absent=absent):
                self._pin(blob.digest)

    def _pin(self, digest: str) -> None:
        """Note that this draft needs a blob; only while the layout is locked, so that no sweep can miss it."""
        with self._guard:
            if digest in self._pinned:
                return
            with translated(self._folder):
                path = self._folder / DRAFT_PINS
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
                try:
                    self._layout.disk.write(fd, digest.encode("ascii") + b"\n")
                finally:
                    os.close(fd)
            self._pinned.add(digest)

    def _give_back(self, *, keep_blobs: bool) -> None:
        with self._layout.locked(f"ending backup {self.backup_id}"):
            remove_draft(self._layout, self._folder)
            self._lock.release()
            if not keep_blobs and self._made:
                sweep(self._layout, only=self._made)

    def _check_open(self) -> None:
        if self._state != "open":
            raise ValueError(f"the draft is {self._state}, not open")


def _images_of(backup: Backup) -> list[Descriptor]:
    """Return the manifests of a backup's images, each once, with the names of the containers that they are of."""
    names: dict[str, list[str]] = {}
    blobs: dict[str, Descriptor] = {}
    for container in backup.containers:
        manifest = container.image.manifest
        if manifest is not None:
            blobs[manifest.digest] = manifest
            names.setdefault(manifest.digest, []).append(container.name)
    return [
        Descriptor(
            blob.media_type,
            digest,
            blob.size,
            {**blob.annotations, _oci.CONTAINER_KEY: " ".join(names[digest])},
        )
        for digest, blob in blobs.items()
    ]


def _named(blob: Descriptor, name: str) -> dict[str, object]:
    named = Descriptor(blob.media_type, blob.digest, blob.size, {**blob.annotations, _oci.REF_NAME: name})
    return _oci.dump_descriptor(named)


def _archives(volume: VolumeArchive) -> list[Descriptor]:
    """Return a volume's archives as layers that tools write to files: the base first."""
    # Of an engine's own names nothing is lost here; a driver's may hold what no file's name should.
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", volume.name).lstrip(".") or "volume"
    parts = [(volume.base, "base")] + ([(volume.increment, "increment")] if volume.increment is not None else [])
    return [
        Descriptor(blob.media_type, blob.digest, blob.size, {_oci.TITLE: f"{stem[:150]}.{part}.tar.zst"})
        for blob, part in parts
    ]
