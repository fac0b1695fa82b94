"""Turns a create request into a container's configuration and mounts, as Docker 28 does; pure functions."""

from __future__ import annotations

import copy
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from docker_rollback.testing._fake.refusals import refusal

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_HEALTH_FIELDS = ("Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
_RUNTIMES = ("io.containerd.runc.v2", "runc")
_PROPAGATIONS = ("rprivate", "private", "rshared", "shared", "rslave", "slave")
_POLICIES = ("no", "always", "on-failure", "unless-stopped")
_CONFIG: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}
_CONFIG_WHERE_SET = (
    "ExposedPorts",
    "Healthcheck",
    "MacAddress",
    "NetworkDisabled",
    "Shell",
    "StopSignal",
    "StopTimeout",
)
_HOST: dict[str, Any] = {
    "Binds": None,
    "ContainerIDFile": "",
    "LogConfig": {"Type": "json-file", "Config": {}},
    "NetworkMode": "bridge",
    "PortBindings": None,
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None,
    "ConsoleSize": [0, 0],
    "CapAdd": None,
    "CapDrop": None,
    "CgroupnsMode": "private",
    "Dns": None,
    "DnsOptions": None,
    "DnsSearch": None,
    "ExtraHosts": None,
    "GroupAdd": None,
    "IpcMode": "private",
    "Cgroup": "",
    "Links": None,
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "ShmSize": 67108864,
    "Runtime": "runc",
    "Isolation": "",
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 0,
    "CgroupParent": "",
    "BlkioWeight": 0,
    "BlkioWeightDevice": None,
    "BlkioDeviceReadBps": None,
    "BlkioDeviceWriteBps": None,
    "BlkioDeviceReadIOps": None,
    "BlkioDeviceWriteIOps": None,
    "CpuPeriod": 0,
    "CpuQuota": 0,
    "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0,
    "CpusetCpus": "",
    "CpusetMems": "",
    "Devices": None,
    "DeviceCgroupRules": None,
    "DeviceRequests": None,
    "MemoryReservation": 0,
    "MemorySwap": 0,
    "MemorySwappiness": None,
    "OomKillDisable": None,
    "PidsLimit": None,
    "Ulimits": None,
    "CpuCount": 0,
    "CpuPercent": 0,
    "IOMaximumIOps": 0,
    "IOMaximumBandwidth": 0,
}
_HOST_WHERE_SET = ("Annotations", "Init", "Mounts", "StorageOpt", "Sysctls", "Tmpfs")
_MASKED = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


@frozen
class MountSpec:
    """A requested mount.

    Attributes:
        kind: "volume", "bind" or "tmpfs".
        source: a volume's name or a path of the host; empty for an anonymous volume and for tmpfs.
        destination: its path in the container.
        mode: its mode string, as requested.
        read_only: True if only reading is allowed.
        copy_up: True if an empty volume is filled from the image.
        subpath: the part of the volume that is mounted.
        must_exist: True if a missing source is refused rather than made.
        options: the request for the volume if it has to be created.
        propagation: the propagation of mounts below it between host and container.
        from_image: True if it comes from `Config.Volumes`.
    """

    kind: str
    source: str
    destination: str
    mode: str = ""
    read_only: bool = False
    copy_up: bool = True
    subpath: str = ""
    must_exist: bool = False
    options: Mapping[str, Any] = {}
    propagation: str = ""
    from_image: bool = False


def check_name(action: str, name: str) -> None:
    """Refuse an invalid name."""
    if not _NAME.fullmatch(name):
        raise refusal(action, 400, f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")


def merged_config(action: str, request: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """Return a container's `Config`: the request's fields over those of its image."""
    config = copy.deepcopy(_CONFIG)
    config |= {key: copy.deepcopy(request[key]) for key in _CONFIG if request.get(key) is not None}
    config |= {key: copy.deepcopy(request[key]) for key in _CONFIG_WHERE_SET if request.get(key)}
    for key in ("User", "WorkingDir"):
        config[key] = config[key] or image.get(key) or ""
    for key in ("ExposedPorts", "Volumes", "Labels"):
        both = {**(image.get(key) or {}), **(config.get(key) or {})}
        if both:
            config[key] = both
    config["Labels"] = config["Labels"] or {}
    if image.get("Env"):
        config["Env"] = _environment(config["Env"] or [], image["Env"])
    for key in ("StopSignal", "Shell"):
        if image.get(key) and not config.get(key):
            config[key] = image[key]
    _healthcheck(config, image.get("Healthcheck"))
    if not config["Entrypoint"]:
        if not config["Cmd"]:
            config["Cmd"] = copy.deepcopy(image.get("Cmd"))
        if config["Entrypoint"] is None:
            config["Entrypoint"] = copy.deepcopy(image.get("Entrypoint"))
    if config["Entrypoint"] == [""]:
        config["Entrypoint"] = None
    if not config["Entrypoint"] and not config["Cmd"]:
        raise refusal(action, 400, "no command specified")
    return config


def _environment(own: Sequence[str], inherited: Sequence[str]) -> list[str]:
    names = {entry.partition("=")[0] for entry in own}
    return [*own, *(entry for entry in inherited if entry.partition("=")[0] not in names)]


def _healthcheck(config: dict[str, Any], inherited: Mapping[str, Any] | None) -> None:
    if inherited is None:
        return
    own = config.get("Healthcheck") or {}
    both = {key: own.get(key) or inherited.get(key) for key in _HEALTH_FIELDS}
    config["Healthcheck"] = {key: value for key, value in both.items() if value}


def merged_host(action: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a container's `HostConfig`, with the engine's defaults; refuses contradictions."""
    given = request.get("HostConfig") or {}
    host = copy.deepcopy(_HOST)
    host |= {key: copy.deepcopy(given[key]) for key in _HOST if given.get(key) is not None}
    host |= {key: copy.deepcopy(given[key]) for key in _HOST_WHERE_SET if given.get(key) is not None}
    if host["NetworkMode"] in ("", "default"):
        host["NetworkMode"] = "bridge"
    for key, filled in (("IpcMode", "private"), ("CgroupnsMode", "private"), ("Runtime", "runc")):
        host[key] = host[key] or filled
    host["ShmSize"] = host["ShmSize"] or _HOST["ShmSize"]
    labelled = any(option.partition("=")[0] == "label" for option in host["SecurityOpt"] or [])
    if not labelled and (host["Privileged"] or "host" in (host["IpcMode"], host["PidMode"])):
        host["SecurityOpt"] = [*(host["SecurityOpt"] or []), "label=disable"]
    log = host["LogConfig"]
    host["LogConfig"] = {"Type": log.get("Type") or "json-file", "Config": log.get("Config") or {}}
    host["PidsLimit"] = host["PidsLimit"] or None
    if host["Memory"] and not host["MemorySwap"]:
        host["MemorySwap"] = 2 * host["Memory"]
    for key, default in (("MaskedPaths", _MASKED), ("ReadonlyPaths", _READ_ONLY)):
        host[key] = given.get(key)
        if host[key] is None and not host["Privileged"]:
            host[key] = list(default)
    for bindings in (host["PortBindings"] or {}).values():
        for binding in bindings or []:
            binding.setdefault("HostIp", "")
            binding.setdefault("HostPort", "")
    host["RestartPolicy"] = restart_policy(action, host["RestartPolicy"])
    if host["AutoRemove"] and host["RestartPolicy"]["Name"] != "no":
        raise refusal(action, 400, "can't create 'AutoRemove' container with restart policy")
    if host["Runtime"] not in _RUNTIMES:
        raise refusal(action, 400, f"unknown or invalid runtime name: {host['Runtime']}")
    _no_conflicts(action, request, host)
    return host


def restart_policy(action: str, policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return a restart policy in the engine's own words; refuses an unknown one."""
    name, most = policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0
    if name not in _POLICIES:
        raise refusal(
            action,
            400,
            f"invalid restart policy: unknown policy '{name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
        )
    if most and name != "on-failure":
        raise refusal(action, 400, "invalid restart policy: maximum retry count can only be used with 'on-failure'")
    return {"Name": name, "MaximumRetryCount": most}


def _no_conflicts(action: str, request: Mapping[str, Any], host: Mapping[str, Any]) -> None:
    """Refuse settings that exclude each other, such as ports for a container in another container's network."""
    mode, published = host["NetworkMode"], host["PortBindings"] or host["PublishAllPorts"]
    shared = mode.startswith("container:")
    conflicts = [
        (host["UTSMode"] == "host", request.get("Hostname"), "hostname and the UTS mode"),
        (shared, request.get("Hostname"), "hostname and the network mode"),
        (shared, host["Links"], "container type network can't be used with links"),
        (shared, host["Dns"], "dns and the network mode"),
        (shared, host["ExtraHosts"], "custom host-to-IP mapping and the network mode"),
        (shared, published, "port publishing and the container type network mode"),
        (shared, request.get("ExposedPorts"), "port exposing and the container type network mode"),
        (mode == "host", host["Links"], "host type networking can't be used with links"),
    ]
    for applies, present, words in conflicts:
        if applies and present:
            raise refusal(action, 400, f"conflicting options: {words}")
    if host["NanoCpus"] and (host["CpuQuota"] or host["CpuPeriod"]):
        raise refusal(action, 400, "Conflicting options: Nano CPUs and CPU Quota cannot both be set")


def mount_specs(action: str, config: Mapping[str, Any], host: Mapping[str, Any]) -> list[MountSpec]:
    """Return the requested mounts; refuses two with the same destination."""
    specs = [_bind(action, text) for text in host["Binds"] or []]
    specs += [_mount(action, mount) for mount in host.get("Mounts") or []]
    specs += [MountSpec("tmpfs", "", path) for path in host.get("Tmpfs") or {}]
    seen: set[str] = set()
    for spec in specs:
        if spec.destination in seen:
            raise refusal(action, 400, f"Duplicate mount point: {spec.destination}")
        seen.add(spec.destination)
    for path in config["Volumes"] or {}:
        if posixpath.normpath(path) not in seen:
            specs.append(MountSpec("volume", "", posixpath.normpath(path), from_image=True))
    return specs


def _bind(action: str, text: str) -> MountSpec:
    parts = text.split(":")
    source, destination, mode = "", parts[0], ""
    if len(parts) > 1:
        source, destination, mode = parts[0], parts[1], ":".join(parts[2:])
    if not destination.startswith("/"):
        reason = 'invalid mount config for type "volume": invalid mount path: '
        reason += f"'{destination}' mount path must be absolute"
        raise refusal(action, 500, f"invalid volume specification: '{text}': {reason}")
    options = mode.split(",")
    volume = not source.startswith("/")
    return MountSpec(
        "volume" if volume else "bind",
        source,
        posixpath.normpath(destination),
        mode=mode or ("z" if volume else ""),
        read_only="ro" in options,
        copy_up="nocopy" not in options,
        propagation="" if volume else next((one for one in options if one in _PROPAGATIONS), _PROPAGATIONS[0]),
    )


def _mount(action: str, mount: Mapping[str, Any]) -> MountSpec:
    kind, target = str(mount.get("Type")), str(mount.get("Target") or "")
    if kind not in ("volume", "bind", "tmpfs"):
        raise refusal(action, 400, f'invalid mount config for type "{kind}": mount type unknown')
    if not target.startswith("/"):
        reason = f"invalid mount path: '{target}' mount path must be absolute"
        raise refusal(action, 400, f'invalid mount config for type "{kind}": {reason}')
    volume = mount.get("VolumeOptions") or {}
    bind = mount.get("BindOptions") or {}
    driver = volume.get("DriverConfig") or {}
    return MountSpec(
        kind,
        str(mount.get("Source") or ""),
        posixpath.normpath(target),
        mode="z" if kind == "volume" else "",
        read_only=bool(mount.get("ReadOnly")),
        copy_up=not volume.get("NoCopy"),
        subpath=str(volume.get("Subpath") or ""),
        must_exist=not bind.get("CreateMountpoint"),
        propagation=(bind.get("Propagation") or _PROPAGATIONS[0]) if kind == "bind" else "",
        options={
            "Driver": driver.get("Name") or "local",
            "DriverOpts": driver.get("Options") or {},
            "Labels": volume.get("Labels") or {},
        },
    )
