"""Records a container's original image in every image that is committed from the container.

After a rollback a container may use an image that was committed from it. The engine merges the user's settings into the
configuration of such an image, and neither a name nor an equal list of layers identifies the image below: names move,
images are pruned, and two images may have the same layers. So the commit itself has the record, in its author field.
The author stays with the image in other engines and stores, and every engine shows it, while Podman drops the comment
of an image that it loads. Containers do not inherit it.

The author is part of a request's first line, which programs log. So the record contains salted hashes instead of values
of the configuration. They are enough to tell whether a container has the same value.
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
# The maximum length of a record: it is part of a request's first line, which proxies limit to 15,000 characters.
_LONGEST: Final = 8000
_LARGEST: Final = 1 << 20  # the maximum size of a record's JSON, in bytes
_ID: Final = re.compile("sha256:[0-9a-f]{64}")
_SALT: Final = re.compile("[0-9a-f]{32}")

# Fields of a configuration that are mappings; their values are compared one by one.
_MAPPINGS: Final = ("Labels", "ExposedPorts", "Volumes", "Healthcheck")


@frozen
class Defaults:
    """The hashes of all defaults in an image's `Config`."""

    salt: str  # the salt of the hashes, in hexadecimal digits
    # The hashes by field: a list for the environment, by key for a mapping. An empty value stands for itself.
    hashes: Mapping[str, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Defaults:
        """Hash the defaults of an image's `Config` with a new salt."""
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
        """Return the image's `Config`, as far as a container has the same values.

        A different value is replaced by its hash, which equals no value.
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
    """The image that a container was created from, before any rollback."""

    image: str  # its id, in the engine that first committed the container
    layers: int  # the number of its layers
    defaults: Defaults | None = None  # its defaults; None if the record was too long for them

    @property
    def note(self) -> str:
        """The author to set in an image that is committed from the container."""
        known = [] if self.defaults is None else [self.defaults.salt, self.defaults.hashes]
        whole = _packed([self.image, self.layers, *known])
        return whole if len(whole) <= _LONGEST else _packed([self.image, self.layers])


def origin_of(image: Mapping[str, Any], *, named: bool) -> Origin:
    """Return a container's origin from the inspection of its present image.

    An image by which it was created under a name or digest, and not by an id (`named`), is the user's own, even if it
    was committed here.
    """
    image_id, layers = str(image["Id"]), len(layers_of(image))
    noted = _noted(str(image.get("Author") or "")) if not named else None
    # Anybody can write an author. Our records name an image below this one.
    if noted is not None and noted.image != image_id and noted.layers <= layers:
        return noted
    return Origin(image_id, layers, Defaults.of(image.get("Config") or {}))


def _hash(salt: str, *value: Any) -> Any:
    """Hash a value together with the names of its field and key; an empty value is returned as it is."""
    if not value[-1]:
        return value[-1]
    text = json.dumps(value, sort_keys=True).encode()
    return base64.urlsafe_b64encode(hashlib.blake2b(text, digest_size=9, salt=bytes.fromhex(salt)).digest()).decode()


def _packed(values: list[Any]) -> str:
    text = json.dumps(values, separators=(",", ":")).encode()
    return _HEAD + base64.urlsafe_b64encode(zlib.compress(text, 9)).decode()


def _noted(author: str) -> Origin | None:
    """Parse the origin in an author; return None if it is not a valid record of ours."""
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
    """Return True if hashes have the structure that `Defaults.of` builds."""
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
