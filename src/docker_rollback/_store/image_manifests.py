"""Writes the manifests of an imported image, in two forms.

One is the store's own: its manifest has gzipped layers, each stored once, for every tool to read. The other is the
engine's original, byte for byte: the manifest, and the index above it, whose digest is the image's id in an engine with
containerd's store. If the original names the very layers that are stored, the two are one. If it names uncompressed
layers, it is stored as a plain file, and an export decompresses the layers again.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping

from attrs import frozen

from docker_rollback._model import Descriptor
from docker_rollback._store import oci
from docker_rollback._store.strict_json import MalformedError, load_json
from docker_rollback._store.workspace import Workspace

_MAX_LINKS = 16


@frozen
class Contents:
    """The contents of an engine's archive."""

    texts: Mapping[str, bytes]  # its small files, by name
    links: Mapping[str, str]  # the targets of its links, by name
    # The layers that came compressed, and are stored as they came, by the digest of their uncompressed content.
    sent: Mapping[str, Descriptor]

    def text(self, name: str) -> bytes | None:
        """Return a small file by its name, following links."""
        name = posixpath.normpath(name)
        for _ in range(_MAX_LINKS):
            if name not in self.links:
                break
            name = self.links[name]
        return self.texts.get(name)

    def blob(self, digest: str) -> bytes | None:
        """Return a small file by its digest, if the archive is an OCI layout."""
        return self.text("blobs/" + digest.replace(":", "/"))


def assemble(
    workspace: Workspace, contents: Contents, wanted: tuple[str, ...], held: Mapping[str, Descriptor]
) -> Descriptor:
    """Write the manifests of an image whose layers are in the store, and return the store's own.

    The uncompressed layers of the image are `wanted`, lowest first, and its gzipped layers `held`, by the digests of
    their uncompressed content. Raises `MalformedError` if the contents are of another image, or incomplete.
    """
    config = _find_config(contents, wanted)
    original = _find_original(contents, oci.digest_of(config), wanted)
    parts = oci.parse_manifest(original) if original is not None else None
    config_blob = workspace.add_bytes(parts.config.media_type if parts is not None else oci.CONFIG, config)
    layers = [contents.sent.get(diff_id) or held.get(diff_id) for diff_id in wanted]
    found = [layer for layer in layers if layer is not None]
    if len(found) < len(wanted):
        raise MalformedError(f"the layer {wanted[layers.index(None)]} is missing")
    known_as: list[str] = []
    digests = [blob.digest for blob in found]
    if original is not None and parts is not None and [blob.digest for blob in parts.layers] == digests:
        data = original
    else:
        data = oci.dump_manifest(oci.Manifest(config_blob, tuple(found)))
        known_as = [workspace.add_bytes(oci.JSON, original).digest] if original is not None else []
    if original is not None:
        known_as = [*_keep_index(workspace, contents, oci.digest_of(original)), *known_as]
    annotations = {oci.KNOWN_AS_KEY: " ".join(known_as)} if known_as else {}
    return workspace.add_bytes(oci.manifest_type(data), data, annotations)


def _find_config(contents: Contents, wanted: tuple[str, ...]) -> bytes:
    """Return the config of the image with the wanted layers, from ``manifest.json`` or else from all files."""
    names = list(contents.texts)
    if "manifest.json" in contents.texts:
        entries = load_json(contents.texts["manifest.json"])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise MalformedError("its manifest.json is not a list of images")
        names = [name for entry in entries if isinstance(name := entry.get("Config"), str)]
    configs = [text for name in names if (text := contents.text(name)) is not None]
    for config in configs:
        if _has_layers(config, wanted):
            return config
    if not configs:
        raise MalformedError("it names no image")
    raise MalformedError("it has no image with the layers that the engine listed")


def _has_layers(config: bytes, wanted: tuple[str, ...]) -> bool:
    try:
        return oci.diff_ids(config) == wanted
    except MalformedError:
        return False


def _find_original(contents: Contents, config: str, wanted: tuple[str, ...]) -> bytes | None:
    """Return the engine's own manifest of the image, if its layers can be restored from the store."""
    sent = {blob.digest: diff_id for diff_id, blob in contents.sent.items()}
    for name, text in contents.texts.items():
        if digest_in(name) is None:
            continue
        try:
            manifest = oci.parse_manifest(text)
        except MalformedError:
            continue  # a config, an index, an attestation
        # The manifest names a layer as it came; an uncompressed one has the digest of its content.
        plain = tuple(sent.get(layer.digest, layer.digest) for layer in manifest.layers)
        if manifest.config.digest == config and plain == wanted:
            return text
    return None


def _keep_index(workspace: Workspace, contents: Contents, manifest: str) -> Iterator[str]:
    """Store the engine's index of platforms that contains this manifest, if there is one, and yield its digest."""
    top = contents.texts.get(oci.INDEX_FILE)
    for child in () if top is None else oci.parse_index(top).children:
        text = contents.blob(child.blob.digest)
        if child.blob.media_type not in oci.INDEXES or text is None:
            continue
        if manifest in (grandchild.blob.digest for grandchild in oci.parse_index(text).children):
            yield workspace.add_bytes(oci.JSON, text).digest
            return


def digest_in(name: str) -> str | None:
    """Return the digest in the name of an archive's member; None if the name has none."""
    folder, base = posixpath.split(name)
    if folder == "blobs/sha256":
        candidate = base
    elif not folder and base.endswith((".tar", ".json")):
        candidate = base.rpartition(".")[0]
    else:
        return None
    try:
        return oci.check_digest("sha256:" + candidate)
    except MalformedError:
        return None
