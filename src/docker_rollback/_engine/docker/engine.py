"""Implements `Engine` over a docker-py client, for Docker and for Podman's Docker-compatible API.

Differences between engines are hidden here; `docs/explanation/engines.md` lists them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from docker import APIClient, DockerClient

from docker_rollback._arguments import instance, seconds
from docker_rollback._engine.docker.containers import DockerContainers
from docker_rollback._engine.docker.environment import client_from_env
from docker_rollback._engine.docker.errors import Asking
from docker_rollback._engine.docker.http import Wire
from docker_rollback._engine.docker.images import DockerImages
from docker_rollback._engine.docker.networks import DockerNetworks, DockerVolumes
from docker_rollback._engine.docker.rights import forbidden
from docker_rollback._engine.port import Engine, EngineInfo
from docker_rollback._host import Timer

# Podman uses Go's names for architectures; the kernel has names of its own.
_KERNEL_NAMES: Final[Mapping[str, str]] = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "386": "i686",
    "arm": "armv7l",
    "loong64": "loongarch64",
}
_CONTAINERD_STORE: Final = "io.containerd.snapshotter"

_STANDS: Final = 10.0  # seconds for which an engine's description of itself is cached
_TURN: Final = 1.0  # seconds that a thread waits for another one that asks


class DockerEngine(DockerContainers, DockerImages, DockerNetworks, DockerVolumes):
    """Connects to an engine through docker-py; implements `Engine`.

    A reference is a full id, an exact name, or the first digits of an id, at least 12. Several threads may use it at
    once.

    Example:
        >>> engine = DockerEngine(docker.from_env())
        >>> engine.info().flavour
        'docker'
    """

    def __init__(
        self,
        client: DockerClient | APIClient,
        *,
        timeout: float = 60.0,
        patience: float = 3600.0,
        address: str | None = None,
        timer: Timer = time,
    ) -> None:
        """Wrap a client; no request is sent before the first method call.

        Args:
            client: a docker-py client, high or low level. It is neither changed nor closed. Its API version is not
                used; requests use the engine's own, at most 1.51.
            timeout: the time for an answer to begin, in seconds.
            patience: the same for work that grows with data (create, commit, removals, images). A stop may take the
                container's own stop timeout plus `timeout`, if that is longer.
            address: the engine's address, for `info`; None to detect it.
            timer: measures time, and waits.
        """
        instance("client", client, (DockerClient, APIClient), what="a docker-py client")
        seconds("timeout", timeout, above=True)
        seconds("patience", patience, above=True)
        api = client.api if isinstance(client, DockerClient) else client
        super().__init__(Wire(api, timeout=timeout, patience=patience), timer)
        self._address = address
        self._info: tuple[EngineInfo | None, float] = (None, 0.0)
        self._asking = threading.Lock()

    @classmethod
    def from_env(cls, *, timeout: float = 60.0) -> Self:
        """Connect to the engine that the `docker` command would use.

        DOCKER_HOST and its companions come first, then the context of DOCKER_CONTEXT, then the context of ``docker
        context use``, then the default socket.

        Args:
            timeout: as for the constructor.

        Raises:
            EngineUnavailableError: no engine answers, or the connection lacks something; the error says what.

        Example:
            >>> engine = DockerEngine.from_env()
        """
        return cls(client_from_env(), timeout=timeout)

    def forbidden(self) -> list[str]:
        return forbidden(self._wire)

    def now(self) -> datetime:
        asking = Asking("ask the engine for its time")
        said = str(self._wire.json("GET", "/info", asking).get("SystemTime"))
        try:
            return datetime.fromisoformat(said)
        except ValueError as error:
            raise asking.failed(f"{said!r} is not a time") from error

    def info(self) -> EngineInfo:
        # This answer is expensive for an engine, and the part that is used here hardly changes. Several threads that
        # restore containers need it at once. If an engine hangs, they do not wait for it one after the other.
        alone = self._asking.acquire(timeout=_TURN)
        try:
            known, asked = self._info
            now = self._timer.monotonic()
            if known is None or not asked <= now < asked + _STANDS:
                said = self._wire.json("GET", "/info", Asking("ask the engine who it is"))
                known = _described(self._wire, said, self._address)
                self._info = known, now
            return known
        finally:
            if alone:
                self._asking.release()


def _described(wire: Wire, info: Mapping[str, Any], address: str | None) -> EngineInfo:
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
    """Return a text that identifies an engine.

    Docker stores an id with its data. Podman generates a new id for every answer, so its host's name and its data
    folder are used.
    """
    if flavour == "docker" and info.get("ID"):
        return str(info["ID"])
    return f"{info.get('Name') or ''}:{info.get('DockerRootDir') or ''}"


if TYPE_CHECKING:

    def _is_engine(engine: DockerEngine) -> Engine:
        return engine
