"""Reads and writes the JSON of the OCI image layout, as far as this store uses it. Pure.

The input is untrusted: every structure is checked before it is used, and a bad one raises a `MalformedError`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from docker_rollback._model import Descriptor

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = LAYER + "+gzip"
LAYER_ZSTD = LAYER + "+zstd"
EMPTY = "application/vnd.oci.empty.v1+json"
JSON = "application/json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

INDEXES = frozenset({INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({MANIFEST, DOCKER_MANIFEST})
IMAGE_CONFIGS = frozenset({CONFIG, DOCKER_CONFIG})

STORE_FORMAT = 1
"""The format version of ``index.json``: the newest that is read, and the one that is written."""
FORMAT = 2
"""The newest format version of a backup or journal record that is read. Each is written in the oldest version that can
represent it."""
FIRST_FORMAT = 1

_BACKUP_OF = "application/vnd.docker-rollback.backup.v"
BACKUP = f"{_BACKUP_OF}1"
VOLUME = "application/vnd.docker-rollback.volume.v1"
RECORD = "application/vnd.docker-rollback.record.v1"
RECORD_JSON = RECORD + "+json"
SNAPSHOT_FILE_ZSTD = "application/vnd.docker-rollback.snapshot-file.v1+zstd"
LISTING_ZSTD = "application/vnd.docker-rollback.listing.v1+zstd"

REF_NAME = "org.opencontainers.image.ref.name"
TITLE = "org.opencontainers.image.title"
CREATED = "org.opencontainers.image.created"
CONTAINERD_NAME = "io.containerd.image.name"
FORMAT_KEY = "io.docker-rollback.format"
CONTAINER_KEY = "io.docker-rollback.container"
VOLUME_KEY = "io.docker-rollback.volume"
KNOWN_AS_KEY = "io.docker-rollback.known-as"
"""The annotation of an image's manifest with the digests of the engine's own index and manifest of the image."""

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
LAYOUT_JSON = b'{"imageLayoutVersion":"1.0.0"}'

EMPTY_JSON = b"{}"

MAX_MANIFEST = 4 << 20
"""The maximum size of a manifest, index or image config in bytes; the OCI specification lets registries refuse more."""

MAX_INDEX = 64 << 20
"""The maximum size of `index.json`, in bytes."""

MAX_RECORD = 256 << 20
"""The maximum size of a backup's record, in bytes."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_FORMAT_OF = re.compile(r"application/vnd\.docker-rollback\.[a-z]+\.v([0-9]{1,9})(\+json)?", re.ASCII)
_BACKUP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", re.ASCII)


class MalformedError(ValueError):
    """The data does not have the required structure; the text says why."""


@frozen
class Manifest:
    """An image manifest or an artifact manifest, as far as this store needs it."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str | None
    annotations: Mapping[str, str]


@frozen
class Child:
    """An entry of an index.

    Attributes:
        blob: the blob that it refers to.
        artifact_type: the blob's artifact type; None if the entry has none.
        raw: the entry as it was read.
    """

    blob: Descriptor
    artifact_type: str | None
    raw: Mapping[str, Any]

    @property
    def name(self) -> str | None:
        """The name that tools use for it."""
        return self.blob.annotations.get(REF_NAME)


@frozen
class Index:
    """An image index, or a layout's ``index.json``; `raw` preserves fields that this version does not know."""

    children: tuple[Child, ...]
    artifact_type: str | None
    annotations: Mapping[str, str]
    raw: Mapping[str, Any]


def digest_of(data: bytes) -> str:
    """Return the digest of a blob with this content."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_backup_id(name: str) -> bool:
    """Return True if a name is valid as a backup's id: files, tags and OCI tools all accept it."""
    return _BACKUP_ID.fullmatch(name) is not None


def check_digest(value: object) -> str:
    """Return a digest that is safe in a file's name; raises `MalformedError` if it is not a sha256 digest."""
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise MalformedError(f"{_short(value)} is not a sha256 digest")
    return value


def format_of(artifact_type: str | None) -> int | None:
    """Return the version in an artifact type of ours; None for another type."""
    match = _FORMAT_OF.fullmatch(artifact_type or "")
    return int(match[1]) if match else None


def backup_type(version: str) -> str:
    """Return the artifact type of a backup in a version of the format."""
    return _BACKUP_OF + version


def is_backup(artifact_type: str | None) -> bool:
    """Return True for the artifact type of a backup, in any version."""
    return (artifact_type or "").startswith(_BACKUP_OF)


def child_name(backup_id: str, number: int) -> str:
    """Return the name in ``index.json`` of a backup's child; the first has the number 1."""
    return f"{backup_id}.{number}"


def load_json(data: bytes) -> Any:
    """Parse JSON; raises `MalformedError` if it is invalid or nested too deeply."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise MalformedError("its JSON is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, and numbers of too many digits
        raise MalformedError(f"it is not JSON ({_reason(error)})") from None


def dump_json(value: object) -> bytes:
    """Serialize JSON in ASCII; equal values in the same order give equal bytes."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_descriptor(raw: object) -> Descriptor:
    """Parse a descriptor."""
    fields = _object(raw, "a descriptor")
    media_type = fields.get("mediaType")
    if not isinstance(media_type, str) or not media_type:
        raise MalformedError("a descriptor has no mediaType")
    size = fields.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise MalformedError(f"a descriptor's size is {_short(size)}")
    return Descriptor(media_type, check_digest(fields.get("digest")), size, _annotations(fields))


def dump_descriptor(blob: Descriptor, *, artifact_type: str | None = None) -> dict[str, Any]:
    """Return a descriptor's JSON object."""
    raw: dict[str, Any] = {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}
    if artifact_type is not None:
        raw["artifactType"] = artifact_type
    if blob.annotations:
        raw["annotations"] = dict(blob.annotations)
    return raw


def manifest_type(data: bytes) -> str:
    """Return the media type of an index or manifest from its content; OCI's if the content has none."""
    fields = _object(load_json(data), "it")
    media_type = fields.get("mediaType")
    if media_type in INDEXES | MANIFESTS and isinstance(media_type, str):
        return media_type
    return INDEX if "manifests" in fields else MANIFEST


def parse_manifest(data: bytes) -> Manifest:
    """Parse a manifest."""
    fields = _versioned(data)
    layers = fields.get("layers")
    if not isinstance(layers, list):
        raise MalformedError("it has no list of layers")
    return Manifest(
        parse_descriptor(fields.get("config")),
        tuple(parse_descriptor(layer) for layer in layers),
        _optional_text(fields, "artifactType"),
        _annotations(fields),
    )


def dump_manifest(
    config: Descriptor,
    layers: Sequence[Descriptor],
    *,
    artifact_type: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """Serialize a manifest."""
    raw: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST}
    if artifact_type is not None:
        raw["artifactType"] = artifact_type
    raw["config"] = dump_descriptor(config)
    raw["layers"] = [dump_descriptor(layer) for layer in layers]
    if annotations:
        raw["annotations"] = dict(annotations)
    return dump_json(raw)


def parse_index(data: bytes) -> Index:
    """Parse an index."""
    fields = _versioned(data)
    manifests = fields.get("manifests")
    if not isinstance(manifests, list):
        raise MalformedError("it has no list of manifests")
    children = tuple(
        Child(parse_descriptor(raw), _optional_text(_object(raw, "a descriptor"), "artifactType"), raw)
        for raw in manifests
    )
    return Index(children, _optional_text(fields, "artifactType"), _annotations(fields), fields)


def dump_index(
    manifests: Sequence[Mapping[str, Any]],
    *,
    artifact_type: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """Serialize an index."""
    raw: dict[str, Any] = {"schemaVersion": 2, "mediaType": INDEX}
    if artifact_type is not None:
        raw["artifactType"] = artifact_type
    raw["manifests"] = [dict(manifest) for manifest in manifests]
    if annotations:
        raw["annotations"] = dict(annotations)
    return dump_json(raw)


def parse_layout(data: bytes) -> None:
    """Check an ``oci-layout`` file."""
    version = _object(load_json(data), "it").get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise MalformedError(f"its imageLayoutVersion is {_short(version)}")


def diff_ids(config: bytes) -> tuple[str, ...]:
    """Return the digests of an image's uncompressed layers, lowest first, from its config."""
    root = _object(_object(load_json(config), "it").get("rootfs"), "its rootfs")
    ids = root.get("diff_ids")
    if not isinstance(ids, list):
        raise MalformedError("its rootfs has no list of diff_ids")
    return tuple(check_digest(diff_id) for diff_id in ids)


def _versioned(data: bytes) -> dict[str, Any]:
    fields = _object(load_json(data), "it")
    if fields.get("schemaVersion") != 2:
        raise MalformedError(f"its schemaVersion is {_short(fields.get('schemaVersion'))}")
    return fields


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is not a JSON object")
    return value


def _optional_text(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise MalformedError(f"its {key} is {_short(value)}")
    return value


def _annotations(fields: Mapping[str, Any]) -> dict[str, str]:
    raw = fields.get("annotations")
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise MalformedError("its annotations are not texts")
    return raw


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _reason(error: ValueError) -> str:
    # Without the document, which may contain secrets.
    return error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


VOLUME_ARCHIVE = LAYER_ZSTD
"""The media type of a volume's archive: a tar in zstd."""

SNAPSHOT_FILE = SNAPSHOT_FILE_ZSTD
"""The media type of tar's snapshot file of an archive, in zstd."""

LISTING = LISTING_ZSTD
"""The media type of the metadata of all files in an archive, in zstd."""
