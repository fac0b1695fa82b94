"""Compares two inspections of a container or a network. Pure.

Ignored fields are listed in `_ASSIGNED` and `_ENDPOINT_ASSIGNED`, each with its reason. All other fields count, unknown
ones included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import field, frozen

from docker_rollback._inspection.recreate import (
    SHOWN_AS,
    attached_networks,
    network_facts,
    own_network,
    primary_network,
    shares_network,
    user_aliases,
)
from docker_rollback._names import SHORT_ID

_ASSIGNED = {
    "Id": "new with each container",
    "Created": "the time of the create",
    "State.Pid": "the kernel's",
    "State.StartedAt": "the time of the last start",
    "State.FinishedAt": "the time of the last end",
    "State.Health": "results of probes, not configuration; the checks examine them",
    "State.StartedTs": "the time of the last start, a second time (Podman)",
    "State.FinishedTs": "the time of the last end, a second time (Podman)",
    "State.ConmonPid": "the kernel's (Podman)",
    "State.CgroupPath": "holds the id (Podman)",
    "State.ExitCode": "of the last run; a recreated container has not run",
    "State.OOMKilled": "of the last run",
    "State.Error": "of the last start",
    "RestartCount": "counts from the last manual start",
    "ResolvConfPath": "holds the id",
    "HostnamePath": "holds the id",
    "HostsPath": "holds the id",
    "LogPath": "holds the id",
    "GraphDriver": "the paths of the layers on the engine's disk",
    "Storage": "the same, of the containerd store",
    "ExecIDs": "other programs that run in it at the moment",
    "ProcessLabel": "random, chosen by SELinux",
    "MountLabel": "random, chosen by SELinux",
    "ImageManifestDescriptor": "follows from the image",
    "Native": "Podman's own inspection; its log settings are compared",
    "OwnPlaces": "follows from the engine (our field, for Podman)",
    "OwnDefaults": "the limits that nobody requested; the limits themselves are compared (our field, for Podman)",
    "SizeRw": "depends on the request",
    "SizeRootFs": "depends on the request",
    "NetworkSettings": "assigned by the engine; the user's endpoint settings are compared separately",
}

_ENDPOINT_ASSIGNED = {
    "EndpointID": "new with each start",
    "NetworkID": "new with the network; the name counts",
    "Gateway": "the network's",
    "IPAddress": "chosen by the engine; IPAMConfig has a requested one, and is compared",
    "IPPrefixLen": "the network's",
    "IPv6Gateway": "the network's",
    "GlobalIPv6Address": "as IPAddress",
    "GlobalIPv6PrefixLen": "the network's",
    "MacAddress": "generated; Config.MacAddress has a requested one, and is compared",
    "DNSNames": "made from names that are compared, and from the id",
    "Asked": "the requested addresses, if the engine does not tell (our field, for Podman)",
}

# Lists whose order has no meaning; engines do not always preserve it.
_SETS = ("HostConfig.CapAdd", "HostConfig.CapDrop", "HostConfig.GroupAdd", "HostConfig.Binds")

# Mappings with the user's own keys, in which a key with an empty value counts.
_KEYED = (
    "Config.ExposedPorts",
    "Config.Labels",
    "Config.Volumes",
    "HostConfig.Annotations",
    "HostConfig.LogConfig.Config",
    "HostConfig.PortBindings",
    "HostConfig.StorageOpt",
    "HostConfig.Sysctls",
    "HostConfig.Tmpfs",
)

_NO_RESTART = ("HostConfig.RestartPolicy.Name", "no")  # equal to an empty name, which an update in place cannot restore

# Fields in which people put passwords and tokens. Their values are never shown.
_SECRETIVE = (
    "Args",
    "Config.Cmd",
    "Config.Entrypoint",
    "Config.Env",
    "Config.Healthcheck",
    "Config.Labels",
    "HostConfig.LogConfig",
    "HostConfig.Mounts",
    "Path",
)

# Fields that differ between engines although nobody set them.
_OF_AN_ENGINE = {
    "Config.AttachStderr": "of the program that created it; Podman does not store it",
    "Config.AttachStdin": "the same",
    "Config.AttachStdout": "the same",
    "Config.Volumes": "the volumes' destinations, which the mounts have too; Podman lists no named volumes here",
    "Driver": "the storage driver",
    "HostConfig.MaskedPaths": "the engine's own list, longer with each version",
    "HostConfig.ReadonlyPaths": "the same",
}

_RUNTIMES = ("runc", "crun")  # the engines' default runtimes

# The engines' words for a log file of the container; Podman accepts both, Docker the first one.
_LOG_FILES = ("json-file", "k8s-file")

_MERGED_HOSTNAME = "(made from the id)"


@frozen
class Difference:
    """A field in which two inspections differ.

    Attributes:
        path: the field's keys, joined by dots ("HostConfig.Memory").
        before: its value in the first inspection; None if it is missing there.
        after: its value in the second inspection; None if it is missing there.
    """

    path: str
    before: object = field(repr=False)
    after: object = field(repr=False)

    def __str__(self) -> str:
        if self.path.startswith(_SECRETIVE):
            return f"{self.path} differs"
        return f"{self.path}: {self.before!r} became {self.after!r}"


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return the differences between two inspections of a container, except for fields that the engine assigns.

    It reads JSON and asks no engine, so the inspections may come from an engine, a backup or a file. Ids, times, paths
    on the engine's disk, generated names, addresses that nobody requested and the state of the last run are ignored.
    Every other field counts, unknown ones included. Null equals empty, unless engines give the two different meanings
    (`MaskedPaths`, `ReadonlyPaths`). Order counts, except for capabilities, additional groups, binds, mounts and
    aliases.

    Args:
        before: an inspection, as the engine's API returns it. Read Podman's through `DockerEngine`, which gives it
            Docker's shape.
        after: a later inspection of the same container, or one of its recreated equal.

    Returns:
        The differences, sorted by path; empty if the two are equal. The text of a difference names the field and,
        unless the field may contain secrets, the values.

    Example:
        >>> compare(engine.inspect_container("web"), engine.inspect_container("web"))
        []
    """
    return _differences(dict(_facts(before)), dict(_facts(after)))


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[Difference]:
    return [
        Difference(path, old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def compare_across(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return the settings that a container lost on its way to another engine, which may report them differently.

    A field that the first engine did not report may have any value on the second, which fills in its own defaults. A
    field that was 0 or false may be missing there. All other captured values have to be equal.
    """
    # The first engine's default limits are not the user's; the second engine has its own.
    own = {f"HostConfig.{limit}" for limit in before.get("OwnDefaults") or ()}
    return [
        difference
        for difference in compare(before, _with_requested_addresses(before, after))
        if difference.path not in own and not _is_the_engines(difference)
    ]


def _with_requested_addresses(before: Mapping[str, Any], after: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the requested addresses to Podman's inspection, which shows only the addresses in use.

    A container that does not run uses none, so there the requested addresses are assumed.
    """
    running = bool(after["State"].get("Running"))
    networks = attached_networks(after)
    for name, endpoint in attached_networks(before).items():
        found = networks.get(name) or {}
        if name in networks and not found.get("IPAMConfig"):
            asked = {key: value for key, value in ((endpoint or {}).get("IPAMConfig") or {}).items() if key in SHOWN_AS}
            shown = {key: value for key, value in asked.items() if not running or value == found.get(SHOWN_AS[key])}
            networks[name] = {**found, "IPAMConfig": shown}
    config, address = after["Config"], before["Config"].get("MacAddress")
    in_use = {str((endpoint or {}).get("MacAddress")) for endpoint in networks.values()}
    if not config.get("MacAddress") and (not running or address in in_use):
        config = {**config, "MacAddress": address}
    host, mode = after["HostConfig"], own_network(before)
    left = mode not in (None, "host", "none", *networks) and networks.keys() == attached_networks(before).keys()
    if left and host.get("NetworkMode") in (*networks, "bridge"):
        # If a container was disconnected from the network of its mode, Podman shows another of its networks as mode.
        host = {**host, "NetworkMode": before["HostConfig"].get("NetworkMode")}
    return {
        **after,
        "Config": config,
        "HostConfig": host,
        "NetworkSettings": {**(after.get("NetworkSettings") or {}), "Networks": networks},
    }


def _is_the_engines(difference: Difference) -> bool:
    """Return True if a difference comes from the engines and not from the container."""
    path, old, new = difference.path, difference.before, difference.after
    if old is None or (not old and new is None):
        # An empty list is a choice: no path is masked.
        return old != []
    if path == "Config.Env":
        return isinstance(old, list) and isinstance(new, list) and set(old) <= set(new)
    if path == "Config.Image":
        # Podman spells names with their registry.
        return str(new).endswith(f"/{old}") or str(old).endswith(f"/{new}")
    if path == "HostConfig.Binds":
        # The mounts show which anonymous volume is mounted here, and with which options.
        return isinstance(old, list) and isinstance(new, list | None) and _bound(old) <= _bound(new or [])
    if path.startswith("Mounts.") and path.endswith((".Mode", ".Propagation", ".Driver")):
        return old in ("", "z", "rw", "rprivate", "local")
    if path == "HostConfig.Runtime":
        return old in _RUNTIMES
    if path == "HostConfig.LogConfig.Type":
        return old in _LOG_FILES and new in _LOG_FILES
    return old != [] and any(path == known or path.startswith(f"{known}.") for known in _OF_AN_ENGINE)


def _bound(binds: Iterable[object]) -> set[tuple[str, ...]]:
    """Return the (source, destination) pairs of binds."""
    return {tuple(str(bind).split(":")[:2]) for bind in binds if ":" in str(bind)}


def is_same_network(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return True if two inspections are of the same network, or of two equal ones.

    A network cannot be changed, only removed and created with another id. So if the id is the same, any difference
    comes from another version of the engine.
    """
    return before.get("Id") == after.get("Id") or not compare_networks(before, after)


def compare_networks(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return the differences between two inspections of a network, except for ids, times and members."""
    pair = network_facts(before), network_facts(after)
    return _differences(*(dict(_leaves("", _without_chosen_gateways(*both))) for both in (pair, pair[::-1])))


def _without_chosen_gateways(network: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network without the gateways that the other one, on the same subnet, does not name.

    Nobody requested these: after a restart of the daemon, Docker shows the gateway that it chose.
    """
    named = {pool.get("Subnet"): pool.get("Gateway") for pool in (other.get("IPAM") or {}).get("Config") or ()}
    ipam = dict(network.get("IPAM") or {})
    ipam["Config"] = [
        {key: value for key, value in pool.items() if key != "Gateway" or named.get(pool.get("Subnet"), value)}
        for pool in ipam.get("Config") or ()
    ]
    return {**network, "IPAM": ipam}


def _facts(inspection: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for path, value in _leaves("", inspection):
        if path == "Mounts":
            yield from _mount_facts(inspection)
        elif path == "Config.Hostname" and shares_network(inspection["HostConfig"]):
            # It is the other container's host name, which may be that one's id.
            continue
        elif path == "Config.Hostname" and value == inspection["Id"][:SHORT_ID]:
            yield path, _MERGED_HOSTNAME
        elif path == "HostConfig.NetworkMode":
            yield path, _network_mode(inspection)
        elif path in _SETS and isinstance(value, list):
            yield path, sorted(map(str, value))
        else:
            yield path, value
    yield from _endpoint_facts(inspection)


def _leaves(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    if prefix in _ASSIGNED or (prefix, value) == _NO_RESTART:
        return
    if prefix in _KEYED and isinstance(value, Mapping):
        yield from ((f"{prefix}.{key}", inner or "(empty)") for key, inner in value.items())
    elif isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), inner)
    elif prefix in ("HostConfig.MaskedPaths", "HostConfig.ReadonlyPaths") or value not in (None, "", [], {}):
        yield prefix, value


def _mount_facts(inspection: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield the fields of each mount, without an anonymous volume's name and path, which the engine chooses."""
    asked = {str(bind).split(":", 1)[0] for bind in inspection["HostConfig"].get("Binds") or []}
    asked |= {str(mount.get("Source")) for mount in inspection["HostConfig"].get("Mounts") or []}
    for mount in inspection.get("Mounts") or []:
        facts = dict(mount)
        if facts.get("Type") != "bind":
            # The path of a volume, or of a mounted image, on the engine's disk.
            facts.pop("Source", None)
        if facts.get("Type") == "volume" and facts.get("Name") not in asked:
            facts["Name"] = "(anonymous)"
        yield from _leaves(f"Mounts.{mount['Destination']}", facts)


def _endpoint_facts(inspection: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name, endpoint in attached_networks(inspection).items():
        yield f"NetworkSettings.Networks.{name}", "attached"
        for key, value in (endpoint or {}).items():
            if key in _ENDPOINT_ASSIGNED:
                continue
            kept = sorted(user_aliases(value, inspection["Id"]) or []) if key == "Aliases" else value
            yield from _leaves(f"NetworkSettings.Networks.{name}.{key}", kept)


def _network_mode(inspection: Mapping[str, Any]) -> str:
    """Return the mode, with a network's name in place of its id, because a recreated network has another id."""
    mode, name = str(inspection["HostConfig"]["NetworkMode"]), primary_network(inspection)
    shared = shares_network(inspection["HostConfig"])
    return mode if shared or mode in (name, "default") else f"(the id of network {name!r})"
