"""Removes images by names of ours, also if the engine dies meanwhile."""

from __future__ import annotations

from contextlib import suppress

from docker_rollback._engine.port import Engine
from docker_rollback.errors import EngineConflictError, ImageNotFoundError


def remove_named(engine: Engine, name: str) -> None:
    """Remove an image by a name of ours; harmless if there is none.

    An engine that died between the name and its image leaves an image without a name, which nobody would find again.
    It is removed too. An image that has another name or a digest, or that a container or another image needs, stays:
    each engine shows a digest only for an image that was pulled or pushed, or that has a name.
    """
    with suppress(ImageNotFoundError):
        image = str(engine.inspect_image(name)["Id"])
        engine.remove_image(name)
        with suppress(EngineConflictError):
            found = engine.inspect_image(image)
            if not found.get("RepoTags") and not found.get("RepoDigests"):
                engine.remove_image(image)
