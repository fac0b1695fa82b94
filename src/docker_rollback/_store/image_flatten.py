"""Merges the upper layers of an image into one, to reduce its depth."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

from attrs import frozen

from docker_rollback._model import Descriptor
from docker_rollback._store import oci
from docker_rollback._store.files import translated
from docker_rollback._store.layer_merge import merged
from docker_rollback._store.layout import Layout
from docker_rollback._store.streams import CompressionError, GzipWriter, plain
from docker_rollback._store.strict_json import dump_json, load_json
from docker_rollback._store.workspace import Workspace


@frozen
class FlatImage:
    """An image in the store with fewer layers than its original, and the same files."""

    manifest: Descriptor
    config: str  # the digest of its config
    layers: tuple[str, ...]  # the digests of its layers, uncompressed, lowest first


def flatten(workspace: Workspace, manifest: Descriptor, *, keep: int, threads: int) -> FlatImage:
    """Merge all layers of a stored image above the lowest `keep`; return the new image. Raises `StoreError`."""
    layout = workspace.layout
    parts = layout.manifest(manifest)
    config = load_json(layout.blobs.read(parts.config, oci.MAX_MANIFEST))
    hasher = hashlib.sha256()
    with ExitStack() as held, workspace.blob(oci.LAYER_GZIP) as blob:
        try:
            files = [held.enter_context(_unpacked(workspace, layer)) for layer in parts.layers[keep:]]
            with GzipWriter(blob.write, threads) as packer:
                for data in merged(files):
                    hasher.update(data)
                    packer.write(data)
        except (tarfile.TarError, CompressionError) as error:
            raise layout.blobs.corrupt(manifest.digest, f"a layer of it is broken ({error})") from error
        layer = blob.close()
    ids = (*config["rootfs"]["diff_ids"][:keep], "sha256:" + hasher.hexdigest())
    config["rootfs"]["diff_ids"] = list(ids)
    config["history"] = _history(config.get("history") or [], keep)
    written = workspace.add_bytes(parts.config.media_type, dump_json(config))
    own = workspace.add_bytes(oci.MANIFEST, oci.dump_manifest(oci.Manifest(written, (*parts.layers[:keep], layer))))
    return FlatImage(own, written.digest, ids)


@contextmanager
def _unpacked(workspace: Workspace, layer: Descriptor) -> Iterator[BinaryIO]:
    """Open a layer as an uncompressed, seekable temporary file."""
    with workspace.scratch() as file:
        for data in plain(workspace.layout.blobs.open(layer)):
            with translated(workspace.layout.root):
                file.write(data)
        with translated(workspace.layout.root):
            file.flush()
        yield file


def history_in(layout: Layout, manifest: Descriptor, *, layers: int) -> list[Mapping[str, Any]]:
    """Return the history of the lowest layers of a stored image. Raises `StoreError`."""
    config = load_json(layout.blobs.read(layout.manifest(manifest).config, oci.MAX_MANIFEST))
    return _lowest(config.get("history") or [], layers) or _blank(layers)


def _history(entries: Sequence[Mapping[str, Any]], keep: int) -> list[Mapping[str, Any]]:
    """Return the history of the merged image: the entries of the `keep` lowest layers, and the last one."""
    kept = _lowest(entries, keep)
    if kept is None or len(kept) == len(entries):
        return _blank(keep + 1)
    return [*kept, {key: value for key, value in entries[-1].items() if key != "empty_layer"}]


def _lowest(entries: Sequence[Mapping[str, Any]], keep: int) -> list[Mapping[str, Any]] | None:
    """Return the entries of the `keep` lowest layers; None if the history lacks entries."""
    kept: list[Mapping[str, Any]] = []
    layers = 0
    for entry in entries:
        layers += not entry.get("empty_layer")
        if layers > keep:
            return kept
        kept.append(entry)
    return kept if layers == keep else None


def _blank(layers: int) -> list[Mapping[str, Any]]:
    """Return a history without content, because tools want one entry for each layer."""
    return [{"created_by": ""} for _ in range(layers)]
