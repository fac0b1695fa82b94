"""Whatever people have at hand that leads to an engine, made an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, Union

from docker_rollback._engine.port import Engine
from docker_rollback._engine.retry import RetryingEngine

if TYPE_CHECKING:
    from docker import APIClient, DockerClient

Client: TypeAlias = Union["DockerClient", "APIClient", Engine]
"""A docker-py client, high or low level, or an engine of one's own."""


def as_engine(client: Client | None) -> Engine:
    """Return the engine behind `client`; None means the one that the environment names.

    Raises:
        TypeError: it is neither.

    An engine of one's own is taken as it is; calls to one that docker-py reaches are tried again where that is safe.
    """
    # docker-py takes half a second to import, so nothing imports it before an engine is needed.
    from docker import APIClient, DockerClient  # noqa: PLC0415  (see above)

    from docker_rollback._engine.docker import DockerEngine  # noqa: PLC0415  (see above)

    if client is None:
        return RetryingEngine(DockerEngine.from_env())
    if isinstance(client, DockerClient | APIClient):
        return RetryingEngine(DockerEngine(client))
    if not all(callable(getattr(client, verb, None)) for verb in ("info", "inspect_container", "exec")):
        raise TypeError(f"client is a docker-py client, an Engine or None, not {client!r}")
    return client
