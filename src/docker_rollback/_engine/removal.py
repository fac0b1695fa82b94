"""Removes objects of ours from an engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from docker_rollback._engine.port import Engine
from docker_rollback.errors import EngineConflictError, EngineError, ImageNotFoundError


def remove_named(engine: Engine, name: str) -> None:
    """Remove an image by our name for it; harmless if there is none.

    If the engine dies after removing the name and before removing the image, it leaves an image without a name, which
    nobody would find. That is removed too. An image with another name or a digest, or that a container or another
    image needs, stays: engines show a digest only for an image that was pulled or pushed, or that has a name.
    """
    with suppress(ImageNotFoundError):
        image = engine.inspect_image(name)
        engine.remove_image(name)
        if len(image.get("RepoTags") or ()) > 1:
            # It had another name, so this was not its last one.
            return
        with suppress(EngineConflictError):
            found = engine.inspect_image(str(image["Id"]))
            if not found.get("RepoTags") and not found.get("RepoDigests"):
                engine.remove_image(str(image["Id"]))


def removal_error(remove: Callable[[], object]) -> EngineError | None:
    """Call `remove`, once more if it fails, and return the last error; None on success."""
    try:
        remove()
    except EngineConflictError as error:
        # An object that something else needs would be refused again.
        return error
    except EngineError:
        try:
            remove()
        except EngineError as error:
            return error
    return None
