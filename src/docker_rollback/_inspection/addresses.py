"""Finds out which of its addresses a container asked for, if its engine does not say. Pure.

Podman shows an address that was asked for as it shows one that it chose. But it chooses the next one with each start,
and a MAC address at random (seen with Podman 5.8, netavark): what is the same after a stop and a start was asked for.

Docker tells everything but the MAC address of a network that is not the one of the container's mode. From version 28 on
it chooses these at random with each start; before, it makes them from the address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from docker_rollback._inspection.recreate import ASKED, SHOWN_AS, attached_networks, primary_network, started_at
from docker_rollback._model import NotCovered

_NO_NETWORKS: Final = ("bridge", "host", "none", "pasta", "private", "slirp4netns")
"""Modes that Podman lists as if they were networks."""


def with_asked(
    before: Mapping[str, Any], after: Mapping[str, Any] | None
) -> tuple[dict[str, Any], tuple[NotCovered, ...]]:
    """Return an inspection that tells the addresses that were asked for, and what remains unknown.

    Args:
        before: the inspection, of before a stop and a start.
        after: the same of after it; None where there is none. Where the container was not started in between, or does
            not run, nothing can be told.
    """
    networks = {name: dict(endpoint or {}) for name, endpoint in attached_networks(before).items()}
    later = attached_networks(after) if after is not None else {}
    told = after is not None and after["State"]["Running"] and started_at(after) != started_at(before) != ""
    unknown: list[NotCovered] = []
    for name, endpoint in networks.items():
        if endpoint.get("IPAMConfig"):
            continue
        if told and name in later:
            if asked := _same(endpoint, later[name] or {}):
                endpoint[ASKED] = asked
        elif name not in _NO_NETWORKS:
            unknown.append(
                NotCovered(
                    f"address on network {name}",
                    "its engine does not say whether it was asked for, which a capture by 'stop' of a container that "
                    "runs finds out; made anew, the container gets the next free one",
                )
            )
    return {**before, "NetworkSettings": {**before["NetworkSettings"], "Networks": networks}}, tuple(unknown)


def with_asked_macs(
    before: Mapping[str, Any], after: Mapping[str, Any] | None
) -> tuple[dict[str, Any], tuple[NotCovered, ...]]:
    """Return an inspection by Docker 25 or later that tells every MAC address that was asked for, and what is unknown.

    Args:
        before: the inspection, of before a stop and a start.
        after: the same of after it; None if the container is gone.
    """
    own, started = primary_network(before), started_at(before)
    networks = {name: dict(endpoint or {}) for name, endpoint in attached_networks(before).items()}
    later = attached_networks(after) if after is not None else {}
    told = after is not None and after["State"]["Running"] and started_at(after) != started != ""
    unknown: list[NotCovered] = []
    for name, endpoint in networks.items():
        address = endpoint.get("MacAddress")
        if name == own or name in _NO_NETWORKS[1:] or _is_made_from_address(endpoint):
            continue
        if not started or (told and name in later):
            # Before its first start, a container shows what was asked for and nothing else.
            if address and (not started or address == (later[name] or {}).get("MacAddress")):
                endpoint[ASKED] = {"MacAddress": address}
        else:
            unknown.append(
                NotCovered(
                    f"MAC address on network {name}",
                    "its engine does not say whether it was asked for, which a capture by 'stop' of a container that "
                    "runs finds out; recreated, the container gets a generated one",
                )
            )
    return {**before, "NetworkSettings": {**before["NetworkSettings"], "Networks": networks}}, tuple(unknown)


def asked_as_captured(inspection: Mapping[str, Any], captured: Mapping[str, Any]) -> dict[str, Any]:
    """Return an inspection that tells what its capture found out, for the networks that it is on as it was then."""
    known = attached_networks(captured)
    networks = dict(attached_networks(inspection))
    for name, endpoint in networks.items():
        then = known.get(name) or {}
        if endpoint and ASKED in then and endpoint.get("NetworkID") == then.get("NetworkID"):
            networks[name] = {**endpoint, ASKED: then[ASKED]}
    return {**inspection, "NetworkSettings": {**inspection["NetworkSettings"], "Networks": networks}}


def _is_made_from_address(endpoint: Mapping[str, Any]) -> bool:
    """Return True for a MAC address that Docker made from the container's address, as its versions before 28 do."""
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
