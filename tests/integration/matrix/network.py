"""Networks, addresses, names and ports of a container."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.integration.matrix.lab import PORT, Case, Lab, eventually, table

ROWS, row = table()

_NO_LINKS = "link is not supported"
_ADDRESS_NOT_SHOWN = "its Docker-compatible inspection does not tell an address that was asked for from a chosen one"


@row
def two_networks(lab: Lab) -> Case:
    """Two networks of the user: static addresses on the first, aliases on both, each with its own."""
    # As addresses are written: without zeros before a number.
    six = f"fd00:{int(lab.token[:4], 16):x}:1"
    front = lab.network("front", f"{lab.subnet()}.0/24", f"{six}::/64")
    back = lab.network("back")
    at_front, at_back = (
        lab.other("at-front", host={"NetworkMode": front}),
        lab.other("at-back", host={"NetworkMode": back}),
    )
    fixed = {"IPv4Address": f"{lab.subnet()}.77", "IPv6Address": f"{six}::77"}

    def works() -> None:
        for alias, eyes in (("till", at_front), ("desk", at_front), ("stock", at_back), (lab.name, at_back)):
            address = lab.address_of(alias, seen_from=eyes)
            assert lab.fetch(address, seen_from=eyes) == lab.hostname()
        assert "stock" not in lab.run("nslookup -type=a stock || true", name=at_front).partition("answer:")[2]
        assert lab.address_of("till", seen_from=at_front) == fixed["IPv4Address"]
        assert lab.address_of("till", seen_from=at_front, kind="aaaa") == fixed["IPv6Address"]
        assert lab.fetch(fixed["IPv6Address"], seen_from=at_front) == lab.hostname()

    return Case(
        body=lab.body(host={"NetworkMode": front}, **lab.on(front, {"Aliases": ["till", "desk"], "IPAMConfig": fixed})),
        networks={back: {"Aliases": ["stock"]}},
        shows={f"NetworkSettings.Networks.{front}.IPAMConfig": fixed},
        limit=_ADDRESS_NOT_SHOWN,
        works=lambda: eventually(works),
    )


@row
def two_networks_chosen_addresses(lab: Lab) -> Case:
    """Two networks of the user with aliases, the addresses left to the engine: no address is pinned."""
    front, back = lab.network("front"), lab.network("back")
    at_front, at_back = (
        lab.other("at-front", host={"NetworkMode": front}),
        lab.other("at-back", host={"NetworkMode": back}),
    )

    def works() -> None:
        for alias, eyes in (("till", at_front), (lab.name, at_front), ("stock", at_back), (lab.name, at_back)):
            address = lab.address_of(alias, seen_from=eyes)
            assert lab.fetch(address, seen_from=eyes) == lab.hostname()
        for network in (front, back):
            assert not lab.shown(f"NetworkSettings.Networks.{network}.IPAMConfig")

    return Case(
        body=lab.body(host={"NetworkMode": front}, **lab.on(front, {"Aliases": ["till"]})),
        networks={back: {"Aliases": ["stock"]}},
        works=lambda: eventually(works),
    )


@row
def primary_is_not_the_first_by_name(lab: Lab) -> Case:
    """The network that a container was created on stays its first, also where another one sorts before it."""
    first, second = lab.network("z-first"), lab.network("a-second")

    def works() -> None:
        devices = lab.run("ls /sys/class/net").split()
        assert {"eth0", "eth1"} <= set(devices), devices

    return Case(
        body=lab.body(host={"NetworkMode": first}),
        networks={second: {}},
        shows={"HostConfig.NetworkMode": first},
        limit="it calls every network of the user 'bridge' and does not show which one was first",
        works=works,
    )


@row
def mode_by_short_id(lab: Lab) -> Case:
    """As much of a network's id as tells it does as well; the network goes with its container, and its id with it."""
    front = lab.network("front")
    found = str(lab.engine.inspect_network(front)["Id"])[:12]

    def works() -> None:
        assert lab.shown("NetworkSettings.Networks")[front]["IPAddress"]

    return Case(body=lab.body(host={"NetworkMode": found}, **lab.on(front, {"Aliases": ["till"]})), works=works)


@row
def mode_by_id(lab: Lab) -> Case:
    """A network mode may be the network's id."""
    front = lab.network("front")
    found = str(lab.engine.inspect_network(front)["Id"])
    eyes = lab.other("eyes", host={"NetworkMode": front})

    def works() -> None:
        assert lab.fetch(lab.address_of("till", seen_from=eyes), seen_from=eyes) == lab.hostname()

    return Case(
        body=lab.body(host={"NetworkMode": found}, **lab.on(found, {"Aliases": ["till"]})),
        works=lambda: eventually(works),
    )


@row
def default_network(lab: Lab) -> Case:
    """The default network takes no aliases and no addresses; nothing of it is sent that the engine would refuse."""
    eyes = lab.other("eyes")

    def works() -> None:
        (endpoint,) = lab.shown("NetworkSettings.Networks").values()
        assert lab.fetch(endpoint["IPAddress"], seen_from=eyes) == lab.hostname()

    return Case(body=lab.body(host={"NetworkMode": "default"}), works=lambda: eventually(works))


@row
def default_network_and_another(lab: Lab) -> Case:
    """A container on the default network, connected to one of the user later."""
    back = lab.network("back")
    eyes = lab.other("eyes", host={"NetworkMode": back})

    def works() -> None:
        assert lab.fetch(lab.address_of("stock", seen_from=eyes), seen_from=eyes) == lab.hostname()
        assert len(lab.shown("NetworkSettings.Networks")) == 2

    return Case(
        body=lab.body(host={"NetworkMode": "bridge"}),
        networks={back: {"Aliases": ["stock"]}},
        works=lambda: eventually(works),
    )


@row
def alias_equal_to_the_hostname(lab: Lab) -> Case:
    """An alias of the user that equals the host name stays, although engines append the host name themselves."""
    front = lab.network("front")
    eyes = lab.other("eyes", host={"NetworkMode": front})

    def works() -> None:
        for alias in ("counter", "till"):
            assert lab.fetch(lab.address_of(alias, seen_from=eyes), seen_from=eyes) == "counter"

    return Case(
        body=lab.body(
            host={"NetworkMode": front}, Hostname="counter", **lab.on(front, {"Aliases": ["counter", "till"]})
        ),
        works=lambda: eventually(works),
    )


@row
def mac_address(lab: Lab) -> Case:
    """A MAC address that was asked for comes back: the endpoint's from API 1.44 on, the container's before."""
    front, wanted = lab.network("front"), "02:11:22:33:44:55"
    endpoint = {"MacAddress": wanted} if lab.api >= (1, 44) else {}
    config = {} if endpoint else {"MacAddress": wanted}

    def works() -> None:
        assert wanted in lab.run("cat /sys/class/net/eth0/address")

    return Case(
        body=lab.body(host={"NetworkMode": front}, **lab.on(front, endpoint), **config),
        shows={"Config.MacAddress": wanted},
        limit="its Docker-compatible inspection does not tell a MAC address that was asked for from a generated one",
        works=works,
    )


@row
def mac_address_on_the_default_network(lab: Lab) -> Case:
    """The default network takes a MAC address, though neither aliases nor static addresses."""
    wanted = "02:11:22:33:44:56"
    config = lab.on(lab.default_network, {"MacAddress": wanted}) if lab.api >= (1, 44) else {"MacAddress": wanted}

    def works() -> None:
        assert wanted in lab.run("cat /sys/class/net/eth0/address")

    return Case(
        body=lab.body(host={"NetworkMode": lab.default_network}, **config),
        shows={"Config.MacAddress": wanted},
        limit="its Docker-compatible inspection does not tell a MAC address that was asked for from a generated one",
        works=works,
    )


@row
def generated_mac_address(lab: Lab) -> Case:
    """A generated MAC address, which looks like one that was asked for, is not pinned."""
    front = lab.network("front")

    def works() -> None:
        assert not lab.shown("Config.MacAddress")

    return Case(body=lab.body(host={"NetworkMode": front}), works=works)


@row
def link_local_addresses(lab: Lab) -> Case:
    """Further link-local addresses of an endpoint come back."""
    front = lab.network("front", f"{lab.subnet()}.0/24")
    wanted = {"IPv4Address": f"{lab.subnet()}.9", "LinkLocalIPs": ["169.254.34.68"]}

    def works() -> None:
        assert "169.254.34.68" in lab.run("ip addr")

    return Case(
        body=lab.body(host={"NetworkMode": front}, **lab.on(front, {"IPAMConfig": wanted})),
        shows={f"NetworkSettings.Networks.{front}.IPAMConfig": wanted},
        limit=_ADDRESS_NOT_SHOWN,
        works=works,
    )


@row
def endpoint_options(lab: Lab) -> Case:
    """Options for a network's driver and the priority as a gateway come back."""
    lab.needs_api(1, 48, what="GwPriority")
    front, back = lab.network("front"), lab.network("back")
    options = {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1"}

    def works() -> None:
        assert f"default via {lab.shown(f'NetworkSettings.Networks.{back}.Gateway')}" in lab.run("ip route")

    return Case(
        body=lab.body(host={"NetworkMode": front}, **lab.on(front, {"DriverOpts": options, "GwPriority": 1})),
        networks={back: {"GwPriority": 9}},
        shows={
            f"NetworkSettings.Networks.{front}.DriverOpts": options,
            f"NetworkSettings.Networks.{back}.GwPriority": 9,
        },
        works=works,
    )


@row
def network_from_settings(lab: Lab) -> Case:
    """A network made from another one that holds settings alone: both come back, and the settings first."""
    if lab.podman:
        lab.cannot("it takes ConfigOnly and ConfigFrom and does nothing with them")
    pool = {"Subnet": f"{lab.subnet(3)}.0/24"}
    settings = {"IPAM": {"Config": [pool]}, "Labels": {**lab.labels, "of": "both"}}
    options = {"com.docker.network.driver.mtu": "1400"}
    origin = lab.network_by("settings", ConfigOnly=True, Options=options, **settings)
    front = lab.network_by("front", Driver="bridge", ConfigFrom={"Network": origin}, Attachable=True)
    wanted = {"IPv4Address": f"{lab.subnet(3)}.77"}

    def works() -> None:
        assert wanted["IPv4Address"] in lab.run("ip addr show eth0")
        assert "mtu 1400" in lab.run("ip addr show eth0")

    return Case(
        body=lab.body(host={"NetworkMode": front}, **lab.on(front, {"IPAMConfig": wanted})),
        shows={f"NetworkSettings.Networks.{front}.IPAMConfig": wanted},
        works=works,
    )


@row
def network_with_everything(lab: Lab) -> Case:
    """Internal, with a range, reserved addresses, a gateway of its own, labels, options of driver and of addresses."""
    first = lab.subnet(4)
    pool: dict[str, Any] = {"Subnet": f"{first}.0/24", "IPRange": f"{first}.128/25", "Gateway": f"{first}.200"}
    pool |= {} if lab.podman else {"AuxiliaryAddresses": {"printer": f"{first}.201"}}
    front = lab.network_by(
        "front",
        Driver="bridge",
        Internal=True,
        Attachable=not lab.podman,
        Labels={**lab.labels, "empty": ""},
        Options={"com.docker.network.bridge.enable_icc": "true", "com.docker.network.driver.mtu": "1300"},
        IPAM={"Driver": "default", "Options": {} if lab.podman else {"own": "word"}, "Config": [pool]},
    )

    def works() -> None:
        assert "mtu 1300" in lab.run("ip addr show eth0")
        assert lab.networks()[front]["Internal"] is True

    return Case(body=lab.body(host={"NetworkMode": front}), works=works)


@row
def network_of_two_subnets(lab: Lab) -> Case:
    """Two subnets, of the fourth and of the sixth version."""
    six = f"fd00:{int(lab.token[:4], 16):x}:5"
    pools = [{"Subnet": f"{lab.subnet(5)}.0/24"}, {"Subnet": f"{six}::/64"}]
    front = lab.network_by("front", Driver="bridge", EnableIPv6=True, Labels=lab.labels, IPAM={"Config": pools})

    def works() -> None:
        assert f"{lab.subnet(5)}." in lab.run("ip addr show eth0")
        assert f"{six}::" in lab.run("ip addr show eth0")

    return Case(body=lab.body(host={"NetworkMode": front}), works=works)


@row
def network_of_the_sixth_version(lab: Lab) -> Case:
    """No addresses of the fourth version at all."""
    lab.needs_api(1, 47, what="EnableIPv4")
    six = f"fd00:{int(lab.token[:4], 16):x}:6"
    front = lab.network_by(
        "front",
        Driver="bridge",
        EnableIPv4=False,
        EnableIPv6=True,
        Labels=lab.labels,
        IPAM={"Config": [{"Subnet": f"{six}::/64"}]},
    )

    def works() -> None:
        assert f"{six}::" in lab.run("ip addr show eth0")
        assert "inet " not in lab.run("ip addr show eth0")

    return Case(body=lab.body(host={"NetworkMode": front}), works=works)


@row
def macvlan(lab: Lab) -> Case:
    """A network of the driver macvlan with a static address, not connected to any device of the host."""
    first = lab.subnet(6)
    front = lab.network_by(
        "front", Driver="macvlan", Labels=lab.labels, Internal=True, IPAM={"Config": [{"Subnet": f"{first}.0/24"}]}
    )
    wanted = {"IPv4Address": f"{first}.9"}

    def works() -> None:
        assert wanted["IPv4Address"] in lab.run("ip addr show eth0")

    return Case(
        body=lab.body(host={"NetworkMode": front}, **lab.on(front, {"IPAMConfig": wanted})),
        shows={f"NetworkSettings.Networks.{front}.IPAMConfig": wanted},
        limit=_ADDRESS_NOT_SHOWN,
        refused="not supported|failed to get default route interface",
        works=works,
    )


@row
def ipvlan(lab: Lab) -> Case:
    """The same of the driver ipvlan, with its mode."""
    first = lab.subnet(7)
    front = lab.network_by(
        "front",
        Driver="ipvlan",
        Labels=lab.labels,
        Internal=True,
        Options={} if lab.podman else {"ipvlan_mode": "l2"},
        IPAM={"Config": [{"Subnet": f"{first}.0/24"}]},
    )
    wanted = {"IPv4Address": f"{first}.9"}

    def works() -> None:
        assert wanted["IPv4Address"] in lab.run("ip addr show eth0")

    return Case(
        body=lab.body(host={"NetworkMode": front}, **lab.on(front, {"IPAMConfig": wanted})),
        shows={f"NetworkSettings.Networks.{front}.IPAMConfig": wanted},
        limit=_ADDRESS_NOT_SHOWN,
        refused="not supported|failed to get default route interface",
        works=works,
    )


@row
def host_network(lab: Lab) -> Case:
    """The host's own network: no ports, no aliases, and the host's name."""

    def works() -> None:
        assert lab.hostname() == lab.shown("Config.Hostname")

    return Case(
        body=lab.body(host={"NetworkMode": "host"}, Cmd=["sh", "-c", "trap exit TERM; sleep 1000 & wait"]),
        shows={"HostConfig.NetworkMode": "host"},
        works=works,
    )


@row
def no_network(lab: Lab) -> Case:
    """No network at all but the loopback."""

    def works() -> None:
        assert lab.run("ls /sys/class/net | grep -v tunl | grep -v sit").split() == ["lo"]

    return Case(body=lab.body(host={"NetworkMode": "none"}), shows={"HostConfig.NetworkMode": "none"}, works=works)


@row
def network_disabled(lab: Lab) -> Case:
    """A container whose networking is switched off stays without."""

    def works() -> None:
        assert lab.shown("Config.NetworkDisabled") is True

    return Case(
        body=lab.body(NetworkDisabled=True),
        shows={"Config.NetworkDisabled": True},
        limit="it takes NetworkDisabled and does nothing with it",
        works=works,
    )


@row
def network_of_another_container(lab: Lab) -> Case:
    """The network of another container: names, ports and addresses are that one's, and are not sent again."""
    target = lab.other("target", Cmd=["sh", "-c", "trap exit TERM; sleep 1000 & wait"], ExposedPorts={"9/tcp": {}})
    lab.image_with(ExposedPorts={"80/tcp": {}, "81/udp": {}})

    def works() -> None:
        assert lab.fetch("127.0.0.1", seen_from=target)
        assert lab.run("readlink /proc/1/ns/net") == lab.run("readlink /proc/1/ns/net", name=target)

    return Case(body=lab.body(host={"NetworkMode": f"container:{target}"}), works=lambda: eventually(works))


@row
def legacy_link(lab: Lab) -> Case:
    """A link of the default network, which an inspection shows in another form than the one it was given in."""
    target = lab.other("target")

    def works() -> None:
        found = lab.run("grep -w db /etc/hosts").split()[0]
        assert lab.fetch(found) == lab.run("hostname", name=target)

    return Case(
        body=lab.body(host={"Links": [f"{target}:db"]}),
        shows={"HostConfig.Links": [f"/{target}:/{lab.name}/db"]},
        refused=_NO_LINKS,
        works=lambda: eventually(works),
    )


@row
def link_on_a_network(lab: Lab) -> Case:
    """A link on a network of the user: a name that this container alone has for another."""
    front = lab.network("front")
    target = lab.other("target", host={"NetworkMode": front})

    def works() -> None:
        assert lab.fetch(lab.address_of("db")) == lab.run("hostname", name=target)

    return Case(
        body=lab.body(host={"NetworkMode": front}, **lab.on(front, {"Links": [f"{target}:db"]})),
        shows={f"NetworkSettings.Networks.{front}.Links": [f"{target}:db"]},
        limit="it knows no links",
        works=lambda: eventually(works),
    )


@row
def random_ports(lab: Lab) -> Case:
    """Ports that the engine chooses, asked for by an empty and by a zero port: still left to the engine."""
    wanted = {f"{PORT}/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}], "81/tcp": [{"HostIp": "", "HostPort": "0"}]}

    def works() -> None:
        assert lab.answers("127.0.0.1", lab.published(f"{PORT}/tcp")) == lab.hostname()
        assert lab.published("81/tcp")

    return Case(
        body=lab.body(ExposedPorts={key: {} for key in wanted}, host={"PortBindings": wanted}),
        works=lambda: eventually(works),
    )


@row
def fixed_ports(lab: Lab) -> Case:
    """Fixed ports of one address and of all, one of them published twice."""
    one, two, three = (lab.free_port() for _ in range(3))
    wanted = {
        f"{PORT}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(one)}, {"HostIp": "127.0.0.1", "HostPort": str(two)}],
        "82/tcp": [{"HostIp": "", "HostPort": str(three)}],
    }

    def works() -> None:
        assert lab.answers("127.0.0.1", one) == lab.answers("127.0.0.1", two) == lab.hostname()

    return Case(
        body=lab.body(ExposedPorts={key: {} for key in wanted}, host={"PortBindings": wanted}),
        works=lambda: eventually(works),
    )


@row
def udp_port(lab: Lab) -> Case:
    """A port of UDP: its protocol is part of its name."""
    port = lab.free_port()

    def works() -> None:
        assert lab.published("5353/udp") == port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, pytest.raises(OSError, match="in use"):
            probe.bind(("127.0.0.1", port))

    return Case(
        body=lab.body(
            ExposedPorts={"5353/udp": {}},
            host={"PortBindings": {"5353/udp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}},
        ),
        works=works,
    )


@row
def sctp_port(lab: Lab) -> Case:
    """A port of SCTP beside one of TCP with the same number; never started, because few kernels have SCTP."""
    port = str(lab.free_port())
    wanted = {f"{PORT}/{kind}": [{"HostIp": "127.0.0.1", "HostPort": port}] for kind in ("sctp", "tcp")}
    return Case(
        body=lab.body(ExposedPorts={key: {} for key in wanted}, host={"PortBindings": wanted}),
        shows={"HostConfig.PortBindings": wanted, "Config.ExposedPorts": {key: {} for key in wanted}},
        state="created",
    )


@row
def sixth_version_port(lab: Lab) -> Case:
    """A port that is published on an address of IPv6 alone."""
    port = lab.free_port(family=socket.AF_INET6)
    wanted = {f"{PORT}/tcp": [{"HostIp": "::1", "HostPort": str(port)}]}

    def works() -> None:
        assert lab.answers("::1", port) == lab.hostname()

    return Case(
        body=lab.body(ExposedPorts={f"{PORT}/tcp": {}}, host={"PortBindings": wanted}),
        limit="it does not lead from the host's own loopback of IPv6 into a container",
        works=lambda: eventually(works, timeout=10),
    )


@row
def publish_all(lab: Lab) -> Case:
    """Every exposed port published, those of the image too; one of them by a binding of its own."""
    lab.image_with(ExposedPorts={"83/tcp": {}})

    def works() -> None:
        assert lab.answers("127.0.0.1", lab.published(f"{PORT}/tcp")) == lab.hostname()
        assert lab.published("83/tcp")
        assert lab.shown("HostConfig.PublishAllPorts") is True

    return Case(
        body=lab.body(
            ExposedPorts={f"{PORT}/tcp": {}},
            host={"PublishAllPorts": True, "PortBindings": {f"{PORT}/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}},
        ),
        works=lambda: eventually(works),
    )


@row
def empty_port_bindings(lab: Lab) -> Case:
    """A port with an empty list of bindings is exposed and published nowhere."""
    return Case(
        body=lab.body(ExposedPorts={"80/tcp": {}}, host={"PortBindings": {"80/tcp": []}}),
        shows={"HostConfig.PortBindings": {"80/tcp": []}},
        limit="it leaves out a port that has no binding",
    )


@row
def resolver(lab: Lab) -> Case:
    """Name servers, search domains, options and further hosts, the host's own gateway by its word."""
    settings = {
        "Dns": ["10.9.9.9"],
        "DnsSearch": ["example.org"],
        "DnsOptions": ["ndots:3"],
        "ExtraHosts": ["elsewhere:10.9.8.7", "six:fd00::7", "host.docker.internal:host-gateway"],
    }

    def works() -> None:
        hosts = lab.run("cat /etc/hosts")
        assert "10.9.8.7" in hosts
        assert "fd00::7" in hosts
        assert "host.docker.internal" in hosts
        assert "ndots:3" in lab.run("cat /etc/resolv.conf")

    return Case(
        body=lab.body(host=settings), shows={f"HostConfig.{key}": value for key, value in settings.items()}, works=works
    )


@row
def resolver_on_a_network(lab: Lab) -> Case:
    """The same settings on a network of the user, where the engine's own name server stands before them."""
    front = lab.network("front")
    settings = {"Dns": ["10.9.9.9"], "DnsSearch": ["example.org"], "ExtraHosts": ["elsewhere:10.9.8.7"]}

    def works() -> None:
        assert "10.9.8.7" in lab.run("cat /etc/hosts")
        assert "example.org" in lab.run("cat /etc/resolv.conf")

    return Case(body=lab.body(host={"NetworkMode": front, **settings}), works=works)
