"""The image that a container was really made from, as each image that is committed of the container notes it.

After a rollback a container may stand on an image that was committed of it. An engine folds all that the user asked for
into the configuration of such an image, and neither a name nor an equal list of layers leads safely to the image below:
names move, images are pruned, two images have the same layers. So the commit itself carries the note, as its author.
That goes with the image to other engines and stores, and every engine shows it, while Podman forgets the comment of an
image that it loads. No container inherits it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

_HEAD: Final = "docker-rollback origin "
_LONGEST: Final = 8000
"""Letters of a note: it is part of a request's first line, for which proxies have room for 15,000."""
_LARGEST: Final = 1 << 20
"""Bytes of JSON that a note can hold."""
_ID: Final = re.compile("sha256:[0-9a-f]{64}")

_MAPPINGS: Final = ("Labels", "ExposedPorts", "Volumes", "Healthcheck")
"""Fields of a configuration that are mappings, where they are not empty."""


@frozen
class Origin:
    """The image that a container was made from, before any rollback.

    Attributes:
        image: its id, in the engine that the container was first committed in.
        layers: how many layers it has.
        config: its `Config`; None where a note had no room for it.
    """

    image: str
    layers: int
    config: Mapping[str, Any] | None = field(repr=False)  # may hold secrets

    @property
    def note(self) -> str:
        """The author of an image that is committed of the container."""
        whole = _packed([self.image, self.layers, self.config])
        return whole if len(whole) <= _LONGEST else _packed([self.image, self.layers, None])


def origin_of(image: Mapping[str, Any], *, named: bool) -> Origin:
    """Return the origin of a container. Pure.

    Args:
        image: the inspection of the image that it stands on.
        named: whether it was created by a name of the user's or by a digest, not by an id: then the image is the
            user's, also if it was committed here.
    """
    own = Origin(str(image["Id"]), len((image.get("RootFS") or {}).get("Layers") or ()), image.get("Config") or {})
    noted = _noted(str(image.get("Author") or "")) if not named else None
    # Anybody may write a note. One of ours names an image below this one.
    return noted if noted is not None and noted.image != own.image and noted.layers <= own.layers else own


def _packed(values: list[Any]) -> str:
    text = json.dumps(values, separators=(",", ":")).encode()
    return _HEAD + base64.urlsafe_b64encode(zlib.compress(text, 9)).decode()


def _noted(author: str) -> Origin | None:
    """Return the origin that an author notes; None for every other one, also if it looks like a note."""
    if not author.startswith(_HEAD) or len(author) > _LONGEST:
        return None
    try:
        text = zlib.decompressobj().decompress(base64.urlsafe_b64decode(author.removeprefix(_HEAD)), _LARGEST)
        found = json.loads(text)
    except (binascii.Error, zlib.error, ValueError, RecursionError):
        return None
    match found:
        case [str(image), int(layers), config] if _ID.fullmatch(image) and layers >= 0 and _is_config(config):
            return Origin(image, layers, config)
        case _:
            return None


def _is_config(config: Any) -> bool:
    """Return True if defaults can be taken from a configuration; for None too, where a note had no room for it."""
    match config:
        case None:
            return True
        case dict():
            environment = config.get("Env") or []
            return (
                isinstance(environment, list)
                and all(isinstance(entry, str) for entry in environment)
                and all(isinstance(config.get(key) or {}, dict) for key in _MAPPINGS)
            )
        case _:
            return False
