"""Converts an engine's answers about itself to an `EngineInfo`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from docker_rollback._engine.docker.http import Wire
from docker_rollback._engine.port import EngineInfo

# Podman uses Go's names for architectures; the kernel has names of its own.
_KERNEL_NAMES: Final[Mapping[str, str]] = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "386": "i686",
    "arm": "armv7l",
    "loong64": "loongarch64",
}
_CONTAINERD_STORE: Final = "io.containerd.snapshotter"


def describe(wire: Wire, info: Mapping[str, Any], address: str | None) -> EngineInfo:
    """Return the description of an engine, from its version and info answers."""
    flavour: Literal["docker", "podman"] = "podman" if wire.podman else "docker"
    architecture = str(info.get("Architecture") or "")
    return EngineInfo(
        flavour=flavour,
        version=str(info.get("ServerVersion") or ""),
        api_version=wire.version,
        architecture=_KERNEL_NAMES.get(architecture, architecture),
        storage_driver=str(info.get("Driver") or ""),
        containerd_store=_CONTAINERD_STORE in str(info.get("DriverStatus") or ""),
        default_runtime=str(info.get("DefaultRuntime") or ""),
        address=address or wire.address,
        root=str(info.get("DockerRootDir") or ""),
        identity=identity_of(flavour, info),
    )


def identity_of(flavour: str, info: Mapping[str, Any]) -> str:
    """Return a text that tells an engine from every other one.

    Docker stores an id with its data. Podman generates a new id for every answer, so its host's name and its data
    folder are used.
    """
    if flavour == "docker" and info.get("ID"):
        return str(info["ID"])
    return f"{info.get('Name') or ''}:{info.get('DockerRootDir') or ''}"
