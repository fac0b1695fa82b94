"""Networks of the in-memory engine: endpoints, addresses and ports come and go with what runs."""

from __future__ import annotations

from typing import Any

import pytest

from docker_rollback.errors import EngineConflictError, EngineError, EngineForbiddenError, NetworkNotFoundError
from docker_rollback.testing import FakeEngine

SUBNET = {"IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}]}}


def endpoint(fake: FakeEngine, network: str, ref: str = "shop") -> dict[str, Any]:
    """Return a container's endpoint in a network, as its inspection shows it."""
    found: dict[str, Any] = fake.inspect_container(ref)["NetworkSettings"]["Networks"][network]
    return found


def test_every_engine_has_three_networks(fake: FakeEngine) -> None:
    """Bridge, host and none are there, and cannot be removed or made."""
    assert [fake.inspect_network(one)["Name"] for one in fake.list_networks()] == ["bridge", "host", "none"]
    for name in ("bridge", "host", "none"):
        with pytest.raises(EngineForbiddenError):
            fake.remove_network(name)
        with pytest.raises(EngineForbiddenError):
            fake.create_network({"Name": name})


def test_a_network_is_what_was_asked_for(fake: FakeEngine) -> None:
    """Its inspection shows the request, by name, by id and by the beginning of its id."""
    request = {"Name": "front", "Internal": True, "Options": {"a": "b"}, "Labels": {"l": "1"}, **SUBNET}
    identity = fake.create_network(request)
    for ref in ("front", identity, identity[:12]):
        found = fake.inspect_network(ref)
        assert (found["Id"], found["Internal"], found["Options"]) == (identity, True, {"a": "b"})
        assert found["IPAM"]["Config"] == [{"Subnet": "10.9.0.0/24"}]
    assert fake.list_networks(labels={"l": "1"}) == [identity]
    fake.remove_network("front")
    fake.remove_network("front")
    with pytest.raises(NetworkNotFoundError):
        fake.inspect_network("front")


def test_a_network_that_cannot_be_is_refused(fake: FakeEngine) -> None:
    """No name, a taken name and a taken subnet are refused."""
    fake.create_network({"Name": "front", **SUBNET})
    with pytest.raises(EngineConflictError):
        fake.create_network({"Name": "front"})
    with pytest.raises(EngineError):
        fake.create_network({"Name": "back", **SUBNET})
    with pytest.raises(EngineError):
        fake.create_network({})


def test_an_endpoint_lives_while_its_container_runs(fake: FakeEngine) -> None:
    """Address, MAC and endpoint id are there from start to stop; the network shows who is in it."""
    identity = fake.run("shop", image="shop:1", networks={"front": {"Aliases": ["store"]}})
    up = endpoint(fake, "front")
    assert up["IPAddress"].startswith("172.")
    assert up["DNSNames"] == ["shop", "store", identity[:12]]
    assert fake.inspect_network("front")["Containers"][identity]["Name"] == "shop"
    fake.rename_container("shop", "renamed")
    assert fake.inspect_network("front")["Containers"][identity]["Name"] == "renamed"
    fake.stop_container("renamed")
    down = endpoint(fake, "front", "renamed")
    assert (down["IPAddress"], down["EndpointID"], down["MacAddress"]) == ("", "", "")
    assert (down["NetworkID"], down["Aliases"]) == (up["NetworkID"], ["store"])
    assert fake.inspect_network("front")["Containers"] == {}


def test_the_default_bridge_shows_at_the_top_too(fake: FakeEngine) -> None:
    """The address on the default bridge stands at the head of the network settings; default means bridge."""
    fake.create_container("shop", {"Image": "shop:1", "HostConfig": {"NetworkMode": "default"}})
    fake.start_container("shop")
    found = fake.inspect_container("shop")
    assert found["HostConfig"]["NetworkMode"] == "bridge"
    assert found["NetworkSettings"]["IPAddress"] == endpoint(fake, "bridge")["IPAddress"] != ""


def test_a_static_address_is_kept_and_taken_once(fake: FakeEngine) -> None:
    """A static address is given to its container at each start, and to no other while that one runs."""
    fake.create_network({"Name": "front", **SUBNET})
    static = {"front": {"IPAMConfig": {"IPv4Address": "10.9.0.7"}, "MacAddress": "02:00:00:00:00:07"}}
    fake.run("shop", image="shop:1", networks=static)
    assert endpoint(fake, "front")["IPAddress"] == "10.9.0.7"
    assert fake.inspect_container("shop")["Config"]["MacAddress"] == "02:00:00:00:00:07"
    fake.run("other", image="shop:1", networks=static, start=False)
    with pytest.raises(EngineConflictError):
        fake.start_container("other")
    fake.stop_container("shop")
    fake.start_container("other")
    assert endpoint(fake, "front", "other")["IPAddress"] == "10.9.0.7"


@pytest.mark.parametrize(
    ("network", "asked"),
    [
        ("bridge", {"Aliases": ["a"]}),
        ("bridge", {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}),
        ("plain", {"IPAMConfig": {"IPv4Address": "172.18.0.9"}}),
        ("front", {"IPAMConfig": {"IPv4Address": "10.8.0.9"}}),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(fake: FakeEngine, network: str, asked: dict[str, Any]) -> None:
    """Aliases and addresses want a user's network, addresses one with a subnet of the user's that holds them."""
    fake.create_network({"Name": "front", **SUBNET})
    fake.create_network({"Name": "plain"})
    with pytest.raises(EngineError):
        fake.run("shop", image="shop:1", networks={network: asked})
    fake.run("shop", image="shop:1", networks=["none" if network == "bridge" else "bridge"])
    with pytest.raises(EngineError):
        fake.connect_network(network, "shop", asked)


def test_networks_are_joined_and_left(fake: FakeEngine) -> None:
    """A running container has its new address at once, a stopped one at its start; leaving takes it away."""
    fake.run("shop", image="shop:1")
    fake.create_network({"Name": "front"})
    fake.connect_network("front", "shop", {"Aliases": ["store"]})
    assert endpoint(fake, "front")["IPAddress"] != ""
    with pytest.raises(EngineConflictError):
        fake.connect_network("front", "shop", {})
    with pytest.raises(EngineConflictError):
        fake.remove_network("front")
    fake.disconnect_network("front", "shop")
    fake.disconnect_network("front", "shop")
    fake.stop_container("shop")
    fake.connect_network("front", "shop", {})
    assert endpoint(fake, "front")["IPAddress"] == ""
    fake.start_container("shop")
    assert endpoint(fake, "front")["IPAddress"] != ""
    fake.disconnect_network("bridge", "shop", force=True)
    assert list(fake.inspect_container("shop")["NetworkSettings"]["Networks"]) == ["front"]


def test_host_and_none_are_not_joined_later(fake: FakeEngine) -> None:
    """The host's network and none are chosen at creation; nor does a shared network take others beside it."""
    fake.run("shop", image="shop:1")
    fake.run("bare", image="shop:1", networks=["none"])
    fake.run("wide", image="shop:1", networks=["host"])
    fake.create_container("guest", {"Image": "shop:1", "HostConfig": {"NetworkMode": "container:shop"}})
    for network, container in (("host", "shop"), ("none", "shop"), ("bridge", "bare"), ("bridge", "guest")):
        with pytest.raises(EngineError):
            fake.connect_network(network, container, {})
    with pytest.raises(EngineError):
        fake.disconnect_network("host", "wide")
    assert fake.inspect_container("wide")["NetworkSettings"]["Ports"] == {}


def test_a_start_wants_the_very_network_that_it_had(fake: FakeEngine) -> None:
    """A network that was removed and made anew under its name is another one to a container that has run in it."""
    fake.run("shop", image="shop:1", networks=["front"])
    fake.stop_container("shop")
    fake.remove_network("front")
    fake.create_network({"Name": "front"})
    with pytest.raises(NetworkNotFoundError):
        fake.start_container("shop")
    state = fake.inspect_container("shop")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)
    assert state["Error"]
    fake.disconnect_network("front", "shop")
    fake.connect_network("front", "shop", {})
    fake.start_container("shop")
    assert endpoint(fake, "front")["IPAddress"] != ""


def test_a_missing_network_shows_at_the_start(fake: FakeEngine) -> None:
    """A container may be created for a network that is not there; it cannot be started."""
    fake.create_container("shop", {"Image": "shop:1", "HostConfig": {"NetworkMode": "nosuch"}})
    with pytest.raises(NetworkNotFoundError):
        fake.start_container("shop")
    assert fake.inspect_container("shop")["State"]["ExitCode"] == 128


def test_an_endpoint_may_stand_on_default(fake: FakeEngine) -> None:
    """An endpoint of the network "default" is one of the bridge."""
    request = {"Image": "shop:1", "NetworkingConfig": {"EndpointsConfig": {"default": {"GwPriority": 4}}}}
    fake.create_container("shop", request)
    assert endpoint(fake, "bridge")["GwPriority"] == 4


def test_a_mode_may_be_an_id(fake: FakeEngine) -> None:
    """A network mode that is an id leads to the network's name."""
    identity = fake.create_network({"Name": "front"})
    fake.run("shop", image="shop:1", NetworkMode=identity)
    assert endpoint(fake, "front")["NetworkID"] == identity


def test_ports_are_published_while_it_runs(fake: FakeEngine) -> None:
    """A port of the host is taken from start to stop; an empty one is chosen, anew at each start."""
    fake.run("shop", image="shop:1", ports={"80/tcp": "8080", "81/udp": ""})
    ports = fake.inspect_container("shop")["NetworkSettings"]["Ports"]
    assert ports["80/tcp"] == [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]
    assert int(ports["81/udp"][0]["HostPort"]) >= 32768
    fake.run(
        "other", image="shop:1", PortBindings={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}, start=False
    )
    with pytest.raises(EngineError, match="port is already allocated"):
        fake.start_container("other")
    fake.stop_container("shop")
    assert fake.inspect_container("shop")["NetworkSettings"]["Ports"] == {}
    fake.start_container("other")
    assert fake.inspect_container("other")["NetworkSettings"]["Ports"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]
    }


def test_all_ports_may_be_published(fake: FakeEngine) -> None:
    """Each exposed port gets one of the host's own choice, each a different one."""
    fake.run("shop", image="shop:1", PublishAllPorts=True)
    fake.run("other", image="shop:1", PublishAllPorts=True)
    chosen = {
        fake.inspect_container(name)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"] for name in ("shop", "other")
    }
    assert len(chosen) == 2


def test_an_internal_network_publishes_nothing(fake: FakeEngine) -> None:
    """Without a way out there are no ports and no gateway."""
    fake.create_network({"Name": "inner", "Internal": True})
    fake.run("shop", image="shop:1", networks=["inner"], ports={"80/tcp": "8080"})
    assert fake.inspect_container("shop")["NetworkSettings"]["Ports"] == {}
    assert endpoint(fake, "inner")["Gateway"] == ""
