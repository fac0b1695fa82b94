"""Keeps images below an engine's limit of layers, by merging the layers that commits add.

A container that was rolled back may use a committed image, and committing that container in turn adds one layer more
with every rollback. So the layers above the container's original image are merged into one.
"""

from __future__ import annotations

import logging
from typing import Final

from attrs import evolve

from docker_rollback._containers.committed_parts import Committed, committed_parts
from docker_rollback._containers.image_files import ImageFilesError, image_parts
from docker_rollback._containers.images import image_id_of, load_as
from docker_rollback._engine import Engine, Inspection
from docker_rollback._inspection import layers_of
from docker_rollback._model import Descriptor, ImageSnapshot, Observed
from docker_rollback._store import BackupStore, Draft, ImageParts
from docker_rollback.errors import EngineError

logger = logging.getLogger("docker_rollback")

MOST_LAYERS: Final = 125
"""The most layers of an image in Docker's own store (measured on 20.10 to 28.5); other stores take more."""


def uncommittable(engine: Engine, container: Observed, image: Inspection | None) -> str | None:
    """Return why an engine cannot commit a container with this image, or None; an `image` of None was removed."""
    if image is None:
        # Docker removes an image of a stopped container by force. The container starts, but cannot be committed.
        return (
            f"its image {container.inspection['Image']} was removed from the engine, which cannot commit its file "
            f"system without; pull or load that image again ({container.inspection['Config']['Image']!r}), or "
            "recreate the container"
        )
    layers, info = len(layers_of(image)), engine.info()
    if layers < MOST_LAYERS or info.flavour == "podman" or info.containerd_store:
        return None
    return (
        f"its image has {layers} layers, and its engine adds none to {MOST_LAYERS}, so that its file system cannot be "
        "committed; recreate it from an image of fewer layers"
    )


def store_image(
    engine: Engine, store: BackupStore, draft: Draft, image: ImageSnapshot, committed: Committed, *, export: bool
) -> ImageSnapshot:
    """Copy an image into the store, with few layers; return the updated snapshot of the image.

    Without `export`, the image stays in the engine alone, with few layers as well. An image with a manifest is in the
    draft already.

    Raises:
        EngineError, StoreError: the image could not be exported, stored or loaded again.
    """
    # The next commit adds one layer, so an image at the limit has to become smaller now.
    deep = not image.clean and len(image.layers) > min(committed.base + 1, MOST_LAYERS - 1)
    if not export and not deep:
        return image
    manifest = image.manifest or _stored(store, draft, image)
    if manifest is None:
        manifest = _from_parts(draft, image, image_parts(engine.info(), committed.found))
    if manifest is None:
        parts = committed_parts(engine, store, draft, image, committed)
        manifest = _from_parts(draft, image, parts)
    if manifest is None:
        manifest = draft.add_image(engine.save_image(image.id), layers=image.layers)
    if not deep:
        return evolve(image, manifest=manifest)
    flat = draft.flatten_image(manifest, keep=min(committed.base, MOST_LAYERS - 2))
    if export:
        # The merged image is loaded into the engine only if a rollback needs it.
        identity = flat.manifest.digest if engine.info().containerd_store else flat.config
        return evolve(image, id=identity, layers=flat.layers, manifest=flat.manifest)
    load_as(engine, draft.image_archive(flat.manifest, [image.tag]), image.tag)
    return evolve(image, id=image_id_of(engine, image.tag) or flat.config, layers=flat.layers)


def _from_parts(draft: Draft, image: ImageSnapshot, parts: ImageParts | None) -> Descriptor | None:
    """Store an image from its parts and return its manifest; None if that is not possible."""
    if parts is None:
        return None
    try:
        return draft.add_image_parts(parts, layers=image.layers)
    except (ImageFilesError, EngineError) as error:
        logger.debug("image %s is exported, because its parts are not usable: %s", image.id, error)
        return None


def _stored(store: BackupStore, draft: Draft, image: ImageSnapshot) -> Descriptor | None:
    """Return the manifest of an equal image that the store has intact for an earlier backup, or None."""
    # An image id names its content. An engine first writes a whole export to its disk, however little of it is new.
    for backup in reversed(store.list()):
        for container in backup.containers:
            held = container.image
            if (held.id, held.layers) == (image.id, image.layers) and held.manifest is not None:
                if draft.adopt_image(held.manifest):
                    return held.manifest
                break
    return None
