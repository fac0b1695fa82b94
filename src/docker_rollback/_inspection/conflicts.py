"""Finds the volumes, ports and addresses over which two containers conflict, and subnets of networks. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any

from docker_rollback._inspection.host_folders import uses
from docker_rollback._inspection.recreate import user_endpoints
from docker_rollback._model import ContainerSnapshot, Observed

_EVERY_ADDRESS = ("", "0.0.0.0", "::")
# The address allocators (IPAM drivers) of Docker and Podman themselves; others have rules of their own.
_OWN_SOURCES = ("default", "host-local")


def conflict(wanted: ContainerSnapshot, running: Observed, *, folders: Collection[str] = ()) -> str | None:
    """Return why `wanted` cannot be restored while `running` runs; None if it can.

    `folders` are the bind-mounted folders that are restored too.

    Example:
        >>> conflict(snapshot, observe(engine.inspect_container("web-new")))
        'holds port 8080/tcp'
    """
    shared = sorted({mount.source for mount in wanted.mounts if mount.kind == "volume"} & set(running.volumes))
    if shared:
        return f"uses volume {shared[0]!r}"
    for folder in sorted({mount.source for mount in wanted.mounts if mount.kind == "bind"} & set(folders)):
        if any(uses(mount, folder) for mount in running.mounts):
            return f"binds folder {folder!r}, or a part of it"
    if not wanted.state.alive:
        return None
    asked = set(_ports(wanted.inspection["HostConfig"].get("PortBindings")))
    for port, held in product(sorted(asked), _ports(running.inspection.get("NetworkSettings", {}).get("Ports"))):
        # Without a port, or for port 0, the engine chooses a free one.
        if port[1] not in ("", "0") and _collide(port, held):
            return f"holds port {port[1]}/{port[2]}"
    theirs = _addresses_in_use(running.inspection)
    for network, address in sorted(_fixed_addresses(wanted.inspection)):
        if (network, address) in theirs:
            return f"holds address {address} in network {network!r}"
    return None


def common_subnet(wanted: Mapping[str, Any], standing: Mapping[str, Any]) -> str | None:
    """Return the subnet of a wanted network that overlaps one of an existing network; None if both can exist.

    Networks of different scopes, or with other address allocators, do not conflict. Networks that share a subnet on
    purpose have a range of it each.
    """
    if wanted.get("ConfigOnly") or standing.get("ConfigOnly"):
        # A config-only network has settings for other networks, and no addresses.
        return None
    source = _source_of_addresses(wanted)
    if source != _source_of_addresses(standing) or source[1] not in _OWN_SOURCES:
        return None
    for mine, theirs in product(_whole_subnets(wanted), _whole_subnets(standing)):
        if mine.version == theirs.version and mine.overlaps(theirs):
            return str(mine)
    return None


def _source_of_addresses(network: Mapping[str, Any]) -> tuple[object, object]:
    return network.get("Scope"), (network.get("IPAM") or {}).get("Driver")


def _whole_subnets(network: Mapping[str, Any]) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for pool in (network.get("IPAM") or {}).get("Config") or ():
        if pool.get("Subnet") and not pool.get("IPRange"):
            yield ipaddress.ip_network(pool["Subnet"], strict=False)


def _ports(published: Mapping[str, Any] | None) -> Iterator[tuple[str, str, str]]:
    """Yield (address, port, protocol) of host ports, from a request or from an inspection's published ports."""
    for exposed, bindings in (published or {}).items():
        protocol = exposed.partition("/")[2] or "tcp"
        for binding in bindings or ():
            yield str(binding.get("HostIp") or ""), str(binding.get("HostPort") or ""), protocol


def _collide(one: tuple[str, str, str], other: tuple[str, str, str]) -> bool:
    same_address = one[0] == other[0] or one[0] in _EVERY_ADDRESS or other[0] in _EVERY_ADDRESS
    return same_address and one[1:] == other[1:]


def _fixed_addresses(inspection: Mapping[str, Any]) -> set[tuple[str, str]]:
    wanted = user_endpoints(inspection).items()
    configured = [(network, endpoint.get("IPAMConfig") or {}) for network, endpoint in wanted]
    keys = ("IPv4Address", "IPv6Address")
    return {(network, str(ipam[key])) for network, ipam in configured for key in keys if ipam.get(key)}


def _addresses_in_use(inspection: Mapping[str, Any]) -> set[tuple[str, str]]:
    attached = (inspection.get("NetworkSettings", {}).get("Networks") or {}).items()
    return {
        (str(network), str(endpoint[key]))
        for network, endpoint in attached
        for key in ("IPAddress", "GlobalIPv6Address")
        if endpoint and endpoint.get(key)
    }
