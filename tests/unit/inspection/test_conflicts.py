"""What stands in the way of a container is found by what both want."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from docker_rollback._inspection.conflicts import common_subnet, conflict
from docker_rollback._inspection.recreate import observe
from docker_rollback._model.backup import ContainerSnapshot, Mount, Observed
from tests.unit.inspections import OTHER_ID, inspection
from tests.unit.values import snapshot

WANTED = {
    "HostConfig": {"PortBindings": {"53/udp": [{"HostIp": "", "HostPort": "53"}], "80/tcp": [{"HostPort": ""}]}},
    "NetworkSettings": {"Networks": {"front": {"IPAMConfig": {"IPv4Address": "10.0.0.7"}}}},
    "Config": {},
    "Id": "w" * 64,
}


def wanted(*mounts: Mount) -> ContainerSnapshot:
    """Return a container that wants port 53/udp and an address of its own."""
    return evolve(snapshot("web", *mounts), inspection=WANTED)


def other(networks: dict[str, Any] | None = None, ports: dict[str, Any] | None = None) -> Observed:
    """Return a running container with these networks and published ports, and no volumes."""
    return observe(
        inspection(
            {
                "Id": OTHER_ID,
                "Mounts": [],
                "NetworkSettings/Networks": networks or {},
                "NetworkSettings/Ports": ports or {},
            }
        )
    )


def test_a_container_of_its_own_is_in_nobodys_way() -> None:
    """Other ports, other addresses, no common volume."""
    assert conflict(wanted(), other({"front": {"IPAddress": "10.0.0.8"}}, {"80/tcp": [{"HostPort": "32768"}]})) is None


def test_a_shared_volume_is_a_conflict() -> None:
    """It would write to what is being restored."""
    running = observe(inspection({"Id": OTHER_ID}))
    assert conflict(wanted(Mount("volume", "/x", "data", read_only=False)), running) == "uses volume 'data'"


@pytest.mark.parametrize("address", ["", "0.0.0.0", "::", "127.0.0.1"])
def test_a_port_in_use_is_a_conflict(address: str) -> None:
    """On every address of the host, one address of it is taken already."""
    running = other(ports={"5353/udp": [{"HostIp": address, "HostPort": "53"}]})
    assert conflict(wanted(), running) == "holds port 53/udp"


def test_another_protocol_is_another_port() -> None:
    """UDP and TCP count by themselves."""
    assert conflict(wanted(), other(ports={"53/tcp": [{"HostIp": "", "HostPort": "53"}]})) is None


def test_a_taken_address_is_a_conflict() -> None:
    """Only in the same network."""
    assert conflict(wanted(), other({"front": {"IPAddress": "10.0.0.7"}})) == (
        "holds address 10.0.0.7 in network 'front'"
    )
    assert conflict(wanted(), other({"back": {"IPAddress": "10.0.0.7"}})) is None


def network(*subnets: str, scope: str = "local", ipam: str = "default", **pool: str) -> dict[str, Any]:
    """Return the inspection of a network."""
    return {"Scope": scope, "IPAM": {"Driver": ipam, "Config": [{"Subnet": subnet, **pool} for subnet in subnets]}}


@pytest.mark.parametrize(
    ("other", "common"),
    [
        (network("10.1.0.0/24"), "10.1.0.0/16"),
        (network("10.2.0.0/16", "fd00:1::/64"), "fd00:1::/48"),
        (network("10.2.0.0/16", "fd00:2::/64"), None),
        (network("10.1.0.0/24", scope="swarm"), None),
        (network("10.1.0.0/24", ipam="null"), None),
        (network("10.1.0.0/24", IPRange="10.1.0.128/25"), None),
        (network(""), None),
        ({"Scope": "local", "IPAM": {"Driver": "default", "Config": None}}, None),
        ({"Scope": "local", "IPAM": None}, None),
    ],
)
def test_networks_with_common_addresses_cannot_both_stand(other: dict[str, Any], common: str | None) -> None:
    """Unless somebody else gives the addresses out, or has divided them."""
    assert common_subnet(network("10.1.0.0/16", "fd00:1::/48"), other) == common


def test_networks_whose_addresses_the_engine_does_not_give_out_do_not_meet() -> None:
    """Docker shows every address there is for a network that gets its own from elsewhere, such as by DHCP."""
    assert common_subnet(network("0.0.0.0/0", ipam="null"), network("0.0.0.0/0", ipam="null")) is None
