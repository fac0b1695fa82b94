"""Which of its addresses a container asked for, where its engine does not say. Pure.

Podman shows an address that was asked for as it shows one that it chose. But it chooses the next one with each start,
and a MAC address at random (seen with Podman 5.8, netavark): what is the same after a stop and a start was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from docker_rollback._model import NotCovered
from docker_rollback._spec import ASKED, SHOWN_AS, attached_networks, started_at

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
