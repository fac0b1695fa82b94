"""Exports images and backups as tars that every engine can load."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import evolve, frozen

from docker_rollback._model import Descriptor
from docker_rollback._store import oci
from docker_rollback._store.layout import Layout, index_entries
from docker_rollback._store.streams import CompressionError, decompressed, tar_end, tar_member
from docker_rollback._store.strict_json import dump_json

DOCKER_FILE = "manifest.json"
# The file of an export with the index of the whole backup, as in a store's ``index.json``.
BACKUP_FILE = "docker-rollback.json"

REPOSITORY = "docker-rollback"  # the repository of the images of an export, in an engine that loads it


@frozen
class _Original:
    """An image in the form that its engine had."""

    root: Descriptor  # the index or manifest whose digest was its id, if the engine has containerd's store
    manifest: Descriptor
    parts: oci.Manifest  # the content of that manifest
    # Its uncompressed layers that the store has only gzipped, by digest, each with the gzipped blob.
    plain: dict[str, Descriptor]


def image_archive(layout: Layout, manifest: Descriptor, tags: Sequence[str]) -> Iterator[bytes]:
    """Yield a tar of one image; see `BackupStore.image_archive`."""
    original = _original_of(layout, manifest)
    parts = original.parts
    blobs = {blob.digest: blob for blob in (parts.config, *parts.layers, original.manifest, original.root)}
    # Small files come first, so that a reader of the stream knows the image before its layers.
    yield from _text(oci.LAYOUT_FILE, oci.LAYOUT_JSON)
    yield from _text(oci.INDEX_FILE, oci.dump_index(_named(original.root, tags)))
    yield from _text(DOCKER_FILE, dump_json([_docker_entry(parts, tags)]))
    for blob in sorted(blobs.values(), key=lambda blob: blob.size):
        source = original.plain.get(blob.digest)
        content = layout.blobs.open(blob) if source is None else _unpacked(layout, source, blob)
        yield from tar_member(_blob_name(blob), content, blob.size)
    yield from tar_end()


def backup_archive(layout: Layout, backup_id: str, root: Descriptor) -> Iterator[bytes]:
    """Yield a tar of a whole backup; see `BackupStore.export`.

    The files that engines read (``index.json``, ``manifest.json``) name the images alone, because one of the engines
    would take every other artifact for an image. The index of the whole backup has its own file.
    """
    blobs = {blob.digest: blob for blob in layout.tree(root)}
    index = layout.child_index(root)
    whole = index_entries(backup_id, root, index.children)
    images: list[dict[str, Any]] = []
    table = []
    for number, child in enumerate(index.children, start=1):
        parts = layout.manifest(child.blob)
        if parts.config.media_type in oci.IMAGE_CONFIGS:
            tag = f"{REPOSITORY}:{oci.child_name(backup_id, number)}"
            original = _original_of(layout, child.blob)
            table.append(_docker_entry(parts, [tag]))
            # Uncompressed layers would double the export's size, for an id that `image_archive` restores too.
            images.extend(_named(child.blob if original.plain else original.root, [tag]))
    yield from _text(oci.LAYOUT_FILE, oci.LAYOUT_JSON)
    yield from _text(oci.INDEX_FILE, oci.dump_index(images))
    yield from _text(BACKUP_FILE, oci.dump_index(whole))
    yield from _text(DOCKER_FILE, dump_json(table))
    for blob in sorted(blobs.values(), key=lambda blob: blob.size):
        yield from tar_member(_blob_name(blob), layout.blobs.open(blob), blob.size)
    yield from tar_end()


def full_name(tag: str) -> str:
    """Return an image's name as containerd's store spells it, with its registry and tag."""
    first, slash, _ = tag.partition("/")
    if not slash:
        tag = f"docker.io/library/{tag}"
    elif not ("." in first or ":" in first or first == "localhost"):
        tag = f"docker.io/{tag}"
    return tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"


def _original_of(layout: Layout, manifest: Descriptor) -> _Original:
    """Return an image in the form that its engine had; in the store's form if that is not recorded."""
    own = layout.manifest(manifest)
    known = [layout.blobs.find(oci.JSON, digest) for digest in manifest.annotations.get(oci.KNOWN_AS_KEY, "").split()]
    texts = [layout.blobs.read(blob, oci.MAX_MANIFEST) for blob in known]
    kinds = [layout.parsed(oci.manifest_type, text, blob.digest) for text, blob in zip(texts, known, strict=True)]
    found = [Descriptor(kind, blob.digest, blob.size) for kind, blob in zip(kinds, known, strict=True)]
    manifests = [blob for blob in found if blob.media_type in oci.MANIFESTS]
    chosen = manifests[0] if manifests else manifest
    root = next((blob for blob in found if blob.media_type in oci.INDEXES), chosen)
    parts = layout.manifest(chosen)
    if parts.config.digest != own.config.digest or len(parts.layers) != len(own.layers):
        raise layout.blobs.corrupt(chosen.digest, f"it is not of the image {manifest.digest}")
    pairs = zip(parts.layers, own.layers, strict=True)
    return _Original(root, chosen, parts, {plain.digest: kept for plain, kept in pairs if plain.digest != kept.digest})


def _unpacked(layout: Layout, source: Descriptor, plain: Descriptor) -> Iterator[bytes]:
    """Decompress a layer and check that it is the `plain` one; never yields more bytes than that one's size."""
    hasher = hashlib.sha256()
    left = plain.size
    try:
        # Layers that came uncompressed are stored as gzip.
        for data in decompressed(layout.blobs.open(source), "gzip"):
            hasher.update(data)
            left -= len(data)
            if left < 0:
                break
            yield data
    except CompressionError as error:
        raise layout.blobs.corrupt(source.digest, str(error)) from None
    if left or "sha256:" + hasher.hexdigest() != plain.digest:
        raise layout.blobs.corrupt(source.digest, f"it does not contain the layer {plain.digest}")


def _docker_entry(parts: oci.Manifest, tags: Sequence[str]) -> dict[str, Any]:
    return {
        "Config": _blob_name(parts.config),
        "RepoTags": list(tags) or None,
        "Layers": [_blob_name(layer) for layer in parts.layers],
    }


def _blob_name(blob: Descriptor) -> str:
    return "blobs/" + blob.digest.replace(":", "/")


def _text(name: str, data: bytes) -> Iterator[bytes]:
    return tar_member(name, [data], len(data))


def _named(root: Descriptor, tags: Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries of ``index.json`` for an image, one for each of its names."""
    bare = oci.dump_descriptor(evolve(root, annotations={}))
    annotations = [{oci.CONTAINERD_NAME: name, oci.REF_NAME: name.rpartition(":")[2]} for name in map(full_name, tags)]
    return [{**bare, "annotations": own} for own in annotations] or [bare]
