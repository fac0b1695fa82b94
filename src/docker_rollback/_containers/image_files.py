"""Finds the files in which an engine on this machine keeps an image, so that it need not be exported.

An engine exports an image whole, however little of it is new, and Docker writes the export to its own disk first.
Docker's own store and Podman keep each layer as a folder of files and a tar-split file, which together give the layer's
tar byte for byte. None of this is an interface of the engine. So every part is checked by the digest that the engine
gave, and an image whose parts are missing or different is exported.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from docker_rollback._containers.tar_split import assembled
from docker_rollback._engine import EngineInfo, Inspection
from docker_rollback._host import Tree, may_do_anything
from docker_rollback._inspection import layers_of
from docker_rollback._store import ImageParts

logger = logging.getLogger("docker_rollback")

_CHUNK: Final = 1 << 20
_MAX_CONFIG: Final = 4 << 20
"""The maximum size of a config, in bytes."""
_MAX_LINE: Final = 8 << 20
"""The maximum size of a line of a tar-split file, in bytes; a line takes several times as much memory."""

_DRIVERS: Final = ("overlay2", "fuse-overlayfs")
"""The storage drivers of Docker that keep a layer's files as ``diff``."""

_MAX_NAME: Final = 1024

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_FOLDER: Final = re.compile(r"[A-Za-z0-9]+")


class ImageFilesError(Exception):
    """A file of a layer is missing, or is not what was expected."""


def image_parts(engine: EngineInfo, image: Inspection) -> ImageParts | None:
    """Return the parts of an image from its engine's files; None if they cannot be read, or the store is unknown.

    The files of a layer are opened when the layer is read, which raises `ImageFilesError`.

    Args:
        engine: the engine.
        image: the inspection of the image.
    """
    if not engine.address.startswith("unix://") or not may_do_anything() or engine.containerd_store:
        return None
    try:
        if not _is_our_own(engine.root):
            return None
        if engine.flavour == "podman":
            return _of_podman(engine, image)
        return _of_docker(engine, image) if engine.storage_driver in _DRIVERS else None
    except (OSError, ValueError, LookupError, TypeError) as error:
        # The data folder of an engine in a container is not visible here.
        logger.debug("image %s is exported, because its files cannot be read: %s", image.get("Id"), error)
        return None


def chain_ids(layers: Sequence[str]) -> list[str]:
    """Return the ids under which Docker keeps the layers of an image: each is a hash of all layers up to it. Pure.

    Args:
        layers: the digests of the uncompressed layers, lowest first.
    """
    chain = list(layers[:1])
    for layer in layers[1:]:
        chain.append("sha256:" + hashlib.sha256(f"{chain[-1]} {layer}".encode()).hexdigest())
    return chain


def _of_docker(engine: EngineInfo, image: Inspection) -> ImageParts:
    """Return the parts of an image in Docker's own store."""
    root, driver, layers = Path(engine.root), engine.storage_driver, layers_of(image)
    kept = root / "image" / driver
    config = _config(kept / "imagedb" / "content" / "sha256" / _hex(image["Id"]), image["Id"])
    parts = {}
    for layer, chain in zip(layers, chain_ids(layers), strict=True):
        folder = kept / "layerdb" / "sha256" / _hex(chain)
        with _opened(folder / "cache-id") as file:
            name = file.read(_MAX_NAME).decode("ascii").strip()
        if _FOLDER.fullmatch(name) is None:
            raise ValueError(f"{folder} names the folder {name!r}")
        parts[layer] = _layer(folder / "tar-split.json.gz", root / driver / name / "diff")
    return ImageParts(config, parts)


def _of_podman(engine: EngineInfo, image: Inspection) -> ImageParts:
    """Return the parts of an image in Podman's store."""
    driver, identity, data = engine.storage_driver, f"sha256:{_hex(image['Id'])}", image["GraphDriver"]["Data"]
    key = base64.b64encode(identity.encode()).decode()
    config = _config(Path(engine.root) / f"{driver}-images" / _hex(identity) / f"={key}", identity)
    folders = [str(data["UpperDir"]), *filter(None, str(data.get("LowerDir") or "").split(":"))]  # highest first
    parts = {}
    for layer, folder in zip(layers_of(image), map(Path, reversed(folders)), strict=True):
        # Several stores may share an image; each has its own list of layers next to their folders.
        kept = folder.parent.parent.with_name(f"{driver}-layers")
        parts[layer] = _layer(kept / f"{folder.parent.name}.tar-split.gz", folder)
    return ImageParts(config, parts)


def _config(path: Path, image_id: str) -> bytes:
    """Return the config of an image; raises `OSError`, and `ValueError` if it has not the digest `image_id`."""
    with _opened(path) as file:
        config = file.read(_MAX_CONFIG + 1)
    if "sha256:" + hashlib.sha256(config).hexdigest() != image_id:
        raise ValueError(f"{path} is not its config")
    return config


def _layer(split: Path, folder: Path) -> Callable[[], Iterator[bytes]]:
    """Return a function that yields the tar of a layer, from its tar-split file and the folder with its files."""

    def read() -> Iterator[bytes]:
        try:
            with _opened(split) as file, gzip.GzipFile(fileobj=file) as entries, Tree.at(folder) as files:
                lines = iter(partial(entries.readline, _MAX_LINE), b"")
                yield from assembled(lines, lambda name: _content(files, name))
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise ImageFilesError(f"{split}: {error}") from error

    return read


def _is_our_own(root: str) -> bool:
    """Return True if an engine's data folder is here and belongs to this user or to root, not to a rootless engine's.

    Raises `OSError` if there is no such folder.
    """
    return root.startswith("/") and Path(root).stat().st_uid in (0, os.geteuid())


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file of the engine for a block; raises `OSError` if it is not a regular file."""
    with Tree.at(path.parent) as folder, folder.reading(os.fsencode(path.name)) as file:
        yield os.fdopen(file, "rb", closefd=False)


def _content(files: Tree, name: bytes) -> Iterator[bytes]:
    # A container wrote these files, so no link among them may lead out of the folder.
    with files.reading(name) as file:
        while data := os.read(file, _CHUNK):
            yield data


def _hex(digest: str) -> str:
    """Return the digits of a digest; raises `ValueError` if it is none."""
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise ValueError(f"{digest!r} is not a digest")
    return found[1]
