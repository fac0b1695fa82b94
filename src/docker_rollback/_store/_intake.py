"""An image, taken in from the tar that an engine's save streams, whatever its layout.

Four layouts are at large: one folder a layer with a ``layer.tar`` (Docker before 25), files named by the digests of
plain layers (Podman), an OCI layout of plain layers (Docker from 25 on), and an OCI layout of compressed ones (Docker
with containerd's store). ``manifest.json`` names the parts in all of them, but comes last: so every member is taken
in as what its first bytes show, and put in its place when the stream has ended.
"""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Protocol

from attrs import frozen

from docker_rollback._model import Descriptor
from docker_rollback._store import _oci
from docker_rollback._store._blobs import BlobWriter
from docker_rollback._store._streams import (
    CHUNK,
    CompressionError,
    GzipWriter,
    IteratorFile,
    compression,
    decompressed,
)
from docker_rollback.errors import EngineError

_MAX_TEXTS = 64 << 20
"""Bytes of JSON that an archive may hold in all; they are kept in memory."""

_MAX_LINKS = 16

_MEDIA_TYPES = {"gzip": _oci.LAYER_GZIP, "zstd": _oci.LAYER_ZSTD}


class Shelf(Protocol):
    """Where blobs go; a draft."""

    def blob(self, media_type: str, annotations: Mapping[str, str] | None = None) -> BlobWriter:
        """Begin a blob."""

    def add_bytes(self, media_type: str, data: bytes, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """Write a small blob whole."""


@frozen
class _Layer:
    """A layer that the store holds: what it decompresses to, and whether it is as the engine sent it."""

    diff_id: str
    blob: Descriptor
    as_sent: bool


class ImageIntake:
    """One image on its way into the store; single-use.

    Args:
        shelf: where its blobs go.
        layers: the digests of its uncompressed layers, lowest first.
        held: those of them that the store holds, gzipped.
        threads: how many compress.
    """

    def __init__(self, shelf: Shelf, layers: Sequence[str], held: Mapping[str, Descriptor], *, threads: int) -> None:
        self._shelf = shelf
        self._wanted = tuple(layers)
        self._held = dict(held)
        self._threads = threads
        self._links: dict[str, str] = {}
        self._texts: dict[str, bytes] = {}
        self._room = _MAX_TEXTS
        self._layers: dict[str, _Layer] = {}

    def take(self, archive: Iterator[bytes]) -> tuple[Descriptor, dict[str, Descriptor]]:
        """Read the archive to its end; return the image's manifest, and its gzipped layers by what they decompress to.

        Raises:
            EngineError: the archive is broken, or not of this image.
        """
        try:
            with tarfile.open(fileobj=IteratorFile(archive), mode="r|", bufsize=CHUNK) as tar:
                for member in tar:
                    self._take_member(tar, member)
            # What follows the tar's end belongs to the stream: an engine that is not read to its end is not done.
            for _ in archive:
                pass
            return self._assemble()
        except (tarfile.TarError, CompressionError) as error:
            raise _broken(f"its archive is broken ({error})") from error
        except _oci.MalformedError as error:
            raise _broken(str(error)) from error

    def _take_member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = posixpath.normpath(member.name)
        if member.issym():
            self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            return
        if member.islnk():
            self._links[name] = posixpath.normpath(member.linkname)
            return
        file = tar.extractfile(member) if member.isfile() else None
        if file is None:
            return
        with file:
            head = file.read(tarfile.BLOCKSIZE)
            if self._is_text(name, member.size, head):
                self._room -= member.size
                self._texts[name] = head + file.read()
                _check_name(name, _oci.digest_of(self._texts[name]))
            else:
                self._take_layer(name, head, file)

    def _is_text(self, name: str, size: int, head: bytes) -> bool:
        if compression(head[:4]) is not None or head[257:262] == b"ustar" or _digest_in(name) in self._wanted:
            return False
        if size > min(self._room, 2 * _oci.MAX_MANIFEST):
            return False
        return name.endswith((".json", "/json", "VERSION", "repositories", "oci-layout")) or head[:1] in (b"{", b"[")

    def _take_layer(self, name: str, head: bytes, file: IO[bytes]) -> None:
        kind = compression(head[:4])
        digest = _digest_in(name)
        if kind is not None:
            layer = self._take_compressed(name, kind, head, file)
        elif digest in self._held:
            # Not hashed: what the store holds of this digest has been, and takes its place.
            layer = _Layer(digest, self._held[digest], as_sent=False)
        elif digest is not None and digest not in self._wanted:
            return  # of another image, or an attestation
        else:
            layer = self._take_plain(name, head, file)
        if layer is not None:
            self._layers[name] = layer

    def _take_plain(self, name: str, head: bytes, file: IO[bytes]) -> _Layer | None:
        hasher = hashlib.sha256()
        with self._shelf.blob(_oci.LAYER_GZIP) as blob:
            with GzipWriter(blob.write, self._threads) as packer:
                for data in _with_head(head, file):
                    hasher.update(data)
                    packer.write(data)
            diff_id = "sha256:" + hasher.hexdigest()
            _check_name(name, diff_id)
            if diff_id in self._held:
                return _Layer(diff_id, self._held[diff_id], as_sent=False)
            if diff_id not in self._wanted:
                return None
            self._held[diff_id] = blob.close()
        return _Layer(diff_id, self._held[diff_id], as_sent=False)

    def _take_compressed(self, name: str, kind: str, head: bytes, file: IO[bytes]) -> _Layer | None:
        hasher = hashlib.sha256()
        with self._shelf.blob(_MEDIA_TYPES[kind]) as blob:

            def copied() -> Iterator[bytes]:
                for data in _with_head(head, file):
                    blob.write(data)
                    yield data

            source = copied()
            for data in decompressed(source, kind):
                hasher.update(data)
            for _ in source:  # what a decoder leaves unread after the last frame
                pass
            diff_id = "sha256:" + hasher.hexdigest()
            if diff_id not in self._wanted:
                return None
            kept = blob.close(digest=_digest_in(name))
        if kind == "gzip":
            self._held.setdefault(diff_id, kept)
        return _Layer(diff_id, kept, as_sent=True)

    def _assemble(self) -> tuple[Descriptor, dict[str, Descriptor]]:
        config = self._find_config()
        ids = _oci.diff_ids(config)
        if ids != self._wanted:
            raise _oci.MalformedError("its layers are not those that the engine listed")
        config_digest = _oci.digest_of(config)
        letter = self._find_manifest(config_digest, ids)
        config_type = _oci.parse_manifest(letter).config.media_type if letter is not None else _oci.CONFIG
        config_blob = self._shelf.add_bytes(config_type, config)
        if letter is None:
            by_id = {layer.diff_id: layer.blob for layer in self._layers.values()}
            layers = [self._held.get(diff_id) or by_id.get(diff_id) for diff_id in ids]
            missing = [diff_id for diff_id, layer in zip(ids, layers, strict=True) if layer is None]
            if missing:
                raise _oci.MalformedError(f"its archive lacks the layer {missing[0]}")
            letter = _oci.dump_manifest(config_blob, [layer for layer in layers if layer is not None])
        annotations = self._keep_index(_oci.digest_of(letter))
        media_type = _oci.load_json(letter).get("mediaType", _oci.MANIFEST)
        manifest = self._shelf.add_bytes(media_type, letter, annotations)
        return manifest, {diff_id: self._held[diff_id] for diff_id in ids if diff_id in self._held}

    def _find_config(self) -> bytes:
        """Return the config of the image whose layers are wanted, by ``manifest.json``, or by what is there."""
        names: list[str] = []
        if "manifest.json" in self._texts:
            entries = _oci.load_json(self._texts["manifest.json"])
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise _oci.MalformedError("its manifest.json is not a list of images")
            names = [name for entry in entries if isinstance(name := entry.get("Config"), str)]
        else:
            names = list(self._texts)
        configs = [text for name in names if (text := self._text(name)) is not None]
        for config in configs:
            if _has_layers(config, self._wanted):
                return config
        if not configs:
            raise _oci.MalformedError("its archive names no image")
        raise _oci.MalformedError("its archive holds no image with the layers that the engine listed")

    def _find_manifest(self, config: str, ids: tuple[str, ...]) -> bytes | None:
        """Return the manifest that the engine knew the image by, if its layers came as it says; None otherwise."""
        sent = {layer.blob.digest: layer.diff_id for layer in self._layers.values() if layer.as_sent}
        for name, text in self._texts.items():
            if _digest_in(name) is None:
                continue
            try:
                manifest = _oci.parse_manifest(text)
            except _oci.MalformedError:
                continue  # a config, an index, an attestation
            if manifest.config.digest != config:
                continue
            if tuple(sent.get(layer.digest) for layer in manifest.layers) == ids:
                return text
        return None

    def _keep_index(self, manifest: str) -> dict[str, str]:
        """Keep the index, to the letter, by which the engine knew an image of several platforms."""
        top = self._texts.get(_oci.INDEX_FILE)
        if top is None:
            return {}
        for child in _oci.parse_index(top).children:
            text = self._text("blobs/" + child.blob.digest.replace(":", "/"))
            if child.blob.media_type not in _oci.INDEXES or text is None:
                continue
            if manifest in (grandchild.blob.digest for grandchild in _oci.parse_index(text).children):
                self._shelf.add_bytes(_oci.JSON, text)
                return {_oci.INDEX_KEY: child.blob.digest}
        return {}

    def _text(self, name: str) -> bytes | None:
        """Return a text by its name, through the links of the archive."""
        name = posixpath.normpath(name)
        for _ in range(_MAX_LINKS):
            if name not in self._links:
                break
            name = self._links[name]
        return self._texts.get(name)


def _has_layers(config: bytes, layers: tuple[str, ...]) -> bool:
    try:
        return _oci.diff_ids(config) == layers
    except _oci.MalformedError:
        return False


def _with_head(head: bytes, file: IO[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    while data := file.read(CHUNK):
        yield data


def _digest_in(name: str) -> str | None:
    """Return the digest that a member's name promises, if it does."""
    folder, base = posixpath.split(name)
    if folder == "blobs/sha256":
        candidate = base
    elif not folder and base.endswith((".tar", ".json")):
        candidate = base.rpartition(".")[0]
    else:
        return None
    try:
        return _oci.check_digest("sha256:" + candidate)
    except _oci.MalformedError:
        return None


def _check_name(name: str, digest: str) -> None:
    promised = _digest_in(name)
    if promised not in (None, digest):
        raise _oci.MalformedError(f"its archive's {name[:120]} has the digest {digest}")


def _broken(reason: str) -> EngineError:
    return EngineError("export the image", reason)
