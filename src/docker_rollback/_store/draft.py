"""A draft, a backup that is being written."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self

from attrs import evolve

from docker_rollback._model import Backup, Descriptor, VolumeArchive
from docker_rollback._store import codec, oci
from docker_rollback._store.blobs import BlobWriter
from docker_rollback._store.export import image_archive
from docker_rollback._store.files import translated
from docker_rollback._store.image_flatten import FlatImage, flatten, history_in
from docker_rollback._store.image_import import ImageImport, ImageParts
from docker_rollback._store.layout import Layout
from docker_rollback._store.pieces import layers_of
from docker_rollback._store.spool import FileCopy, Spool
from docker_rollback._store.streams import CompressionError, plain
from docker_rollback._store.workspace import Workspace
from docker_rollback.errors import StoreError


class Draft:
    """Writes a new backup. It does nothing until entered, can be entered once, and is discarded unless committed.

    A concurrent `prune` or `delete` does not remove its blobs, and the backup is not listed before `commit`. Its
    methods may be called from several threads.

    Example:
        >>> with store.draft("20260102T030405Z-web-a1b2c3") as draft:
        ...     with draft.blob(VOLUME_ARCHIVE) as writer:
        ...         writer.write(archive)
        ...         base = writer.close()
        ...     draft.commit(backup)
    """

    def __init__(self, layout: Layout, backup_id: str, *, threads: int) -> None:
        self.backup_id = backup_id
        self._layout = layout
        self._workspace = Workspace(layout, f"backup {backup_id}")
        self._threads = threads
        self._guard = threading.Lock()
        self._layers: dict[str, Descriptor] | None = None
        self._state: Literal["new", "open", "committed", "closed"] = "new"

    def __enter__(self) -> Self:
        if self._state != "new":
            raise ValueError("a draft can be entered once")
        self._workspace.open(self._refuse_known)
        self._state = "open"
        return self

    def __exit__(self, *_: object) -> None:
        self._state = "closed"
        self._workspace.close()

    def blob(self, media_type: str, annotations: Mapping[str, str] | None = None) -> BlobWriter:
        """Return the writer of a new blob, a context manager.

        Args:
            media_type: the blob's media type.
            annotations: the annotations of its descriptor; no secrets.
        """
        self._check_open()
        return self._workspace.blob(media_type, annotations)

    def adopt(self, blob: Descriptor) -> bool:
        """Pin an intact stored blob for this backup; return False if it is missing or damaged."""
        self._check_open()
        return self._workspace.adopt(blob)

    def pin(self, blobs: Iterable[Descriptor]) -> None:
        """Keep stored blobs for this backup, which may `adopt` some of them later."""
        self._check_open()
        self._workspace.pin(blobs)

    def spool(self) -> Spool:
        """Return a temporary file for data that becomes a blob later, a context manager."""
        self._check_open()
        return self._workspace.spool()

    def copy(self) -> FileCopy:
        """Return a temporary file for the copy of another file, a context manager."""
        self._check_open()
        return self._workspace.copy()

    def room(self) -> int:
        """Return the number of free bytes; raises `StoreError`."""
        with translated(self._layout.root):
            return self._layout.disk.room(self._layout.root)

    def adopt_image(self, manifest: Descriptor) -> bool:
        """Pin an intact stored image for this backup; return False if a blob of it is missing or damaged."""
        self._check_open()
        return self._workspace.adopt_image(manifest)

    def expect_image(self, layers: Sequence[str]) -> None:
        """Begin to hash those layers of an image that the store has, because this backup will need them.

        Adding the image then waits less. `layers` are those of `add_image`.
        """
        self._check_open()
        self._workspace.expect(self._held(layers).values())

    def has_layers(self, layers: Sequence[str]) -> bool:
        """Return True if the store has all layers of an image; one that is damaged counts until it is used."""
        return len(self._held(layers)) == len(set(layers))

    def image_history(self, manifest: Descriptor, *, layers: int) -> list[Mapping[str, Any]]:
        """Return the history of the lowest layers of a stored image.

        Raises:
            CorruptBackupError, StoreError: the image could not be read.
        """
        self._check_open()
        return history_in(self._layout, manifest, layers=layers)

    def last_layer(self, manifest: Descriptor) -> Iterator[bytes]:
        """Yield the uncompressed last layer of a stored image.

        Raises:
            CorruptBackupError, StoreError: the layer could not be read.
        """
        self._check_open()
        layer = self._layout.manifest(manifest).layers[-1]
        try:
            yield from plain(self._layout.blobs.open(layer))
        except CompressionError as error:
            raise self._layout.blobs.corrupt(layer.digest, f"{error}") from error

    def add_image(self, archive: Iterator[bytes], *, layers: Sequence[str]) -> Descriptor:
        """Import an image from the stream that an engine exports, and return its manifest.

        Uncompressed layers are compressed with gzip; layers that the store already has are not stored again.
        Compressed layers, and their manifest, are stored byte for byte. Exceptions of `archive` are passed on.

        Args:
            archive: the output of the engine's save, in any layout.
            layers: the digests of the image's uncompressed layers, lowest first, from the engine's inspection
                (`RootFS.Layers`).

        Raises:
            EngineError: the archive is broken, incomplete, or of an image with other layers.
            StoreFullError: there is too little free space.
        """
        return self._import(layers, lambda job: job.take(archive))

    def add_image_parts(self, parts: ImageParts, *, layers: Sequence[str]) -> Descriptor:
        """Import an image from its parts, as `add_image` does; only layers that the store lacks are read.

        Exceptions of the layers' functions are passed on.

        Raises:
            EngineError: a part is missing, or is not of the image.
            StoreFullError: there is too little free space.
        """
        return self._import(layers, lambda job: job.take_parts(parts))

    def _import(self, layers: Sequence[str], take: Callable[[ImageImport], Descriptor]) -> Descriptor:
        self._check_open()
        held = self._held(layers)
        sound = self._workspace.adopt_all([*held.values()])
        intact = {layer: blob for layer, blob in held.items() if blob in sound}
        job = ImageImport(self._workspace, layers, intact, threads=self._threads)
        try:
            return take(job)
        finally:
            # Also after an error: the layers that were stored before it are not stored again.
            with self._guard:
                self._layers = {**(self._layers or {}), **job.held}

    def flatten_image(self, manifest: Descriptor, *, keep: int) -> FlatImage:
        """Merge all layers above the lowest `keep` of a stored image; return the new image.

        Raises:
            CorruptBackupError, StoreError: the image could not be read, or there is too little free space.
        """
        self._check_open()
        return flatten(self._workspace, manifest, keep=keep, threads=self._threads)

    def image_archive(self, manifest: Descriptor, tags: Sequence[str]) -> Iterator[bytes]:
        """Yield an image of this draft as `BackupStore.image_archive` does."""
        self._check_open()
        return image_archive(self._layout, manifest, tags)

    def commit(self, backup: Backup) -> None:
        """Add the backup to the store durably: read back and verify it first, list it last.

        Raises:
            CorruptBackupError: a blob that `backup` refers to is missing or damaged.
            StoreError: the backup could not be written; it is not listed.
        """
        self._check_open()
        if backup.id != self.backup_id:
            raise ValueError(f"the draft is of backup {self.backup_id!r}, not {backup.id!r}")
        self._workspace.list(self.backup_id, self._write_manifests(backup))
        self._state = "committed"

    def _refuse_known(self, index: oci.Index) -> None:
        if any(child.name == self.backup_id for child in index.children):
            raise StoreError(str(self._layout.root), f"it holds a backup {self.backup_id!r} already")

    def _held(self, layers: Sequence[str]) -> dict[str, Descriptor]:
        with self._guard:
            if self._layers is None:
                self._layers = self._layout.image_layers()
            return {layer: self._layers[layer] for layer in layers if layer in self._layers}

    def _write_manifests(self, backup: Backup) -> Descriptor:
        add = self._workspace.add_bytes
        empty = add(oci.EMPTY, oci.EMPTY_JSON)
        images = _images_of(backup)
        # The engine's own index and manifest of an image are added as plain files. As index and manifest, they would
        # make every tool look for platforms that the engine never pulled, and for uncompressed layers.
        known = {digest for image in images for digest in image.annotations.get(oci.KNOWN_AS_KEY, "").split()}
        originals = [self._layout.blobs.find(oci.JSON, digest) for digest in sorted(known)]
        record = add(oci.RECORD_JSON, codec.dump_backup(backup), {oci.TITLE: "backup.json"})
        files = {file.data.digest: file.data for file in backup.files}
        children = [
            self._artifact(oci.RECORD, empty, [record, *originals, *files.values()], {}),
            *(oci.dump_descriptor(image) for image in images),
            *(
                self._artifact(oci.VOLUME, empty, self._archives(volume), {oci.VOLUME_KEY: volume.name})
                for volume in backup.volumes
            ),
        ]
        annotations = {oci.CREATED: backup.created.isoformat(), oci.FORMAT_KEY: str(codec.format_of(backup))}
        return add(oci.INDEX, oci.dump_index(children, artifact_type=oci.BACKUP, annotations=annotations))

    def _artifact(
        self, kind: str, empty: Descriptor, layers: Sequence[Descriptor], annotations: Mapping[str, str]
    ) -> dict[str, object]:
        data = oci.dump_manifest(oci.Manifest(empty, tuple(layers), kind, annotations))
        return oci.dump_descriptor(self._workspace.add_bytes(oci.MANIFEST, data, annotations), artifact_type=kind)

    def _archives(self, volume: VolumeArchive) -> list[Descriptor]:
        """Return a volume's archives as layers, those that tools can write to files with titles."""
        # The engine's own volume names stay as they are; a driver's may have characters that a file name should not.
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", volume.name).lstrip(".") or "volume"
        titles = {
            blob.digest: f"{stem[:150]}.{part}"
            for blob, part in (
                (volume.listing, "listing.zst"),
                (volume.snapshot, "snapshot-file.zst"),
                (volume.increment, f"increment.{_ending(volume.increment)}"),
                (volume.base, f"base.{_ending(volume.base)}"),
            )
            if blob is not None
        }
        return [
            evolve(blob, annotations={oci.TITLE: titles[blob.digest]} if blob.digest in titles else {})
            for blob in layers_of(self._layout.blobs, volume)
        ]

    def _check_open(self) -> None:
        if self._state != "open":
            raise ValueError(f"the draft is {self._state}, not open")


def _images_of(backup: Backup) -> list[Descriptor]:
    """Return the manifests of a backup's images without duplicates, annotated with the names of their containers."""
    names: dict[str, list[str]] = {}
    blobs: dict[str, Descriptor] = {}
    for container in backup.containers:
        manifest = container.image.manifest
        if manifest is not None:
            blobs[manifest.digest] = manifest
            names.setdefault(manifest.digest, []).append(container.name)
    return [
        Descriptor(blob.media_type, digest, blob.size, {**blob.annotations, oci.CONTAINER_KEY: " ".join(names[digest])})
        for digest, blob in blobs.items()
    ]


def _ending(blob: Descriptor | None) -> str:
    """Return the end of the title of a stored tar: it is one blob, or a list of pieces."""
    return "pieces.zst" if blob is not None and blob.media_type == oci.PIECES else "tar.zst"
