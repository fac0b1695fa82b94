"""Images on their way out: a tar that the load of every engine takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from docker_rollback._model import Descriptor
from docker_rollback._store import _oci
from docker_rollback._store._layout import Layout
from docker_rollback._store._streams import tar_end, tar_member
from docker_rollback.errors import StoreError

DOCKER_FILE = "manifest.json"
BACKUP_FILE = "docker-rollback.json"
"""In an export: the index of a layout that holds the whole backup, as ``index.json`` of a store would have it."""

REPOSITORY = "docker-rollback"
"""What the images of an export are called in an engine that loads it."""


def image_archive(layout: Layout, manifest: Descriptor, tags: Sequence[str]) -> Iterator[bytes]:
    """Yield a tar of one image; see `BackupStore.image_archive`."""
    parts = layout.manifest(manifest)
    root = _known_as(layout, manifest)
    blobs = {blob.digest: blob for blob in (parts.config, *parts.layers, manifest, root)}
    # The small files first, so that who reads the stream knows what is coming.
    yield from _text(_oci.LAYOUT_FILE, _oci.LAYOUT_JSON)
    yield from _text(_oci.INDEX_FILE, _oci.dump_index(_named(root, tags)))
    yield from _text(DOCKER_FILE, _oci.dump_json([docker_entry(parts, tags)]))
    for blob in sorted(blobs.values(), key=lambda blob: blob.size):
        yield from tar_member(blob_name(blob), layout.blobs.open(blob), blob.size)
    yield from tar_end()


def backup_archive(layout: Layout, backup_id: str, root: Descriptor) -> Iterator[bytes]:
    """Yield a tar of a whole backup; see `BackupStore.export`.

    What engines read (``index.json``, ``manifest.json``) names the images alone: one of them would take every artifact
    that it finds there for an image. The whole backup's index lies beside them under a name of its own.
    """
    blobs = {blob.digest: blob for blob in layout.tree(root, absent=_fail)}
    index = layout.child_index(root)
    named = Descriptor(root.media_type, root.digest, root.size, {_oci.REF_NAME: backup_id})
    whole = [_oci.dump_descriptor(named, artifact_type=_oci.BACKUP)]
    images: list[dict[str, Any]] = []
    table = []
    for number, child in enumerate(index.children, start=1):
        name = _oci.child_name(backup_id, number)
        annotations = {**child.blob.annotations, _oci.REF_NAME: name}
        blob = Descriptor(child.blob.media_type, child.blob.digest, child.blob.size, annotations)
        whole.append(_oci.dump_descriptor(blob, artifact_type=child.artifact_type))
        parts = layout.manifest(blob)
        if parts.config.media_type in _oci.IMAGE_CONFIGS:
            tag = f"{REPOSITORY}:{name}"
            table.append(docker_entry(parts, [tag]))
            images.extend(_named(_known_as(layout, child.blob), [tag]))
    yield from _text(_oci.LAYOUT_FILE, _oci.LAYOUT_JSON)
    yield from _text(_oci.INDEX_FILE, _oci.dump_index(images))
    yield from _text(BACKUP_FILE, _oci.dump_index(whole))
    yield from _text(DOCKER_FILE, _oci.dump_json(table))
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


def _known_as(layout: Layout, manifest: Descriptor) -> Descriptor:
    """Return what an engine with containerd's store knew an image by: its manifest, or an index of platforms."""
    letter = manifest.annotations.get(_oci.INDEX_KEY)
    if letter is None:
        return manifest
    found = layout.blobs.find(_oci.INDEX, letter)
    kind = layout.child_index(found).raw.get("mediaType")
    return Descriptor(kind if kind in _oci.INDEXES else _oci.INDEX, letter, found.size)


def _text(name: str, data: bytes) -> Iterator[bytes]:
    return tar_member(name, [data], len(data))


def _fail(_: Descriptor, error: StoreError) -> NoReturn:
    raise error


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
