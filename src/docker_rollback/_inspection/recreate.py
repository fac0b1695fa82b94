"""An inspected container -> the request that creates its equal. Pure: raw JSON in, raw JSON out.

This is a replay on the same file system, not an update to another image, so nothing is subtracted: whatever the
inspection says is sent back, fields that this version has never heard of included. What is left out or rewritten is
what the engine itself put in at run time, and each such place is one function below, with its reason.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from docker_rollback._model import ContainerState, Mount, Observed
from docker_rollback._names import SHORT_ID

ASKED = "Asked"
"""In an endpoint, a field of ours: what was asked for that the engine does not tell (see `_asked`)."""

SHOWN_AS: Final = {"IPv4Address": "IPAddress", "IPv6Address": "GlobalIPv6Address"}
"""The addresses that an endpoint can ask for, and the fields in which an inspection shows those in use."""

_PODMAN_DEFAULT = "podman"
"""The default network of Podman, which takes aliases and addresses as any other."""

_PLAIN_NETWORKS = ("bridge", "host", "none", "default", _PODMAN_DEFAULT)
"""Network modes whose networks take no aliases and no static addresses (moby, daemon/container_operations.go)."""

_OVERLAY_NUMBER = "com.docker.network.driver.overlay.vxlanid_list"

_GENERATED = re.compile(r"[0-9a-f]{64}")
"""How engines name anonymous volumes; one that came by `VolumesFrom` may have a name that its owner gave it."""

HELD = {"Name": "no", "MaximumRetryCount": 0}
"""The restart policy of a container that nobody but us may start."""


@frozen
class CreateRequest:
    """What makes a container's equal: one create, then one connect for each further network.

    Attributes:
        name: the container's name.
        body: the raw body of the create.
        networks: the endpoints to connect after the create, by network name. They are not part of the create, because
            an API below 1.44 takes one endpoint there.
        isolated: whether the container is on no network, although its mode names one that the create attaches it to.
    """

    name: str
    body: Mapping[str, Any]
    networks: Mapping[str, Mapping[str, Any]]
    isolated: bool = False


def layers_of(image: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the digests of an image's layers, as its inspection has them, the lowest first."""
    return tuple((image.get("RootFS") or {}).get("Layers") or ())


def create_request(
    inspection: Mapping[str, Any], *, image: str, image_config: Mapping[str, Any], held: bool = False
) -> CreateRequest:
    """Return the request that makes an equal of the inspected container.

    Args:
        inspection: the container, raw.
        image: what to create it from; becomes its `Config.Image`.
        image_config: the `Config` of the image that `image` names, whose defaults the engine will merge in.
        held: whether the new container gets the restart policy "no", to be given its own later.

    Example:
        >>> request = create_request(snapshot.inspection, image="web:1", image_config={})
        >>> engine.create_container(request.name, request.body)
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
        # Asked for, it would be noted as somebody's choice.
        host_config.pop(limit, None)
    if not config.get("MacAddress"):
        config.pop("MacAddress", None)
    if held and restarts(host_config):
        host_config["RestartPolicy"] = dict(HELD)

    body: dict[str, Any] = {**config, "HostConfig": host_config}
    # A create that names an endpoint attaches the container there alone, also if the mode names another network: this
    # container has left that one. Without an endpoint, the create would attach it to the network of the mode.
    first = primary if primary in endpoints else next(iter(endpoints), None)
    isolated = first is None and own_network(inspection) is not None
    if first is not None:
        body["NetworkingConfig"] = {"EndpointsConfig": {first: endpoints.pop(first)}}
    return CreateRequest(name=container_name(inspection), body=body, networks=endpoints, isolated=isolated)


def observe(inspection: Mapping[str, Any]) -> Observed:
    """Return what an inspection says of its container, in our words."""
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
    """Whether a name, an id or the beginning of one means the container of this name and id, as engines take it."""
    return reference == name or (len(reference) >= SHORT_ID and container_id.startswith(reference))


def started_at(inspection: Mapping[str, Any]) -> str:
    """Return when the container was last started, as its engine says it; empty where it never was.

    Equal texts mean the same run.
    """
    started = str(inspection["State"].get("StartedAt") or "")
    return "" if started.startswith("0001-01-01") else started


def restart_count(inspection: Mapping[str, Any]) -> int:
    """Return how often the engine has started a container again by its restart policy since somebody started it."""
    return int(inspection.get("RestartCount") or 0)


def is_same_start(inspection: Mapping[str, Any], started: str, restarted: int) -> bool:
    """Return True if nobody has started a container since; its engine may have, by the restart policy.

    Args:
        inspection: the container's, now.
        started: when it had been started last, as `started_at` returns it.
        restarted: how often its engine had started it again by then.
    """
    # An engine counts before it starts, and begins again from 0 once somebody starts the container.
    by_policy = restarts(inspection["HostConfig"]) and restart_count(inspection) >= max(1, restarted)
    return started_at(inspection) == started or by_policy


def restart_policy(inspection: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the restart policy of a container; empty if the engine names none."""
    return inspection["HostConfig"].get("RestartPolicy") or {}


def restarts(host_config: Mapping[str, Any]) -> bool:
    """Whether the engine starts a container again by itself."""
    return (host_config.get("RestartPolicy") or {}).get("Name") not in (None, "", "no")


def container_name(inspection: Mapping[str, Any]) -> str:
    """Return the name without the slash that the engine puts before it."""
    return str(inspection["Name"]).removeprefix("/")


def primary_network(inspection: Mapping[str, Any]) -> str:
    """Return the name of the network that the container was created on, as `NetworkSettings.Networks` names it.

    The mode may be a network's id, or the beginning of it; the endpoints are listed by name.
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
    """Return the network that the container's mode names, whether or not it is attached to it; None if it names none.

    A mode may stand for the network of another container, or for a namespace of the host.
    """
    mode = str(inspection["HostConfig"].get("NetworkMode") or "default")
    return None if ":" in mode else primary_network(inspection)


def is_plain_network(name: str) -> bool:
    """Whether a network is one of those that an engine has by itself, and that take neither aliases nor addresses."""
    return name in _PLAIN_NETWORKS


def attached_networks(inspection: Mapping[str, Any]) -> dict[str, Mapping[str, Any] | None]:
    """Return the endpoints of a container, each once, by the name of the network.

    Docker lists one twice that was asked for by the beginning of the network's id: by that, and by the name. It cannot
    start such a container a second time.
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
    """Return, for every network, the endpoint configuration that the user asked for.

    An inspection mixes it with what the engine assigned: addresses, ids, names for DNS and generated MAC addresses.
    """
    endpoints = {
        name: _user_endpoint(name, found or {}, inspection["Id"])
        for name, found in attached_networks(inspection).items()
    }
    address, primary = inspection["Config"].get("MacAddress"), primary_network(inspection)
    if address and primary in endpoints:
        # The endpoint's own field shows the address in use, mostly a generated one; this one is the user's, and from
        # API 1.44 on it belongs to the endpoint.
        endpoints[primary]["MacAddress"] = address
    return endpoints


def user_aliases(aliases: list[str] | None, container_id: str) -> list[str] | None:
    """Return the aliases without the short id of the container.

    Below API 1.45 the engine appends it (moby, daemon/inspect.go), and compose 1 asks for it, at any place among the
    others; as an alias of another container it would mislead, and the engine resolves the new one by itself. What else
    an old engine appends, the host name, it appends again and only once.
    """
    return [alias for alias in aliases or () if alias != container_id[:SHORT_ID]] or None


def network_request(inspection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that makes an equal of an inspected network."""
    request = network_facts(inspection)
    if (inspection.get("ConfigFrom") or {}).get("Network"):
        # An engine takes these from the other network, shows them in both, and refuses them in a request.
        for key in ("IPAM", "EnableIPv4", "EnableIPv6", "Options", "Labels"):
            request.pop(key, None)
    return request


def network_facts(inspection: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an inspection says of a network, without what its engine assigned."""
    assigned = {"Id", "Created", "Scope", "Containers", "Peers", "Services", "Status"}
    if not inspection.get("EnableIPv4") and not inspection.get("EnableIPv6"):
        # Podman says so of every network, and no engine makes one without either: it does not tell.
        assigned.add("EnableIPv4")
    facts = {key: value for key, value in inspection.items() if key not in assigned and value is not None}
    if facts.get("Options"):
        # The number that a swarm has given to an overlay network.
        facts["Options"] = {key: value for key, value in facts["Options"].items() if key != _OVERLAY_NUMBER}
    return facts


def volume_request(inspection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that makes an equal of an inspected volume, without its data."""
    return {
        "Name": inspection["Name"],
        "Driver": inspection.get("Driver") or "local",
        "DriverOpts": dict(inspection.get("Options") or {}),
        "Labels": dict(inspection.get("Labels") or {}),
    }


def mounts(inspection: Mapping[str, Any]) -> tuple[Mount, ...]:
    """Return every mount, tmpfs included, in the order of the destinations."""
    named = _named_volumes(inspection["HostConfig"])
    found = [_mount(mount, named) for mount in inspection.get("Mounts") or []]
    tmpfs = inspection["HostConfig"].get("Tmpfs") or {}
    known = {mount.destination for mount in found}
    found += [Mount("tmpfs", path, "", read_only=False) for path in tmpfs if path not in known]
    return tuple(sorted(found, key=lambda mount: mount.destination))


def mount_places(inspection: Mapping[str, Any]) -> frozenset[str]:
    """Return every path that the engine itself makes in the writable layer so that something can be mounted there."""
    places = {mount.destination.rstrip("/") for mount in mounts(inspection)}
    if inspection["HostConfig"].get("Init"):
        places.add("/sbin/docker-init")
    places.update(inspection.get("OwnPlaces") or ())
    return frozenset(ancestor for place in places for ancestor in _with_ancestors(place))


def made_for_mounts(inspection: Mapping[str, Any], changes: Mapping[str, str]) -> frozenset[str] | None:
    """Return the folders on the way to mounts that a writable layer has, if all that it has is there for mounts.

    A folder that the engine puts a place for a mount into is listed as changed, because its time changed. Where there
    is no such new place below it, somebody else has changed it.

    Args:
        inspection: the container's.
        changes: what its writable layer has, by path: "added", "changed" or "deleted".

    Returns:
        The folders, which a user may have changed too, or made; None where the layer has something else.
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
        anonymous=kind == "volume" and source not in named and _GENERATED.fullmatch(source) is not None,
    )


def _named_volumes(host_config: Mapping[str, Any]) -> frozenset[str]:
    """Return the volumes that the user named; whatever else is mounted got its name from the engine."""
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
        # The engine refuses aliases and addresses there, and nobody can have set any.
        return asked | {key: endpoint[key] for key in ("DriverOpts", "GwPriority") if endpoint.get(key)}
    kept = {key: endpoint[key] for key in ("IPAMConfig", "Links", "DriverOpts", "GwPriority") if endpoint.get(key)}
    aliases = user_aliases(endpoint.get("Aliases"), container_id)
    return asked | kept | ({"Aliases": aliases} if aliases else {})


def _entrypoint(config: Mapping[str, Any], image_config: Mapping[str, Any]) -> list[str] | None:
    """Return the entrypoint to send: one that was cleared goes as an empty string, null would inherit."""
    entrypoint = config.get("Entrypoint")
    if not entrypoint and image_config.get("Entrypoint"):
        return [""]
    return entrypoint


def _drop_generated_hostname(config: dict[str, Any], host_config: Mapping[str, Any], container_id: str) -> None:
    """Drop a host name that the engine made from the id, and one that the host's own UTS namespace forbids."""
    if config.get("Hostname") == container_id[:SHORT_ID] or host_config.get("UTSMode") == "host":
        config.pop("Hostname", None)
    if host_config.get("UTSMode") == "host":
        config.pop("Domainname", None)


def _drop_what_a_shared_network_forbids(config: dict[str, Any], host_config: dict[str, Any]) -> None:
    """Drop what the engine merged in and would refuse from us: it belongs to the container whose network is shared."""
    if not str(host_config.get("NetworkMode") or "").startswith("container:"):
        return
    for key in ("Hostname", "Domainname", "ExposedPorts", "MacAddress"):
        config.pop(key, None)
    for key in ("PortBindings", "PublishAllPorts", "Links", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts"):
        host_config.pop(key, None)
