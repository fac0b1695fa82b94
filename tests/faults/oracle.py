"""What an engine, its volumes and a store hold, seen by the kernel and by plain inspections, and what differs.

Nothing here is the library's: it is what tells whether the library keeps its word.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import docker
from attrs import frozen

from tests.faults.world import IMAGES
from tests.unit.volumes import comparing

_ASSIGNED: Final = (
    "Id",
    "Created",
    "Path",
    "Args",
    "ResolvConfPath",
    "HostnamePath",
    "HostsPath",
    "LogPath",
    "GraphDriver",
    "Storage",
    "ExecIDs",
    "RestartCount",
    "ImageManifestDescriptor",
    "BoundingCaps",
    "EffectiveCaps",
    "ImageDigest",
    "StaticDir",
    "OCIConfigPath",
    "ConmonPidFile",
    "PidFile",
    "SizeRootFs",
    "State",
    "NetworkSettings",
    "Mounts",
    "Image",
)
_ENDPOINT_ASSIGNED: Final = ("EndpointID", "NetworkID", "MacAddress", "Gateway", "DNSNames", "IPv6Gateway")
_OURS: Final = re.compile(r"^(?:localhost/|docker\.io/library/)?docker-rollback(?:-kept)?:")
_KILLED: Final = 137
_SHOWS: Final = 3.0
"""Seconds after the start of a run in which Docker shows that it has lost it."""
_TOO_EARLY: Final = "cannot join network"
"""A part of the error of a container that was started before the one whose network it uses."""
_PARKED: Final = "-docker-rollback-"
_PODMANS_LATER: Final = "io.podman.annotations.pids-limit"
"""An annotation that Podman writes once it has been asked for a limit, from a field that is compared."""
_OUTSIDE: Final = frozenset(
    {"proc", "sys", "dev", "data", "cache", "witness", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"}
    | {".dockerenv", "run", "run/.containerenv"}
)
"""Paths in a container that are mounted, or that engines make at each create."""


@frozen
class Picture:
    """Everything that has to be as it was.

    Attributes:
        containers: each container's inspection without what engines assign, its state among it, by name.
        files: everything that can be seen of each file, by where it is.
        volumes: driver, options and labels of each volume that has a name of its own.
        anonymous: how many volumes have none.
        networks: each network's inspection without what engines assign, by name.
        ids: the ids of the containers, by name; no part of the comparison.
        images: the ids of their images, by name; no part of it either.
        made_from: what they say that they were created from, by name.
    """

    containers: Mapping[str, Any]
    files: Mapping[str, Any]
    volumes: Mapping[str, Any]
    anonymous: int
    networks: Mapping[str, Any]
    ids: Mapping[str, str]
    images: Mapping[str, str]
    made_from: Mapping[str, str]


def look(client: docker.DockerClient, *, parked: bool = True) -> Picture:
    """Take the picture of an engine.

    Args:
        client: a client of the engine.
        parked: whether containers count that the library has put aside, and removes when the update stands.
    """
    inspections = [client.api.inspect_container(one["Id"]) for one in client.api.containers(all=True)]
    inspections = [one for one in inspections if parked or _PARKED not in one["Name"]]
    names = {one["Id"]: str(one["Name"]).lstrip("/") for one in inspections}
    volumes = [
        client.api.inspect_volume(one["Name"])
        for one in client.api.volumes()["Volumes"] or ()
        # Marks of the library: `leftovers` asks about them.
        if not any(label.startswith("docker-rollback.") for label in one["Labels"] or ())
    ]
    files: dict[str, Any] = {}
    named = {volume["Name"] for volume in volumes if not _is_generated(volume["Name"])}
    for volume in volumes:
        if volume["Name"] in named:
            files |= _files(f"volume {volume['Name']}", Path(volume["Mountpoint"]))
    for one in inspections:
        for mount in one["Mounts"]:
            if mount["Type"] == "volume" and mount["Name"] not in named:
                files |= _files(f"{one['Name']} at {mount['Destination']}", Path(mount["Source"]))
        # One that an engine is about to start again is "running" without a process.
        if one["State"]["Running"] and one["State"]["Pid"]:
            files |= _own_files(f"{one['Name']} own", Path(f"/proc/{one['State']['Pid']}/root"))
    return Picture(
        containers={names[one["Id"]]: _container(one, names) for one in inspections},
        files=files,
        volumes={
            one["Name"]: {key: one.get(key) or {} for key in ("Driver", "Options", "Labels")}
            for one in volumes
            if one["Name"] in named
        },
        anonymous=len(volumes) - len(named),
        networks={
            one["Name"]: _network(client.api.inspect_network(one["Id"]))
            for one in client.api.networks()
            if one["Name"] not in ("bridge", "host", "none", "podman")
        },
        ids={name: identity for identity, name in names.items()},
        images={names[one["Id"]]: one["Image"] for one in inspections},
        made_from={names[one["Id"]]: one["Config"]["Image"] for one in inspections},
    )


def differences(before: Picture, after: Picture) -> list[str]:
    """Return what differs between two pictures, a line for each."""
    lines: list[str] = []
    for part in ("containers", "volumes", "networks"):
        lines += _unlike(part, getattr(before, part), getattr(after, part))
    lines += _made_from_others(before, after)
    if before.anonymous != after.anonymous:
        lines.append(f"anonymous volumes: {before.anonymous}, now {after.anonymous}")
    lines += [f"files: {line}" for line in comparing.differences(_bytes(before.files), _bytes(after.files))]
    return lines


def _made_from_others(before: Picture, after: Picture) -> Iterator[str]:
    """Yield the containers that say another image; one on a committed image says the id of that, or a name of ours."""
    for name in before.made_from.keys() & after.made_from.keys():
        was, now, image = before.made_from[name], after.made_from[name], after.images[name]
        committed = image != before.images[name]
        if was != now and not (committed and (now in (image, image.removeprefix("sha256:")) or _OURS.match(now))):
            yield f"containers.{name}.Config.Image: was {was!r}, is {now!r}"


def mend_lost_runs(client: docker.DockerClient, outcome: str) -> list[str]:
    """Replace by hand the runs that Docker has lost after its own death (moby 48912); name them, a line for each.

    Those too that it has not begun: it starts all containers at once, and so one in the network of another too early.

    Args:
        client: a client of the engine.
        outcome: the status that the library had told by then; the lines name it.
    """
    told = []
    for one in client.api.containers(all=True):
        inspection = client.api.inspect_container(one["Id"])
        state, networks = inspection["State"], inspection["NetworkSettings"]["Networks"]
        bare = state["Running"] and networks and not any(endpoint["EndpointID"] for endpoint in networks.values())
        if not bare or (state["Restarting"] and state["ExitCode"] != _KILLED):
            continue
        name, status = inspection["Name"][1:], state["Status"]
        told.append(f"Docker has lost the run of {name} that was {status}, with the update {outcome}")
        held: Any = {"Name": "no"}
        client.api.update_container(one["Id"], restart_policy=held)
        for _ in range(2):
            client.api.stop(one["Id"])
            client.api.start(one["Id"])
            # By then the engine has taken the end of the earlier run for the end of this one.
            time.sleep(_SHOWS)
        client.api.update_container(one["Id"], restart_policy=inspection["HostConfig"]["RestartPolicy"])
    for one in client.api.containers(all=True):
        inspection = client.api.inspect_container(one["Id"])
        state, policy = inspection["State"], inspection["HostConfig"]["RestartPolicy"]
        if state["Status"] == "exited" and policy["Name"] == "always" and _TOO_EARLY in str(state.get("Error")):
            told.append(f"Docker started {inspection['Name'][1:]} before its network was there, the update {outcome}")
            client.api.start(one["Id"])
    return told


def volumes_without_container(client: docker.DockerClient, since: float) -> frozenset[str]:
    """Return the anonymous volumes that no container has, and that were made since a moment.

    Args:
        client: a client of the engine.
        since: the moment, in seconds; engines say the second in which a volume was made.
    """
    unused = client.api.volumes(filters={"dangling": True})["Volumes"] or ()
    return frozenset(
        one["Name"]
        for one in unused
        if _is_generated(one["Name"]) and datetime.fromisoformat(one["CreatedAt"]).timestamp() >= int(since)
    )


def remove_volumes_without_container(client: docker.DockerClient, names: Collection[str]) -> list[str]:
    """Remove by hand some of those volumes that still have no container; name them, a line for each."""
    found = sorted(volumes_without_container(client, 0).intersection(names))
    for name in found:
        client.api.remove_volume(name)
    return [
        f"the engine died while it created a container, and left its anonymous volume {name[:12]}" for name in found
    ]


def leftovers(client: docker.DockerClient, held: set[str]) -> list[str]:
    """Return what of the library's is still in the engine and has no reason to be, a line for each.

    Args:
        client: a client of the engine.
        held: the image names that backups in the store need, because it does not have the image itself.
    """
    lines = []
    standing = {client.api.inspect_container(one["Id"])["Image"] for one in client.api.containers(all=True)}
    for image in client.api.images():
        for tag in image["RepoTags"] or ():
            if tag in IMAGES.values() or tag.removeprefix("localhost/") in held:
                continue
            if not (_OURS.match(tag) and image["Id"] in standing):
                lines.append(f"image {tag}")
        if not [tag for tag in image["RepoTags"] or () if tag != "<none>:<none>"] and image["Id"] not in standing:
            lines.append(f"image {image['Id'][:19]} without a name")
    for name, wanted in IMAGES.items():
        if not client.api.images(wanted):
            lines.append(f"image {wanted} of version {name} has lost its name")
    for kind, found in (("volume", client.api.volumes()["Volumes"] or []), ("network", client.api.networks())):
        lines += [f"{kind} {one['Name']}" for one in found if "docker-rollback" in json.dumps(one.get("Labels") or {})]
    return lines


def records(path: Path) -> list[str]:
    """Return the names of the journal records in a store, read by hand."""
    return [found.name for found in (path / "journal").glob("*") if found.name != "lock"]


def store_faults(path: Path) -> list[str]:
    """Return what is wrong with a store, read by hand: each blob is what it is named, each name leads to a blob."""
    lines = [f"journal {name}" for name in records(path)]
    if not (path / "index.json").exists():
        return lines
    for blob in (path / "blobs" / "sha256").iterdir():
        with blob.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != blob.name:
                lines.append(f"blob {blob.name} is another one")
    for descriptor in _descriptors(json.loads((path / "index.json").read_text())):
        blob = path / "blobs" / descriptor["digest"].replace(":", "/")
        if not blob.exists() or blob.stat().st_size != descriptor["size"]:
            lines.append(f"blob {descriptor['digest']} is named, and not there or of another size")
        elif descriptor["mediaType"].endswith(("manifest.v1+json", "index.v1+json")):
            lines += [
                f"blob {inner['digest']} is named by {blob.name[:12]}, and not there"
                for inner in _descriptors(json.loads(blob.read_text()))
                if not (path / "blobs" / inner["digest"].replace(":", "/")).exists()
            ]
    return lines


def _descriptors(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        if {"mediaType", "digest", "size"} <= value.keys():
            yield value
        else:
            for inner in value.values():
                yield from _descriptors(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _descriptors(inner)


def _container(inspection: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return what has to be as it was; `names` are those of the containers, by their ids."""
    found = {key: value for key, value in copy.deepcopy(dict(inspection)).items() if key not in _ASSIGNED}
    state = inspection["State"]
    # Docker shows an empty list where it showed nothing, once it has been started again.
    found["HostConfig"] |= {key: found["HostConfig"].get(key) or [] for key in ("Dns", "DnsOptions", "DnsSearch")}
    # Podman keeps variables and options in no order, and names each anonymous volume here.
    found["Config"] |= {"Env": sorted(inspection["Config"].get("Env") or []), "Image": ""}
    own = inspection["Id"][:12]
    if found["Config"]["Hostname"] == own:
        # Podman gives it to one that is in the network of another, too.
        found["Config"] |= {
            "Hostname": "",
            "Env": [word for word in found["Config"]["Env"] if word != f"HOSTNAME={own}"],
        }
    found["HostConfig"] |= {"Binds": sorted(map(_bind, inspection["HostConfig"].get("Binds") or []))}
    kind, _, other = str(inspection["HostConfig"]["NetworkMode"]).partition(":")
    if kind == "container":
        # It has to be the container that has the name now.
        found["HostConfig"]["NetworkMode"] = f"{kind}:{names.get(other, other)}"
    annotations = inspection["HostConfig"].get("Annotations")
    if annotations:
        found["HostConfig"]["Annotations"] = {key: annotations[key] for key in annotations if key != _PODMANS_LATER}
    found["state"] = {key: state[key] for key in ("Status", "Running", "Paused", "Restarting", "OOMKilled", "Dead")}
    found["mounts"] = sorted(
        [
            [mount["Type"], mount["Destination"], str(mount["RW"]), _mounted(mount), str(mount.get("Mode"))]
            for mount in inspection["Mounts"]
        ]
    )
    found["networks"] = {
        name: _endpoint(names, endpoint) for name, endpoint in inspection["NetworkSettings"]["Networks"].items()
    }
    return found


def _bind(words: str) -> tuple[str, ...]:
    source, *rest = words.split(":")
    options = sorted(rest[1].split(",")) if len(rest) > 1 else []
    return ("anonymous" if _is_generated(source) else source, *rest[:1], *options)


def _mounted(mount: Mapping[str, Any]) -> str:
    if mount["Type"] != "volume":
        return str(mount["Source"])
    return "anonymous" if _is_generated(mount["Name"]) else str(mount["Name"])


def _endpoint(names: Mapping[str, str], endpoint: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in endpoint.items() if key not in _ENDPOINT_ASSIGNED}
    # The engine adds the beginning of the container's id; Podman that of the one whose network it is.
    assigned = {identity[:12] for identity in names}
    found["Aliases"] = sorted(alias for alias in endpoint.get("Aliases") or () if alias not in assigned)
    return found


def _network(inspection: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in inspection.items() if key not in ("Id", "Created", "Containers")}
    # No gateway was asked for; Docker shows the one that it chose once it has been started again.
    pools = [{key: value for key, value in pool.items() if key != "Gateway"} for pool in found["IPAM"]["Config"] or ()]
    return {**found, "IPAM": {**found["IPAM"], "Config": pools}}


def _is_generated(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


def _files(where: str, root: Path) -> dict[str, Any]:
    found = comparing.picture(root, sockets=False)
    return {f"{where}:{os.fsdecode(name)}": node for name, node in found.items()}


def _own_files(where: str, root: Path) -> dict[str, Any]:
    """Return what can be seen of a running container's own files, as far as an engine's commit keeps it."""
    found: dict[str, Any] = {}

    def walk(folder: Path, name: str) -> None:
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            below = f"{name}{entry.name}"
            if below in _OUTSIDE or below.startswith("bin/"):
                continue
            seen = entry.stat(follow_symlinks=False)
            regular, link = stat.S_ISREG(seen.st_mode), stat.S_ISLNK(seen.st_mode)
            found[f"{where}:{below}"] = comparing.Node(
                mode=seen.st_mode,
                owner=(seen.st_uid, seen.st_gid),
                # A folder that holds the place of a mount is changed by every create.
                modified=0 if stat.S_ISDIR(seen.st_mode) else seen.st_mtime_ns // 10**9,
                size=seen.st_size if regular else 0,
                device=seen.st_rdev,
                links=(),
                attributes=(),
                target=os.fsencode(os.readlink(entry.path)) if link else b"",  # noqa: PTH115 (an entry, not a path)
                digest=hashlib.sha256(Path(entry.path).read_bytes()).hexdigest() if regular else "",
                data=(),
            )
            if entry.is_dir(follow_symlinks=False):
                walk(Path(entry.path), f"{below}/")

    walk(root, "")
    return found


def _bytes(files: Mapping[str, Any]) -> dict[bytes, Any]:
    return {os.fsencode(name): node for name, node in files.items()}


def _unlike(where: str, was: Any, now: Any) -> Iterator[str]:
    """Name what differs, where; nothing at all and an empty value are two things."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted(was.keys() | now.keys()):
            if key not in was or key not in now:
                yield f"{where}.{key}: {'was not there' if key not in was else 'is gone'}"
            else:
                yield from _unlike(f"{where}.{key}", was[key], now[key])
    elif was != now:
        yield f"{where}: was {was!r}, is {now!r}"
