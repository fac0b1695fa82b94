"""The networks of the in-memory engine: endpoints, addresses, and the ports of its host."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import define, field

from docker_rollback.errors import EngineConflictError, NetworkNotFoundError
from docker_rollback.testing._fake.refusals import refusal

_PREDEFINED = {"bridge": "bridge", "host": "host", "none": "null"}
_SHORTEST_ID = 12
_OPTIONS = {
    "bridge": {
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": "true",
        "com.docker.network.bridge.enable_ip_masquerade": "true",
        "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
        "com.docker.network.bridge.name": "docker0",
        "com.docker.network.driver.mtu": "1500",
    }
}
_FIRST_CHOSEN_PORT = 32768
_RUNTIME: dict[str, Any] = {
    "MacAddress": "",
    "EndpointID": "",
    "Gateway": "",
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
}


@define(eq=False)
class Network:
    """One network.

    Attributes:
        id: its id.
        name: its name.
        created: the time of its creation, as the engine writes it.
        request: the request that created it.
        pools: its subnets, as its inspection shows them.
        attached: the active endpoints by container id: the container's name and the endpoint's runtime values.
    """

    id: str
    name: str
    created: str
    request: dict[str, Any]
    pools: list[dict[str, Any]]
    attached: dict[str, tuple[str, dict[str, Any]]] = field(factory=dict)

    @property
    def predefined(self) -> bool:
        """True if every engine has it."""
        return self.name in _PREDEFINED

    @property
    def holds_settings(self) -> bool:
        """True if it only holds settings for other networks (`--config-only`)."""
        return bool(self.request.get("ConfigOnly"))

    @property
    def settings_from(self) -> str:
        """The name of the network that it takes its settings from; empty if it has its own."""
        return str((self.request.get("ConfigFrom") or {}).get("Network") or "")

    @property
    def driver(self) -> str:
        """The name of its driver."""
        if self.holds_settings:
            return "null"
        return str(self.request.get("Driver") or "bridge")

    def is_meant(self, ref: str) -> bool:
        """Return True if `ref` is the network's name, id or id prefix."""
        return ref in (self.id, self.name) or (len(ref) >= _SHORTEST_ID and self.id.startswith(ref))

    def holds(self, endpoints: Mapping[str, Mapping[str, Any]]) -> bool:
        """Return True if a container with these endpoints is attached: by id, or by name if it has never run."""
        known = [endpoint.get("NetworkID") for endpoint in endpoints.values()]
        return self.id in known or (self.name in endpoints and not endpoints[self.name].get("NetworkID"))

    def inspection(self) -> dict[str, Any]:
        """Return the network's inspection."""
        ipam = self.request.get("IPAM") or {}
        return {
            "Name": self.name,
            "Id": self.id,
            "Created": self.created,
            "Scope": "local",
            "Driver": self.driver,
            "EnableIPv4": self.request.get("EnableIPv4", True),
            "EnableIPv6": self.request.get("EnableIPv6", False),
            "IPAM": {
                "Driver": ipam.get("Driver") or "default",
                "Options": ipam.get("Options"),
                "Config": self.pools or None,
            },
            "Internal": self.request.get("Internal", False),
            "Attachable": self.request.get("Attachable", False),
            "Ingress": False,
            "ConfigFrom": {"Network": self.settings_from},
            "ConfigOnly": self.holds_settings,
            "Containers": {
                container: {
                    "Name": name,
                    "EndpointID": runtime["EndpointID"],
                    "MacAddress": runtime["MacAddress"],
                    "IPv4Address": f"{runtime['IPAddress']}/{runtime['IPPrefixLen']}" if runtime["IPAddress"] else "",
                    "IPv6Address": "",
                }
                for container, (name, runtime) in self.attached.items()
            },
            "Options": self.request.get("Options") or {},
            "Labels": self.request.get("Labels") or {},
        }


@define
class Networks:
    """Keeps an engine's networks, and the taken ports of its host.

    Attributes:
        new_id: returns a new id.
        known: the networks by id.
        ports: the id of the container that has each taken port of the host, by (port, protocol).
    """

    new_id: Callable[[], str]
    known: dict[str, Network] = field(factory=dict)
    ports: dict[tuple[int, str], str] = field(factory=dict)
    _next_pool: Iterator[ipaddress.IPv4Network] = field(
        factory=lambda: ipaddress.ip_network("172.16.0.0/12").subnets(new_prefix=16)
    )

    def begin(self, when: str) -> None:
        """Make the predefined networks."""
        next(self._next_pool)
        for name, driver in _PREDEFINED.items():
            self.create({"Name": name, "Driver": driver, "Options": _OPTIONS.get(name)}, when, predefined=True)

    def get(self, ref: str) -> Network:
        """Return the network with a name, id or id prefix; raises `NetworkNotFoundError`."""
        for network in self.known.values():
            if ref in (network.id, network.name):
                return network
        found = [network for network in self.known.values() if network.is_meant(ref)]
        if len(found) != 1:
            raise NetworkNotFoundError(ref)
        return found[0]

    def create(self, request: Mapping[str, Any], when: str, *, predefined: bool = False) -> str:
        """Make a network and return its id; raises `EngineConflictError` for a taken name."""
        name = str(request.get("Name") or "")
        action = f"create network {name!r}"
        if not name:
            raise refusal(action, 400, "a network needs a name")
        if name in _PREDEFINED and not predefined:
            raise refusal(action, 403, f"operation is not permitted on predefined {name} network")
        if any(network.name == name for network in self.known.values()):
            raise refusal(action, 409, f"network with name {name} already exists")
        request = self._with_settings(action, request)
        pools = [dict(pool) for pool in (request.get("IPAM") or {}).get("Config") or []]
        if not pools and request.get("Driver") not in ("host", "null") and not request.get("ConfigOnly"):
            pool = next(self._next_pool)
            pools = [{"Subnet": str(pool), "Gateway": str(pool[1])}]
        for pool_config in pools if not request.get("ConfigOnly") else []:
            self._no_overlap(action, str(pool_config.get("Subnet") or ""))
        network = Network(self.new_id(), name, when, dict(request), pools)
        self.known[network.id] = network
        return network.id

    def _with_settings(self, action: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a request completed by the settings of its configuration network, as `--config-from` does."""
        origin = str((request.get("ConfigFrom") or {}).get("Network") or "")
        if not origin:
            return request
        settings = ("IPAM", "Labels", "Options", "EnableIPv6")
        own = {key: request[key] for key in settings if request.get(key)}
        if own.get("IPAM", {}).get("Config") or own.keys() - {"IPAM"}:
            reason = "user specified configurations are not supported if the network depends on a configuration network"
            raise refusal(action, 403, reason)
        found = next((network for network in self.known.values() if network.name == origin), None)
        if found is None or not found.holds_settings:
            raise refusal(action, 403, f"{origin} is not a configuration network")
        return {**request, **{key: found.request[key] for key in settings if found.request.get(key)}}

    def _no_overlap(self, action: str, subnet: str) -> None:
        for network in self.known.values():
            for pool in network.pools if not network.holds_settings else ():
                if ipaddress.ip_network(subnet).overlaps(ipaddress.ip_network(pool["Subnet"])):
                    reason = "invalid pool request: Pool overlaps with other one on this address space"
                    raise EngineConflictError(action, reason, status=403)

    def remove(self, ref: str) -> None:
        """Remove a network; raises `EngineConflictError` if it is used, `EngineForbiddenError` if it is predefined."""
        try:
            network = self.get(ref)
        except NetworkNotFoundError:
            return
        action = f"remove network {ref!r}"
        if network.predefined:
            raise refusal(action, 403, f"{network.name} is a pre-defined network and cannot be removed")
        if any(other.settings_from == network.name for other in self.known.values()):
            reason = f'error while removing network: configuration network "{network.name}" is in use'
            raise EngineConflictError(action, reason, status=403)
        if network.attached:
            name, runtime = next(iter(network.attached.values()))
            raise EngineConflictError(
                action,
                f"error while removing network: network {network.name} has active endpoints "
                f'(name:"{name}" id:"{runtime["EndpointID"][:12]}")',
                status=403,
            )
        del self.known[network.id]

    def check(self, action: str, name: str, endpoint: Mapping[str, Any]) -> None:
        """Refuse an endpoint that no start could activate, as create and connect do."""
        problems = []
        wanted = (endpoint.get("IPAMConfig") or {}).get("IPv4Address")
        user_defined = name not in (*_PREDEFINED, "default")
        if not user_defined and endpoint.get("Aliases"):
            problems.append("network-scoped alias is supported only for containers in user defined networks")
        if not user_defined and wanted:
            problems.append("user specified IP address is supported on user defined networks only")
        try:
            network = self.get(name)
        except NetworkNotFoundError:
            network = None
        if network is not None and user_defined and wanted:
            configured = (network.request.get("IPAM") or {}).get("Config") or []
            if not any(pool.get("Subnet") for pool in configured):
                problems.append(
                    "user specified IP address is supported only when connecting to "
                    "networks with user configured subnets"
                )
            elif not any(ipaddress.ip_address(wanted) in ipaddress.ip_network(pool["Subnet"]) for pool in configured):
                problems.append(f"no configured subnet or ip-range contain the IP address {wanted}")
        if problems:
            reasons = ", ".join(problems)
            raise refusal(action, 400, f"invalid config for network {name}: invalid endpoint settings: {reasons}")

    def attach(self, action: str, name: str, container: str, container_name: str, endpoint: dict[str, Any]) -> None:
        """Activate an endpoint; raises `NetworkNotFoundError`, or `EngineConflictError` if its address is taken."""
        endpoint["Named"] = True
        network = self.get(endpoint.get("NetworkID") or name)
        runtime = {**_RUNTIME, "EndpointID": self.new_id()}
        if network.driver not in ("host", "null"):
            pool = next((pool for pool in network.pools if ":" not in pool["Subnet"]), network.pools[0])
            subnet = ipaddress.ip_network(pool["Subnet"])
            gateway = str(pool.get("Gateway") or subnet[1])
            address = (endpoint.get("IPAMConfig") or {}).get("IPv4Address")
            taken = {other["IPAddress"] for _, other in network.attached.values()} | {gateway}
            if address in taken:
                reason = "failed to set up container networking: Address already in use"
                raise EngineConflictError(action, reason, status=403)
            runtime |= {
                "Gateway": "" if network.request.get("Internal") else gateway,
                "IPAddress": address or next(str(free) for free in subnet.hosts() if str(free) not in taken),
                "IPPrefixLen": subnet.prefixlen,
                "MacAddress": endpoint.get("MacAddress") or _mac(runtime["EndpointID"]),
            }
        network.attached[container] = (container_name, runtime)
        endpoint["NetworkID"] = network.id

    def rename(self, action: str, container: str, name: str) -> None:
        """Show a container under a new name; refuses if it is active on an overlay network, as Docker does."""
        joined = [network for network in self.known.values() if container in network.attached]
        if any(network.driver == "overlay" for network in joined):
            reason = f"could not add service state for endpoint {name} to cluster on UpdateDNSNames: already exists"
            raise refusal(action, 500, reason)
        for network in joined:
            network.attached[container] = (name, network.attached[container][1])

    def are_internal(self, names: Iterable[str]) -> bool:
        """Return True if all of these networks are internal."""
        return all(self.get(name).request.get("Internal") for name in names)

    def detach(self, container: str, network: Network | None = None) -> None:
        """Deactivate a container's endpoint on one network, or all its endpoints and ports."""
        for one in [network] if network is not None else self.known.values():
            one.attached.pop(container, None)
        if network is None:
            self.ports = {port: owner for port, owner in self.ports.items() if owner != container}

    def publish(
        self, action: str, container: str, bindings: Mapping[str, Sequence[Mapping[str, str]] | None]
    ) -> dict[str, Any]:
        """Take the requested ports of the host and return the actual bindings; an empty port is chosen here.

        Raises:
            EngineError: a port is taken.
        """
        taken: dict[str, Any] = {}
        for port, wishes in bindings.items():
            protocol = port.partition("/")[2] or "tcp"
            taken[port] = [] if wishes else None
            for wish in wishes or []:
                number = int(wish.get("HostPort") or 0) or self._free_port(protocol)
                if self.ports.get((number, protocol)) is not None:
                    raise refusal(
                        action,
                        500,
                        "failed to set up container networking: driver failed programming external connectivity: "
                        f"Bind for {wish.get('HostIp') or '0.0.0.0'}:{number} failed: port is already allocated",
                    )
                self.ports[number, protocol] = container
                addresses = [wish["HostIp"]] if wish.get("HostIp") else ["0.0.0.0", "::"]
                taken[port] += [{"HostIp": address, "HostPort": str(number)} for address in addresses]
        return taken

    def _free_port(self, protocol: str) -> int:
        number = _FIRST_CHOSEN_PORT
        while (number, protocol) in self.ports:
            number += 1
        return number

    def shown(
        self, name: str, container: str, container_name: str, hostname: str, endpoint: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return an endpoint as its container's inspection shows it."""
        try:
            network = self.get(name)
        except NetworkNotFoundError:
            network = None
        runtime = _RUNTIME
        if network is not None and container in network.attached:
            runtime = network.attached[container][1]
        aliases = endpoint.get("Aliases") or None
        # A requested MAC address shows until the first start, and then while the endpoint is active.
        asked = "" if endpoint.get("NetworkID") else endpoint.get("MacAddress") or ""
        names = None
        if name not in _PREDEFINED and endpoint.get("Named"):
            names = list(dict.fromkeys([container_name, *(aliases or []), container[:12], hostname]))
        return {
            "IPAMConfig": endpoint.get("IPAMConfig") or None,
            "Links": endpoint.get("Links") or None,
            "Aliases": aliases,
            "DriverOpts": endpoint.get("DriverOpts") or None,
            "GwPriority": endpoint.get("GwPriority") or 0,
            "NetworkID": endpoint.get("NetworkID") or "",
            **runtime,
            "MacAddress": runtime["MacAddress"] or asked,
            "DNSNames": names,
        }


def _mac(seed: str) -> str:
    """Return a generated, locally administered MAC address, as the engine makes them."""
    return ":".join(["02", *(seed[start : start + 2] for start in range(0, 10, 2))])
