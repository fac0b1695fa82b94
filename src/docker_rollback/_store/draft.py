"""A backup in the making."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

from docker_rollback._model import Backup, Descriptor, VolumeArchive
from docker_rollback._store import codec, oci
from docker_rollback._store.blobs import BlobWriter
from docker_rollback._store.export import image_archive
from docker_rollback._store.files import translated
from docker_rollback._store.image_flatten import FlatImage, flatten
from docker_rollback._store.image_import import ImageIntake
from docker_rollback._store.layout import Layout
from docker_rollback._store.spool import FileCopy, Spool
from docker_rollback._store.workspace import Workspace
from docker_rollback.errors import StoreError


class Draft:
    """A backup in the making: inert until entered, single-use, gone without a trace unless committed.

    Everything that it writes is safe from a `prune` or `delete` at work elsewhere, and nothing of it is listed before
    `commit`. Its methods may be called from several threads.

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state = "closed"
        self._workspace.close()

    def blob(self, media_type: str, annotations: Mapping[str, str] | None = None) -> BlobWriter:
        """Begin a blob.

        Args:
            media_type: what it is.
            annotations: what its descriptor says of it beyond that; no secrets.

        Returns:
            Its writer, a context manager.
        """
        self._check_open()
        return self._workspace.blob(media_type, annotations)

    def adopt(self, blob: Descriptor) -> bool:
        """Whether the store holds a blob that this backup is to have too, whole; if so, it stays from now on."""
        self._check_open()
        return self._workspace.adopt(blob)

    def spool(self) -> Spool:
        """Return a place for bytes that become a blob later, a context manager."""
        self._check_open()
        return self._workspace.spool()

    def copy(self) -> FileCopy:
        """Return a place for the copy of a file, a context manager."""
        self._check_open()
        return self._workspace.copy()

    def room(self) -> int:
        """Return how many bytes there is room for; raises `StoreError`."""
        with translated(self._layout.root):
            return self._layout.disk.room(self._layout.root)

    def adopt_image(self, manifest: Descriptor) -> bool:
        """Whether the store holds an image that this backup is to have too, whole; if so, it stays from now on."""
        self._check_open()
        return self._workspace.adopt_image(manifest)

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
        held = self._held(layers)
        sound = {layer: blob for layer, blob in held.items() if self._workspace.adopt(blob)}
        manifest, found = ImageIntake(self._workspace, layers, sound, threads=self._threads).take(archive)
        with self._guard:
            self._layers = {**(self._layers or {}), **found}
        return manifest

    def flatten_image(self, manifest: Descriptor, *, keep: int) -> FlatImage:
        """Merge the layers of an image in the store that lie above its lowest `keep`; return the flat image.

        Raises:
            CorruptBackupError, StoreError: it could not be read, or there is no room.
        """
        self._check_open()
        return flatten(self._workspace, manifest, keep=keep, threads=self._threads)

    def image_archive(self, manifest: Descriptor, tags: Sequence[str]) -> Iterator[bytes]:
        """Yield an image of this draft as `BackupStore.image_archive` does."""
        self._check_open()
        return image_archive(self._layout, manifest, tags)

    def commit(self, backup: Backup) -> None:
        """Make the backup one of the store's, durably: read back and verified first, listed last.

        Raises:
            CorruptBackupError: something that `backup` refers to is not in the store, or not what was written.
            StoreError: it could not be written; it is not listed.
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
        """Return those of `layers` that the store holds."""
        with self._guard:
            if self._layers is None:
                self._layers = self._layout.image_layers()
            return {layer: self._layers[layer] for layer in layers if layer in self._layers}

    def _write_manifests(self, backup: Backup) -> Descriptor:
        add = self._workspace.add_bytes
        empty = add(oci.EMPTY, oci.EMPTY_JSON)
        images = _images_of(backup)
        # What an engine knew an image by rides along as files: as an index and a manifest they would make every tool
        # look for platforms that the engine never fetched, and for layers that are not kept plain.
        known = {digest for image in images for digest in image.annotations.get(oci.KNOWN_AS_KEY, "").split()}
        letters = [self._layout.blobs.find(oci.JSON, digest) for digest in sorted(known)]
        record = add(oci.RECORD_JSON, codec.dump_backup(backup), {oci.TITLE: "backup.json"})
        children = [
            self._artifact(oci.RECORD, empty, [record, *letters], {}),
            *(oci.dump_descriptor(image) for image in images),
            *(
                self._artifact(oci.VOLUME, empty, _archives(volume), {oci.VOLUME_KEY: volume.name})
                for volume in backup.volumes
            ),
        ]
        annotations = {oci.CREATED: backup.created.isoformat(), oci.FORMAT_KEY: str(codec.format_of(backup))}
        return add(oci.INDEX, oci.dump_index(children, artifact_type=oci.BACKUP, annotations=annotations))

    def _artifact(
        self, kind: str, empty: Descriptor, layers: Sequence[Descriptor], annotations: Mapping[str, str]
    ) -> dict[str, object]:
        data = oci.dump_manifest(empty, layers, artifact_type=kind, annotations=annotations)
        return oci.dump_descriptor(self._workspace.add_bytes(oci.MANIFEST, data, annotations), artifact_type=kind)

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
        Descriptor(blob.media_type, digest, blob.size, {**blob.annotations, oci.CONTAINER_KEY: " ".join(names[digest])})
        for digest, blob in blobs.items()
    ]


def _archives(volume: VolumeArchive) -> list[Descriptor]:
    """Return a volume's archives as layers that tools write to files: the base first."""
    # Of an engine's own names nothing is lost here; a driver's may hold what no file's name should.
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", volume.name).lstrip(".") or "volume"
    parts = [
        (volume.base, "base.tar.zst"),
        (volume.increment, "increment.tar.zst"),
        (volume.snapshot, "snapshot-file.zst"),
        (volume.listing, "listing.zst"),
    ]
    return [
        Descriptor(blob.media_type, blob.digest, blob.size, {oci.TITLE: f"{stem[:150]}.{part}"})
        for blob, part in parts
        if blob is not None
    ]
