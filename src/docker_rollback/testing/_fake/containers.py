"""A container of the in-memory engine: its state and its inspection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field

from docker_rollback.testing._fake.create import MountSpec
from docker_rollback.testing._fake.networks import Networks
from docker_rollback.testing._fake.processes import FakeProcess
from docker_rollback.testing._fake.tree import MountedAt, Node, View

NEVER = "0001-01-01T00:00:00Z"


@define(eq=False)
class FakeMount:
    """A mount that a container has.

    Attributes:
        spec: the mount as requested.
        name: the volume's name; empty for a mount that is not a volume.
        anonymous: True if the engine made up the volume's name for this container.
        node: the file or directory that is mounted; None until a start finds it.
    """

    spec: MountSpec
    name: str = ""
    anonymous: bool = False
    node: Node | None = None

    def shown(self, source: str, driver: str) -> dict[str, Any]:
        """Return the mount as an inspection shows it."""
        common = {"Mode": self.spec.mode, "RW": not self.spec.read_only}
        if self.spec.kind == "volume":
            return {
                "Type": "volume",
                "Name": self.name,
                "Source": source,
                "Destination": self.spec.destination,
                "Driver": driver,
                **common,
                "Propagation": "",
            }
        return {
            "Type": self.spec.kind,
            "Source": self.spec.source,
            "Destination": self.spec.destination,
            **common,
            "Propagation": self.spec.propagation,
        }


@define(eq=False)
class Container:
    """One container.

    Attributes:
        id: its full id.
        name: its name, without the leading slash.
        created: the time of its creation, as the engine writes it.
        image: the id of its image.
        base: the file tree of its image, which never changes.
        root: its own file system, without its mounts.
        config: its `Config`.
        host: its `HostConfig`.
        endpoints: the requested endpoint of each network, by the network's name.
        mounts: its mounts.
        status: its status, in the engine's word.
        exit_code: the exit code of its last run, or of a start that failed.
        error: the reason why the last start failed.
        started: the time of its last start.
        finished: the time at which it last ended.
        pid: the pid of its main process; 0 if it does not run.
        run: counts its starts and ends, so that an action scheduled in one run does not happen in the next.
        restarts: the number of times that its restart policy has started it.
        health: "starting", "healthy" or "unhealthy"; None if it has no health check or never ran.
        probes: the results of its health check, newest last.
        undecided: True while its health waits for a test's `probe`.
        ports: its published ports, as bound on the host; empty while it does not run.
        prepared: True once a start was tried, so that the files that the engine makes for it exist.
        sandbox: the id of its network sandbox; empty while it does not run.
        log: the lines that it printed.
        processes: the programs that `exec` runs in it.
        native: its inspection in an API that only Podman has, or None.
    """

    id: str
    name: str
    created: str
    image: str
    base: Node
    root: Node
    config: dict[str, Any]
    host: dict[str, Any]
    endpoints: dict[str, dict[str, Any]]
    mounts: list[FakeMount] = field(factory=list)
    status: str = "created"
    exit_code: int = 0
    error: str = ""
    started: str = NEVER
    finished: str = NEVER
    pid: int = 0
    run: int = 0
    restarts: int = 0
    health: str | None = None
    probes: list[dict[str, Any]] = field(factory=list)
    undecided: bool = False
    ports: dict[str, Any] = field(factory=dict)
    prepared: bool = False
    sandbox: str = ""
    log: list[str] = field(factory=list)
    processes: list[FakeProcess] = field(factory=list)
    native: dict[str, Any] | None = None

    @property
    def alive(self) -> bool:
        """True if it runs, is paused or is restarting."""
        return self.status in ("running", "paused", "restarting")

    @property
    def command(self) -> list[str]:
        """Its command line: the entrypoint, then the command."""
        return [*(self.config["Entrypoint"] or []), *(self.config["Cmd"] or [])]

    @property
    def killed_by_stop(self) -> bool:
        """True if its stop signal is SIGKILL, which no program can handle."""
        return str(self.config.get("StopSignal") or "").removeprefix("SIG") in ("KILL", "9")

    @property
    def checked(self) -> bool:
        """True if it has a health check."""
        test = (self.config.get("Healthcheck") or {}).get("Test") or []
        return bool(test) and test[0] != "NONE"

    def view(self) -> View:
        """Return the file system as the container's programs see it."""
        mounts = {
            mount.spec.destination: MountedAt(mount.node, mount.spec.read_only)
            for mount in self.mounts
            if mount.node is not None
        }
        return View(self.root, mounts, read_only=bool(self.host["ReadonlyRootfs"]))

    def make_place(self, destination: str, now: int) -> Node:
        """Return the directory at `destination` in its own file system; missing directories on the path are made."""
        view, node, path = View(self.root), self.root, ""
        for name in (part for part in destination.split("/") if part):
            path = f"{path}/{name}"
            place = view.find(path)
            node = place.node or Node("directory", mode=0o755, mtime=now, ctime=now)
            if place.node is None and place.parent is not None:
                place.parent.children[place.name] = node
        return node

    def state(self) -> dict[str, Any]:
        """Return the `State` of the container's inspection."""
        shown: dict[str, Any] = {
            "Status": self.status,
            "Running": self.alive,
            "Paused": self.status == "paused",
            "Restarting": self.status == "restarting",
            "OOMKilled": False,
            "Dead": False,
            "Pid": self.pid,
            "ExitCode": self.exit_code,
            "Error": self.error,
            "StartedAt": self.started,
            "FinishedAt": self.finished,
        }
        if self.health is not None:
            streak = 0
            for probe in reversed(self.probes):
                if probe["ExitCode"] == 0:
                    break
                streak += 1
            shown["Health"] = {"Status": self.health, "FailingStreak": streak, "Log": list(self.probes[-5:])}
        return shown


def inspection(container: Container, networks: Networks, mounts: list[dict[str, Any]], folder: str) -> dict[str, Any]:
    """Return a container's inspection."""
    own = f"{folder}/containers/{container.id}"
    begun, logged = container.prepared, container.host["LogConfig"]["Type"] == "json-file"
    return {
        "Id": container.id,
        "Created": container.created,
        "Path": container.command[0],
        "Args": container.command[1:],
        "State": container.state(),
        "Image": container.image,
        "ResolvConfPath": f"{own}/resolv.conf" if begun else "",
        "HostnamePath": f"{own}/hostname" if begun else "",
        "HostsPath": f"{own}/hosts" if begun else "",
        "LogPath": f"{own}/{container.id}-json.log" if begun and logged else "",
        "Name": f"/{container.name}",
        "RestartCount": container.restarts,
        "Driver": "memory",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": container.host,
        "GraphDriver": {"Data": {"ID": container.id}, "Name": "memory"},
        "Mounts": mounts,
        "Config": container.config,
        "NetworkSettings": _network_settings(container, networks),
    }


def _network_settings(container: Container, networks: Networks) -> dict[str, Any]:
    hostname = str(container.config["Hostname"])
    shown: Mapping[str, dict[str, Any]] = {
        name: networks.shown(name, container.id, container.name, hostname, endpoint)
        for name, endpoint in container.endpoints.items()
    }
    first = shown.get("bridge", {})
    return {
        "Bridge": "",
        "SandboxID": container.sandbox,
        "SandboxKey": f"/var/run/docker/netns/{container.sandbox[:12]}" if container.sandbox else "",
        "Ports": container.ports,
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": first.get("EndpointID", ""),
        "Gateway": first.get("Gateway", ""),
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": first.get("IPAddress", ""),
        "IPPrefixLen": first.get("IPPrefixLen", 0),
        "IPv6Gateway": "",
        "MacAddress": first.get("MacAddress", ""),
        "Networks": dict(shown),
    }
