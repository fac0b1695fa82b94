"""Builds the request that recreates an inspected container, network or volume. Pure: raw JSON in, raw JSON out.

The container is recreated on the same file system, so the whole inspection is sent back, unknown fields included. Only
values that the engine itself added at run time are removed or rewritten, each by a function below that says why.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from attrs import frozen

from docker_rollback._model import ContainerState, Mount, Observed
from docker_rollback._names import SHORT_ID

ASKED = "Asked"  # our field of an endpoint: the requested addresses, if the engine does not tell (see `addresses`)

# Maps the address fields of a request to those in which an inspection shows the addresses in use.
SHOWN_AS: Final = {"IPv4Address": "IPAddress", "IPv6Address": "GlobalIPv6Address"}

_PODMAN_DEFAULT = "podman"  # Podman's default network, which accepts aliases and addresses like any other

# Network modes whose networks accept no aliases and no static addresses (moby, daemon/container_operations.go).
_PLAIN_NETWORKS = ("bridge", "host", "none", "default", _PODMAN_DEFAULT)

_OVERLAY_NUMBER = "com.docker.network.driver.overlay.vxlanid_list"

HELD = {"Name": "no", "MaximumRetryCount": 0}  # the restart policy of a container that only we may start


@frozen
class CreateRequest:
    """The requests that recreate a container: one create, then one connect for each additional network."""

    name: str
    body: Mapping[str, Any]  # the raw body of the create
    # The endpoints to connect after the create, by network name. They are not part of the create, because an API below
    # 1.44 takes one endpoint there.
    networks: Mapping[str, Mapping[str, Any]]
    # True if the container was on no network, although the create connects it to the one of its mode.
    isolated: bool = False


def layers_of(image: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the digests of an image's layers from its inspection, lowest first."""
    return tuple((image.get("RootFS") or {}).get("Layers") or ())


def create_request(
    inspection: Mapping[str, Any], *, image: str, image_config: Mapping[str, Any], held: bool = False
) -> CreateRequest:
    """Return the request that recreates the inspected container.

    It is created from `image`, which becomes its `Config.Image`, and whose own configuration, `image_config`, the
    engine will merge in. With `held` its restart policy is "no" for now; the caller restores the container's own later.
    """
    config = dict(inspection["Config"])
    host_config = dict(inspection["HostConfig"])
    endpoints = user_endpoints(inspection)
    primary = primary_network(inspection)

    config["Image"] = image
    config["Entrypoint"] = _entrypoint(config, image_config)
    _drop_generated_hostname(config, host_config, inspection["Id"])
    _drop_what_a_shared_network_forbids(config, host_config)
    for limit in inspection.get("OwnDefaults") or ():
        # If we requested the engine's own default, it would be recorded as the user's choice.
        host_config.pop(limit, None)
    if not config.get("MacAddress"):
        config.pop("MacAddress", None)
    if held and restarts(host_config):
        host_config["RestartPolicy"] = dict(HELD)

    body: dict[str, Any] = {**config, "HostConfig": host_config}
    # A create with an endpoint connects the container to that network alone, even if the mode names another one, which
    # this container has left. A create without an endpoint connects it to the network of the mode.
    first = primary if primary in endpoints else next(iter(endpoints), None)
    isolated = first is None and own_network(inspection) is not None
    if first is not None:
        body["NetworkingConfig"] = {"EndpointsConfig": {first: endpoints.pop(first)}}
    return CreateRequest(name=container_name(inspection), body=body, networks=endpoints, isolated=isolated)


def observe(inspection: Mapping[str, Any]) -> Observed:
    """Return the container that an inspection describes."""
    state = inspection["State"]
    health = (state.get("Health") or {}).get("Status") or None
    return Observed(
        name=container_name(inspection),
        id=str(inspection["Id"]),
        inspection={key: value for key, value in inspection.items() if key != "Native"},
        state=ContainerState(
            status=state["Status"],
            exit_code=int(state.get("ExitCode") or 0),
            health=None if health == "none" else health,
        ),
        mounts=mounts(inspection),
        native=inspection.get("Native"),
    )


def refers(reference: str, name: str, container_id: str) -> bool:
    """Return True if a reference (name, id or id prefix) means the container with this name and id."""
    return reference == name or (len(reference) >= SHORT_ID and container_id.startswith(reference))


def started_at(inspection: Mapping[str, Any]) -> str:
    """Return the time of a container's last start, as its engine writes it; empty if it was never started.

    Equal strings mean the same run.
    """
    started = str(inspection["State"].get("StartedAt") or "")
    return "" if started.startswith("0001-01-01") else started


def moment_of(text: str) -> datetime | None:
    """Parse an engine's time; return None if it is none."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def restart_count(inspection: Mapping[str, Any]) -> int:
    """Return the number of restarts by the restart policy since the last manual start."""
    return int(inspection.get("RestartCount") or 0)


def is_same_start(inspection: Mapping[str, Any], started: str, restarted: int) -> bool:
    """Return True if nobody has started a container since; restarts by its restart policy do not count.

    `started` and `restarted` are the earlier results of `started_at` and `restart_count`.
    """
    # An engine counts before it restarts, and resets the count to 0 when somebody starts the container.
    by_policy = restarts(inspection["HostConfig"]) and restart_count(inspection) >= max(1, restarted)
    return started_at(inspection) == started or by_policy


def restart_policy(inspection: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a container's restart policy; empty if the engine names none."""
    return inspection["HostConfig"].get("RestartPolicy") or {}


def restarts(host_config: Mapping[str, Any]) -> bool:
    """Return True if the engine restarts the container by itself."""
    return (host_config.get("RestartPolicy") or {}).get("Name") not in (None, "", "no")


def container_name(inspection: Mapping[str, Any]) -> str:
    """Return a container's name without the leading slash."""
    return str(inspection["Name"]).removeprefix("/")


def primary_network(inspection: Mapping[str, Any]) -> str:
    """Return the name, as in `NetworkSettings.Networks`, of the network that the container was created on.

    The mode may be a network's id or an id prefix; the endpoints are listed by name.
    """
    mode = str(inspection["HostConfig"].get("NetworkMode") or "default")
    endpoints = attached_networks(inspection)
    if mode in endpoints:
        return mode
    for name, endpoint in endpoints.items():
        known = str((endpoint or {}).get("NetworkID") or "")
        if mode == known or (len(mode) >= SHORT_ID and known.startswith(mode)):
            return str(name)
    return "bridge" if mode == "default" else mode


def own_network(inspection: Mapping[str, Any]) -> str | None:
    """Return the network that the container's mode names, connected or not; None if it names none.

    A mode may also mean the network of another container, or a namespace of the host.
    """
    mode = str(inspection["HostConfig"].get("NetworkMode") or "default")
    return None if ":" in mode else primary_network(inspection)


def shares_network(host_config: Mapping[str, Any]) -> bool:
    """Return True if a container uses the network of another container."""
    return str(host_config.get("NetworkMode") or "").startswith("container:")


def is_plain_network(name: str) -> bool:
    """Return True for an engine's predefined networks, which accept neither aliases nor addresses."""
    return name in _PLAIN_NETWORKS


def attached_networks(inspection: Mapping[str, Any]) -> dict[str, Mapping[str, Any] | None]:
    """Return a container's endpoints by network name, without duplicates.

    If an endpoint was requested by a prefix of the network's id, Docker lists it twice, by the prefix and by the name.
    It cannot start such a container a second time.
    """
    listed = (inspection.get("NetworkSettings") or {}).get("Networks") or {}
    twice = {
        name
        for name, found in listed.items()
        if len(name) >= SHORT_ID
        and str((found or {}).get("NetworkID") or "").startswith(name)
        and any(other != name and (one or {}).get("NetworkID") == found["NetworkID"] for other, one in listed.items())
    }
    return {str(name): found for name, found in listed.items() if name not in twice}


def user_endpoints(inspection: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the endpoint configuration that the user requested, by network.

    An inspection mixes it with values that the engine assigned: addresses, ids, DNS names, generated MAC addresses.
    """
    endpoints = {
        name: _user_endpoint(name, found or {}, inspection["Id"])
        for name, found in attached_networks(inspection).items()
    }
    address, primary = inspection["Config"].get("MacAddress"), primary_network(inspection)
    if address and primary in endpoints:
        # The endpoint's own field shows the address in use, which is usually generated. This one is the user's; from
        # API 1.44 on, requests have it in the endpoint.
        endpoints[primary]["MacAddress"] = address
    return endpoints


def user_aliases(aliases: list[str] | None, container_id: str) -> list[str] | None:
    """Return the aliases without the container's short id.

    Below API 1.45 the engine appends the id (moby, daemon/inspect.go), and compose 1 requests it in any position. It
    would be wrong for the new container, whose own id the engine resolves by itself. Old engines also append the host
    name; they do so again, without duplicates.
    """
    return [alias for alias in aliases or () if alias != container_id[:SHORT_ID]] or None


def network_request(inspection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that recreates an inspected network."""
    request = network_facts(inspection)
    if (inspection.get("ConfigFrom") or {}).get("Network"):
        # The engine copies these from the other network, shows them in both, and refuses them in a request.
        for key in ("IPAM", "EnableIPv4", "EnableIPv6", "Options", "Labels"):
            request.pop(key, None)
    return request


def network_facts(inspection: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's inspection without the fields that the engine assigned."""
    assigned = {"Id", "Created", "Scope", "Containers", "Peers", "Services", "Status"}
    if not inspection.get("EnableIPv4") and not inspection.get("EnableIPv6"):
        # Podman reports this for every network, and no engine creates a network without either, so it means nothing.
        assigned.add("EnableIPv4")
    facts = {key: value for key, value in inspection.items() if key not in assigned and value is not None}
    if facts.get("Options"):
        # A swarm assigns this number to an overlay network.
        facts["Options"] = {key: value for key, value in facts["Options"].items() if key != _OVERLAY_NUMBER}
    return facts


def volume_request(inspection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that recreates an inspected volume, without its data."""
    return {
        "Name": inspection["Name"],
        "Driver": inspection.get("Driver") or "local",
        "DriverOpts": dict(inspection.get("Options") or {}),
        "Labels": dict(inspection.get("Labels") or {}),
    }


def is_generated_name(volume: str) -> bool:
    """Return True if a volume's name looks like one that an engine gives to an anonymous volume."""
    return re.fullmatch(r"[0-9a-f]{64}", volume) is not None


def mounts(inspection: Mapping[str, Any]) -> tuple[Mount, ...]:
    """Return all mounts, tmpfs included, sorted by destination."""
    named = _named_volumes(inspection["HostConfig"])
    found = [_mount(mount, named) for mount in inspection.get("Mounts") or []]
    tmpfs = inspection["HostConfig"].get("Tmpfs") or {}
    known = {mount.destination for mount in found}
    found += [Mount("tmpfs", path, "", read_only=False) for path in tmpfs if path not in known]
    return tuple(sorted(found, key=lambda mount: mount.destination))


def mount_places(inspection: Mapping[str, Any]) -> frozenset[str]:
    """Return all paths that the engine itself creates in the writable layer as mount points, with their ancestors."""
    places = {mount.destination.rstrip("/") for mount in mounts(inspection)}
    if inspection["HostConfig"].get("Init"):
        places.add("/sbin/docker-init")
    places.update(inspection.get("OwnPlaces") or ())
    return frozenset(ancestor for place in places for ancestor in _with_ancestors(place))


def made_for_mounts(inspection: Mapping[str, Any], changes: Mapping[str, str]) -> frozenset[str] | None:
    """Return the ancestor folders of mount points in a writable layer that contains nothing but mount points.

    A user may have changed or created these folders too. A folder in which the engine creates a mount point is listed
    as changed, because its time changed. A changed folder with no new mount point below it was changed by somebody
    else.

    Returns None if the layer contains anything else. The kinds of `changes`, by path, are "added", "changed" and
    "deleted".
    """
    own = {ancestor for place in inspection.get("OwnPlaces") or () for ancestor in _with_ancestors(place)}
    bare = own | {mount.destination.rstrip("/") for mount in mounts(inspection)}
    if inspection["HostConfig"].get("Init"):
        bare.add("/sbin/docker-init")
    places = mount_places(inspection)
    added = {path for path, kind in changes.items() if kind == "added" and path in places}
    on_the_way = frozenset(changes) - bare
    for path, kind in changes.items():
        new_below = path in added or any(place.startswith(path + "/") for place in added)
        if kind == "deleted" or path not in places or (path in on_the_way and not new_below):
            return None
    return on_the_way


def _with_ancestors(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _mount(mount: Mapping[str, Any], named: frozenset[str]) -> Mount:
    kind = str(mount.get("Type") or "bind")
    source = str((mount.get("Name") if kind == "volume" else mount.get("Source")) or "")
    if kind == "bind" and source.startswith("/"):
        source = "/" + posixpath.normpath(source).lstrip("/")
    return Mount(
        kind=kind,
        destination=str(mount["Destination"]),
        source=source,
        read_only=not mount.get("RW", True),
        # A volume from `VolumesFrom` may have a name that its owner chose.
        anonymous=kind == "volume" and source not in named and is_generated_name(source),
    )


def _named_volumes(host_config: Mapping[str, Any]) -> frozenset[str]:
    """Return the volumes that the user named; the engine named all others."""
    binds = {str(bind).split(":", 1)[0] for bind in host_config.get("Binds") or []}
    wanted = {
        str(mount["Source"])
        for mount in host_config.get("Mounts") or []
        if mount.get("Type") == "volume" and mount.get("Source")
    }
    return frozenset(binds | wanted)


def _user_endpoint(network: str, endpoint: Mapping[str, Any], container_id: str) -> dict[str, Any]:
    asked = dict(endpoint.get(ASKED) or {})
    if is_plain_network(network) and network != _PODMAN_DEFAULT:
        # The engine refuses aliases and addresses there, so nobody can have set any.
        return asked | {key: endpoint[key] for key in ("DriverOpts", "GwPriority") if endpoint.get(key)}
    kept = {key: endpoint[key] for key in ("IPAMConfig", "Links", "DriverOpts", "GwPriority") if endpoint.get(key)}
    aliases = user_aliases(endpoint.get("Aliases"), container_id)
    return asked | kept | ({"Aliases": aliases} if aliases else {})


def _entrypoint(config: Mapping[str, Any], image_config: Mapping[str, Any]) -> list[str] | None:
    """Return the entrypoint to send. A cleared one is sent as an empty string, because null would inherit."""
    entrypoint = config.get("Entrypoint")
    if not entrypoint and image_config.get("Entrypoint"):
        return [""]
    return entrypoint


def _drop_generated_hostname(config: dict[str, Any], host_config: Mapping[str, Any], container_id: str) -> None:
    """Drop a host name that the engine made from the id, or that the host's UTS namespace forbids."""
    if config.get("Hostname") == container_id[:SHORT_ID] or host_config.get("UTSMode") == "host":
        config.pop("Hostname", None)
    if host_config.get("UTSMode") == "host":
        config.pop("Domainname", None)


def _drop_what_a_shared_network_forbids(config: dict[str, Any], host_config: dict[str, Any]) -> None:
    """Drop settings of the container whose network is shared; the engine shows them here, but refuses them."""
    if not shares_network(host_config):
        return
    for key in ("Hostname", "Domainname", "ExposedPorts", "MacAddress"):
        config.pop(key, None)
    for key in ("PortBindings", "PublishAllPorts", "Links", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts"):
        host_config.pop(key, None)
