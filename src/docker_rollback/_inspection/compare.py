"""Two inspections -> what differs beyond what the engine assigns. Pure.

What is ignored is listed in `_ASSIGNED` and `_ENDPOINT_ASSIGNED`, each with its reason. Everything else counts, fields
that this version has never heard of included.
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
    user_aliases,
)
from docker_rollback._names import SHORT_ID

_ASSIGNED = {
    "Id": "made anew with each container",
    "Created": "the time of the create",
    "State.Pid": "the kernel's",
    "State.StartedAt": "the time of the last start",
    "State.FinishedAt": "the time of the last end",
    "State.Health": "a course of probes, not a configuration; the checks look at it",
    "State.StartedTs": "the time of the last start, a second time (Podman)",
    "State.FinishedTs": "the time of the last end, a second time (Podman)",
    "State.ConmonPid": "the kernel's (Podman)",
    "State.CgroupPath": "holds the id (Podman)",
    "State.ExitCode": "of the last run; a container that was made anew has not run",
    "State.OOMKilled": "of the last run",
    "State.Error": "of the last start",
    "RestartCount": "counts from the last start by hand",
    "ResolvConfPath": "holds the id",
    "HostnamePath": "holds the id",
    "HostsPath": "holds the id",
    "LogPath": "holds the id",
    "GraphDriver": "the places of the layers on the engine's disk",
    "Storage": "the same, of the containerd store",
    "ExecIDs": "programs that happen to run in it",
    "ProcessLabel": "SELinux draws it at random",
    "MountLabel": "SELinux draws it at random",
    "ImageManifestDescriptor": "follows from the image",
    "Native": "Podman's own inspection; what it shows of the log is compared",
    "OwnPlaces": "follows from the engine (ours, for Podman)",
    "OwnDefaults": "which limits nobody asked for; the limits are compared (ours, for Podman)",
    "SizeRw": "depends on the question",
    "SizeRootFs": "depends on the question",
    "NetworkSettings": "what the engine assigned to the endpoints; what the user asked of them is compared apart",
}

_ENDPOINT_ASSIGNED = {
    "EndpointID": "made anew with each start",
    "NetworkID": "made anew with the network; the name counts",
    "Gateway": "the network's",
    "IPAddress": "chosen by the engine, unless IPAMConfig names it, and that is compared",
    "IPPrefixLen": "the network's",
    "IPv6Gateway": "the network's",
    "GlobalIPv6Address": "as IPAddress",
    "GlobalIPv6PrefixLen": "the network's",
    "MacAddress": "generated, unless Config.MacAddress names it, and that is compared",
    "DNSNames": "made from names that are compared, and from the id",
    "Asked": "which of the addresses were asked for, where the engine does not tell (ours, for Podman)",
}

_SETS = ("HostConfig.CapAdd", "HostConfig.CapDrop", "HostConfig.GroupAdd", "HostConfig.Binds")
"""Lists whose order means nothing, and which engines do not always keep."""

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
"""Whose keys the user chose: one with an empty value is there all the same."""

_NO_RESTART = ("HostConfig.RestartPolicy.Name", "no")
"""An empty name means the same, and an update in place cannot bring it back."""

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
"""Where people put passwords and tokens; a value from there is never shown."""

_OF_AN_ENGINE = {
    "Config.AttachStderr": "of the program that created it; Podman does not keep it",
    "Config.AttachStdin": "the same",
    "Config.AttachStdout": "the same",
    "Config.Volumes": "places of volumes, which are among the mounts; Podman lists no named ones here",
    "Driver": "what keeps the layers",
    "HostConfig.MaskedPaths": "a list of the engine's own, longer with each version",
    "HostConfig.ReadonlyPaths": "the same",
}
"""What one engine says of a container otherwise than another one does, of its own accord."""

_RUNTIMES = ("runc", "crun")
"""What engines use where nobody names a runtime."""

_LOG_FILES = ("json-file", "k8s-file")
"""What engines call a log in a file of the container; Podman takes both words, Docker the first one."""

_MERGED_HOSTNAME = "(made from the id)"


@frozen
class Difference:
    """One place in which two inspections differ.

    Attributes:
        path: where, as keys joined by dots ("HostConfig.Memory").
        before: what stood there; None where nothing did.
        after: what stands there now.
    """

    path: str
    before: object = field(repr=False)
    after: object = field(repr=False)

    def __str__(self) -> str:
        if self.path.startswith(_SECRETIVE):
            return f"{self.path} differs"
        return f"{self.path}: {self.before!r} became {self.after!r}"


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return what differs between two inspections of a container, beyond what its engine assigns.

    It reads JSON and asks no engine, so the inspections may come from anywhere: an engine, a backup, a file. Ids,
    times, paths on the engine's disk, generated names, addresses that nobody asked for and the course of the last run
    do not count; every other field does, fields that this version has never heard of included. Null and empty are
    equal, except where an engine gives them different meanings (`MaskedPaths`, `ReadonlyPaths`); order counts but for
    capabilities, further groups, binds, mounts and aliases.

    Args:
        before: an inspection, raw as an engine's API answers it. One of Podman through `DockerEngine`, which gives it
            Docker's shape.
        after: another one, of the same container or of its equal.

    Returns:
        The differences, sorted by path; empty where the two are equal. Shown as text, a difference names the place
        and, where no secrets are to be expected there, the values.

    Example:
        >>> compare(engine.inspect_container("web"), engine.inspect_container("web"))
        []
    """
    old, new = dict(_facts(before)), dict(_facts(after))
    return [
        Difference(path, old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def compare_across(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return what a container lost on its way from one engine to another, of which each tells things in its own way.

    What the first engine did not tell may have any value on the second: that fills in what it wants to have. What it
    told as nothing (0, false) may be missing there. Everything else that was captured has to be there again.
    """
    # Limits that the first engine set of itself: the second has its own.
    own = {f"HostConfig.{limit}" for limit in before.get("OwnDefaults") or ()}
    return [
        difference
        for difference in compare(before, _telling(before, after))
        if difference.path not in own and not _is_the_engines(difference)
    ]


def _telling(before: Mapping[str, Any], after: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an inspection that says which addresses were asked for, if its engine does not: Podman shows those in use.

    Of a container that does not run, none is in use, and nothing can be seen.
    """
    running = bool(after["State"].get("Running"))
    networks = attached_networks(after)
    for name, endpoint in attached_networks(before).items():
        found = networks.get(name) or {}
        if name in networks and not found.get("IPAMConfig"):
            asked = {key: value for key, value in ((endpoint or {}).get("IPAMConfig") or {}).items() if key in SHOWN_AS}
            told = {key: value for key, value in asked.items() if not running or value == found.get(SHOWN_AS[key])}
            networks[name] = {**found, "IPAMConfig": told}
    config, address = after["Config"], before["Config"].get("MacAddress")
    in_use = {str((endpoint or {}).get("MacAddress")) for endpoint in networks.values()}
    if not config.get("MacAddress") and (not running or address in in_use):
        config = {**config, "MacAddress": address}
    host, mode = after["HostConfig"], own_network(before)
    left = mode not in (None, "host", "none", *networks) and networks.keys() == attached_networks(before).keys()
    if left and host.get("NetworkMode") in (*networks, "bridge"):
        # Of a container that has left the network of its mode, Podman shows one that it is on as its mode.
        host = {**host, "NetworkMode": before["HostConfig"].get("NetworkMode")}
    return {
        **after,
        "Config": config,
        "HostConfig": host,
        "NetworkSettings": {**(after.get("NetworkSettings") or {}), "Networks": networks},
    }


def _is_the_engines(difference: Difference) -> bool:
    """Whether a difference between two engines says something about these rather than about the container."""
    path, old, new = difference.path, difference.before, difference.after
    if old is None or (not old and new is None):
        # An empty list is a choice: of no path to be masked.
        return old != []
    if path == "Config.Env":
        return isinstance(old, list) and isinstance(new, list) and set(old) <= set(new)
    if path == "Config.Image":
        # Podman spells names with their registry.
        return str(new).endswith(f"/{old}") or str(old).endswith(f"/{new}")
    if path == "HostConfig.Binds":
        # Who has this path of an anonymous volume, and with which options, is among the mounts.
        return isinstance(old, list) and isinstance(new, list | None) and _bound(old) <= _bound(new or [])
    if path.startswith("Mounts.") and path.endswith((".Mode", ".Propagation", ".Driver")):
        return old in ("", "z", "rw", "rprivate", "local")
    if path == "HostConfig.Runtime":
        return old in _RUNTIMES
    if path == "HostConfig.LogConfig.Type":
        return old in _LOG_FILES and new in _LOG_FILES
    return old != [] and any(path == known or path.startswith(f"{known}.") for known in _OF_AN_ENGINE)


def _bound(binds: Iterable[object]) -> set[tuple[str, ...]]:
    """Return what is bound where."""
    return {tuple(str(bind).split(":")[:2]) for bind in binds if ":" in str(bind)}


def is_same_network(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return True if two inspections are of one network, or of two that are equal.

    A network cannot be changed, only removed and created with another id. One that kept its id is shown otherwise by
    another version of its engine.
    """
    return before.get("Id") == after.get("Id") or not compare_networks(before, after)


def compare_networks(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return what differs between two inspections of a network, beyond what its engine assigns: ids, times, members."""
    pair = network_facts(before), network_facts(after)
    old, new = (dict(_leaves("", _asked(*both))) for both in (pair, pair[::-1]))
    return [
        Difference(path, old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def _asked(network: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network without the gateways that the other one, on the same subnet, does not name.

    Nobody asked for such a one: Docker names the gateway that it chose once it has been started again.
    """
    named = {pool.get("Subnet"): pool.get("Gateway") for pool in (other.get("IPAM") or {}).get("Config") or ()}
    ipam = dict(network.get("IPAM") or {})
    ipam["Config"] = [
        {key: value for key, value in pool.items() if key != "Gateway" or named.get(pool.get("Subnet"), value)}
        for pool in ipam.get("Config") or ()
    ]
    return {**network, "IPAM": ipam}


def _facts(inspection: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield (path, value) for everything that counts."""
    for path, value in _leaves("", inspection):
        if path == "Mounts":
            yield from _mount_facts(inspection)
        elif path == "Config.Hostname" and _shares_a_network(inspection):
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
    """Yield what each mount is; the name of an anonymous volume, and its place on disk, are the engine's choice."""
    asked = {str(bind).split(":", 1)[0] for bind in inspection["HostConfig"].get("Binds") or []}
    asked |= {str(mount.get("Source")) for mount in inspection["HostConfig"].get("Mounts") or []}
    for mount in inspection.get("Mounts") or []:
        facts = dict(mount)
        if facts.get("Type") != "bind":
            # Where an engine keeps a volume, or has unpacked an image to mount it.
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
    """Return the mode; a network that it names by its id, which is made anew with the network, by its name."""
    mode, name = str(inspection["HostConfig"]["NetworkMode"]), primary_network(inspection)
    return mode if mode in (name, "default") or mode.startswith("container:") else f"(the id of network {name!r})"


def _shares_a_network(inspection: Mapping[str, Any]) -> bool:
    """Whether a container has its host name from the container whose network it shares, and whose id that may be."""
    return str(inspection["HostConfig"].get("NetworkMode") or "").startswith("container:")
