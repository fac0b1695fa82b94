"""Finds out which addresses the user requested for a container, if its engine does not say. Pure.

Podman shows requested addresses like those that it chose. But at each start it chooses the next free address, and a
random MAC address (seen with Podman 5.8, netavark). So an address that is the same after a stop and a start was
requested.

Docker shows all requested addresses except for MAC addresses on networks other than the one of the container's mode.
From version 28 on it chooses these at random at each start; before, it derived them from the IP address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from docker_rollback._inspection.recreate import ASKED, SHOWN_AS, attached_networks, primary_network, started_at
from docker_rollback._model import NotCovered

# Modes that Podman lists like networks.
_NO_NETWORKS: Final = ("bridge", "host", "none", "pasta", "private", "slirp4netns")


def with_asked(
    before: Mapping[str, Any], after: Mapping[str, Any] | None
) -> tuple[dict[str, Any], tuple[NotCovered, ...]]:
    """Add the requested addresses to an inspection by Podman; return it with the records of unknown ones.

    `before` is the inspection before a stop and a start, `after` the one after them. If that is None, or the container
    was not started in between or does not run, the addresses stay unknown.
    """
    later = _restarted(before, after)
    endpoints, unknown = _endpoints(before), []
    for name, endpoint in endpoints.items():
        if endpoint.get("IPAMConfig"):
            continue
        if name in later:
            if asked := _same(endpoint, later[name] or {}):
                endpoint[ASKED] = asked
        elif name not in _NO_NETWORKS:
            unknown.append(_unknown("address", name, "the next free one"))
    return _with_endpoints(before, endpoints), tuple(unknown)


def with_asked_macs(
    before: Mapping[str, Any], after: Mapping[str, Any] | None
) -> tuple[dict[str, Any], tuple[NotCovered, ...]]:
    """Add the requested MAC addresses to an inspection by Docker 25 or later; return it with records of unknown ones.

    The inspections are from before and after a stop and a start; the later one is None if the container is gone.
    """
    own, started, later = primary_network(before), started_at(before), _restarted(before, after)
    endpoints, unknown = _endpoints(before), []
    for name, endpoint in endpoints.items():
        address = endpoint.get("MacAddress")
        if name == own or name in _NO_NETWORKS[1:] or _is_made_from_address(endpoint):
            continue
        # Before its first start, a container shows requested addresses only.
        if not started or name in later:
            if address and (not started or address == (later[name] or {}).get("MacAddress")):
                endpoint[ASKED] = {"MacAddress": address}
        else:
            unknown.append(_unknown("MAC address", name, "a generated one"))
    return _with_endpoints(before, endpoints), tuple(unknown)


def asked_as_captured(inspection: Mapping[str, Any], captured: Mapping[str, Any]) -> dict[str, Any]:
    """Add the requested addresses that the capture found, for the networks that are still the same."""
    known = attached_networks(captured)
    endpoints = dict(attached_networks(inspection))
    for name, endpoint in endpoints.items():
        then = known.get(name) or {}
        if endpoint and ASKED in then and endpoint.get("NetworkID") == then.get("NetworkID"):
            endpoints[name] = {**endpoint, ASKED: then[ASKED]}
    return _with_endpoints(inspection, endpoints)


def _restarted(before: Mapping[str, Any], after: Mapping[str, Any] | None) -> Mapping[str, Mapping[str, Any] | None]:
    """Return the endpoints of the second run; empty if the container was not started in between, or does not run."""
    if (
        after is None
        or not after["State"]["Running"]
        or not started_at(before)
        or started_at(after) == started_at(before)
    ):
        return {}
    return attached_networks(after)


def _endpoints(inspection: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: dict(endpoint or {}) for name, endpoint in attached_networks(inspection).items()}


def _with_endpoints(inspection: Mapping[str, Any], endpoints: Mapping[str, Any]) -> dict[str, Any]:
    return {**inspection, "NetworkSettings": {**inspection["NetworkSettings"], "Networks": endpoints}}


def _unknown(kind: str, network: str, instead: str) -> NotCovered:
    return NotCovered(
        f"{kind} on network {network}",
        "its engine does not say whether it was requested, which a capture by 'stop' of a running container finds out; "
        f"if the container is recreated, it gets {instead}",
    )


def _is_made_from_address(endpoint: Mapping[str, Any]) -> bool:
    """Return True for a MAC address that Docker before version 28 derived from the IP address."""
    if not endpoint.get("IPAddress"):
        return False
    parts = ipaddress.ip_address(str(endpoint["IPAddress"])).packed
    return endpoint.get("MacAddress") == ":".join(f"{part:02x}" for part in (2, 0x42, *parts))


def _same(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    addresses = {
        field: str(before[shown])
        for field, shown in SHOWN_AS.items()
        if before.get(shown) and before[shown] == after.get(shown)
    }
    asked: dict[str, Any] = {"IPAMConfig": addresses} if addresses else {}
    if before.get("MacAddress") and before["MacAddress"] == after.get("MacAddress"):
        asked["MacAddress"] = before["MacAddress"]
    return asked
