"""An image put together from what an engine's archive brought, as two images in one.

One is the store's: its manifest has gzipped layers, each stored once, for every tool to read. The other is the
engine's, *to the letter*: the manifest, and the index above it, whose digest an engine with containerd's store knows
the image by. Where that manifest names the very layers that are stored, the two are one. Where it names plain layers,
it is kept as a file; they are had from the gzipped ones whenever the image goes back.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Protocol

from attrs import frozen

from docker_rollback._model import Descriptor
from docker_rollback._store import oci
from docker_rollback._store.blobs import BlobWriter

_MAX_LINKS = 16


class Shelf(Protocol):
    """Where blobs go."""

    def blob(self, media_type: str, annotations: Mapping[str, str] | None = None) -> BlobWriter:
        """Begin a blob."""

    def add_bytes(self, media_type: str, data: bytes, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """Write a small blob whole."""


@frozen
class Contents:
    """What an archive brought.

    Attributes:
        texts: its small files, by their names.
        links: its links, by theirs.
        sent: the layers that came compressed, and are stored so, by the digest of what they decompress to.
    """

    texts: Mapping[str, bytes]
    links: Mapping[str, str]
    sent: Mapping[str, Descriptor]

    def text(self, name: str) -> bytes | None:
        """Return a small file by its name, through links."""
        name = posixpath.normpath(name)
        for _ in range(_MAX_LINKS):
            if name not in self.links:
                break
            name = self.links[name]
        return self.texts.get(name)

    def blob(self, digest: str) -> bytes | None:
        """Return a small file by its digest, where the archive is a layout."""
        return self.text("blobs/" + digest.replace(":", "/"))


def assemble(
    shelf: Shelf, contents: Contents, wanted: tuple[str, ...], held: Mapping[str, Descriptor]
) -> tuple[Descriptor, dict[str, Descriptor]]:
    """Write the manifests of an image whose layers are in the store.

    Args:
        shelf: where they go.
        contents: what the archive brought.
        wanted: the digests of the image's plain layers, lowest first.
        held: the gzipped layers that the store holds, by the digest of what they decompress to.

    Returns:
        The store's manifest, and the image's gzipped layers as in `held`.

    Raises:
        MalformedError: the archive is not of this image, or lacks a part of it.
    """
    config = _find_config(contents, wanted)
    letter = _find_letter(contents, oci.digest_of(config), wanted)
    parts = oci.parse_manifest(letter) if letter is not None else None
    config_blob = shelf.add_bytes(parts.config.media_type if parts is not None else oci.CONFIG, config)
    layers = [contents.sent.get(diff_id) or held.get(diff_id) for diff_id in wanted]
    found = [layer for layer in layers if layer is not None]
    if len(found) < len(wanted):
        raise oci.MalformedError(f"its archive lacks the layer {wanted[layers.index(None)]}")
    known_as: list[str] = []
    if letter is not None and parts is not None and [blob.digest for blob in parts.layers] == [b.digest for b in found]:
        data = letter
    else:
        data = oci.dump_manifest(config_blob, found)
        known_as = [shelf.add_bytes(oci.JSON, letter).digest] if letter is not None else []
    if letter is not None:
        known_as = [*_keep_index(shelf, contents, oci.digest_of(letter)), *known_as]
    annotations = {oci.KNOWN_AS_KEY: " ".join(known_as)} if known_as else {}
    manifest = shelf.add_bytes(oci.manifest_type(data), data, annotations)
    return manifest, {diff_id: held[diff_id] for diff_id in wanted if diff_id in held}


def _find_config(contents: Contents, wanted: tuple[str, ...]) -> bytes:
    """Return the config of the image whose layers are wanted, by ``manifest.json``, or by what is there."""
    names = list(contents.texts)
    if "manifest.json" in contents.texts:
        entries = oci.load_json(contents.texts["manifest.json"])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise oci.MalformedError("its manifest.json is not a list of images")
        names = [name for entry in entries if isinstance(name := entry.get("Config"), str)]
    configs = [text for name in names if (text := contents.text(name)) is not None]
    for config in configs:
        if _has_layers(config, wanted):
            return config
    if not configs:
        raise oci.MalformedError("its archive names no image")
    raise oci.MalformedError("its archive holds no image with the layers that the engine listed")


def _has_layers(config: bytes, wanted: tuple[str, ...]) -> bool:
    try:
        return oci.diff_ids(config) == wanted
    except oci.MalformedError:
        return False


def _find_letter(contents: Contents, config: str, wanted: tuple[str, ...]) -> bytes | None:
    """Return the manifest by which an engine knew the image, if it can be had from the store again."""
    sent = {blob.digest: diff_id for diff_id, blob in contents.sent.items()}
    for name, text in contents.texts.items():
        if digest_in(name) is None:
            continue
        try:
            manifest = oci.parse_manifest(text)
        except oci.MalformedError:
            continue  # a config, an index, an attestation
        # A layer that it names came as it says, or is plain, and then named by what it decompresses to.
        plain = tuple(sent.get(layer.digest, layer.digest) for layer in manifest.layers)
        if manifest.config.digest == config and plain == wanted:
            return text
    return None


def _keep_index(shelf: Shelf, contents: Contents, manifest: str) -> Iterator[str]:
    """Keep the index of platforms by which an engine knew the image that has this manifest, if there is one."""
    top = contents.texts.get(oci.INDEX_FILE)
    for child in () if top is None else oci.parse_index(top).children:
        text = contents.blob(child.blob.digest)
        if child.blob.media_type not in oci.INDEXES or text is None:
            continue
        if manifest in (grandchild.blob.digest for grandchild in oci.parse_index(text).children):
            yield shelf.add_bytes(oci.JSON, text).digest
            return


def digest_in(name: str) -> str | None:
    """Return the digest that the name of an archive's member promises, if it does."""
    folder, base = posixpath.split(name)
    if folder == "blobs/sha256":
        candidate = base
    elif not folder and base.endswith((".tar", ".json")):
        candidate = base.rpartition(".")[0]
    else:
        return None
    try:
        return oci.check_digest("sha256:" + candidate)
    except oci.MalformedError:
        return None
