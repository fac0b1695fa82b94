"""What the tests of the store are made of: images in every layout that engines export, backups, a failing disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import frozen

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from docker_rollback._model.backup import (
    Backup,
    ContainerSnapshot,
    ContainerState,
    Descriptor,
    EngineRecord,
    ImageSnapshot,
    NetworkRecord,
    VolumeArchive,
)
from docker_rollback._store.draft import Draft
from docker_rollback._store.files import Disk
from docker_rollback._store.oci import VOLUME_ARCHIVE
from docker_rollback._store.store import BackupStore

ENGINE = EngineRecord("docker", "28.5.2", "1.51", "x86_64", containerd_store=False, default_runtime="runc")
EPOCH = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

Layout = Callable[["Image"], bytes]


def digest(data: bytes) -> str:
    """Return the digest of some bytes, by hashlib alone."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def zstd_of(data: bytes, level: int = 3) -> bytes:
    """Return bytes compressed with zstd."""
    return zstd.compress(data, level=level)


def tar(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """Return a tar of these files and symlinks, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE
            info.linkname = target
            archive.addfile(info)
    return buffer.getvalue()


def read_tar(data: bytes) -> dict[str, bytes]:
    """Return the files of a tar."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                files[member.name] = file.read()
    return files


@frozen
class Image:
    """An image: its layers as plain tars, lowest first, and its config."""

    layers: tuple[bytes, ...]
    config: bytes

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The digests of its plain layers."""
        return tuple(digest(layer) for layer in self.layers)


def image(*contents: bytes, label: str = "") -> Image:
    """Return an image with one layer for each content."""
    layers = tuple(tar({f"file{number}": content}) for number, content in enumerate(contents))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {"x": label}, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    return Image(layers, json.dumps(config, indent=2).encode())


def small_image() -> Image:
    """Return an image of three layers, two of them equal."""
    return image(b"base" * 5000, b"", b"")


def pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    """Yield bytes as an engine's stream would."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _docker_table(config: str, layers: Sequence[str]) -> bytes:
    return json.dumps([{"Config": config, "RepoTags": ["app:1"], "Layers": list(layers)}]).encode()


def legacy(img: Image) -> bytes:
    """Return an image as Docker before 25 saves it: a folder a layer, a symlink for a layer that comes again."""
    files: dict[str, bytes] = {f"{digest(img.config)[7:]}.json": img.config}
    links: dict[str, str] = {}
    seen: dict[str, str] = {}
    names = []
    for number, layer in enumerate(img.layers):
        folder = hashlib.sha256(f"v1 {number}".encode()).hexdigest()
        name = f"{folder}/layer.tar"
        files[f"{folder}/VERSION"] = b"1.0"
        files[f"{folder}/json"] = json.dumps({"id": folder}).encode()
        if digest(layer) in seen:
            links[name] = f"../{seen[digest(layer)]}"
        else:
            files[name] = layer
            seen[digest(layer)] = name
        names.append(name)
    files["manifest.json"] = _docker_table(f"{digest(img.config)[7:]}.json", names)
    files["repositories"] = b'{"app":{"1":"x"}}'
    return tar(files, links)


def podman(img: Image) -> bytes:
    """Return an image as Podman saves it: plain layers named by their digests, symlinks for old readers."""
    files = {f"{digest(layer)[7:]}.tar": layer for layer in img.layers}
    files[f"{digest(img.config)[7:]}.json"] = img.config
    links = {f"v1-{number}/layer.tar": f"../{digest(layer)[7:]}.tar" for number, layer in enumerate(img.layers)}
    names = [f"{digest(layer)[7:]}.tar" for layer in img.layers]
    files["manifest.json"] = _docker_table(f"{digest(img.config)[7:]}.json", names)
    return tar(files, links)


def _blob(data: bytes) -> str:
    return "blobs/sha256/" + digest(data)[7:]


def manifest_of(img: Image, layers: Sequence[bytes], kind: str) -> bytes:
    """Return the manifest that an engine writes for an image whose layers are these bytes."""
    media_type = "application/vnd.oci.image.layer.v1.tar" + kind
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(img.config),
                "size": len(img.config),
            },
            "layers": [{"mediaType": media_type, "digest": digest(layer), "size": len(layer)} for layer in layers],
        },
        indent=1,
    ).encode()


def _oci(img: Image, layers: Sequence[bytes], kind: str) -> bytes:
    manifest = manifest_of(img, layers, kind)
    root = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(manifest),
        "size": len(manifest),
        "annotations": {"org.opencontainers.image.ref.name": "1"},
    }
    return tar(
        {
            **{_blob(blob): blob for blob in (*layers, img.config, manifest)},
            "index.json": json.dumps({"schemaVersion": 2, "manifests": [root]}).encode(),
            "manifest.json": _docker_table(_blob(img.config), [_blob(layer) for layer in layers]),
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        }
    )


def oci_plain(img: Image) -> bytes:
    """Return an image as Docker from 25 on saves it: an OCI layout of plain layers."""
    return _oci(img, img.layers, "")


def gzipped(img: Image) -> list[bytes]:
    """Return an image's layers as an engine that keeps them compressed has them."""
    return [gzip.compress(layer, mtime=1) for layer in img.layers]


def oci_gzip(img: Image) -> bytes:
    """Return an image as Docker with containerd's store saves it: an OCI layout of compressed layers."""
    return _oci(img, gzipped(img), "+gzip")


def oci_mixed(img: Image) -> bytes:
    """Return an image as containerd's store saves one whose base was loaded plain and whose top was committed."""
    layers = [*img.layers[:-1], gzipped(img)[-1]]
    return _oci(img, layers, "")


def docker_types(archive: bytes, img: Image) -> bytes:
    """Return an archive whose manifest has Docker's own media types, as one pulled from an old registry."""
    files = read_tar(archive)
    manifest = manifest_of(img, gzipped(img), "+gzip")
    theirs = (
        manifest.replace(b"oci.image.manifest.v1", b"docker.distribution.manifest.v2")
        .replace(b"oci.image.config.v1", b"docker.container.image.v1")
        .replace(b"oci.image.layer.v1.tar+gzip", b"docker.image.rootfs.diff.tar.gzip")
    )
    index = files["index.json"].replace(digest(manifest).encode(), digest(theirs).encode())
    del files[_blob(manifest)]
    return tar({**files, _blob(theirs): theirs, "index.json": index})


def oci_zstd(img: Image) -> bytes:
    """Return an image with layers in zstd, as containerd's store keeps what it pulled so."""
    return _oci(img, [zstd_of(layer) for layer in img.layers], "+zstd")


def platforms(img: Image) -> tuple[bytes, bytes]:
    """Return an image as containerd's store saves one of several platforms, and the index that names them all.

    One of its two platforms was never fetched; its attestation was.
    """
    layers = gzipped(img)
    manifest = manifest_of(img, layers, "+gzip")
    statement = b'{"_type": "https://in-toto.io/Statement/v0.1"}'
    nothing = json.dumps({"architecture": "unknown", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    attestation = manifest_of(Image((), nothing), [statement], "")
    index = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [
                {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": found,
                    "size": size,
                    "platform": {"architecture": architecture, "os": "linux"},
                }
                for found, size, architecture in (
                    (digest(b"never fetched"), 13, "arm64"),
                    (digest(manifest), len(manifest), "amd64"),
                    (digest(attestation), len(attestation), "unknown"),
                )
            ],
        }
    ).encode()
    root = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest(index), "size": len(index)}
    files = {
        **{_blob(blob): blob for blob in (attestation, statement, nothing, index, *layers, img.config, manifest)},
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [root]}).encode(),
        "manifest.json": _docker_table(_blob(img.config), [_blob(layer) for layer in layers]),
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    }
    return tar(files), index


LAYOUTS: dict[str, Layout] = {
    "legacy": legacy,
    "podman": podman,
    "oci-plain": oci_plain,
    "oci-gzip": oci_gzip,
    "oci-mixed": oci_mixed,
    "oci-zstd": oci_zstd,
}


def add_volume(draft: Draft, name: str, data: bytes, increment: bytes | None = None) -> VolumeArchive:
    """Write a volume's archives into a draft."""
    blobs = []
    for content in (data, increment):
        if content is not None:
            with draft.blob(VOLUME_ARCHIVE) as writer:
                writer.write(zstd_of(content))
                blobs.append(writer.close())
    size = len(data) + len(increment or b"")
    base, *rest = blobs
    inspection = {"Name": name, "Options": None}
    return VolumeArchive(name, inspection, False, "direct", base, rest[0] if rest else None, size)


def snapshot(name: str, img: Image, manifest: Descriptor | None) -> ContainerSnapshot:
    """Return a container's snapshot on an image."""
    fields = ImageSnapshot("app:1", digest(img.config), digest(img.config), img.diff_ids, (), True, "x:y", manifest)
    inspection = {"Config": {"Env": ["SECRET=hunter2"], "Cmd": None}, "HostConfig": {"Memory": 2**40}}
    return ContainerSnapshot(name, "c0ffee" * 10 + "beef", inspection, ContainerState("running"), fields)


def backup_of(
    backup_id: str,
    containers: Sequence[ContainerSnapshot],
    volumes: Sequence[VolumeArchive] = (),
    *,
    created: datetime = EPOCH,
) -> Backup:
    """Return a backup's record."""
    network = NetworkRecord("net", "n1", {"Name": "net", "IPAM": {"Config": []}})
    return Backup(backup_id, created, ENGINE, "stop", tuple(containers), tuple(volumes), (network,))


def save(
    store: BackupStore,
    backup_id: str = "b1",
    *,
    img: Image | None = None,
    layout: Layout = oci_plain,
    volume: bytes = b"rows" * 3000,
    names: Sequence[str] = ("web",),
    created: datetime = EPOCH,
) -> Backup:
    """Write a small backup: one image, one volume with an increment."""
    img = img or small_image()
    with store.draft(backup_id) as draft:
        manifest = draft.add_image(pieces(layout(img)), layers=img.diff_ids)
        archive = add_volume(draft, "data", volume, b"changes")
        backup = backup_of(backup_id, [snapshot(name, img, manifest) for name in names], [archive], created=created)
        draft.commit(backup)
    return backup


def days(number: float) -> timedelta:
    """Return so many days."""
    return timedelta(days=number)


def blob_files(store: BackupStore) -> list[Path]:
    """Return the files of a store's blobs, the largest first."""
    found = (store.path / "blobs" / "sha256").iterdir()
    return sorted(found, key=lambda path: (-path.stat().st_size, path.name))


def children_of(path: Path, backup_id: str) -> list[str]:
    """Return the digest of a backup's index and of its children, by what the layout's own files say."""
    entries = json.loads((path / "index.json").read_bytes())["manifests"]
    (root,) = [
        entry["digest"] for entry in entries if entry["annotations"]["org.opencontainers.image.ref.name"] == backup_id
    ]
    children = json.loads((path / "blobs" / "sha256" / root[7:]).read_bytes())["manifests"]
    return [root, *(child["digest"] for child in children)]


def blobs_of(path: Path, backup_id: str) -> set[str]:
    """Return the digests of all that a backup consists of, by what the layout's own files say."""
    root, *children = children_of(path, backup_id)
    found = {root, *children}
    for child in children:
        manifest = json.loads((path / "blobs" / "sha256" / child[7:]).read_bytes())
        found.update(blob["digest"] for blob in (manifest["config"], *manifest["layers"]))
    return found


def tree(path: Path) -> dict[str, bytes]:
    """Return all files below a folder, with their content."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


class StoppedError(BaseException):
    """The process died here: nothing of it runs any more, so no cleaning up may pass through the disk."""


class FailingDisk(Disk):
    """A disk whose n-th effect fails, or is the last thing before death.

    It does not wait for the real disk: no test pulls the plug.

    Args:
        at: which call fails, from 1 on; none where 0.
        error: what it raises. After a `StoppedError` every later call raises it too.
        half: whether a failing write writes the first half of its data.
    """

    def __init__(self, at: int = 0, error: BaseException | None = None, *, half: bool = False) -> None:
        self.calls = 0
        self.log: list[str] = []
        self._at = at
        self._error = error
        self._half = half

    def fail(self, at: int, error: BaseException | None) -> None:
        """Fail at another call, none where 0."""
        self._at, self._error = at, error

    def _count(self, what: str) -> None:
        self.calls += 1
        self.log.append(what)
        dead = isinstance(self._error, StoppedError) and self.calls > self._at > 0
        if self._error is not None and (self.calls == self._at or dead):
            raise self._error

    def make_folder(self, path: Path) -> None:
        """Count, then do it."""
        self._count(f"make_folder {path.name}")
        super().make_folder(path)

    def create(self, path: Path) -> int:
        """Count, then do it."""
        self._count("create")
        return super().create(path)

    def reopen(self, path: Path) -> int:
        """Count, then do it."""
        self._count("reopen")
        return super().reopen(path)

    def write(self, fd: int, data: bytes | memoryview) -> None:
        """Count, then do it, or half of it."""
        try:
            self._count("write")
        except BaseException:
            if self._half and self.calls == self._at:
                super().write(fd, memoryview(data)[: len(data) // 2])
            raise
        super().write(fd, data)

    def sync(self, fd: int) -> None:
        """Count."""
        self._count("sync" if fd else "sync of stdin")

    def rename(self, source: Path, target: Path) -> None:
        """Count, then do it."""
        self._count(f"rename {target.name}")
        super().rename(source, target)

    def sync_folder(self, path: Path) -> None:
        """Count."""
        self._count(f"sync_folder {path.name}")

    def remove(self, path: Path) -> None:
        """Count, then do it."""
        self._count(f"remove {path.name}")
        super().remove(path)

    def remove_folder(self, path: Path) -> None:
        """Count, then do it."""
        self._count(f"remove_folder {path.name}")
        super().remove_folder(path)


def add_nothing() -> Descriptor:
    """Return the descriptor of a manifest that is nowhere."""
    return Descriptor("application/vnd.oci.image.manifest.v1+json", digest(b"nowhere"), 7)
