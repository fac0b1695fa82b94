"""The files in which engines keep images, as the tests of image files need them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

from docker_rollback._engine.port import EngineInfo, Inspection
from tests.unit.store.making import Image, digest


def split(tar: bytes) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Return the lines of a layer's tar-split file, and the content of its files by name."""
    lines: list[bytes] = []
    files: dict[bytes, bytes] = {}

    def add(entry: dict[str, object]) -> None:
        lines.append(json.dumps({**entry, "position": len(lines)}).encode() + b"\n")

    def add_segment(data: bytes) -> None:
        if data:
            add({"type": 2, "payload": base64.b64encode(data).decode()})

    at = 0
    with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            add_segment(tar[at : member.offset_data])
            at = member.offset_data
            name = member.name.encode("utf-8", "surrogateescape")
            try:
                named: dict[str, object] = {"name": name.decode()}
            except UnicodeDecodeError:
                named = {"name_raw": base64.b64encode(name).decode()}
            size = member.size if member.isreg() else 0
            add({"type": 1, **named, **({"size": size} if size else {}), "payload": "AAAAAAAAAAA="})
            if size:
                files[name] = tar[at : at + size]
                at += size
    add_segment(tar[at:])
    return lines, files


def unpack(tar: bytes, split_file: Path, folder: Path) -> None:
    """Write a layer as engines keep it; whiteouts, links and devices, which have no content, are left out."""
    lines, files = split(tar)
    folder.mkdir(parents=True)
    for name, content in files.items():
        _write(folder / os.fsdecode(name), content)
    split_file.parent.mkdir(parents=True, exist_ok=True)
    split_file.write_bytes(gzip.compress(b"".join(lines)))


def keep_docker(root: Path, img: Image) -> Inspection:
    """Keep an image as Docker's own store does, and return its inspection."""
    chain = ""
    for layer in img.layers:
        chain = digest(f"{chain} {digest(layer)}".encode()) if chain else digest(layer)
        folder = root / "image/overlay2/layerdb/sha256" / chain[7:]
        if not folder.exists():
            name = hashlib.sha256(f"cache {chain}".encode()).hexdigest()
            unpack(layer, folder / "tar-split.json.gz", root / "overlay2" / name / "diff")
            (folder / "cache-id").write_text(name)
    _write(root / "image/overlay2/imagedb/content/sha256" / digest(img.config)[7:], img.config)
    return {"Id": digest(img.config), "RootFS": {"Layers": list(img.diff_ids)}}


def keep_podman(root: Path, img: Image) -> Inspection:
    """Keep an image as Podman does, and return its inspection."""
    folders: list[Path] = []
    for number, layer in enumerate(img.layers):
        name = hashlib.sha256(f"{number} {digest(layer)}".encode()).hexdigest()
        folders.insert(0, root / "overlay" / name / "diff")
        unpack(layer, root / "overlay-layers" / f"{name}.tar-split.gz", folders[0])
    image = digest(img.config)
    _write(root / "overlay-images" / image[7:] / f"={base64.b64encode(image.encode()).decode()}", img.config)
    upper, *lower = map(str, folders)
    data = {"UpperDir": upper, **({"LowerDir": ":".join(lower)} if lower else {})}
    return {"Id": image, "RootFS": {"Layers": list(img.diff_ids)}, "GraphDriver": {"Data": data}}


KEEPING = {"docker": keep_docker, "podman": keep_podman}


def info_of(kind: str, root: Path) -> EngineInfo:
    """Return what an engine of a kind says about itself."""
    return EngineInfo(
        flavour="podman" if kind == "podman" else "docker",
        version="1",
        api_version="1.45",
        architecture="x86_64",
        storage_driver={"docker": "overlay2", "podman": "overlay"}[kind],
        containerd_store=False,
        default_runtime="runc",
        address="unix:///run/docker.sock",
        root=str(root),
    )


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
