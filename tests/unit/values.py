"""Values of a backup, for tests of what only computes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from docker_rollback._model.backup import (
    Backup,
    ContainerSnapshot,
    ContainerState,
    Descriptor,
    EngineRecord,
    ImageSnapshot,
    Mount,
    NetworkRecord,
    VolumeArchive,
)

ENGINE = EngineRecord("docker", "28.5.2", "1.51", "x86_64", containerd_store=False, default_runtime="runc")
BLOB = Descriptor("application/vnd.oci.image.layer.v1.tar+zstd", "sha256:" + "0" * 64, 7)


def snapshot(name: str, *mounts: Mount) -> ContainerSnapshot:
    """Return the snapshot of a running container."""
    image = ImageSnapshot(
        reference=f"{name}:1",
        original_id="sha256:11",
        id="sha256:11",
        layers=("sha256:22",),
        committed_layers=("sha256:22",),
        clean=True,
        tag=f"docker-rollback:x.{name}",
        manifest=BLOB,
    )
    inspection: dict[str, Any] = {"HostConfig": {}, "Config": {}}
    return ContainerSnapshot(name, name * 4, inspection, ContainerState("running"), image, mounts)


def volume(name: str, *, anonymous: bool = False) -> VolumeArchive:
    """Return the archive of a volume."""
    return VolumeArchive(name, {"Name": name}, anonymous, "direct", BLOB)


def backup(
    *containers: ContainerSnapshot,
    volumes: tuple[VolumeArchive, ...] = (),
    networks: tuple[NetworkRecord, ...] = (),
) -> Backup:
    """Return a backup of these things."""
    return Backup(
        id="20260102T030405Z-x-a1b2c3",
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        engine=ENGINE,
        quiesce="stop",
        containers=containers,
        volumes=volumes,
        networks=networks,
    )
