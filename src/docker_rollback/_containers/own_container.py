"""Which container this program runs in: what the kernel tells of us, compared with what the engine says of each.

No single trace is always there. A container in another one's network has that one's /etc/hosts and host name; with a
control group namespace of its own, its control group is ``/``; containerd's store does not say where a layer lies. So
every trace is looked at, those that name one container for sure first.
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
"""Files that an engine mounts from a folder named by the id of the container whose network it is."""
_MARKER: Final = "/run/.containerenv"
"""A file that Podman mounts from a folder of the container itself."""
_ENGINES_OWN: Final = ("/dev", "/proc", "/sys", "/run/.containerenv", "/run/secrets", "/sbin/docker-init", "/dev/init")
_LAYER_NAME: Final = 20
"""Characters from which on the name of a layer's folder is generated, and no other layer's."""


@frozen
class Traces:
    """What the kernel tells this program of where it runs.

    Attributes:
        cgroup: its control groups, as /proc/self/cgroup has them.
        mountinfo: its mounts, as /proc/self/mountinfo has them.
        is_with: tells whether the main program of a container, by its inspection, has the mounts that we have.
        is_first: tells whether a container, by its inspection, was started when process 1 began, as we see that.
        real: returns a path without symbolic links, as we see it.
    """

    cgroup: str = field(default="", repr=False)
    mountinfo: str = field(default="", repr=False)
    is_with: Callable[[Inspection], bool] = lambda _: False
    is_first: Callable[[Inspection], bool] = lambda _: False
    real: Callable[[str], str] = str

    @classmethod
    def of_this_process(cls) -> Traces:
        """Ask the kernel; what it does not tell is left empty."""
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
    """The container that this program runs in; several where nothing tells which of them it is.

    Attributes:
        containers: those.
    """

    containers: tuple[Observed, ...] = ()

    def has(self, container: Observed) -> bool:
        """Whether this program runs in a container, or may."""
        return any(one.id == container.id for one in self.containers)

    def refusal(self, container: Observed) -> str | None:
        """Return why a container cannot be stopped by this program; None where it can."""
        if self.has(container):
            others = ", ".join(repr(one.name) for one in self.containers if one.id != container.id)
            how = f"may run in it (nothing tells it from {others})" if others else "runs in it"
            return f"this program {how}; stopping it would stop the rollback; run the program elsewhere"
        for one in self.containers:
            if shared := shared_namespaces(one, container):
                return (
                    f"this program runs in {one.name!r}, which uses the {' and the '.join(shared)} of this container: "
                    "stopping it would cut the program off; run the program elsewhere"
                )
        return None


def own_container(traces: Traces, containers: Sequence[Observed]) -> Own:
    """Return which of all containers of an engine this program runs in; none where it runs in no container of it."""
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
            # Of several, the last one hides the others.
            root = mount.option("upperdir")
    if not root:
        return None
    for container in containers:
        data: dict[str, Any] = (container.inspection.get("GraphDriver") or {}).get("Data") or {}
        if (upper := data.get("UpperDir")) and _same_layer(root, str(upper)):
            return container
    return None


def _same_layer(one: str, other: str) -> bool:
    """Whether two paths are of one layer; an engine in a root of its own, or below a folder, has another beginning."""
    ours, theirs = PurePosixPath(one).parts[-2:], PurePosixPath(other).parts[-2:]
    return one == other or (ours == theirs and len(ours[0]) >= _LAYER_NAME)


def _by_marker(mounts: Iterable[Mounted], known: dict[str, Observed]) -> Observed | None:
    return _deepest((mount.root for mount in mounts if mount.target == _MARKER), known)


def _by_group(cgroup: str, mounts: Iterable[Mounted], known: dict[str, Observed]) -> Observed | None:
    """Return the container whose control group we are in, or that shows its own where control groups are mounted."""
    groups = (line.split(":", 2)[2] for line in cgroup.splitlines() if line.count(":") >= 2)
    shown = (
        mount.root
        for mount in mounts
        if mount.filesystem in ("cgroup", "cgroup2") and mount.target.startswith("/sys/fs/cgroup")
    )
    return _deepest(groups, known) or _deepest(shown, known)


def _deepest(paths: Iterable[str], known: dict[str, Observed]) -> Observed | None:
    """Return the container whose id stands last in one of some paths; what stands before it holds it."""
    for path in paths:
        for found in reversed(_FULL_ID.findall(path)):
            if found in known:
                return known[found]
    return None


def _by_network(mounts: Sequence[Mounted], containers: Sequence[Observed], traces: Traces) -> list[Observed]:
    """Return the container whose network's files we have, or those in its network: what nothing tells apart.

    They are told apart by their mounts, and by the moment at which their process 1 began, unless that is another's.
    """
    owners = {found for mount in mounts if mount.target in _OF_ITS_NETWORK for found in _FULL_ID.findall(mount.root)}
    candidates = [
        one
        for one in containers
        if one.state.alive and (one.id in owners or any(_network_of(one) in (owner, owner[:12]) for owner in owners))
    ]
    names = {one.name for one in candidates if one.id in owners}
    candidates += [one for one in containers if one.state.alive and one not in candidates and _network_of(one) in names]
    targets = {mount.target for mount in mounts if not _is_engines_own(mount.target)}
    fitting = [one for one in candidates if _explains(one, targets, traces.real)] or candidates
    first = [one for one in fitting if one.inspection["HostConfig"].get("PidMode") or traces.is_first(one.inspection)]
    return first or fitting


def _network_of(container: Observed) -> str:
    """Return the reference to the container whose network one has; empty where that is its own."""
    mode = str(container.inspection["HostConfig"].get("NetworkMode") or "")
    return mode.removeprefix("container:") if mode.startswith("container:") else ""


def _explains(container: Observed, targets: Collection[str], real: Callable[[str], str]) -> bool:
    """Whether a container's mounts are the ones that we see, with all that is mounted in them."""
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
        # Numbers of processes mean something else in another namespace, and on another machine: the moment tells.
        same = pid > 0 and Path(f"/proc/{pid}/ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink()
        return same and began_with(Path(f"/proc/{pid}"), container)
    except OSError:
        return False


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
