"""An image whose upper layers are merged into one, so that it is no deeper than it has to be."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

from attrs import frozen

from docker_rollback._model import Descriptor
from docker_rollback._store import oci
from docker_rollback._store.files import translated
from docker_rollback._store.layer_merge import merged
from docker_rollback._store.streams import CompressionError, GzipWriter, compression, decompressed
from docker_rollback._store.workspace import Workspace


@frozen
class FlatImage:
    """An image in the store that is less deep than the one that it was made from, and holds the same files.

    Attributes:
        manifest: its manifest.
        config: the digest of its config.
        layers: the digests of its layers, uncompressed, lowest first.
    """

    manifest: Descriptor
    config: str
    layers: tuple[str, ...]


def flatten(workspace: Workspace, manifest: Descriptor, *, keep: int, threads: int) -> FlatImage:
    """Merge the layers of an image that lie above its lowest ones; return the image that this makes.

    Args:
        workspace: where its blobs go.
        manifest: the image's manifest, in the store.
        keep: how many of the lowest layers stay as they are.
        threads: how many compress.

    Raises:
        CorruptBackupError: a layer is damaged.
        StoreError: there is no room.
    """
    layout = workspace.layout
    parts = layout.manifest(manifest)
    config = oci.load_json(layout.blobs.read(parts.config, oci.MAX_MANIFEST))
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
    written = workspace.add_bytes(parts.config.media_type, oci.dump_json(config))
    own = workspace.add_bytes(oci.MANIFEST, oci.dump_manifest(written, [*parts.layers[:keep], layer]))
    return FlatImage(own, written.digest, ids)


@contextmanager
def _unpacked(workspace: Workspace, layer: Descriptor) -> Iterator[BinaryIO]:
    """Have a layer as a plain file that can be sought in."""
    pieces = workspace.layout.blobs.open(layer)
    first = next(pieces, b"")
    kind = compression(first[:4])

    def whole() -> Iterator[bytes]:
        yield first
        yield from pieces

    with workspace.scratch() as file:
        for data in whole() if kind is None else decompressed(whole(), kind):
            with translated(workspace.layout.root):
                file.write(data)
        with translated(workspace.layout.root):
            file.flush()
        yield file


def _history(entries: Sequence[dict[str, Any]], keep: int) -> list[dict[str, Any]]:
    """Return the history of an image with one layer above so many: that of those, and the last entry for the one."""
    kept: list[dict[str, Any]] = []
    layers = 0
    for entry in entries:
        layers += not entry.get("empty_layer")
        if layers > keep:
            last = {key: value for key, value in entries[-1].items() if key != "empty_layer"}
            return [*kept, last]
        kept.append(entry)
    # It does not tell of every layer, and tools want one entry for each.
    return [{"created_by": ""} for _ in range(keep + 1)]
