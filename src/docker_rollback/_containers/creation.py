"""Creates containers from requests, on exactly the networks that they ask for."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from docker_rollback._engine import Engine
from docker_rollback._inspection import CreateRequest, attached_networks
from docker_rollback.errors import NetworkNotFoundError


def body_for(engine: Engine, request: CreateRequest) -> dict[str, Any]:
    """Return a request's body for the create call of this engine; `join` attaches the other networks."""
    endpoints = {name: endpoint for name, endpoint in request.networks.items() if _at_creation(engine, endpoint)}
    body = dict(request.body)
    if endpoints:
        asked = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
        body["NetworkingConfig"] = {"EndpointsConfig": {**asked, **endpoints}}
    return body


def join(engine: Engine, container: str, request: CreateRequest) -> None:
    """Attach a new container to the networks that its creation left out; call it before the first start."""
    for network, endpoint in request.networks.items():
        if not _at_creation(engine, endpoint):
            engine.connect_network(network, container, endpoint)
    if request.isolated:
        # Without an endpoint in the request, the engine attaches the container to the network of its mode. If the
        # original had left that network, the new container must never start on it.
        for network in attached_networks(engine.inspect_container(container)):
            # Podman lists modes that are no networks ("none", "slirp4netns") among the networks.
            with suppress(NetworkNotFoundError):
                engine.disconnect_network(network, container, force=True)


def forgets_connected_macs(engine: Engine) -> bool:
    """Return True if the engine keeps an endpoint's MAC address only if the create asks for it (Docker 25 to 28)."""
    return _is_docker_25(engine)


def needs_network_of_mode(engine: Engine) -> bool:
    """Return True if the engine cannot start a container whose mode names a network that is gone (Docker 25 to 28)."""
    return _is_docker_25(engine)


def _is_docker_25(engine: Engine) -> bool:
    info = engine.info()
    return info.flavour != "podman" and tuple(map(int, info.api_version.split("."))) >= (1, 44)


def _at_creation(engine: Engine, endpoint: object) -> bool:
    return isinstance(endpoint, dict) and "MacAddress" in endpoint and forgets_connected_macs(engine)
