"""Verifies backups: hashes every blob, and checks every reference."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from attrs import frozen

from docker_rollback._model import Backup, Descriptor, VolumeArchive
from docker_rollback._store import codec, oci
from docker_rollback._store.layout import Layout
from docker_rollback._store.pieces import layers_of, read_tar
from docker_rollback._store.streams import CompressionError, plain
from docker_rollback.errors import UnsupportedFormatError


@frozen
class Parts:
    """A backup's record, and the children of its index."""

    backup: Backup
    children: tuple[oci.Child, ...]


def load(layout: Layout, backup_id: str, root: Descriptor) -> Parts:
    """Read a backup's index and record, but no other blobs.

    Raises:
        CorruptBackupError: the index, the record's manifest, or the record is damaged.
        UnsupportedFormatError: it was written in a newer format.
    """
    index, _, backup = _read(layout, backup_id, root)
    if backup.id != backup_id:
        raise layout.blobs.corrupt(oci.INDEX_FILE, f"its entry {backup_id!r} is the backup {backup.id[:100]!r}")
    return Parts(backup, index.children)


def record_id(layout: Layout, root: Descriptor) -> str:
    """Return the id in a backup's record; raises as `load`, and if the id is malformed."""
    _, record, backup = _read(layout, "without a name", root)
    if not oci.is_backup_id(backup.id):
        raise layout.blobs.corrupt(record.digest, "its id is not a backup's")
    return backup.id


def _read(layout: Layout, backup_id: str, root: Descriptor) -> tuple[oci.Index, Descriptor, Backup]:
    index = layout.child_index(root)
    _check_format(layout, backup_id, index.artifact_type)
    _check_format(layout, backup_id, oci.backup_type(index.annotations.get(oci.FORMAT_KEY, "1")))
    for child in index.children:
        if child.blob.media_type not in oci.MANIFESTS:
            raise layout.blobs.corrupt(root.digest, f"it refers to a {child.blob.media_type[:80]}")
    records = []
    for child in index.children:
        # skopeo drops the artifact types of an index's entries, but not the one in the manifest itself.
        if (child.artifact_type or oci.RECORD) == oci.RECORD:
            manifest = layout.manifest(child.blob)
            if manifest.artifact_type == oci.RECORD:
                records.append((child, manifest))
    if len(records) != 1 or not records[0][1].layers:
        raise layout.blobs.corrupt(root.digest, "it is not the index of a backup")
    record = records[0][1].layers[0]
    data = layout.blobs.read(record, oci.MAX_RECORD)
    try:
        backup = layout.parsed(codec.load_backup, data, record.digest)
    except codec.NewerFormatError as error:
        raise UnsupportedFormatError(str(layout.root), f"backup {backup_id!r}: {error}") from None
    return index, record, backup


def verify(
    layout: Layout,
    backup_id: str,
    root: Descriptor,
    *,
    again: bool = True,
    deep: bool = False,
) -> Parts:
    """Read and hash all blobs of a backup, and check its references.

    Unless `again` is set, blobs that were found intact before and whose files have not changed since are not read
    again. With `deep` all blobs are decompressed too, and their content is checked.

    Raises:
        CorruptBackupError: a blob is missing or damaged, or the parts do not match.
        UnsupportedFormatError: it was written in a newer format.
    """
    parts = load(layout, backup_id, root)
    known: set[tuple[str, int]] = set()
    manifests = {child.blob.digest: layout.manifest(child.blob) for child in parts.children}
    for manifest in manifests.values():
        for blob in (manifest.config, *manifest.layers):
            if (blob.digest, blob.size) not in known:
                if again or not layout.blobs.is_proven(blob):
                    layout.blobs.prove(blob)
                known.add((blob.digest, blob.size))
    images = _check_images(layout, parts, manifests, root)
    volumes = _check_volumes(layout, parts.backup.volumes, manifests, root)
    _check_files(layout, parts.backup, manifests, root)
    if len(manifests) != 1 + images + volumes:
        raise layout.blobs.corrupt(root.digest, "it refers to more than the backup's record does")
    if deep:
        _check_content(layout, parts)
    return parts


def _check_images(layout: Layout, parts: Parts, manifests: dict[str, oci.Manifest], root: Descriptor) -> int:
    found = set()
    for container in parts.backup.containers:
        image = container.image
        if image.manifest is None:
            continue
        manifest = manifests.get(image.manifest.digest)
        if manifest is None:
            raise layout.blobs.corrupt(root.digest, f"it lacks the image {image.manifest.digest}")
        found.add(image.manifest.digest)
        config = layout.blobs.read(manifest.config, oci.MAX_MANIFEST)
        ids = layout.parsed(oci.diff_ids, config, manifest.config.digest)
        if ids != image.layers or len(ids) != len(manifest.layers):
            reason = f"its layers are not those of container {container.name!r}"
            raise layout.blobs.corrupt(image.manifest.digest, reason)
    return len(found)


def _check_volumes(
    layout: Layout, volumes: Sequence[VolumeArchive], manifests: dict[str, oci.Manifest], root: Descriptor
) -> int:
    artifacts = {
        (manifest.annotations.get(oci.VOLUME_KEY), *((layer.digest, layer.size) for layer in manifest.layers)): digest
        for digest, manifest in manifests.items()
        if manifest.artifact_type == oci.VOLUME
    }
    found = set()
    for volume in volumes:
        layers = ((blob.digest, blob.size) for blob in layers_of(layout.blobs, volume))
        artifact = artifacts.get((volume.name, *layers))
        if artifact is None:
            raise layout.blobs.corrupt(root.digest, f"it lacks the archive of volume {volume.name!r}")
        found.add(artifact)
    return len(found)


def _check_files(layout: Layout, backup: Backup, manifests: dict[str, oci.Manifest], root: Descriptor) -> None:
    records = [manifest for manifest in manifests.values() if manifest.artifact_type == oci.RECORD]
    listed = {(layer.digest, layer.size) for record in records for layer in record.layers}
    for file in backup.files:
        if (file.data.digest, file.data.size) not in listed:
            raise layout.blobs.corrupt(root.digest, f"it lacks the file {file.path[:200]!r}")


def _check_content(layout: Layout, parts: Parts) -> None:
    # Containers share layers, and each is checked once for each content that it stands for.
    layers = {
        (layer.digest, diff_id): layer
        for container in parts.backup.containers
        if container.image.manifest is not None
        for layer, diff_id in zip(layout.manifest(container.image.manifest).layers, container.image.layers, strict=True)
    }
    for (_, diff_id), layer in layers.items():
        _check_layer(layout, layer, diff_id)
    for volume in parts.backup.volumes:
        _check_archives(layout, volume)


def _check_layer(layout: Layout, layer: Descriptor, diff_id: str) -> None:
    hasher = hashlib.sha256()
    for data in _plain(layout, layer):
        hasher.update(data)
    if "sha256:" + hasher.hexdigest() != diff_id:
        raise layout.blobs.corrupt(layer.digest, f"it does not contain the layer {diff_id}")


def _check_archives(layout: Layout, volume: VolumeArchive) -> None:
    size = 0
    for blob in (volume.base, volume.increment):
        if blob is None:
            continue
        for data in read_tar(layout.blobs, blob, hashed=True):
            size += len(data)
            if volume.size and size > volume.size:
                raise layout.blobs.corrupt(blob.digest, f"it decompresses to more than {volume.size} bytes")
    if volume.size and size != volume.size:
        raise layout.blobs.corrupt(volume.base.digest, f"it decompresses to {size} bytes, not {volume.size}")


def _plain(layout: Layout, blob: Descriptor) -> Iterator[bytes]:
    try:
        yield from plain(layout.blobs.open(blob))
    except CompressionError as error:
        raise layout.blobs.corrupt(blob.digest, str(error)) from None


def _check_format(layout: Layout, backup_id: str, artifact_type: str | None) -> None:
    version = oci.format_of(artifact_type)
    if version is not None and version > oci.FORMAT:
        raise UnsupportedFormatError(
            str(layout.root),
            f"backup {backup_id!r} has format {version}, and this version reads formats up to {oci.FORMAT}",
        )
