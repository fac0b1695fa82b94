"""Imports an image: from the tar that an engine's save streams, in any layout, or from its parts.

There are four layouts of the tar: a folder for each layer with a ``layer.tar`` (Docker before 25), files named by the
digests of uncompressed layers (Podman), an OCI layout of uncompressed layers (Docker from 25 on), and an OCI layout of
compressed layers (Docker with containerd's store). ``manifest.json`` names the parts in all of them, but comes last. So
members are classified by their first bytes, and put in their places at the end of the stream.
"""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from attrs import frozen

from docker_rollback._model import Descriptor
from docker_rollback._store import oci
from docker_rollback._store.image_manifests import Contents, assemble, digest_in
from docker_rollback._store.streams import (
    CHUNK,
    CompressionError,
    GzipWriter,
    IteratorFile,
    buffered,
    compression,
    decompressed,
)
from docker_rollback._store.strict_json import MalformedError
from docker_rollback._store.workspace import Workspace
from docker_rollback.errors import EngineError

_MAX_TEXTS = 64 << 20  # the total size of JSON in an archive, in bytes; it is held in memory

_MEDIA_TYPES = {"gzip": oci.LAYER_GZIP, "zstd": oci.LAYER_ZSTD}


@frozen
class ImageParts:
    """The parts of an image, as an engine keeps them.

    Attributes:
        config: its config.
        layers: functions that yield its uncompressed layers, by their digests.
    """

    config: bytes
    layers: Mapping[str, Callable[[], Iterator[bytes]]]


class ImageImport:
    """Imports one image; single-use.

    Its uncompressed `layers` are named by their digests, lowest first. The store has those that are `held`, gzipped.
    """

    def __init__(
        self, workspace: Workspace, layers: Sequence[str], held: Mapping[str, Descriptor], *, threads: int
    ) -> None:
        self._workspace = workspace
        self._wanted = tuple(layers)
        self._held = dict(held)
        self._known = {blob.digest: layer for layer, blob in held.items()}
        self._threads = threads
        self._links: dict[str, str] = {}
        self._texts: dict[str, bytes] = {}
        self._room = _MAX_TEXTS
        self._sent: dict[str, Descriptor] = {}

    @property
    def held(self) -> dict[str, Descriptor]:
        """The gzipped layers of the image that the store has by now, by the digests of their uncompressed content."""
        return {layer: self._held[layer] for layer in self._wanted if layer in self._held}

    def take(self, archive: Iterator[bytes]) -> Descriptor:
        """Read the archive; return the image's manifest.

        Raises `EngineError` if the archive is broken, or of another image.
        """
        try:
            with tarfile.open(fileobj=IteratorFile(archive), mode="r|", bufsize=CHUNK) as tar:
                for member in tar:
                    self._take_member(tar, member)
            # Read the stream to its end, behind the end of the tar: the engine is not done before.
            for _ in archive:
                pass
            contents = Contents(self._texts, self._links, self._sent)
            return assemble(self._workspace, contents, self._wanted, self._held)
        except (tarfile.TarError, CompressionError) as error:
            raise EngineError("export the image", f"its archive is broken ({error})") from error
        except MalformedError as error:
            raise EngineError("export the image", f"its archive is not what it should be: {error}") from error

    def take_parts(self, parts: ImageParts) -> Descriptor:
        """Take an image from its parts, and read only the layers that are missing; return the image's manifest.

        Raises `EngineError` if a part is missing, or is not of the image.
        """
        try:
            for layer in self._wanted:
                if layer not in self._held and layer in parts.layers:
                    with buffered(parts.layers[layer]()) as file:
                        # Read as from an archive: the same pieces compress to the same blob.
                        self._take_plain(_blob_name(layer), file.read(tarfile.BLOCKSIZE), file)
            texts = {_blob_name(oci.digest_of(parts.config)): parts.config}
            return assemble(self._workspace, Contents(texts, {}, {}), self._wanted, self._held)
        except MalformedError as error:
            raise EngineError("read the image's files", str(error)) from error

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
                _check_name(name, oci.digest_of(self._texts[name]))
            else:
                self._take_layer(name, head, file)

    def _is_text(self, name: str, size: int, head: bytes) -> bool:
        if compression(head) is not None or head[257:262] == b"ustar" or digest_in(name) in self._wanted:
            return False
        if size > min(self._room, 2 * oci.MAX_MANIFEST):
            return False
        return name.endswith((".json", "/json", "VERSION", "repositories", "oci-layout")) or head[:1] in (b"{", b"[")

    def _take_layer(self, name: str, head: bytes, file: IO[bytes]) -> None:
        kind = compression(head)
        digest = digest_in(name)
        if kind is not None and digest in self._known:
            # The store has this very blob, which need not be decompressed to learn which layer it is.
            self._sent[self._known[digest]] = self._held[self._known[digest]]
        elif kind is not None:
            self._take_compressed(name, kind, head, file)
        elif digest is None or digest in set(self._wanted) - self._held.keys():
            # Other layers need no hashing: they belong to another image or an attestation, or the store has them.
            self._take_plain(name, head, file)

    def _take_plain(self, name: str, head: bytes, file: IO[bytes]) -> None:
        hasher = hashlib.sha256()
        with self._workspace.blob(oci.LAYER_GZIP) as blob:
            with GzipWriter(blob.write, self._threads) as packer:
                for data in _with_head(head, file):
                    hasher.update(data)
                    packer.write(data)
            diff_id = "sha256:" + hasher.hexdigest()
            _check_name(name, diff_id)
            if diff_id in self._wanted and diff_id not in self._held:
                self._held[diff_id] = blob.close()

    def _take_compressed(self, name: str, kind: str, head: bytes, file: IO[bytes]) -> None:
        hasher = hashlib.sha256()
        with self._workspace.blob(_MEDIA_TYPES[kind]) as blob:

            def copied() -> Iterator[bytes]:
                for data in _with_head(head, file):
                    blob.write(data)
                    yield data

            source = copied()
            for data in decompressed(source, kind):
                hasher.update(data)
            for _ in source:  # a decoder stops reading after the last frame
                pass
            diff_id = "sha256:" + hasher.hexdigest()
            if diff_id not in self._wanted:
                return
            self._sent[diff_id] = blob.close(digest=digest_in(name))
        if kind == "gzip":
            self._held.setdefault(diff_id, self._sent[diff_id])


def _with_head(head: bytes, file: IO[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    while data := file.read(CHUNK):
        yield data


def _blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _check_name(name: str, digest: str) -> None:
    promised = digest_in(name)
    if promised not in (None, digest):
        raise MalformedError(f"{name[:120]} has the digest {digest}")
