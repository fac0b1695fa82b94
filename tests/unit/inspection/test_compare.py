"""Two inspections differ only in what somebody changed."""

from __future__ import annotations

from typing import Any

import pytest

from docker_rollback._inspection.compare import compare, compare_across, compare_networks
from tests.unit.inspections import ANONYMOUS, ID, OTHER_ID, inspection


def remade() -> dict[str, Any]:
    """Return the inspection of the same container, made anew: everything that an engine assigns is another."""
    return inspection(
        {
            "Id": OTHER_ID,
            "Created": "2027-01-01T00:00:00Z",
            "State/Pid": 4,
            "State/StartedAt": "2027-01-01T00:00:01Z",
            "State/Health": {"Status": "healthy"},
            "HostnamePath": f"/var/lib/docker/containers/{OTHER_ID}/hostname",
            "GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": "/elsewhere"}},
            "NetworkSettings/Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "40000"}]},
            "NetworkSettings/Networks/front/EndpointID": "00",
            "NetworkSettings/Networks/front/NetworkID": "11",
            "NetworkSettings/Networks/back/IPAddress": "172.29.128.77",
            "NetworkSettings/Networks/back/MacAddress": "02:00:00:00:00:01",
            "NetworkSettings/Networks/back/Aliases": ["second", OTHER_ID[:12], "hosty"],
        }
    )


def test_a_container_equals_itself() -> None:
    """Nothing differs between an inspection and itself."""
    assert compare(inspection(), inspection()) == []


def test_what_the_engine_assigns_does_not_count() -> None:
    """Ids, times, paths, generated addresses and chosen ports may differ."""
    assert compare(inspection(), remade()) == []


def test_an_anonymous_volume_may_have_another_name() -> None:
    """Its name was generated; where it is mounted counts."""
    after = remade()
    after["Mounts"][3] |= {"Name": "f" * 64, "Source": "/v/f/_data"}
    assert after["Mounts"][3]["Name"] != ANONYMOUS
    assert compare(inspection(), after) == []


def test_a_generated_host_name_follows_the_id() -> None:
    """Both host names are the short ids of their containers."""
    before = inspection({"Config/Hostname": ID[:12]})
    after = remade()
    after["Config"]["Hostname"] = OTHER_ID[:12]
    assert compare(before, after) == []
    after["Config"]["Hostname"] = ID[:12]
    assert [difference.path for difference in compare(before, after)] == ["Config.Hostname"]


def test_the_host_name_of_a_shared_network_is_the_other_containers() -> None:
    """It is a generated one, which changes when that container is recreated."""
    shared = {"HostConfig/NetworkMode": f"container:{ID}"}
    before = inspection({**shared, "Config/Hostname": "0123456789ab"})
    assert compare(before, inspection({**shared, "Config/Hostname": "ba9876543210"})) == []


@pytest.mark.parametrize("empty", [None, "", [], {}])
def test_null_and_empty_are_equal(empty: object) -> None:
    """Engines write one or the other for a setting that nobody made."""
    assert compare(inspection(), inspection({"HostConfig/Dns": empty, "HostConfig/Links": empty})) == []


def test_null_and_empty_masks_are_not_equal() -> None:
    """No masked paths at all is a container without confinement."""
    paths = [difference.path for difference in compare(inspection(), inspection({"HostConfig/ReadonlyPaths": None}))]
    assert paths == ["HostConfig.ReadonlyPaths"]


def test_order_means_nothing_in_a_set() -> None:
    """Capabilities and binds are sets, whatever order an engine lists them in."""
    after = inspection()
    after["HostConfig"]["CapAdd"].reverse()
    after["HostConfig"]["Binds"].reverse()
    after["Mounts"].reverse()
    after["NetworkSettings"]["Networks"]["front"]["Aliases"].reverse()
    assert compare(inspection(), after) == []


def test_order_means_something_in_an_environment() -> None:
    """Of two equal variables the last one counts."""
    after = inspection()
    after["Config"]["Env"].reverse()
    assert [difference.path for difference in compare(inspection(), after)] == ["Config.Env"]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("Image", "sha256:00", "Image"),
        ("Name", "/other", "Name"),
        ("State/Status", "exited", "State.Status"),
        ("Config/Image", "app:2", "Config.Image"),
        ("Config/Entrypoint", ["/x"], "Config.Entrypoint"),
        ("Config/Healthcheck", {"Test": ["NONE"]}, "Config.Healthcheck.Test"),
        ("Config/Labels", {"x": "z"}, "Config.Labels.x"),
        ("HostConfig/Memory", 1, "HostConfig.Memory"),
        ("HostConfig/RestartPolicy", {"Name": "no"}, "HostConfig.RestartPolicy.Name"),
        ("HostConfig/FieldOfTomorrow", {"kept": 1}, "HostConfig.FieldOfTomorrow.kept"),
        ("NewTopLevelField", "x", "NewTopLevelField"),
        ("NetworkSettings/Networks/front/IPAMConfig", {}, "NetworkSettings.Networks.front.IPAMConfig.IPv4Address"),
        ("NetworkSettings/Networks/front/Aliases", ["web"], "NetworkSettings.Networks.front.Aliases"),
        ("NetworkSettings/Networks/third", {}, "NetworkSettings.Networks.third"),
    ],
)
def test_what_somebody_changed_is_named(path: str, value: object, named: str) -> None:
    """A change of configuration is listed with its path, in whichever inspection it stands."""
    changed = inspection({path: value})
    assert named in [difference.path for difference in compare(inspection(), changed)]
    assert named in [difference.path for difference in compare(changed, inspection())]


@pytest.mark.parametrize(
    ("path", "key", "empty"),
    [
        ("Config/Labels", "flag", ""),
        ("Config/ExposedPorts", "99/tcp", {}),
        ("HostConfig/Tmpfs", "/any", ""),
        ("HostConfig/PortBindings", "99/tcp", []),
        ("HostConfig/Annotations", "note", ""),
    ],
)
def test_a_lost_key_is_named_though_its_value_is_empty(path: str, key: str, empty: object) -> None:
    """A label, a port or a file system in memory with nothing to say of it is there all the same."""
    *parents, last = path.split("/")
    kept = inspection()[parents[0]].get(last) or {}
    before, after = inspection({path: {**kept, key: empty}}), inspection({path: kept})
    assert [found.path for found in compare(before, after)] == [f"{path.replace('/', '.')}.{key}"]


def test_a_lost_mount_is_named() -> None:
    """Each mount counts, by its destination."""
    after = inspection()
    del after["Mounts"][0]
    assert {difference.path.split(".")[1] for difference in compare(inspection(), after)} == {"/data"}


def network(**pool: str) -> dict[str, Any]:
    """Return the inspection of a network with one pool of addresses."""
    return {"Name": "front", "Id": ID, "Driver": "bridge", "IPAM": {"Driver": "default", "Config": [pool]}}


def test_a_gateway_that_the_engine_chose_is_no_difference() -> None:
    """Docker shows the gateway that it chose for a subnet once it has been started again, and not before."""
    asked, chosen = network(Subnet="10.1.2.0/24"), network(Subnet="10.1.2.0/24", Gateway="10.1.2.1")
    assert compare_networks(asked, chosen) == []
    assert compare_networks(chosen, asked) == []
    other = network(Subnet="10.1.2.0/24", Gateway="10.1.2.9")
    assert [found.path for found in compare_networks(chosen, other)] == ["IPAM.Config"]
    assert [found.path for found in compare_networks(asked, network(Subnet="10.1.3.0/24"))] == ["IPAM.Config"]


def test_a_difference_reads_well_and_keeps_secrets() -> None:
    """Values are shown, but not those of environment variables, which hold passwords."""
    changed = inspection({"Config/Env": ["PASSWORD=hunter2"], "HostConfig/Memory": 7})
    words = [str(difference) for difference in compare(inspection(), changed)]
    assert words == ["Config.Env differs", "HostConfig.Memory: 104857600 became 7"]


MASKED = ["/proc/asound", "/proc/kcore"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"HostConfig/KernelMemory": 0}, {"HostConfig/KernelMemory": None}),
        ({"HostConfig/PidsLimit": None}, {"HostConfig/PidsLimit": 2048}),
        ({"Driver": "overlay2"}, {"Driver": "overlay"}),
        ({"HostConfig/MaskedPaths": MASKED}, {"HostConfig/MaskedPaths": [*MASKED, "/proc/interrupts"]}),
        ({"HostConfig/Runtime": "runc"}, {"HostConfig/Runtime": ""}),
        ({"HostConfig/LogConfig": {"Type": "k8s-file"}}, {"HostConfig/LogConfig": {"Type": "json-file"}}),
        ({"Config/Image": "app:1"}, {"Config/Image": "docker.io/library/app:1"}),
        ({"Config/Env": ["A=1", "B=2"]}, {"Config/Env": ["B=2", "A=1", "container=podman"]}),
        ({"Config/AttachStdout": True}, {"Config/AttachStdout": False}),
        ({"HostConfig/Binds": ["/cache", "data:/data"]}, {"HostConfig/Binds": ["data:/data:rw,rprivate,nosuid"]}),
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_two_engines_tell_in_their_own_ways_is_no_loss(before: dict[str, Any], after: dict[str, Any]) -> None:
    """A field that another engine fills in, leaves out or spells otherwise says nothing about the container."""
    assert compare(inspection(before), inspection(after)) != []
    assert compare_across(inspection(before), inspection(after)) == []


def test_a_limit_that_an_engine_set_of_itself_is_no_loss() -> None:
    """Podman limits processes where nobody asked for it, and says so; one that somebody asked for has to hold."""
    before, after = inspection({"HostConfig/PidsLimit": 2048}), inspection({"HostConfig/PidsLimit": None})
    assert compare_across({**before, "OwnDefaults": ["PidsLimit"]}, after) == []
    assert [found.path for found in compare_across({**before, "OwnDefaults": []}, after)] == ["HostConfig.PidsLimit"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"HostConfig/Memory": 64 << 20}, {"HostConfig/Memory": 0}),
        ({"HostConfig/Memory": 64 << 20}, {"HostConfig/Memory": None}),
        ({"HostConfig/Dns": ["192.0.2.1"]}, {"HostConfig/Dns": None}),
        ({"HostConfig/Privileged": True}, {"HostConfig/Privileged": False}),
        ({"HostConfig/MaskedPaths": []}, {"HostConfig/MaskedPaths": MASKED}),
        ({"HostConfig/LogConfig/Type": "journald"}, {"HostConfig/LogConfig/Type": "json-file"}),
        ({"HostConfig/Runtime": "gpu"}, {"HostConfig/Runtime": "runc"}),
        ({"Config/Image": "app:1"}, {"Config/Image": "docker.io/library/app:2"}),
        ({"Config/Env": ["A=1", "B=2"]}, {"Config/Env": ["B=2"]}),
        ({"Config/User": "1000"}, {"Config/User": ""}),
        ({"HostConfig/Binds": ["/etc:/etc", "/srv:/srv"]}, {"HostConfig/Binds": ["/srv:/srv:ro"]}),
        ({"HostConfig/Binds": ["/srv:/srv"]}, {"HostConfig/Binds": None}),
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_a_container_lost_between_two_engines_counts(before: dict[str, Any], after: dict[str, Any]) -> None:
    """What was captured and does not hold on the other engine is a difference there too."""
    assert [found.path for found in compare_across(inspection(before), inspection(after))] == [
        next(iter(before)).replace("/", ".")
    ]


@pytest.mark.parametrize(
    ("field", "before", "after", "counts"),
    [
        ("Mode", "", "rprivate", False),
        ("Mode", "z", "", False),
        ("Mode", "Z", "", True),
        ("Propagation", "rprivate", "", False),
        ("Propagation", "rshared", "", True),
        ("Driver", "local", "", False),
        ("Driver", "nfs", "local", True),
        ("RW", True, False, True),
    ],
)
def test_of_a_mount_what_was_asked_for_counts_on_another_engine(
    field: str, before: object, after: object, *, counts: bool
) -> None:
    """A default may have another word there; a choice may not be lost."""
    pair = []
    for value in (before, after):
        found = inspection()
        found["Mounts"] = [
            {**mount, field: value} if mount["Destination"] == "/data" else mount for mount in found["Mounts"]
        ]
        pair.append(found)
    paths = [difference.path for difference in compare_across(*pair)]
    assert paths == ([f"Mounts./data.{field}"] if counts else [])


def addressed(*, asked: bool, used: str, mac: str = "", running: bool = True) -> dict[str, Any]:
    """Return an inspection with an address that was asked for, told as Docker does, or seen in use as on Podman."""
    ipam = {"IPv4Address": "10.0.0.7"} if asked else None
    endpoint = {"IPAMConfig": ipam, "IPAddress": used, "MacAddress": mac}
    found = inspection({"NetworkSettings/Networks": {"front": endpoint}, "Config/MacAddress": mac if asked else None})
    return {**found, "State": {**found["State"], "Running": running}}


@pytest.mark.parametrize("running", [True, False])
def test_a_network_that_was_lost_between_two_engines_counts(*, running: bool) -> None:
    """No address of it that was asked for stands in for the network."""
    before = addressed(asked=True, used="10.0.0.7", running=running)
    after = addressed(asked=False, used="", running=running)
    after["NetworkSettings"] = {"Networks": {}}
    assert "NetworkSettings.Networks.front" in [found.path for found in compare_across(before, after)]


@pytest.mark.parametrize("running", [True, False])
def test_an_address_that_another_engine_tells_is_compared(*, running: bool) -> None:
    """What it says that was asked for counts, and not what is in use."""
    before, after = (addressed(asked=True, used="10.0.0.7", running=running) for _ in range(2))
    after["NetworkSettings"]["Networks"]["front"]["IPAMConfig"] = {"IPv4Address": "10.0.0.9"}
    assert [found.path for found in compare_across(before, after)] == [
        "NetworkSettings.Networks.front.IPAMConfig.IPv4Address"
    ]


@pytest.mark.parametrize(
    ("used", "mac", "running", "lost"),
    [
        ("10.0.0.7", "02:00:00:00:00:07", True, []),
        ("10.0.0.8", "02:00:00:00:00:07", True, ["NetworkSettings.Networks.front.IPAMConfig.IPv4Address"]),
        ("10.0.0.7", "02:00:00:00:00:08", True, ["Config.MacAddress"]),
        ("", "", False, []),
    ],
    ids=["as asked for", "another address", "another MAC address", "stopped"],
)
def test_an_address_that_another_engine_does_not_tell_is_seen_in_use(
    used: str, mac: str, *, running: bool, lost: list[str]
) -> None:
    """Podman does not tell what was asked for: what is in use counts, and of a stopped container nothing is."""
    before = addressed(asked=True, used="10.0.0.7", mac="02:00:00:00:00:07", running=running)
    after = addressed(asked=False, used=used, mac=mac, running=running)
    assert [found.path for found in compare_across(before, after)] == lost


@pytest.mark.parametrize(
    ("mode", "shown", "joined", "found", "lost"),
    [
        ("front", "back", ["back", "dmz"], ["back", "dmz"], []),
        ("front", "bridge", [], [], []),
        ("default", "dmz", ["dmz"], ["dmz"], []),
        ("front", "bridge", [], ["bridge"], ["HostConfig.NetworkMode"]),
        ("front", "host", [], [], ["HostConfig.NetworkMode"]),
        ("front", "back", ["front"], ["front"], ["HostConfig.NetworkMode"]),
        ("host", "bridge", [], [], ["HostConfig.NetworkMode"]),
        ("container:abc", "bridge", [], [], ["HostConfig.NetworkMode"]),
    ],
)
def test_podman_shows_another_mode_of_a_container_that_has_left_its_network(
    mode: str, shown: str, joined: list[str], found: list[str], lost: list[str]
) -> None:
    """It is on the networks that it was on, and that counts; any other change of the mode is a loss."""
    before, after = addressed(asked=False, used=""), addressed(asked=False, used="")
    for one, name, networks in ((before, mode, joined), (after, shown, found)):
        one["HostConfig"]["NetworkMode"] = name
        one["NetworkSettings"] = {"Networks": {network: {} for network in networks}}
    assert [one.path for one in compare_across(before, after)] == lost


def test_a_volume_that_a_mount_names_is_not_taken_for_an_anonymous_one() -> None:
    """Where it is asked for by `Mounts`, another volume in its place is named at the mount too."""

    def mounted(volume: str) -> dict[str, Any]:
        asked = {"Type": "volume", "Source": volume, "Target": "/data"}
        shown = {"Type": "volume", "Name": volume, "Destination": "/data", "RW": True}
        return inspection({"HostConfig/Binds": None, "HostConfig/Mounts": [asked], "Mounts": [shown]})

    paths = [difference.path for difference in compare(mounted("rows"), mounted("other"))]
    assert "Mounts./data.Name" in paths
