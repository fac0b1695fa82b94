"""Resolves, names and loads the images of containers, and creates containers on them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from docker_rollback._containers.find import find_image
from docker_rollback._engine import Engine, Inspection
from docker_rollback._inspection import Origin, layers_of, observe, origin_of
from docker_rollback._model import ContainerSnapshot, Observed
from docker_rollback._names import IMAGE_REPOSITORY, KEPT_REPOSITORY, again
from docker_rollback._store import BackupStore
from docker_rollback.errors import EngineConflictError, ImageNotFoundError, RestoreError

logger = logging.getLogger("docker_rollback")

_OURS: Final = re.compile(rf"(?:{IMAGE_REPOSITORY}|{KEPT_REPOSITORY}):")

_EMPTY_TAR: Final = bytes(10240)

_ID: Final = re.compile(r"sha256:.*|[0-9a-f]{64}")


def name_of(reference: str, image_id: str) -> str | None:
    """Return the user's name of an image, with its tag, or None for an id, a digest or a name of ours.

    Args:
        reference: the reference that a container was created from (`Config.Image`).
        image_id: the id of that container's image, which tells a short id from a name.
    """
    if "@" in reference or _ID.fullmatch(reference) or image_id.removeprefix("sha256:").startswith(reference):
        return None
    if is_ours(reference):
        return None
    return reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"


def is_ours(reference: str) -> bool:
    """Return True for a name of ours."""
    return _OURS.match(bare(reference)) is not None


def bare(name: str) -> str:
    """Return an image name without the registry that Podman adds to names of ours."""
    return name.removeprefix("localhost/").removeprefix("docker.io/library/")


def shown_image(container: Observed) -> str:
    """Return the image reference that a container shows, without the registry that Podman adds to names of ours."""
    return bare(str(container.inspection["Config"]["Image"]))


def image_id_of(engine: Engine, reference: str) -> str | None:
    """Return the id of the image that a reference names now, or None if there is none."""
    found = find_image(engine, reference)
    return None if found is None else str(found["Id"])


def earlier_name(store: BackupStore, container: str, image_id: str) -> str | None:
    """Return the image name of a container from before a rollback recreated it without that name, or None."""
    for backup in reversed(store.list()):
        for earlier in backup.containers:
            if (earlier.name, earlier.image.id) == (container, image_id):
                return earlier.image.name
    return None


def find_origin(engine: Engine, container: Observed) -> Origin:
    """Return the original image of a container. Raises `ImageNotFoundError` if its own image is gone."""
    return origin_in(engine.inspect_image(str(container.inspection["Image"])), container.inspection)


def origin_in(image: Inspection, container: Inspection) -> Origin:
    """Return the original image of a container, from the inspections of its image and of itself."""
    reference = str(container["Config"]["Image"])
    # A container on a committed image shows the id or a name of ours.
    named = "@" in reference or name_of(reference, str(image["Id"])) is not None
    return origin_of(image, named=named)


def take_name(engine: Engine, name: str) -> None:
    """Remove a name of ours from an image of the user's, which stays even if it has no other name."""
    with suppress(ImageNotFoundError):
        # An engine removes an image with its last name, but not if another image takes that name over first.
        if len(engine.inspect_image(name).get("RepoTags") or ()) == 1:
            engine.import_image(iter([_EMPTY_TAR]), name)
    engine.remove_image(name)


def load_as(engine: Engine, archive: Iterable[bytes], tag: str) -> None:
    """Load an image under a name of ours; an image that had the name is removed unless a container uses it."""
    if image_id_of(engine, tag) is not None:
        # Otherwise the load would leave the image without a name, and no clean-up would find it.
        engine.tag_image(tag, again(tag))
    engine.load_image(archive)
    with suppress(EngineConflictError):
        engine.remove_image(again(tag))


def create_on(engine: Engine, name: str, body: Mapping[str, Any], image_id: str, *, tag: str) -> Observed:
    """Create a container on exactly this image, and return it.

    The container is created by the reference in `body` if that names the image, else by the image's id. Podman shows
    the newest name of an image in place of its id. That may be a name of another operation, which removes it at its
    end. So on Podman the container is created by `tag` instead.

    Args:
        engine: the engine.
        name: the new container's name.
        body: the request.
        image_id: the id of the image.
        tag: our name for the image that the container was captured with.
    """
    # The user's name is never moved for this: other new containers would get another image for that moment.
    created = _create_by_name(engine, name, body, image_id)
    if created is None and engine.info().flavour == "podman":
        created = _create_by_name(engine, name, {**body, "Image": tag}, image_id)
    if created is None:
        created = observe(engine.inspect_container(engine.create_container(name, {**body, "Image": image_id})))
    return created


def _create_by_name(engine: Engine, name: str, body: Mapping[str, Any], image_id: str) -> Observed | None:
    """Create a container by the reference in `body`, and return it; return None if that is not of this image."""
    if image_id_of(engine, str(body["Image"])) == image_id:
        with suppress(ImageNotFoundError):
            created = observe(engine.inspect_container(engine.create_container(name, body)))
            if created.inspection["Image"] == image_id:
                return created
            # Somebody moved the name just before. Nothing has run in this container, so it can go.
            logger.warning("%s: image name %s was moved while the container was created", name, body["Image"])
            engine.remove_container(created.id, force=True, volumes=True)
    return None


def provide_image(engine: Engine, store: BackupStore, container: ContainerSnapshot) -> str:
    """Return the id, in this engine, of the image with a container's file system; load it if it is missing."""
    image = container.image
    with suppress(ImageNotFoundError):
        # Our name keeps the image even if somebody moves or removes the original one.
        engine.tag_image(image.id, image.tag)
        return image.id
    with suppress(ImageNotFoundError):
        found = engine.inspect_image(image.tag)
        if image.manifest is None or layers_of(found) == image.layers:
            return str(found["Id"])
    if image.manifest is None:
        raise RestoreError(
            container.name,
            f"its image {image.id} is gone from the engine, and no store has it",
        )
    load_as(engine, store.image_archive(image.manifest, [image.tag]), image.tag)
    return str(engine.inspect_image(image.tag)["Id"])
