"""An inspected container becomes the request that makes its equal."""

from __future__ import annotations

from typing import Any

import pytest

from docker_rollback._inspection.recreate import (
    CreateRequest,
    attached_networks,
    create_request,
    made_for_mounts,
    mount_places,
    mounts,
    network_request,
    observe,
    primary_network,
    user_aliases,
    user_endpoints,
    volume_request,
)
from docker_rollback._model.backup import ContainerState, Mount
from tests.unit.inspections import ANONYMOUS, ID, inspection


def request(changes: dict[str, Any] | None = None, image_config: dict[str, Any] | None = None) -> CreateRequest:
    """Return the request for the inspected container, changed at some paths."""
    return create_request(inspection(changes), image="registry.example/app:1", image_config=image_config or {})


def test_everything_the_user_configured_is_sent_back() -> None:
    """Configuration and host configuration go out as they came in, fields nobody has heard of included."""
    found = inspection()
    body = request().body
    assert body["HostConfig"] == found["HostConfig"]
    assert {key: body[key] for key in found["Config"] if key in body} == found["Config"]
    assert found == inspection(), "the inspection itself is left alone"


def test_null_and_empty_lists_stay_apart() -> None:
    """An empty list of masked paths means unconfined, null means the default: neither becomes the other."""
    host_config = request({"HostConfig/MaskedPaths": None}).body["HostConfig"]
    assert host_config["MaskedPaths"] is None
    assert host_config["ReadonlyPaths"] == []


def test_the_name_has_no_slash() -> None:
    """The name is sent without the slash that the engine puts before it."""
    assert request().name == "web"


def test_the_primary_network_is_in_the_create_and_the_others_follow() -> None:
    """The network of the mode is created with; an API below 1.44 takes no second one there."""
    wanted = request()
    assert wanted.body["NetworkingConfig"] == {
        "EndpointsConfig": {
            "front": {"IPAMConfig": {"IPv4Address": "10.99.1.50"}, "GwPriority": 7, "Aliases": ["web", "w2"]}
        }
    }
    assert wanted.networks == {"back": {"DriverOpts": {"com.example.option": "1"}, "Aliases": ["second", "hosty"]}}


def test_a_mode_that_is_an_id_finds_its_network() -> None:
    """A container may have been created on a network's id, while its endpoints are listed by name."""
    by_id = inspection({"HostConfig/NetworkMode": "f3771a881079bda059a51e3c3d0c6e5dffe9cc99c8385e263806bf3611d8dd3c"})
    assert primary_network(by_id) == "back"


@pytest.mark.parametrize("mode", ["default", ""])
def test_the_default_mode_means_bridge(mode: str) -> None:
    """The engine calls the default network by the name bridge in the endpoints."""
    assert primary_network(inspection({"HostConfig/NetworkMode": mode})) == "bridge"


@pytest.mark.parametrize(
    ("aliases", "kept"),
    [
        (None, None),
        ([], None),
        (["web"], ["web"]),
        (["web", ID[:12]], ["web"]),
        (["web", ID[:12], "store"], ["web", "store"]),
        ([ID[:12]], None),
    ],
)
def test_aliases_lose_the_short_id(aliases: list[str] | None, kept: list[str] | None) -> None:
    """Engines append it and compose asks for it, at any place; all other aliases are the user's."""
    assert user_aliases(aliases, ID) == kept


@pytest.mark.parametrize("network", ["bridge", "host", "none"])
def test_plain_networks_take_no_aliases_and_addresses(network: str) -> None:
    """The engine refuses them there, and leftovers of a network change would lose the container."""
    found = inspection(
        {
            "HostConfig/NetworkMode": network,
            "NetworkSettings/Networks": {network: {"Aliases": ["x"], "IPAMConfig": {"IPv4Address": "172.17.0.9"}}},
        }
    )
    assert user_endpoints(found) == {network: {}}


def test_the_default_network_of_podman_takes_aliases_and_addresses() -> None:
    """It is a network as any other: what was asked for there comes back."""
    asked = {"Aliases": ["till"], "IPAMConfig": {"IPv4Address": "10.88.7.9"}}
    found = inspection({"HostConfig/NetworkMode": "podman", "NetworkSettings/Networks": {"podman": asked}})
    assert user_endpoints(found) == {"podman": asked}


def test_a_generated_mac_address_is_not_replayed() -> None:
    """The endpoint shows the address in use; pinning it would make duplicates."""
    assert all("MacAddress" not in endpoint for endpoint in user_endpoints(inspection()).values())


def test_a_mac_address_of_the_user_goes_to_the_primary_endpoint() -> None:
    """From API 1.44 on it belongs to the endpoint, before it to the configuration; both are sent, both agree."""
    wanted = request({"Config/MacAddress": "02:00:00:00:00:07"})
    assert wanted.body["MacAddress"] == "02:00:00:00:00:07"
    assert wanted.body["NetworkingConfig"]["EndpointsConfig"]["front"]["MacAddress"] == "02:00:00:00:00:07"
    assert "MacAddress" not in wanted.networks["back"]


def test_a_generated_host_name_is_dropped() -> None:
    """A host name that is the old short id would be pinned for ever."""
    assert "Hostname" not in request({"Config/Hostname": ID[:12]}).body


def test_a_host_name_that_only_contains_the_short_id_stays() -> None:
    """Only equality means generated."""
    assert request({"Config/Hostname": ID[:12] + "x"}).body["Hostname"] == ID[:12] + "x"


def test_the_hosts_own_names_are_not_sent() -> None:
    """In the host's UTS namespace the engine refuses a host name."""
    body = request({"HostConfig/UTSMode": "host", "Config/Domainname": "example"}).body
    assert "Hostname" not in body
    assert "Domainname" not in body


def test_another_uts_mode_keeps_the_host_name() -> None:
    """Podman reports "private"; the host name is the user's all the same."""
    assert request({"HostConfig/UTSMode": "private"}).body["Hostname"] == "hosty"


def test_a_shared_network_forbids_what_belongs_to_its_owner() -> None:
    """With the network of another container, the engine refuses names, ports and resolvers, and shows some anyway."""
    body = request({"HostConfig/NetworkMode": "container:abc", "NetworkSettings/Networks": {}}).body
    for key in ("Hostname", "Domainname", "ExposedPorts", "NetworkingConfig"):
        assert key not in body
    for key in ("PortBindings", "Dns", "ExtraHosts", "Links"):
        assert key not in body["HostConfig"]
    assert body["HostConfig"]["NetworkMode"] == "container:abc"


def test_a_cleared_entrypoint_stays_cleared() -> None:
    """Null would inherit the entrypoint of the image; the engine takes an empty string for none."""
    assert request(image_config={"Entrypoint": ["/init"]}).body["Entrypoint"] == [""]
    assert request(image_config={}).body["Entrypoint"] is None
    own = request({"Config/Entrypoint": ["/mine"]}, {"Entrypoint": ["/init"]})
    assert own.body["Entrypoint"] == ["/mine"]


def test_a_held_container_is_started_by_nobody_else() -> None:
    """While its data is half restored, no restart policy may start it."""
    held = create_request(inspection(), image="x", image_config={}, held=True)
    assert held.body["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}


def test_every_mount_is_seen() -> None:
    """Named by bind, named by mount, anonymous, bound and in memory: each is told apart."""
    assert mounts(inspection()) == (
        Mount("bind", "/app/etc", "/etc/app", read_only=False),
        Mount("volume", "/cache", ANONYMOUS, read_only=False, anonymous=True),
        Mount("volume", "/data", "data", read_only=False),
        Mount("volume", "/logs", "logs", read_only=True),
        Mount("volume", "/media", "media", read_only=False),
        Mount("tmpfs", "/run", "", read_only=False),
    )


def test_a_volume_with_a_generated_name_that_the_user_asked_for_is_not_anonymous() -> None:
    """Somebody attached an anonymous volume of before by its name; a removal with the volumes must not take it."""
    asked = {"Type": "volume", "Source": ANONYMOUS, "Target": "/cache"}
    (cache,) = (one for one in mounts(inspection({"HostConfig/Mounts": [asked]})) if one.destination == "/cache")
    assert not cache.anonymous


def test_a_volume_of_another_container_is_not_anonymous_if_it_has_a_name() -> None:
    """`--volumes-from` names no volume, so nothing but the name itself says whose it is."""
    shown = {"Type": "volume", "Name": "theirs", "Destination": "/theirs", "RW": True}
    found = mounts(inspection({"HostConfig/VolumesFrom": ["other"], "Mounts": [shown]}))
    assert Mount("volume", "/theirs", "theirs", read_only=False) in found


def test_mount_places_include_what_leads_to_them() -> None:
    """The engine makes the folders on the way to a mount, and the place of its own init."""
    places = mount_places(inspection())
    assert {"/app", "/app/etc", "/data", "/run", "/sbin", "/sbin/docker-init"} <= places
    assert "/" not in places


@pytest.mark.parametrize(
    ("changes", "folders"),
    [
        ({}, set()),
        ({"/data": "added"}, set()),
        ({"/app": "changed", "/app/etc": "added"}, {"/app"}),
        ({"/app": "added", "/app/etc": "added"}, {"/app"}),
        ({"/sbin": "changed", "/sbin/docker-init": "added"}, {"/sbin"}),
        ({"/data": "changed"}, set()),
        ({"/app": "changed"}, None),
        ({"/app": "changed", "/data": "added"}, None),
        ({"/app": "deleted"}, None),
        ({"/data": "added", "/srv": "changed"}, None),
        ({"/data/file": "added"}, None),
    ],
)
def test_what_is_there_for_mounts_alone_is_known(changes: dict[str, str], folders: set[str] | None) -> None:
    """A folder on the way to a mount is changed by the engine only where it put a new place below it."""
    assert made_for_mounts(inspection(), changes) == folders


def test_an_observation_says_what_the_container_was_doing() -> None:
    """State, exit code and health are read; the health "none" means that there is no check."""
    assert observe(inspection()).state == ContainerState("running", 0, "starting")
    assert observe(inspection({"State/Health": {"Status": "none"}})).state.health is None
    assert observe(inspection({"State/Status": "exited", "State/ExitCode": 3})).state == ContainerState(
        "exited", 3, "starting"
    )
    assert observe(inspection()).volumes == {"data": False, "logs": False, "media": False, ANONYMOUS: True}


def test_a_network_is_asked_for_without_what_it_was_assigned() -> None:
    """Options, labels and address ranges come back; ids, times and members are the engine's."""
    found = {
        "Name": "front",
        "Id": "b2a7",
        "Created": "2026-01-02T03:04:05Z",
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": [{"Subnet": "10.99.1.0/24"}]},
        "Internal": True,
        "Containers": {ID: {}},
        "Options": {"com.docker.network.bridge.name": "br7"},
        "Labels": {"a": "b"},
    }
    assert network_request(found) == {
        key: found[key] for key in ("Name", "Driver", "EnableIPv6", "IPAM", "Internal", "Options", "Labels")
    }


def test_a_volume_is_asked_for_with_its_driver_options_and_labels() -> None:
    """An inspection calls the driver's options by another name than a create does."""
    found = {
        "Name": "data",
        "Driver": "local",
        "Options": {"type": "none", "o": "bind", "device": "/srv"},
        "Labels": None,
        "Mountpoint": "/v/data/_data",
        "CreatedAt": "2026-01-02T03:04:05Z",
    }
    assert volume_request(found) == {
        "Name": "data",
        "Driver": "local",
        "DriverOpts": {"type": "none", "o": "bind", "device": "/srv"},
        "Labels": {},
    }


def test_an_endpoint_that_is_listed_twice_is_one() -> None:
    """Docker lists one by the beginning of the network's id as well, where that was asked for; the name counts."""
    network, endpoint = "ab" * 32, {"NetworkID": "ab" * 32, "Aliases": ["till"], "IPAddress": "10.0.0.2"}
    found = attached_networks({"NetworkSettings": {"Networks": {network[:12]: endpoint, "front": endpoint}}})
    assert list(found) == ["front"]
    alone = {"NetworkSettings": {"Networks": {network[:12]: endpoint, "none": None}}}
    assert list(attached_networks(alone)) == [network[:12], "none"]


@pytest.mark.parametrize(("driver", "asked"), [("nfs", "nfs"), ("local", "local"), ("", "local"), (None, "local")])
def test_a_volume_of_another_driver_is_made_by_that(driver: str | None, asked: str) -> None:
    """Where an engine names no driver, it is its own."""
    found = {"Name": "data", "Driver": driver, "Options": None, "Labels": None}
    assert volume_request(found) == {"Name": "data", "Driver": asked, "DriverOpts": {}, "Labels": {}}


@pytest.mark.parametrize("settings", [None, {}, {"Networks": None}, {"Networks": {}}])
def test_a_container_without_networks_has_no_endpoints(settings: object) -> None:
    """However an engine says so."""
    found = inspection({"NetworkSettings": settings})
    assert attached_networks(found) == {}
    assert user_endpoints(found) == {}
