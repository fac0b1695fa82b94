"""The image that a container was really made from, as each image that is committed of the container notes it.

After a rollback a container may stand on an image that was committed of it. An engine folds all that the user asked for
into the configuration of such an image, and neither a name nor an equal list of layers leads safely to the image below:
names move, images are pruned, two images have the same layers. So the commit itself carries the note, as its author.
That goes with the image to other engines and stores, and every engine shows it, while Podman forgets the comment of an
image that it loads. No container inherits it.

The author is part of a request's first line, which programs log. So a note holds no value of the configuration, only
salted hashes: all that is ever asked is whether a container has the very same value.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
import zlib
from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from docker_rollback._inspection.recreate import layers_of

_HEAD: Final = "docker-rollback origin "
_LONGEST: Final = 8000
"""Letters of a note: it is part of a request's first line, for which proxies have room for 15,000."""
_LARGEST: Final = 1 << 20
"""Bytes of JSON that a note can hold."""
_ID: Final = re.compile("sha256:[0-9a-f]{64}")
_SALT: Final = re.compile("[0-9a-f]{32}")

_MAPPINGS: Final = ("Labels", "ExposedPorts", "Volumes", "Healthcheck")
"""Fields of a configuration that are mappings, whose values are compared one by one."""


@frozen
class Defaults:
    """What an image gives its containers: the hashes of all values in its `Config`.

    Attributes:
        salt: what each hash is salted with, in hexadecimal digits.
        hashes: by field; those of an environment's entries as a list, those of a mapping's values by key. A value that
            is empty is itself.
    """

    salt: str
    hashes: Mapping[str, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Defaults:
        """Return those of the image with this `Config`, under a new salt."""
        salt = secrets.token_hex(16)
        found: dict[str, Any] = {}
        for field, value in config.items():
            if field == "Env":
                found[field] = [_hash(salt, field, entry) for entry in value or ()]
            elif field in _MAPPINGS:
                found[field] = {key: _hash(salt, field, key, one) for key, one in (value or {}).items()}
            else:
                found[field] = _hash(salt, field, value)
        return cls(salt, found)

    def among(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the image's `Config` as far as a container's `Config` tells it.

        Where a value differs from the container's, its hash stands for it, which equals no value.
        """
        found: dict[str, Any] = {}
        for field, known in self.hashes.items():
            value = config.get(field)
            if field == "Env":
                found[field] = [entry for entry in value or () if _hash(self.salt, field, entry) in known]
            elif field in _MAPPINGS:
                own = value or {}
                found[field] = {
                    key: own[key] if key in own and _hash(self.salt, field, key, own[key]) == one else one
                    for key, one in known.items()
                }
            else:
                found[field] = value if _hash(self.salt, field, value) == known else known
        return found


@frozen
class Origin:
    """The image that a container was made from, before any rollback.

    Attributes:
        image: its id, in the engine that the container was first committed in.
        layers: how many layers it has.
        defaults: what the container has from it; None where a note had no room for that.
    """

    image: str
    layers: int
    defaults: Defaults | None = None

    @property
    def note(self) -> str:
        """The author of an image that is committed of the container."""
        known = [] if self.defaults is None else [self.defaults.salt, self.defaults.hashes]
        whole = _packed([self.image, self.layers, *known])
        return whole if len(whole) <= _LONGEST else _packed([self.image, self.layers])


def origin_of(image: Mapping[str, Any], *, named: bool) -> Origin:
    """Return the origin of a container.

    Args:
        image: the inspection of the image that it stands on.
        named: whether it was created by a name of the user's or by a digest, not by an id: then the image is the
            user's, also if it was committed here.
    """
    image_id, layers = str(image["Id"]), len(layers_of(image))
    noted = _noted(str(image.get("Author") or "")) if not named else None
    # Anybody may write a note. One of ours names an image below this one.
    if noted is not None and noted.image != image_id and noted.layers <= layers:
        return noted
    return Origin(image_id, layers, Defaults.of(image.get("Config") or {}))


def _hash(salt: str, *value: Any) -> Any:
    """Return the hash of a value with the names of its field and key before it; an empty value tells nothing."""
    if not value[-1]:
        return value[-1]
    text = json.dumps(value, sort_keys=True).encode()
    return base64.urlsafe_b64encode(hashlib.blake2b(text, digest_size=9, salt=bytes.fromhex(salt)).digest()).decode()


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
        case [str(image), int(layers), *known] if _ID.fullmatch(image) and layers >= 0:
            match known:
                case []:
                    return Origin(image, layers)
                case [str(salt), dict(hashes)] if _SALT.fullmatch(salt) and _are_hashed(hashes):
                    return Origin(image, layers, Defaults(salt, hashes))
    return None


def _are_hashed(hashes: Mapping[str, Any]) -> bool:
    """Return True if a note's hashes have the shape that `Defaults.of` makes."""
    for field, known in hashes.items():
        if field == "Env":
            fits = isinstance(known, list) and all(map(_is_hash, known))
        elif field in _MAPPINGS:
            fits = isinstance(known, dict) and all(map(_is_hash, known.values()))
        else:
            fits = _is_hash(known)
        if not fits:
            return False
    return True


def _is_hash(known: Any) -> bool:
    return isinstance(known, str) or not known
