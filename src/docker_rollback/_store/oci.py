"""Reads and writes the JSON of the OCI image layout, as far as this store uses it. Pure.

The input is untrusted: every structure is checked before it is used, and a bad one raises a `MalformedError`.
A record spells descriptors like every other file of the layout, so `CONVERTER` converts records, too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NewType

from attrs import field, frozen
from cattrs.gen import override

from docker_rollback._model import Descriptor
from docker_rollback._store.strict_json import MalformedError, StrictConverter, dump_json, load_object

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = LAYER + "+gzip"
LAYER_ZSTD = LAYER + "+zstd"
FILE = "application/octet-stream"
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
FORMAT = 3
"""The newest format version of a backup or journal record that is read. Each is written in the oldest version that can
represent it."""
FIRST_FORMAT = 1

_BACKUP_OF = "application/vnd.docker-rollback.backup.v"
BACKUP = f"{_BACKUP_OF}1"
VOLUME = "application/vnd.docker-rollback.volume.v1"
RECORD = "application/vnd.docker-rollback.record.v1"
RECORD_JSON = RECORD + "+json"
VOLUME_ARCHIVE = LAYER_ZSTD
"""The media type of a volume's archive: a tar in zstd, or a piece of one."""
PIECES = "application/vnd.docker-rollback.pieces.v1+zstd"
"""The media type of the list of the pieces of a tar, in zstd."""
SNAPSHOT_FILE = "application/vnd.docker-rollback.snapshot-file.v1+zstd"
"""The media type of tar's snapshot file of an archive, in zstd."""
LISTING = "application/vnd.docker-rollback.listing.v1+zstd"
"""The media type of the metadata of all files in an archive, in zstd."""

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

Digest = NewType("Digest", str)


@frozen
class Manifest:
    """An image manifest or an artifact manifest, as far as this store needs it."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(factory=dict)


@frozen
class Child:
    """An entry of an index.

    Attributes:
        blob: the blob that it refers to.
        raw: the entry as it was read.
        artifact_type: the blob's artifact type; None if the entry has none.
    """

    blob: Descriptor
    raw: Mapping[str, Any]
    artifact_type: str | None = None

    @property
    def name(self) -> str | None:
        """The name that tools use for it."""
        return self.blob.annotations.get(REF_NAME)


@frozen
class Index:
    """An image index, or a layout's ``index.json``; `raw` preserves fields that this version does not know."""

    children: tuple[Child, ...]
    raw: Mapping[str, Any]
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(factory=dict)


@frozen
class _RootFs:
    diff_ids: tuple[Digest, ...]


@frozen
class _ImageConfig:
    rootfs: _RootFs


def digest_of(data: bytes) -> str:
    """Return the digest of a blob with this content."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_backup_id(name: str) -> bool:
    """Return True if a name is valid as a backup's id: files, tags and OCI tools all accept it."""
    return _BACKUP_ID.fullmatch(name) is not None


def check_digest(value: object) -> Digest:
    """Return a digest that is safe in a file's name; raises `MalformedError` if it is not a sha256 digest."""
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise MalformedError(f"it is {_short(value)}, not a sha256 digest")
    return Digest(value)


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


def dump_descriptor(blob: Descriptor, *, artifact_type: str | None = None) -> dict[str, Any]:
    """Return a descriptor's JSON object."""
    raw: dict[str, Any] = CONVERTER.hooks.unstructure(blob)
    return raw if artifact_type is None else {**raw, "artifactType": artifact_type}


def manifest_type(data: bytes) -> str:
    """Return the media type of an index or manifest from its content; OCI's if the content has none."""
    fields = load_object(data)
    media_type = fields.get("mediaType")
    if isinstance(media_type, str) and media_type in INDEXES | MANIFESTS:
        return media_type
    return INDEX if "manifests" in fields else MANIFEST


def parse_manifest(data: bytes) -> Manifest:
    """Parse a manifest."""
    return CONVERTER.structure(_versioned(data), Manifest)


def dump_manifest(manifest: Manifest) -> bytes:
    """Serialize a manifest."""
    return dump_json({"schemaVersion": 2, "mediaType": MANIFEST, **CONVERTER.hooks.unstructure(manifest)})


def parse_index(data: bytes) -> Index:
    """Parse an index."""
    return CONVERTER.structure(_versioned(data), Index)


def dump_index(
    manifests: Sequence[Mapping[str, Any]],
    *,
    artifact_type: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """Serialize an index."""
    typed = {} if artifact_type is None else {"artifactType": artifact_type}
    noted = {"annotations": dict(annotations)} if annotations else {}
    content = {"manifests": [dict(manifest) for manifest in manifests]}
    return dump_json({"schemaVersion": 2, "mediaType": INDEX, **typed, **content, **noted})


def parse_layout(data: bytes) -> None:
    """Check an ``oci-layout`` file."""
    version = load_object(data).get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise MalformedError(f"its imageLayoutVersion is {_short(version)}")


def diff_ids(config: bytes) -> tuple[str, ...]:
    """Return the digests of an image's uncompressed layers, lowest first, from its config."""
    return CONVERTER.structure(load_object(config), _ImageConfig).rootfs.diff_ids


def _versioned(data: bytes) -> dict[str, Any]:
    fields = load_object(data)
    if fields.get("schemaVersion") != 2:
        raise MalformedError(f"its schemaVersion is {_short(fields.get('schemaVersion'))}")
    return fields


def _size(value: object, type_: type) -> int:
    size: int = CONVERTER.hooks.structure(value, type_)
    if size < 0:
        raise MalformedError("it is negative")
    return size


def _annotations(value: object, type_: Any) -> Mapping[str, str]:
    found: Mapping[str, str] = CONVERTER.hooks.structure({} if value is None else value, type_)
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


CONVERTER = StrictConverter(
    {
        "annotations": override(struct_hook=_annotations, omit_if_default=True),
        "artifact_type": override(rename="artifactType", omit_if_default=True),
        "children": override(rename="manifests"),
        "content": override(omit_if_default=True),
        "digest": override(struct_hook=lambda value, _: check_digest(value)),
        "media_type": override(rename="mediaType"),
        "needs": override(omit_if_default=True),
        "size": override(struct_hook=_size),
    },
    whole=("blob", "raw"),
)
CONVERTER.hooks.register_structure_hook(Digest, lambda value, _: check_digest(value))
