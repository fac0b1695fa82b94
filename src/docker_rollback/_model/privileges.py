"""Lists a container's privileges on its host in plain words, from its inspection. Pure.

A backup says how a container is created, so whoever edits a backup can request anything that the engine grants.
Therefore the request is read as well as the result: a mount counts wherever the inspection names it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_HOST_MODES: Final = (
    ("NetworkMode", "network"),
    ("PidMode", "pid"),
    ("IpcMode", "ipc"),
    ("UTSMode", "uts"),
    ("UsernsMode", "userns"),
    ("CgroupnsMode", "cgroupns"),
)
_SOCKETS: Final = ("docker.sock", "podman.sock", "containerd.sock", "crio.sock")
_USUAL_RUNTIMES: Final = ("", "runc", "crun", "io.containerd.runc.v2", "oci")
_TIGHTENING: Final = "no-new-privileges"
_PROFILE_FROM: Final = 80  # a security option with more characters contains a whole profile, not its name


def privileges(inspection: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the privileges that an ordinary container does not have.

    Example:
        >>> privileges({"HostConfig": {"Privileged": True, "PidMode": "host"}})
        ('privileged', 'host pid')
    """
    host = inspection.get("HostConfig") or {}
    found = [
        *(["privileged"] if host.get("Privileged") else []),
        *_capabilities(host),
        *(f"host {name}" for key, name in _HOST_MODES if host.get(key) == "host"),
        *_binds(inspection, host),
        *_devices(host),
        *_security(host),
        *(f"sysctl {name}={value}" for name, value in sorted((host.get("Sysctls") or {}).items())),
        *([f"runtime {host['Runtime']}"] if (host.get("Runtime") or "") not in _USUAL_RUNTIMES else []),
    ]
    return tuple(dict.fromkeys(found))


def privileges_of_volume(inspection: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the parts of its host that a volume exposes through its driver's options.

    Example:
        >>> privileges_of_volume({"Driver": "local", "Options": {"type": "none", "o": "bind", "device": "/etc"}})
        ('binds /etc of the host (read-write)',)
    """
    return tuple(_shown(inspection.get("Options") or {}))


def _shown(options: Mapping[str, Any]) -> Iterator[str]:
    device = str(options.get("device") or "")
    flags = str(options.get("o") or "").split(",")
    if not device.startswith("/"):
        return
    if "bind" in flags or "rbind" in flags or options.get("type") in ("none", "bind"):
        yield _bind(device, read_only="ro" in flags)
    else:
        yield f"mounts the device {device} of the host"


def _capabilities(host: Mapping[str, Any]) -> Iterator[str]:
    for name in host.get("CapAdd") or ():
        plain = str(name).upper().removeprefix("CAP_")
        yield "every capability" if plain == "ALL" else f"capability {plain}"


def _binds(inspection: Mapping[str, Any], host: Mapping[str, Any]) -> Iterator[str]:
    for bind in host.get("Binds") or ():
        source, _, rest = str(bind).partition(":")
        options = rest.partition(":")[2].split(",")
        if source.startswith("/"):
            yield _bind(source, read_only="ro" in options, propagation=_propagation(options))
    for mount in host.get("Mounts") or ():
        if mount.get("Type") == "bind":
            propagation = str((mount.get("BindOptions") or {}).get("Propagation") or "")
            yield _bind(str(mount.get("Source")), read_only=bool(mount.get("ReadOnly")), propagation=propagation)
        driver = (mount.get("VolumeOptions") or {}).get("DriverConfig") or {}
        yield from _shown(driver.get("Options") or {})
    for mount in inspection.get("Mounts") or ():
        if mount.get("Type") == "bind":
            propagation = str(mount.get("Propagation") or "")
            yield _bind(str(mount.get("Source")), read_only=not mount.get("RW", True), propagation=propagation)


def _propagation(options: Sequence[str]) -> str:
    return next((option for option in options if option.endswith(("shared", "slave"))), "")


def _bind(source: str, *, read_only: bool, propagation: str = "") -> str:
    path = posixpath.normpath(source)
    if posixpath.basename(path) in _SOCKETS:
        return f"mounts the engine's socket {path}"
    # Private propagation is the default, and gives no access.
    shared = f", {propagation}" if propagation.endswith("shared") else ""
    return f"binds {path} of the host ({'read-only' if read_only else 'read-write'}{shared})"


def _devices(host: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"device {device.get('PathOnHost')}" for device in host.get("Devices") or ())
    yield from (f"devices by the rule {rule!r}" for rule in host.get("DeviceCgroupRules") or ())
    for request in host.get("DeviceRequests") or ():
        named = ", ".join(map(str, request.get("DeviceIDs") or ()))
        kinds = ", ".join(str(kind) for kinds in request.get("Capabilities") or () for kind in kinds)
        driver = f" of driver {request['Driver']}" if request.get("Driver") else ""
        yield f"devices{driver} ({named or kinds or 'all'})"


def _security(host: Mapping[str, Any]) -> Iterator[str]:
    for option in map(str, host.get("SecurityOpt") or ()):
        name = option.replace(":", "=", 1) if "=" not in option.partition(":")[0] else option
        if name.startswith(_TIGHTENING):
            continue
        kind, _, value = name.partition("=")
        whole = value.lstrip().startswith("{") or len(value) > _PROFILE_FROM
        yield f"security option {kind}=(a profile of its own)" if whole else f"security option {name}"
    # An inspection shows this option only by its effect.
    if not host.get("Privileged") and any(host.get(key) == [] for key in ("MaskedPaths", "ReadonlyPaths")):
        yield "security option systempaths=unconfined"
