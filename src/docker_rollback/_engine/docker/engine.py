"""Implements `Engine` over a docker-py client, for Docker and for Podman's Docker-compatible API.

Differences between engines are hidden here; `docs/explanation/engines.md` lists them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, Self

from docker import APIClient, DockerClient

from docker_rollback._arguments import instance, seconds
from docker_rollback._engine.docker.containers import DockerContainers
from docker_rollback._engine.docker.environment import client_from_env
from docker_rollback._engine.docker.errors import Asking
from docker_rollback._engine.docker.http import Wire
from docker_rollback._engine.docker.images import DockerImages
from docker_rollback._engine.docker.info import describe
from docker_rollback._engine.docker.networks import DockerNetworks, DockerVolumes
from docker_rollback._engine.docker.rights import forbidden
from docker_rollback._engine.port import Engine, EngineInfo

_STANDS: Final = 10.0  # seconds for which an engine's description of itself is cached


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
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wrap a client; no request is sent before the first method call.

        Args:
            client: a docker-py client, high or low level. It is neither changed nor closed. Its API version is not
                used; requests use the engine's own, at most 1.51.
            timeout: the time for an answer to begin, in seconds.
            patience: the same for work that grows with data (create, commit, removals, images). A stop may take the
                container's own stop timeout plus `timeout`, if that is longer.
            address: the engine's address, for `info`; None to detect it.
            sleep: waits for a number of seconds.
            clock: returns a time in seconds.
        """
        instance("client", client, (DockerClient, APIClient), what="a docker-py client")
        seconds("timeout", timeout, above=True)
        seconds("patience", patience, above=True)
        super().__init__(
            Wire(client.api if isinstance(client, DockerClient) else client, timeout=timeout, patience=patience),
            sleep,
            clock,
        )
        self._address = address
        self._info: tuple[EngineInfo | None, float] = (None, 0.0)

    @classmethod
    def from_env(cls, *, timeout: float = 60.0) -> Self:
        """Connect to the engine that the `docker` command would use.

        DOCKER_HOST and its companions come first, then the context of DOCKER_CONTEXT, then the context of ``docker
        context use``.

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
        # This answer is expensive for an engine, and the part that is used here hardly changes.
        known, asked = self._info
        now = self._clock()
        if known is None or not asked <= now < asked + _STANDS:
            said = self._wire.json("GET", "/info", Asking("ask the engine who it is"))
            known = describe(self._wire, said, self._address)
            self._info = known, now
        return known


if TYPE_CHECKING:

    def _is_engine(engine: DockerEngine) -> Engine:
        return engine
