"""The engine behind a docker-py client: Docker, or Podman by Docker's API.

What engines answer differently is made one behaviour here; `docs/explanation/engines.md` lists it.
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

_STANDS: Final = 10.0
"""Seconds for which what an engine says of itself stands."""


class DockerEngine(DockerContainers, DockerImages, DockerNetworks, DockerVolumes):
    """An engine, reached by docker-py; implements `Engine`.

    A reference is a full id, an exact name, or the beginning of an id of at least 12 digits. Safe to use from several
    threads at once.

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
        """Use a client; nothing is asked of the engine before the first call of a method.

        Args:
            client: of docker-py, high or low level. It stays the caller's: it is neither changed nor closed. The
                version of the API that it was told is not used: it is the engine's, at most 1.51.
            timeout: seconds until an answer must have begun.
            patience: the same where the work grows with data (create, commit, removals, images). A stop has as long as
                the container itself asks for, and `timeout` more, where that is longer.
            address: where the engine is, for `info`; found out where None.
            sleep: waits, in seconds.
            clock: tells seconds.
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
        """Use the engine that the `docker` command would: by DOCKER_HOST and its kin, or by the current context.

        That context is the one that DOCKER_CONTEXT names, else the one of ``docker context use``. DOCKER_HOST comes
        before both.

        Args:
            timeout: as for the constructor.

        Raises:
            EngineUnavailableError: no engine answers there, or something is missing on the way; it says what.

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
            raise asking.failed(f"{said!r} is no time") from error

    def info(self) -> EngineInfo:
        # An engine counts and measures a good deal for this answer, of which nothing here changes from call to call.
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
