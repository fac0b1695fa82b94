"""Images of containers in an engine: whose their names are, what these lead to, how a container is created on one."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from docker_rollback._engine import Engine, Inspection
from docker_rollback._inspection import Origin, layers_of, origin_of
from docker_rollback._model import ContainerSnapshot, Observed
from docker_rollback._names import IMAGE_REPOSITORY, KEPT_REPOSITORY, again
from docker_rollback._store import BackupStore
from docker_rollback.errors import EngineConflictError, ImageNotFoundError, RestoreError

logger = logging.getLogger("docker_rollback")

_OURS: Final = re.compile(rf"(?:{IMAGE_REPOSITORY}|{KEPT_REPOSITORY}):")

_EMPTY_TAR: Final = bytes(10240)

_ID: Final = re.compile(r"sha256:.*|[0-9a-f]{64}")


def name_of(reference: str, image_id: str) -> str | None:
    """Return the user's name of an image, with its tag; None for an id, a digest, and a name of ours.

    Args:
        reference: what a container was created from (`Config.Image`).
        image_id: the id of that container's image, which tells a short id from a name.
    """
    if "@" in reference or _ID.fullmatch(reference) or image_id.removeprefix("sha256:").startswith(reference):
        return None
    return None if is_ours(reference) else with_tag(reference)


def is_ours(name: str) -> bool:
    """Return True for a name under which this library holds the image of a backup."""
    return _OURS.match(bare(name)) is not None


def bare(name: str) -> str:
    """Return a name of ours as we gave it: Podman puts a registry before a name that has none."""
    return name.removeprefix("localhost/").removeprefix("docker.io/library/")


def with_tag(name: str) -> str:
    """Return a name with its tag; without one, "latest" is meant."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def led_to(engine: Engine, reference: str) -> str | None:
    """Return the id of the image that a reference leads to now; None if there is none."""
    try:
        return str(engine.inspect_image(reference)["Id"])
    except ImageNotFoundError:
        return None


def earlier_name(store: BackupStore, container: str, image_id: str) -> str | None:
    """Return the name that a container was made from before an earlier rollback created it by the id of its image.

    Args:
        store: whose backups may know it.
        container: its name.
        image_id: the id of the image that it stands on.
    """
    for backup in reversed(store.list()):
        for earlier in backup.containers:
            if (earlier.name, earlier.image.id) == (container, image_id):
                return earlier.image.name
    return None


def find_origin(engine: Engine, container: Observed) -> Origin:
    """Return the image that a container was really made from; raises `ImageNotFoundError` if its own image is gone."""
    return origin_in(engine.inspect_image(str(container.inspection["Image"])), container.inspection)


def origin_in(image: Inspection, container: Inspection) -> Origin:
    """Return the image that a container was really made from, as the image that it stands on notes it.

    Args:
        image: the inspection of the image that it stands on.
        container: the container's inspection.
    """
    reference = str(container["Config"]["Image"])
    # Only by its id, or by a name of ours, a rollback creates a container on an image that it committed.
    named = "@" in reference or name_of(reference, str(image["Id"])) is not None
    return origin_of(image, named=named)


def take_name(engine: Engine, name: str) -> None:
    """Remove a name of ours from an image that is the user's, and that stays also if it has no other name.

    An engine removes an image with its last name, but not if another image takes the name.
    """
    with suppress(ImageNotFoundError):
        if len(engine.inspect_image(name).get("RepoTags") or ()) == 1:
            engine.import_image(iter([_EMPTY_TAR]), name)
    engine.remove_image(name)


def load_as(engine: Engine, archive: Iterable[bytes], tag: str) -> None:
    """Load an image of one name of ours; the image that had the name goes, unless something stands on it."""
    if led_to(engine, tag) is not None:
        # An engine would leave it without a name, and nobody would find it.
        engine.tag_image(tag, again(tag))
    engine.load_image(archive)
    with suppress(EngineConflictError):
        engine.remove_image(again(tag))


def create_on(engine: Engine, name: str, body: Mapping[str, Any], image_id: str) -> str:
    """Create a container on one very image and return its id: by the reference in `body` if that leads there.

    Otherwise it is created by the image's id. A name is never moved for this: for that moment, anybody's new container
    of that name would get another image.
    """
    if led_to(engine, str(body["Image"])) == image_id:
        with suppress(ImageNotFoundError):
            created = engine.create_container(name, body)
            if engine.inspect_container(created)["Image"] == image_id:
                return created
            # Somebody moved the name between the look and the creation. Nothing has run in this container.
            logger.warning("%s: image name %s was moved while the container was created", name, body["Image"])
            engine.remove_container(created, force=True, volumes=True)
    return engine.create_container(name, {**body, "Image": image_id})


def provide_image(engine: Engine, store: BackupStore, container: ContainerSnapshot) -> str:
    """Return the id, in this engine, of the image that holds a container's file system; load it if it is missing."""
    image = container.image
    for reference in (image.id, image.tag):
        with suppress(ImageNotFoundError):
            found = engine.inspect_image(reference)
            if reference == image.id or image.manifest is None or layers_of(found) == image.layers:
                # Held by a name of ours: the original one may be moved or removed meanwhile.
                engine.tag_image(str(found["Id"]), image.tag)
                return str(found["Id"])
    if image.manifest is None:
        raise RestoreError(
            container.name,
            f"its image {image.id} is gone from the engine, and no store has it",
        )
    load_as(engine, store.image_archive(image.manifest, [image.tag]), image.tag)
    return str(engine.inspect_image(image.tag)["Id"])
