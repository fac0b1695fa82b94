"""Images on their way out: a tar that the load of every engine takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from docker_rollback._model import Descriptor
from docker_rollback._store import _oci
from docker_rollback._store._layout import Layout
from docker_rollback._store._streams import tar_end, tar_member


def image_archive(layout: Layout, manifest: Descriptor, tags: Sequence[str]) -> Iterator[bytes]:
    """Yield a tar of one image; see `BackupStore.image_archive`."""
    parts = layout.manifest(manifest)
    blobs = {blob.digest: blob for blob in (parts.config, *parts.layers, manifest)}
    root = manifest
    letter = manifest.annotations.get(_oci.INDEX_KEY)
    if letter is not None:
        size = layout.blobs.path(letter).stat().st_size
        root = Descriptor(_oci.INDEX, letter, size)
        text = layout.parsed(_oci.load_json, layout.blobs.read(root, _oci.MAX_MANIFEST), letter)
        root = Descriptor(text.get("mediaType", _oci.INDEX), letter, size)
        blobs[letter] = root
    # The small files first, so that who reads the stream knows what is coming.
    yield from tar_member(_oci.LAYOUT_FILE, [_oci.LAYOUT_JSON], len(_oci.LAYOUT_JSON))
    index = _oci.dump_index(_named(root, tags))
    yield from tar_member(_oci.INDEX_FILE, [index], len(index))
    table = _oci.dump_json([docker_entry(parts, tags)])
    yield from tar_member("manifest.json", [table], len(table))
    for blob in sorted(blobs.values(), key=lambda blob: blob.size):
        yield from tar_member(blob_name(blob), layout.blobs.open(blob), blob.size)
    yield from tar_end()


def docker_entry(parts: _oci.Manifest, tags: Sequence[str]) -> dict[str, Any]:
    """Return what ``manifest.json`` says of one image."""
    return {
        "Config": blob_name(parts.config),
        "RepoTags": list(tags) or None,
        "Layers": [blob_name(layer) for layer in parts.layers],
    }


def blob_name(blob: Descriptor) -> str:
    """Return where a blob lies in a layout, and in an archive of one."""
    return "blobs/" + blob.digest.replace(":", "/")


def full_name(tag: str) -> str:
    """Return an image's name as containerd's store spells it: with its registry, and with its tag."""
    first, slash, _ = tag.partition("/")
    if not slash:
        tag = f"docker.io/library/{tag}"
    elif not ("." in first or ":" in first or first == "localhost"):
        tag = f"docker.io/{tag}"
    return tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"


def _named(root: Descriptor, tags: Sequence[str]) -> list[dict[str, Any]]:
    bare = Descriptor(root.media_type, root.digest, root.size)
    if not tags:
        return [_oci.dump_descriptor(bare)]
    names = [full_name(tag) for tag in tags]
    return [
        {
            **_oci.dump_descriptor(bare),
            "annotations": {_oci.CONTAINERD_NAME: name, _oci.REF_NAME: name.rpartition(":")[2]},
        }
        for name in names
    ]
