"""Finds the container that this program runs in, by comparing facts of the kernel with the engine's inspections.

No single trace is always available, so all are tried, the certain ones first. A container in another one's network has
the other's /etc/hosts and host name. In a control group namespace of its own, its control group is ``/``. Containerd's
store does not reveal the path of a layer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from attrs import field, frozen

from docker_rollback._engine import Inspection
from docker_rollback._host import Mounted, began_with, mounted
from docker_rollback._inspection import shared_namespaces
from docker_rollback._model import Observed

_FULL_ID: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_OF_ITS_NETWORK: Final = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
"""Files that an engine mounts from a folder with the id of the container that owns the network."""
_MARKER: Final = "/run/.containerenv"
"""A file that Podman mounts from the container's own folder."""
_ENGINES_OWN: Final = ("/dev", "/proc", "/sys", "/run/.containerenv", "/run/secrets", "/sbin/docker-init", "/dev/init")
_LAYER_NAME: Final = 20
"""The least number of characters of a layer folder whose name is generated, and so unique."""


@frozen
class Traces:
    """Facts of the kernel about this program's surroundings.

    Attributes:
        cgroup: the content of /proc/self/cgroup.
        mountinfo: the content of /proc/self/mountinfo.
        is_with: returns True if the main program of an inspected container is in our mount namespace.
        is_first: returns True if an inspected container started when our process 1 did.
        real: resolves the symbolic links of a path, as this program sees them.
    """

    cgroup: str = field(default="", repr=False)
    mountinfo: str = field(default="", repr=False)
    is_with: Callable[[Inspection], bool] = lambda _: False
    is_first: Callable[[Inspection], bool] = lambda _: False
    real: Callable[[str], str] = str

    @classmethod
    def of_this_process(cls) -> Traces:
        """Read the traces of this process; one that cannot be read is empty."""
        return cls(
            _text("/proc/self/cgroup"),
            _text("/proc/self/mountinfo"),
            _is_with_us,
            lambda container: began_with(Path("/proc/1"), container),
            os.path.realpath,
        )


NO_TRACES: Final = Traces()


@frozen
class Own:
    """The container that this program runs in, or several indistinguishable candidates; empty if there is none."""

    containers: tuple[Observed, ...] = ()

    def has(self, container: Observed) -> bool:
        """Return True if this program runs in a container, or may run in it."""
        return any(one.id == container.id for one in self.containers)

    def refusal(self, container: Observed) -> str | None:
        """Return why this program cannot stop a container, or None if it can."""
        if self.has(container):
            others = ", ".join(repr(one.name) for one in self.containers if one.id != container.id)
            how = f"may run in it (nothing distinguishes it from {others})" if others else "runs in it"
            return f"this program {how}; stopping it would stop the rollback; run the program elsewhere"
        for one in self.containers:
            if shared := shared_namespaces(one, container):
                return (
                    f"this program runs in {one.name!r}, which uses the {' and the '.join(shared)} of this container: "
                    "stopping it would cut the program off; run the program elsewhere"
                )
        return None


def own_container(traces: Traces, containers: Sequence[Observed]) -> Own:
    """Find the container of an engine that this program runs in."""
    mounts = list(mounted(traces.mountinfo))
    known = {container.id: container for container in containers}
    for one in (_by_layer(mounts, containers), _by_marker(mounts, known), _by_group(traces.cgroup, mounts, known)):
        if one is not None:
            return Own((one,))
    if sharing := [one for one in containers if traces.is_with(one.inspection)]:
        return Own(tuple(sharing))
    return Own(tuple(_by_network(mounts, containers, traces)))


def _by_layer(mounts: Iterable[Mounted], containers: Iterable[Observed]) -> Observed | None:
    """Return the container whose writable layer is our root."""
    root = None
    for mount in mounts:
        if mount.target == "/":
            # Of several mounts, the last one hides the others.
            root = mount.option("upperdir")
    if not root:
        return None
    for container in containers:
        data: dict[str, Any] = (container.inspection.get("GraphDriver") or {}).get("Data") or {}
        if (upper := data.get("UpperDir")) and _same_layer(root, str(upper)):
            return container
    return None


def _same_layer(one: str, other: str) -> bool:
    """Return True if two paths mean one layer; an engine with its own root shows other parents."""
    ours, theirs = PurePosixPath(one).parts[-2:], PurePosixPath(other).parts[-2:]
    return one == other or (ours == theirs and len(ours[0]) >= _LAYER_NAME)


def _by_marker(mounts: Iterable[Mounted], known: dict[str, Observed]) -> Observed | None:
    return _deepest((mount.root for mount in mounts if mount.target == _MARKER), known)


def _by_group(cgroup: str, mounts: Iterable[Mounted], known: dict[str, Observed]) -> Observed | None:
    """Return the container of our control group, or of the control group that is mounted at /sys/fs/cgroup."""
    groups = (line.split(":", 2)[2] for line in cgroup.splitlines() if line.count(":") >= 2)
    shown = (
        mount.root
        for mount in mounts
        if mount.filesystem in ("cgroup", "cgroup2") and mount.target.startswith("/sys/fs/cgroup")
    )
    return _deepest(groups, known) or _deepest(shown, known)


def _deepest(paths: Iterable[str], known: dict[str, Observed]) -> Observed | None:
    """Return the container with the last known id in one of the paths; earlier ids are of outer containers."""
    for path in paths:
        for found in reversed(_FULL_ID.findall(path)):
            if found in known:
                return known[found]
    return None


def _by_network(mounts: Sequence[Mounted], containers: Sequence[Observed], traces: Traces) -> list[Observed]:
    """Return the containers that may own our network's files, or that use the owner's network."""
    owners = {found for mount in mounts if mount.target in _OF_ITS_NETWORK for found in _FULL_ID.findall(mount.root)}
    candidates = [
        one
        for one in containers
        if one.state.alive and (one.id in owners or any(_network_of(one) in (owner, owner[:12]) for owner in owners))
    ]
    names = {one.name for one in candidates if one.id in owners}
    candidates += [one for one in containers if one.state.alive and one not in candidates and _network_of(one) in names]
    # Their mounts distinguish them, and so does the start of process 1, unless they share a process namespace.
    targets = {mount.target for mount in mounts if not _is_engines_own(mount.target)}
    fitting = [one for one in candidates if _explains(one, targets, traces.real)] or candidates
    first = [one for one in fitting if one.inspection["HostConfig"].get("PidMode") or traces.is_first(one.inspection)]
    return first or fitting


def _network_of(container: Observed) -> str:
    """Return the reference of the container whose network a container uses; empty if it has its own."""
    mode = str(container.inspection["HostConfig"].get("NetworkMode") or "")
    return mode.removeprefix("container:") if mode.startswith("container:") else ""


def _explains(container: Observed, targets: Collection[str], real: Callable[[str], str]) -> bool:
    """Return True if a container's mounts, and mounts below them, are exactly the ones that we see."""
    expected = {real(mount.destination) for mount in container.mounts if mount.kind in ("bind", "volume", "tmpfs")}
    below = tuple(f"{path.rstrip('/')}/" for path in expected)
    return expected <= set(targets) and all(one in expected or one.startswith(below) for one in targets)


def _is_engines_own(target: str) -> bool:
    return target in ("/", *_OF_ITS_NETWORK) or any(
        target == one or target.startswith(f"{one}/") for one in _ENGINES_OWN
    )


def _is_with_us(container: Inspection) -> bool:
    pid = int(container["State"].get("Pid") or 0)
    try:
        # In another namespace, or on another machine, the pid is another process's; its start time shows that.
        same = pid > 0 and Path(f"/proc/{pid}/ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink()
        return same and began_with(Path(f"/proc/{pid}"), container)
    except OSError:
        return False


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
