"""The images of the in-memory engine: their layers, names, and archives as `save` writes and `load` reads them."""

from __future__ import annotations

import gzip
import io
import json
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from attrs import define, field, frozen

from docker_rollback.errors import ImageNotFoundError
from docker_rollback.testing._fake.layers import Layer, digest_of, unpack
from docker_rollback.testing._fake.refusals import refusal
from docker_rollback.testing._fake.tar_members import entries
from docker_rollback.testing._fake.tree import Node, walk

VERSION = "28.5.2"
"""The version of the Docker engine that the in-memory one imitates."""

_CHUNK = 64 * 1024
_HEX = re.compile(r"[0-9a-f]{12,64}")
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_SHOWN = ("Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir")
_SHOWN_WHERE_SET = ("ExposedPorts", "Healthcheck", "Shell", "StopSignal")


@frozen(eq=False)
class Image:
    """One image.

    Attributes:
        id: the digest of `config`.
        config: its configuration, JSON, byte for byte.
        layers: its layers, lowest first.
        tree: the file system that the layers make up; it never changes.
        parent: the id of the image that it was committed from; empty for an imported or loaded one.
    """

    id: str
    config: bytes
    layers: tuple[Layer, ...]
    tree: Node
    parent: str = ""

    @classmethod
    def of(cls, document: Mapping[str, Any], layers: Sequence[Layer], *, parent: str = "") -> Image:
        """Return the image of a configuration (without its `rootfs`) and layers."""
        whole = {**document, "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]}}
        return cls.read(json.dumps(whole, separators=(",", ":")).encode(), layers, parent=parent)

    @classmethod
    def read(cls, config: bytes, layers: Sequence[Layer], *, parent: str = "") -> Image:
        """Return the image of a whole configuration and its layers."""
        return cls(digest_of(config), config, tuple(layers), unpack(tuple(layers)), parent)

    @property
    def document(self) -> dict[str, Any]:
        """Its configuration, parsed; each call returns a new one."""
        document: dict[str, Any] = json.loads(self.config)
        return document

    @property
    def settings(self) -> dict[str, Any]:
        """The part of its configuration that its containers inherit."""
        return self.document.get("config") or {}


def reference(name: str) -> str:
    """Return an image name in the engine's form: with a tag, without the default registry."""
    short = name.removeprefix("docker.io/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"


@define
class Images:
    """Keeps an engine's images and their names.

    Attributes:
        users: returns the ids of the containers that use an image, which prevent its removal.
        architecture: the architecture of imported and added images, as images name it.
    """

    users: Callable[[str], list[str]]
    architecture: str
    known: dict[str, Image] = field(factory=dict)
    names: dict[str, str] = field(factory=dict)
    tagged: dict[str, str] = field(factory=dict)
    published: dict[str, Image] = field(factory=dict)

    def get(self, ref: str) -> Image:
        """Return the image with a name, id or id prefix; raises `ImageNotFoundError`."""
        if ref in self.known:
            return self.known[ref]
        if ref and reference(ref) in self.names:
            return self.known[self.names[reference(ref)]]
        if _HEX.fullmatch(ref.removeprefix("sha256:")):
            start = "sha256:" + ref.removeprefix("sha256:")
            found = [image for image in self.known.values() if image.id.startswith(start)]
            if len(found) == 1:
                return found[0]
        raise ImageNotFoundError(ref)

    def add(self, image: Image, tag: str | None, when: str) -> str:
        """Keep an image, under a name if one is given, and return its id."""
        self.known.setdefault(image.id, image)
        if tag is not None:
            self.names[reference(tag)] = image.id
        self.tagged[image.id] = when
        return image.id

    def publish(self, name: str) -> None:
        """Push an image to the registry, by its name."""
        self.published[reference(name)] = self.get(name)

    def pull(self, ref: str, platform: str | None, when: str) -> str:
        """Pull a published image and return its id; raises `ImageNotFoundError`."""
        action, image = f"pull image {ref!r}", self.published.get(reference(ref)) if ref else None
        if image is None:
            raise ImageNotFoundError(ref, action=action)
        own = f"{image.document.get('os', '')}/{image.document.get('architecture', '')}"
        if platform is not None and platform != own:
            raise refusal(action, 404, f"no matching manifest for {platform} in the manifest list entries")
        return self.add(image, ref, when)

    def names_of(self, image_id: str) -> list[str]:
        """Return the names of an image, sorted."""
        return sorted(name for name, target in self.names.items() if target == image_id)

    def remove(self, ref: str) -> None:
        """Remove a name, and the image if that was its last name; an id removes the image with its only name.

        Raises:
            EngineConflictError: a container uses the image; or, by id, it has several names, or child images.
        """
        try:
            image = self.get(ref)
        except ImageNotFoundError:
            return
        action, names, short = f"remove image {ref!r}", self.names_of(image.id), image.id[7:19]
        users = self.users(image.id)
        by_id = reference(ref) not in self.names or ref == image.id
        if by_id:
            if self._children(image.id):
                reason = "image has dependent child images"
                raise refusal(action, 409, f"conflict: unable to delete {short} (cannot be forced) - {reason}")
            if len(names) > 1:
                reason = "image is referenced in multiple repositories"
                raise refusal(action, 409, f"conflict: unable to delete {short} (must be forced) - {reason}")
            if users:
                raise refusal(
                    action,
                    409,
                    f"conflict: unable to delete {short} (must be forced) - container {users[0][:12]} is using it",
                )
            for name in names:
                del self.names[name]
            self._forget(image)
            return
        if len(names) == 1 and users:
            raise refusal(
                action,
                409,
                f'conflict: unable to remove repository reference "{ref}" (must force) - '
                f"container {users[0][:12]} is using its referenced image {short}",
            )
        del self.names[reference(ref)]
        if len(names) == 1:
            self._forget(image)

    def drop(self, ref: str) -> None:
        """Remove an image with all its names, even if containers use it."""
        image = self.get(ref)
        for name in self.names_of(image.id):
            del self.names[name]
        del self.known[image.id]

    def _forget(self, image: Image, *, parents: bool = False) -> None:
        """Remove an image without names, containers and children; if `parents`, then each parent in the same way."""
        needed = self.names_of(image.id) or self.users(image.id) or self._children(image.id)
        if needed or image.id not in self.known:
            return
        del self.known[image.id]
        self.tagged.pop(image.id, None)
        if parents and image.parent in self.known:
            self._forget(self.known[image.parent], parents=True)

    def _children(self, image_id: str) -> list[str]:
        return [image.id for image in self.known.values() if image.parent == image_id]

    def prune(self, *, everything: bool = False) -> list[str]:
        """Remove images without names, containers and children, as ``docker image prune`` does, and return their ids.

        If `everything`, names go first: all names of an unused image, and all but one of an image with containers.
        """
        before = set(self.known)
        for image in self.known.values() if everything else ():
            for name in self.names_of(image.id)[1 if self.users(image.id) else 0 :]:
                del self.names[name]
        for image in list(self.known.values()):
            self._forget(image, parents=True)
        return sorted(before - set(self.known))

    def inspect(self, ref: str) -> dict[str, Any]:
        """Return an image's inspection."""
        image = self.get(ref)
        document, settings = image.document, image.settings
        shown = {key: settings.get(key) for key in _SHOWN}
        shown["User"], shown["WorkingDir"] = shown["User"] or "", shown["WorkingDir"] or ""
        shown |= {key: settings[key] for key in _SHOWN_WHERE_SET if settings.get(key)}
        history = document.get("history") or [{}]
        names = self.names_of(image.id)
        return {
            "Id": image.id,
            "RepoTags": [name for name in names if "@" not in name],
            "RepoDigests": [name for name in names if "@" in name],
            "Parent": image.parent,
            "Comment": history[-1].get("comment", ""),
            "Created": document.get("created", ""),
            "DockerVersion": document.get("docker_version", ""),
            "Author": document.get("author", ""),
            "Architecture": document.get("architecture", ""),
            "Os": document.get("os", ""),
            "Size": sum(len(node.content) for _, node in walk(image.tree)),
            "GraphDriver": {"Data": {}, "Name": "memory"},
            "RootFS": {"Type": "layers", "Layers": [layer.digest for layer in image.layers]},
            "Metadata": {"LastTagTime": self.tagged.get(image.id, "0001-01-01T00:00:00Z")},
            "Config": shown,
        }

    def save(self, ref: str) -> Iterator[bytes]:
        """Return the image as a tar in pieces: an OCI layout with a `manifest.json`, as Docker since 25 writes it."""
        image = self.get(ref)
        by_name = reference(ref) in self.names and ref != image.id
        whole = _archive(image, reference(ref) if by_name else None)
        return (whole[start : start + _CHUNK] for start in range(0, len(whole), _CHUNK))

    def load(self, archive: Iterable[bytes], when: str) -> None:
        """Load the images of a tar whose `manifest.json` names their parts; layers may be gzipped.

        Raises:
            EngineError: it is not such a tar, a part is missing, or a layer does not match its image's configuration.
        """
        action = "load an image"
        parts = _members(archive, action)
        if "manifest.json" not in parts:
            raise refusal(action, None, "open manifest.json: no such file or directory")
        for entry in json.loads(parts["manifest.json"]):
            wanted = [entry["Config"], *entry["Layers"]]
            for name in wanted:
                if name not in parts:
                    raise refusal(action, None, f"open {name}: no such file or directory")
            config = parts[entry["Config"]]
            diff_ids = json.loads(config)["rootfs"]["diff_ids"]
            layers = [Layer.of(parts[name]) for name in entry["Layers"]]
            if len(diff_ids) != len(layers):
                raise refusal(action, None, f"invalid manifest, layers length mismatch: {len(diff_ids)}, {len(layers)}")
            for number, (layer, expected) in enumerate(zip(layers, diff_ids, strict=True)):
                if layer.digest != expected:
                    raise refusal(
                        action, None, f"invalid diffID for layer {number}: expected {expected!r}, got {layer.digest!r}"
                    )
            image = Image.read(config, layers)
            self.add(image, None, when)
            for name in entry.get("RepoTags") or []:
                self.add(image, name, when)

    def import_tar(self, archive: Iterable[bytes], tag: str, when: str) -> str:
        """Make an image of one layer from a file system's tar, which may be gzipped, and return its id."""
        try:
            layer = _layer_of(b"".join(archive) or bytes(2 * tarfile.BLOCKSIZE))
            image = Image.of(
                {
                    "architecture": self.architecture,
                    "config": {},
                    "created": when,
                    "docker_version": VERSION,
                    "history": [{"created": when, "comment": "Imported from -"}],
                    "os": "linux",
                },
                [layer],
            )
        except (tarfile.TarError, gzip.BadGzipFile, EOFError) as error:
            raise refusal(f"import image {tag!r}", 500, f"archive/tar: {error}") from error
        return self.add(image, tag, when)


@lru_cache(maxsize=2)
def _layer_of(tar: bytes) -> Layer:
    """Return a layer, cached because tests import the same helper image thousands of times."""
    return Layer.of(tar)


def _members(archive: Iterable[bytes], action: str) -> dict[str, bytes]:
    """Return the files of a tar by their paths; a link is replaced by its target."""
    parts: dict[str, bytes] = {}
    try:
        whole = b"".join(archive)
        for member, content in entries(whole):
            name = member.name.removeprefix("./")
            if member.isreg():
                parts[name] = content
            elif member.islnk() or member.issym():
                folder = posixpath.dirname(name) if member.issym() else ""
                parts[name] = parts[posixpath.normpath(posixpath.join(folder, member.linkname))]
    except (tarfile.TarError, EOFError, KeyError) as error:
        raise refusal(action, None, f"archive/tar: {str(error).partition(chr(10))[0]}") from error
    return parts


def _archive(image: Image, tag: str | None) -> bytes:
    blobs = {image.id: image.config} | {layer.digest: layer.tar for layer in image.layers}

    def descriptor(media_type: str, digest: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": digest, "size": len(blobs[digest])}

    layers = [descriptor(_LAYER_TYPE, layer.digest) for layer in image.layers]
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", image.id),
            "layers": layers,
        }
    )
    blobs[digest_of(manifest)] = manifest
    listed = descriptor("application/vnd.oci.image.manifest.v1+json", digest_of(manifest))
    if tag is not None:
        full = tag if "/" in tag else f"library/{tag}"
        listed["annotations"] = {
            "io.containerd.image.name": f"docker.io/{full}",
            "org.opencontainers.image.ref.name": tag.rpartition(":")[2],
        }
    files = {_path(digest): data for digest, data in sorted(blobs.items())}
    files["index.json"] = _json(
        {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [listed]}
    )
    files["manifest.json"] = _json(
        [
            {
                "Config": _path(image.id),
                "RepoTags": None if tag is None else [tag],
                "Layers": [_path(layer["digest"]) for layer in layers],
                "LayerSources": {layer["digest"]: layer for layer in layers},
            }
        ]
    )
    files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in ("blobs", "blobs/sha256"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
