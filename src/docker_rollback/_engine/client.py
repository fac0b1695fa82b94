"""Turns the `client` argument into an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, ForwardRef, TypeAlias, Union

from docker_rollback._engine.port import Engine
from docker_rollback._engine.retry import RetryingEngine

if TYPE_CHECKING:
    from docker import APIClient, DockerClient

    Client: TypeAlias = DockerClient | APIClient | Engine
    """A docker-py client, high or low level, or an `Engine`."""
else:
    # These import docker-py when typing.get_type_hints evaluates them, in the module of whichever function it is given.
    _CLIENTS = (ForwardRef(f"__import__('docker').{name}") for name in ("DockerClient", "APIClient"))
    Client = Union[*_CLIENTS, Engine]


def as_engine(client: Client | None) -> Engine:
    """Return the engine of `client`; None means the engine that the environment names.

    An `Engine` is returned unchanged. A docker-py client is wrapped in an engine that retries safe requests. Anything
    else is a `TypeError`.
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
