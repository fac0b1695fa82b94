"""The words and shapes of the OCI image layout, as this store uses them; pure.

What is read here was written by anyone: every shape is checked before it is used, and what does not fit is a
`MalformedError`.
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
"""The version of the format of ``index.json``: the newest that is read, and the one that is written."""
FORMAT = 2
"""The newest version of the format of a backup, or a note, that this library reads. Each is written in the oldest one
whose readers understand it."""
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
"""On an image's manifest: the digests of the index, or the manifest, or both, by which an engine knew it."""

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
LAYOUT_JSON = b'{"imageLayoutVersion":"1.0.0"}'

EMPTY_JSON = b"{}"

MAX_MANIFEST = 4 << 20
"""Bytes: no manifest, index or image config is longer; the OCI specification lets registries refuse longer ones."""

MAX_INDEX = 64 << 20
"""Bytes: no `index.json` is longer."""

MAX_RECORD = 256 << 20
"""Bytes: no backup's own record is longer."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_FORMAT_OF = re.compile(r"application/vnd\.docker-rollback\.[a-z]+\.v([0-9]{1,9})(\+json)?", re.ASCII)
_BACKUP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", re.ASCII)


class MalformedError(ValueError):
    """What was read does not have the shape that it must have; the text says how."""


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
        blob: what it points to.
        artifact_type: what kind of artifact that is, where the entry says it.
        raw: the entry as it was read.
    """

    blob: Descriptor
    artifact_type: str | None
    raw: Mapping[str, Any]

    @property
    def name(self) -> str | None:
        """The name by which tools refer to it."""
        return self.blob.annotations.get(REF_NAME)


@frozen
class Index:
    """An image index, or a layout's ``index.json``; `raw` keeps what this version does not understand."""

    children: tuple[Child, ...]
    artifact_type: str | None
    annotations: Mapping[str, str]
    raw: Mapping[str, Any]


def digest_of(data: bytes) -> str:
    """Return the digest by which a blob of this content is known."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_backup_id(name: str) -> bool:
    """Whether a backup may have this id: a name that files, tags and OCI tools all take."""
    return _BACKUP_ID.fullmatch(name) is not None


def check_digest(value: object) -> str:
    """Return a digest; raises `MalformedError` for any but a sha256 one, so that it is safe as a name of a file."""
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise MalformedError(f"{_short(value)} is not a sha256 digest")
    return value


def format_of(artifact_type: str | None) -> int | None:
    """Return the version in an artifact type of ours; None where it is not one."""
    match = _FORMAT_OF.fullmatch(artifact_type or "")
    return int(match[1]) if match else None


def backup_type(version: str) -> str:
    """Return the artifact type of a backup in one version of the format."""
    return _BACKUP_OF + version


def is_backup(artifact_type: str | None) -> bool:
    """Whether an artifact type says "backup", in whatever version."""
    return (artifact_type or "").startswith(_BACKUP_OF)


def child_name(backup_id: str, number: int) -> str:
    """Return the name in ``index.json`` of a backup's child, by its place from 1 on."""
    return f"{backup_id}.{number}"


def load_json(data: bytes) -> Any:
    """Parse JSON; raises `MalformedError` for what is not, or is nested without end."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise MalformedError("its JSON is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, and numbers of too many digits
        raise MalformedError(f"it is not JSON ({_reason(error)})") from None


def dump_json(value: object) -> bytes:
    """Write JSON so that equal values give equal bytes in the order they have, ASCII alone."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_descriptor(raw: object) -> Descriptor:
    """Read one descriptor."""
    fields = _object(raw, "a descriptor")
    media_type = fields.get("mediaType")
    if not isinstance(media_type, str) or not media_type:
        raise MalformedError("a descriptor has no mediaType")
    size = fields.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise MalformedError(f"a descriptor's size is {_short(size)}")
    return Descriptor(media_type, check_digest(fields.get("digest")), size, _annotations(fields))


def dump_descriptor(blob: Descriptor, *, artifact_type: str | None = None) -> dict[str, Any]:
    """Write one descriptor."""
    raw: dict[str, Any] = {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}
    if artifact_type is not None:
        raw["artifactType"] = artifact_type
    if blob.annotations:
        raw["annotations"] = dict(blob.annotations)
    return raw


def manifest_type(data: bytes) -> str:
    """Return the media type of an index or a manifest by its content; that is OCI's where it does not say."""
    fields = _object(load_json(data), "it")
    media_type = fields.get("mediaType")
    if media_type in INDEXES | MANIFESTS and isinstance(media_type, str):
        return media_type
    return INDEX if "manifests" in fields else MANIFEST


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest."""
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
    """Write a manifest."""
    raw: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST}
    if artifact_type is not None:
        raw["artifactType"] = artifact_type
    raw["config"] = dump_descriptor(config)
    raw["layers"] = [dump_descriptor(layer) for layer in layers]
    if annotations:
        raw["annotations"] = dict(annotations)
    return dump_json(raw)


def parse_index(data: bytes) -> Index:
    """Read an index."""
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
    """Write an index."""
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
    # Without the document: it may hold a container's secrets.
    return error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


VOLUME_ARCHIVE = LAYER_ZSTD
"""The media type of a volume's archive: a tar in zstd."""

SNAPSHOT_FILE = SNAPSHOT_FILE_ZSTD
"""The media type of the snapshot file that tar kept of an archive, in zstd."""

LISTING = LISTING_ZSTD
"""The media type of what is known of each file in an archive, in zstd."""
