"""Keeps images within an engine's limit of layers, by merging the layers that commits add.

A container that was rolled back may use a committed image. Committing that container in turn would add one layer with
every rollback. So the layers above the container's original image are merged into one before the backup is listed.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve

from docker_rollback._containers.images import led_to, load_as
from docker_rollback._engine import Engine, Inspection
from docker_rollback._inspection import layers_of
from docker_rollback._model import Descriptor, ImageSnapshot, Observed
from docker_rollback._store import BackupStore, Draft

MOST_LAYERS: Final = 125
"""The most layers of an image in Docker's own store (measured on 20.10 to 28.5); other stores take more."""


def uncommittable(engine: Engine, container: Observed, image: Inspection | None) -> str | None:
    """Return why an engine cannot commit a container because of its image; None if it can.

    Args:
        engine: the engine that the container is on.
        container: the container.
        image: the inspection of its image; None if that was removed from the engine.
    """
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
    engine: Engine, store: BackupStore, draft: Draft, image: ImageSnapshot, *, base: int, export: bool
) -> ImageSnapshot:
    """Copy an image into the store, with few layers; return the updated snapshot of the image.

    Args:
        engine: the engine that has the image.
        store: the store, whose earlier backups may have the image.
        draft: the backup that the image goes into.
        image: the image.
        base: the number of layers of the container's original image.
        export: whether the image stays in the store. Otherwise it stays in the engine, with few layers as well.

    Raises:
        EngineError, StoreError: the image could not be exported, stored or loaded again.
    """
    # The next commit of the container has one layer more.
    deep = not image.clean and len(image.layers) > min(base + 1, MOST_LAYERS - 1)
    if not export and not deep:
        return image
    manifest = _stored(store, draft, image)
    if manifest is None:
        manifest = draft.add_image(engine.save_image(image.id), layers=image.layers)
    if not deep:
        return evolve(image, manifest=manifest)
    flat = draft.flatten_image(manifest, keep=min(base, MOST_LAYERS - 2))
    if export:
        # It is loaded into the engine if a rollback needs it.
        identity = flat.manifest.digest if engine.info().containerd_store else flat.config
        return evolve(image, id=identity, layers=flat.layers, manifest=flat.manifest)
    load_as(engine, draft.image_archive(flat.manifest, [image.tag]), image.tag)
    return evolve(image, id=led_to(engine, image.tag) or flat.config, layers=flat.layers)


def _stored(store: BackupStore, draft: Draft, image: ImageSnapshot) -> Descriptor | None:
    """Return the manifest of the same image if the store has it intact for an earlier backup.

    An image id names its content, so an image with the same id need not be exported again. An engine writes the whole
    export to its disk first, however little of it is new.
    """
    for backup in reversed(store.list()):
        for container in backup.containers:
            held = container.image
            if (held.id, held.layers) == (image.id, image.layers) and held.manifest is not None:
                if draft.adopt_image(held.manifest):
                    return held.manifest
                break
    return None
