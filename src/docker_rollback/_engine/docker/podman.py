"""Converts Podman's inspection of a container to Docker's form. Pure.

Podman implements Docker's API on a model of its own, and its answers cannot be sent back: they mix requested settings
with its defaults, and use other names for some. Here the defaults are removed, and the rest gets Docker's names, so
that all code sees one form. A container that is created on Podman from the converted inspection has an equal converted
inspection.

Settings that Podman does not show at all (sysctls, device rules, the permission bits of devices, requested addresses)
cannot be recovered here. Seen with Podman 5.8; an unknown field stays as it is.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from typing import Any, Final

from docker_rollback._inspection import PROCESSES, PROCESSES_NOTE, is_generated_name, shares_network
from docker_rollback._names import SHORT_ID

_VOLUME_DEFAULTS: Final = ("rprivate", "nosuid", "nodev", "rbind")
_BIND_DEFAULTS: Final = ("rprivate", "rbind")
# The options that Podman appends to a mount, in this order, unless it has the option or its opposite.
_TMPFS_DEFAULTS: Final = ("rprivate", "nosuid", "nodev", "tmpcopyup")

# Matches the annotations that Podman derives from other fields, some of them only at the first start.
_OWN_ANNOTATION: Final = re.compile(
    r"io\.container\.manager"
    r"|org\.opencontainers\.image\.stopSignal"
    r"|org\.systemd\.property\.(KillSignal|TimeoutStopUSec)"
    r"|io\.podman\.annotations\..*"
)

_K8S_FILE: Final = "k8s-file"
_NO_SIZE: Final = ("-1B", "0B")  # the sizes that Podman shows for a log without a limit

_NO_MEMORY_OF_ITS_OWN: Final = ("container:", "host", "none", "ns:")
_NANO: Final = 10**9


def docker_like(inspection: Mapping[str, Any], donors: Iterable[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Convert an inspection from Podman's Docker-compatible API to Docker's form.

    `donors` are the inspections of the containers in its `VolumesFrom`; None if one of them is gone.
    """
    host_config = dict(inspection.get("HostConfig") or {})
    config = dict(inspection.get("Config") or {})
    settings = dict(inspection.get("NetworkSettings") or {})
    settings["Networks"] = _networks(str(inspection.get("Id")), config, host_config, settings)
    borrowed = _volumes_of(donors) if donors is not None else None
    _separate_anonymous_volumes(config, host_config, inspection.get("Mounts") or (), borrowed)
    host_config["Tmpfs"] = _tmpfs(host_config)
    host_config["Annotations"] = _annotations(host_config)
    host_config["Ulimits"] = _ulimits(host_config)
    host_config["Devices"] = _devices(host_config)
    _drop_redundant_resources(host_config)
    _drop_default_modes(host_config)
    config["Env"] = _environment(config)
    config["StopSignal"] = _signal(config)
    if (config.get("Healthcheck") or {}).get("Test") == ["NONE"]:
        # Podman adds an interval to a create without one, which has no meaning without a check.
        config["Healthcheck"] = {"Test": ["NONE"]}
    translated = {"Config": config, "HostConfig": host_config, "NetworkSettings": settings}
    own = {"OwnPlaces": _own_places(host_config), "OwnDefaults": _own_defaults(inspection.get("HostConfig") or {})}
    return {**inspection, **translated, **own}


def with_native(found: Mapping[str, Any], native: Mapping[str, Any]) -> dict[str, Any]:
    """Add Podman's own inspection to one in Docker's form, and the log settings that only Podman's shows."""
    host_config = {**(found.get("HostConfig") or {}), "LogConfig": _log(native)}
    return {**found, "HostConfig": host_config, "Native": native}


def as_docker_takes_it(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a create request with Docker's name for the log driver that Podman calls k8s-file."""
    host_config = request.get("HostConfig") or {}
    log = host_config.get("LogConfig") or {}
    if log.get("Type") != _K8S_FILE:
        return request
    return {**request, "HostConfig": {**host_config, "LogConfig": {**log, "Type": "json-file"}}}


def _log(native: Mapping[str, Any]) -> dict[str, Any]:
    said = (native.get("HostConfig") or {}).get("LogConfig") or {}
    path = str(said.get("Path") or "")
    asked = {
        "tag": said.get("Tag"),
        # The default path is in the container's own folder.
        "path": None if f"/{native.get('Id')}/" in path else path,
        "max-size": None if said.get("Size") in _NO_SIZE else said.get("Size"),
    }
    return {"Type": said.get("Type") or "", "Config": {key: value for key, value in asked.items() if value}}


def _own_defaults(host_config: Mapping[str, Any]) -> list[str]:
    """Return the limits that nobody requested; Podman records a requested one in an annotation."""
    asked = PROCESSES_NOTE in (host_config.get("Annotations") or {})
    return [] if asked or host_config.get("PidsLimit") != PROCESSES else ["PidsLimit"]


def _networks(
    container_id: str, config: Mapping[str, Any], host_config: dict[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the networks with the user's aliases only, and set the mode to the first network's name.

    Podman shows "bridge" for every network, and does not store which of several was the first. For a container in the
    network of another one, it lists that one's networks.
    """
    networks = settings.get("Networks") or {}
    if shares_network(host_config):
        return {}
    # For a container that is on no network and does not run, Podman lists the mode itself as a network.
    networks = {name: endpoint for name, endpoint in networks.items() if name != "bridge"}
    if host_config.get("NetworkMode") == "bridge" and networks:
        host_config["NetworkMode"] = "podman" if "podman" in networks else min(networks)
    own = [container_id[:SHORT_ID], config.get("Hostname")]
    return {
        name: {**(endpoint or {}), "Aliases": _asked_aliases((endpoint or {}).get("Aliases"), own)}
        for name, endpoint in networks.items()
    }


def _asked_aliases(aliases: list[str] | None, own: list[str | None]) -> list[str] | None:
    """Return the aliases without the short id and host name at their end, which Podman would append again."""
    kept = list(aliases or ())
    for tail in (own, own[:1]):
        if kept[-len(tail) :] == tail:
            return kept[: -len(tail)] or None
    return kept or None


def _volumes_of(containers: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Return the (source, destination) pairs of the mounts of containers."""
    found = (mount for container in containers for mount in container.get("Mounts") or ())
    return {(str(mount.get("Name") or mount.get("Source")), str(mount.get("Destination"))) for mount in found}


def _separate_anonymous_volumes(
    config: dict[str, Any],
    host_config: dict[str, Any],
    mounts: Iterable[Mapping[str, Any]],
    borrowed: set[tuple[str, str]] | None,
) -> None:
    """Remove anonymous volumes and default options from the binds.

    With `VolumesFrom`, the other container's volumes are removed too. If that one is gone, all anonymous volumes are:
    most were its own, and would be mounted twice.
    """
    volumes = {str(mount.get("Destination")) for mount in mounts if mount.get("Type") == "volume"}
    binds: list[str] = []
    anonymous: dict[str, Any] = dict(config.get("Volumes") or {})
    requests: list[Any] = list(host_config.get("Mounts") or [])
    for bind in host_config.get("Binds") or []:
        source, destination, options = _split_bind(str(bind))
        if host_config.get("VolumesFrom") and (source, destination) in (borrowed or ()):
            continue
        if not is_generated_name(source) or destination not in volumes:
            defaults = _VOLUME_DEFAULTS if destination in volumes else _BIND_DEFAULTS
            asked = ",".join(_without(options, defaults))
            binds.append(":".join(part for part in (source, destination, asked) if part))
        elif host_config.get("VolumesFrom") and borrowed is None:
            continue
        elif "ro" in options:
            requests.append({"Type": "volume", "Target": destination, "ReadOnly": True})
        else:
            anonymous[destination] = {}
    config["Volumes"] = anonymous or None
    host_config["Binds"] = binds
    if requests:
        host_config["Mounts"] = requests


def _split_bind(bind: str) -> tuple[str, str, list[str]]:
    source, _, rest = bind.partition(":")
    destination, _, options = rest.partition(":")
    return source, destination, options.split(",") if options else []


def _without(options: list[str], defaults: tuple[str, ...]) -> list[str]:
    """Return the options without those at the end that Podman has appended, in its order, and will append again."""
    kept, appended = list(options), list(defaults)
    while kept and kept[-1] in appended:
        del appended[appended.index(kept.pop()) :]
    return kept


def _tmpfs(host_config: Mapping[str, Any]) -> dict[str, str]:
    """Return the tmpfs mounts with the user's options.

    `notmpcopyup` shows only by the absence of `tmpcopyup`, which Podman would append without it.
    """
    found = {path: str(options).split(",") for path, options in (host_config.get("Tmpfs") or {}).items()}
    return {
        path: ",".join([*_without(options, _TMPFS_DEFAULTS), *([] if "tmpcopyup" in options else ["notmpcopyup"])])
        for path, options in found.items()
    }


def _annotations(host_config: Mapping[str, Any]) -> dict[str, str]:
    found = host_config.get("Annotations") or {}
    return {key: value for key, value in found.items() if not _OWN_ANNOTATION.fullmatch(key)}


def _ulimits(host_config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the limits with the names of a create request, and sorted: Podman appends its own at the first start."""
    limits = [
        {**limit, "Name": str(limit["Name"]).removeprefix("RLIMIT_").lower()}
        for limit in host_config.get("Ulimits") or []
    ]
    return sorted(limits, key=lambda limit: str(limit["Name"]))


def _devices(host_config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Fill in the default permissions of devices: Podman shows none, but refuses an empty value in a request."""
    return [
        {**device, "CgroupPermissions": device.get("CgroupPermissions") or "rwm"}
        for device in host_config.get("Devices") or []
    ]


def _drop_redundant_resources(host_config: dict[str, Any]) -> None:
    """Remove a quota that follows from `NanoCpus`, and another container's `ShmSize`, which Podman would refuse."""
    nano, period, quota = (host_config.get(key) or 0 for key in ("NanoCpus", "CpuPeriod", "CpuQuota"))
    if nano and period and quota * _NANO == nano * period:
        host_config["CpuPeriod"] = host_config["CpuQuota"] = 0
    if str(host_config.get("IpcMode")).startswith(_NO_MEMORY_OF_ITS_OWN):
        host_config["ShmSize"] = 0
    swappiness = host_config.get("MemorySwappiness")
    if swappiness == -1 or (swappiness == 0 and not host_config.get("Memory")):
        host_config["MemorySwappiness"] = None


def _drop_default_modes(host_config: dict[str, Any]) -> None:
    """Clear the modes that are empty in Docker, and the runtime "oci", which is not a runtime's name."""
    for key in ("PidMode", "UTSMode", "UsernsMode"):
        if host_config.get(key) == "private":
            host_config[key] = ""
    if host_config.get("Runtime") == "oci":
        host_config["Runtime"] = ""


def _environment(config: Mapping[str, Any]) -> list[str]:
    """Return the variables without the host name's own, and sorted, because Podman does not preserve their order.

    The host name may be the short id, which the new container must not have.
    """
    own = f"HOSTNAME={config.get('Hostname')}"
    return sorted(str(variable) for variable in config.get("Env") or [] if variable != own)


def _own_places(host_config: Mapping[str, Any]) -> list[str]:
    """Return the folders of a container that Podman itself writes to; its list of changes hides only some of them.

    In /etc it links mtab; over a read-only root it mounts tmpfs.
    """
    return ["/etc", "/run", "/tmp", "/var/tmp"] if host_config.get("ReadonlyRootfs") else ["/etc"]


def _signal(config: Mapping[str, Any]) -> str | None:
    """Return the stop signal's name; a signal without a name stays a number."""
    found = config.get("StopSignal")
    numbers = {str(known.value): known.name for known in signal.Signals}
    return numbers.get(str(found), found)
