"""How deep images become: a commit adds a layer, and engines take so many and no more.

A container that was rolled back may stand on an image that was committed of it. What is committed of that container in
turn would be deeper by one with every rollback. So the layers above the image that the container was made from are
merged into one before the backup is listed.
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
"""Layers that an image of Docker's own store can have (measured on 20.10 to 28.5); other stores take more."""


def uncommittable(engine: Engine, container: Observed, image: Inspection | None) -> str | None:
    """Return why an engine cannot commit a container because of its image; None if it can.

    Args:
        engine: where it is.
        container: the container.
        image: the inspection of its image; None if that was removed from the engine.
    """
    if image is None:
        # Docker removes one by force below a container that is stopped. The container starts, but is not committed.
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
    """Copy an image into the store, flat; return what is known of it then.

    Args:
        engine: where it is.
        store: whose earlier backups may hold it.
        draft: the backup that it goes into.
        image: the image.
        base: how many layers the image has that its container was made from.
        export: whether it stays in the store. Without, it stays in the engine, and is no deeper there either.

    Raises:
        EngineError, StoreError: it could not be exported, stored, or loaded again.
    """
    # The one that is committed of its container next has one more.
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
        # The engine gets it if a rollback needs it.
        identity = flat.manifest.digest if engine.info().containerd_store else flat.config
        return evolve(image, id=identity, layers=flat.layers, manifest=flat.manifest)
    load_as(engine, draft.image_archive(flat.manifest, [image.tag]), image.tag)
    return evolve(image, id=led_to(engine, image.tag) or flat.config, layers=flat.layers)


def _stored(store: BackupStore, draft: Draft, image: ImageSnapshot) -> Descriptor | None:
    """Return the manifest of the same image if the store holds it, whole, for an earlier backup.

    An engine names an image by what is in it, so one of the same id need not be exported again. What an engine exports
    it writes to its disk first, however little of it is new.
    """
    for backup in reversed(store.list()):
        for container in backup.containers:
            held = container.image
            if (held.id, held.layers) == (image.id, image.layers) and held.manifest is not None:
                if draft.adopt_image(held.manifest):
                    return held.manifest
                break
    return None
