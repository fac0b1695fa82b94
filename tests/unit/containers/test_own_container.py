"""The container that a program runs in is known by what the kernel of each kind of container tells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from docker_rollback._containers.own_container import NO_TRACES, Traces, own_container
from docker_rollback._inspection.recreate import observe
from docker_rollback._model.backup import Observed
from tests.unit.inspections import inspection

SELF, VPN, MATE, OUTER = ("1f" * 32, "2e" * 32, "3d" * 32, "4c" * 32)
LAYERS = {SELF: "a1" * 32, VPN: "b2" * 32, MATE: "c3" * 32, OUTER: "d4" * 32}
NAMES = {SELF: "updater", VPN: "vpn", MATE: "mate", OUTER: "outer"}
SOCKET = ({"Type": "bind", "Source": "/var/run/docker.sock", "Destination": "/var/run/docker.sock", "RW": True},)


def container(
    identity: str,
    *,
    network: str = "bridge",
    pid: str = "",
    layer: str | None = "/var/lib/docker/overlay2/{}/diff",
    mounts: tuple[Mapping[str, Any], ...] = (),
    status: str = "running",
) -> Observed:
    """Return a container as its engine says it."""
    data = None if layer is None else {"UpperDir": layer.format(LAYERS[identity])}
    changes = {
        "Id": identity,
        "Name": f"/{NAMES[identity]}",
        "HostConfig/NetworkMode": network,
        "HostConfig/PidMode": pid,
        "GraphDriver": {"Name": "overlay2", "Data": data},
        "Mounts": list(mounts),
        "HostConfig/Mounts": None,
        "HostConfig/Tmpfs": None,
        "State/Status": status,
    }
    return observe(inspection(changes))


def everybody(**of_self: Any) -> list[Observed]:
    """Return this program's container among others."""
    layer = {"layer": of_self["layer"]} if "layer" in of_self else {}
    others = [
        container(VPN, **layer),
        container(MATE, network=f"container:{VPN}", **layer),
        container(OUTER, **layer),
    ]
    return [*others, container(SELF, **of_self)]


def root(upper: str, options: str = "") -> str:
    """Return the line of a root on overlayfs."""
    work = f"{upper.rpartition('/')[0]}/work"
    lower = "lowerdir=/var/lib/docker/overlay2/l/HKXL77M2:/var/lib/docker/overlay2/l/IJOFKTQM"
    return (
        f"492 351 0:52 / / rw,relatime master:10 - overlay overlay rw,{lower},upperdir={upper},workdir={work}{options}"
    )


def files(owner: str, folder: str = "/var/lib/docker/containers") -> str:
    """Return the lines of the three files that Docker mounts into whoever is in the network of a container."""
    return "\n".join(
        f"51{number} 492 254:0 {folder}/{owner}/{name} /etc/{name} rw,relatime - ext4 /dev/vda rw,discard"
        for number, name in enumerate(("resolv.conf", "hostname", "hosts"))
    )


KERNEL = """493 492 0:84 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
494 492 0:87 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
495 494 0:88 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,gid=5,mode=620,ptmxmode=666
496 492 0:90 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
510 494 0:92 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k
353 493 0:51 / /proc/acpi ro,relatime - tmpfs tmpfs ro
357 496 0:52 / /sys/firmware ro,relatime - tmpfs tmpfs ro"""
GROUPS_V1 = """458 496 0:91 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
463 458 0:32 {} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory"""
GROUPS_V2 = "458 496 0:29 {} /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw"
UPPER = f"/var/lib/docker/overlay2/{LAYERS[SELF]}/diff"
SNAPSHOT = "/var/lib/docker/containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots/28/fs"
BOUND = "520 492 0:25 /docker.sock /run/docker.sock rw,nosuid,nodev - tmpfs tmpfs rw,size=801624k,mode=755"
PODMAN_UPPER = f"/var/lib/containers/storage/overlay/{LAYERS[SELF]}/diff"
PODMAN_FOLDER = "/run/containers/storage/overlay-containers"
MARKER = f"504 492 0:25 {{}}/{SELF}/userdata/.containerenv /run/.containerenv rw,relatime - tmpfs tmpfs rw"


def v1(path: str) -> str:
    """Return /proc/self/cgroup of a machine with the first version of control groups, mixed as systemd has them."""
    return f"9:name=systemd:{path}\n8:pids:{path}\n4:memory:{path}\n1:cpu,cpuacct:{path}\n0::{path}\n"


IN_VPN = {"network": f"container:{VPN}"}
CONTAINERD = {"layer": None}
CASES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "bridge, v1": (v1(f"/docker/{SELF}"), (root(UPPER), GROUPS_V1.format(f"/docker/{SELF}"), files(SELF)), {}),
    "bridge, v2, private": ("0::/\n", (root(UPPER), GROUPS_V2.format("/"), files(SELF)), {}),
    "bridge, v2, systemd, host": (f"0::/system.slice/docker-{SELF}.scope\n", (root(UPPER), files(SELF)), {}),
    "host network": ("0::/\n", (root(UPPER), GROUPS_V2.format("/"), files(SELF)), {"network": "host"}),
    "no network": ("0::/\n", (root(UPPER), GROUPS_V2.format("/"), files(SELF)), {"network": "none"}),
    "in a network, v1": (v1(f"/docker/{SELF}"), (root(UPPER), GROUPS_V1.format(f"/docker/{SELF}"), files(VPN)), IN_VPN),
    "in a network, v2, private": ("0::/\n", (root(UPPER), GROUPS_V2.format("/"), files(VPN)), IN_VPN),
    "in a network, v2, host": (
        f"0::/system.slice/docker-{SELF}.scope\n",
        (root(SNAPSHOT), files(VPN)),
        IN_VPN | CONTAINERD,
    ),
    "in a network and its processes": ("0::/\n", (root(UPPER), files(VPN)), IN_VPN | {"pid": f"container:{VPN}"}),
    "containerd, v1": (v1(f"/docker/{SELF}"), (root(SNAPSHOT), files(VPN)), IN_VPN | CONTAINERD),
    "containerd, v1, private": (
        v1("/"),
        (root(SNAPSHOT), GROUPS_V1.format(f"/docker/{SELF}"), files(VPN)),
        IN_VPN | CONTAINERD,
    ),
    "containerd, v2, private": ("0::/\n", (root(SNAPSHOT), GROUPS_V2.format("/"), files(SELF)), CONTAINERD),
    "containerd, v2, private, in a network": (
        "0::/\n",
        (root(SNAPSHOT), GROUPS_V2.format("/"), files(VPN), BOUND),
        IN_VPN | CONTAINERD | {"mounts": SOCKET},
    ),
    "containerd, the network's by name": (
        "0::/\n",
        (root(SNAPSHOT), files(VPN), BOUND),
        {"network": "container:vpn"} | CONTAINERD | {"mounts": SOCKET},
    ),
    "read-only root": ("0::/\n", (root(UPPER).replace(" / / rw,", " / / ro,"), files(VPN)), IN_VPN),
    "user namespace": (
        "0::/\n",
        (root(f"/var/lib/docker/100000.100000/overlay2/{LAYERS[SELF]}/diff", ",userxattr"), files(VPN)),
        IN_VPN | {"layer": "/var/lib/docker/100000.100000/overlay2/{}/diff"},
    ),
    "many layers, relative paths": ("0::/\n", (root(f"{LAYERS[SELF]}/diff"), files(VPN)), IN_VPN),
    "an engine in a root of its own": ("0::/\n", (root(f"/jail{UPPER}"), files(VPN, "/jail/docker")), IN_VPN),
    "parent group of another": (v1(f"/docker/{VPN}/{SELF}"), (root(SNAPSHOT), files(VPN)), IN_VPN | CONTAINERD),
    "podman": (
        v1(f"/libpod_parent/libpod-{SELF}"),
        (root(PODMAN_UPPER, ",uuid=on"), MARKER.format(PODMAN_FOLDER), files(VPN, PODMAN_FOLDER)),
        IN_VPN | {"layer": "/var/lib/containers/storage/overlay/{}/diff"},
    ),
    "podman, rootless, fuse-overlayfs": (
        "0::/\n",
        (
            "609 472 0:128 / / rw,nodev,relatime - fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0,group_id=0",
            MARKER.format("/containers/overlay-containers"),
            files(VPN, "/containers/overlay-containers"),
        ),
        IN_VPN | CONTAINERD,
    ),
    "podman, systemd": (
        f"0::/machine.slice/libpod-{SELF}.scope/container\n",
        ("609 472 0:128 / / rw - btrfs /dev/sda rw", files(VPN, PODMAN_FOLDER)),
        IN_VPN | CONTAINERD,
    ),
    "kubernetes' groups": (
        f"0::/kubepods.slice/burstable/pod8a/cri-containerd-{SELF}.scope\n",
        (root(SNAPSHOT),),
        CONTAINERD,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_program_knows_its_own_container(case: str) -> None:
    """In every kind of network, control group, layer and namespace, and no other container is taken for it."""
    cgroup, mounts, of_self = CASES[case]
    traces = Traces(cgroup, "\n".join((*mounts, KERNEL)), real=lambda path: path.replace("/var/run/", "/run/"))
    own = own_container(traces, everybody(**of_self))
    assert [one.name for one in own.containers] == ["updater"]


@pytest.mark.parametrize("case", CASES)
def test_the_container_whose_network_a_program_uses_is_told_from_its_own(case: str) -> None:
    """A stop of that one would cut the program off, and the refusal names both; no third one is refused."""
    cgroup, mounts, of_self = CASES[case]
    traces = Traces(cgroup, "\n".join((*mounts, KERNEL)), real=lambda path: path.replace("/var/run/", "/run/"))
    containers = {one.name: one for one in everybody(**of_self)}
    own = own_container(traces, list(containers.values()))
    assert "this program runs in it" in str(own.refusal(containers["updater"]))
    assert (own.refusal(containers["mate"]), own.refusal(containers["outer"])) == (None, None)
    refusal = own.refusal(containers["vpn"])
    if str(of_self.get("network")).startswith("container:"):
        assert refusal is not None
        assert "runs in 'updater', which uses the network" in refusal
        assert ("and the process namespace of" in refusal) == ("pid" in of_self)
    else:
        assert refusal is None


def test_a_program_outside_of_containers_has_none() -> None:
    """A machine's own mounts and groups name no container, even where an engine's show in them."""
    mounts = f"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /run rw,nosuid,nodev - tmpfs tmpfs rw
40 22 0:52 / /var/lib/docker/overlay2/{LAYERS[SELF]}/merged rw - overlay overlay rw,upperdir={UPPER},workdir=/w
41 30 0:4 net:[4026532331] /run/docker/netns/1f1f1f1f1f1f rw - nsfs nsfs rw
42 22 0:60 / /var/lib/docker/containers/{SELF}/mounts/shm rw - tmpfs shm rw
43 22 254:0 /var/lib/docker/containers/{SELF}/logs /srv/logs rw,relatime - ext4 /dev/vda rw"""
    for traces in (NO_TRACES, Traces("0::/user.slice/session-1.scope\n", mounts)):
        assert own_container(traces, everybody()).containers == ()


@pytest.mark.parametrize(
    "mount",
    [
        f"30 22 0:29 /docker/{MATE} /mnt/groups rw - cgroup2 cgroup rw",
        f"30 22 254:0 /docker/{MATE} /sys/fs/cgroup/bound rw - ext4 /dev/vda rw",
    ],
)
def test_control_groups_that_somebody_mounted_elsewhere_are_not_its_own(mount: str) -> None:
    """A monitor has the groups of others among its mounts; and a folder is none for lying where groups do."""
    traces = Traces("0::/\n", "\n".join((root(SNAPSHOT), mount, files(SELF))))
    assert [one.name for one in own_container(traces, everybody(layer=None)).containers] == ["updater"]


def test_a_container_that_runs_an_engine_is_the_outer_engines_own() -> None:
    """Of the ids in a path, the one that the engine knows is meant."""
    group = v1(f"/docker/{OUTER}/docker/{'9' * 64}")
    (found,) = own_container(Traces(group, root(f"/inner/{'8' * 64}/diff")), everybody()).containers
    assert found.name == "outer"


def test_those_that_cannot_be_told_apart_are_all_left_running() -> None:
    """In one network, with the same mounts and nothing that names one of them, each may be the one; the vpn too."""
    traces = Traces("0::/\n", "\n".join((root(SNAPSHOT), files(VPN), KERNEL)))
    containers = everybody(network=f"container:{VPN}", layer=None)
    own = own_container(traces, containers)
    assert {one.name for one in own.containers} == {"updater", "mate", "vpn"}
    assert "may run in it (nothing distinguishes it from" in str(own.refusal(containers[-1]))
    assert own.refusal(containers[2]) is None


@pytest.mark.parametrize("kind", ["bind", "volume", "tmpfs"])
def test_a_mount_of_any_kind_tells_those_in_one_network_apart(kind: str) -> None:
    """One that has it is the one, and one that lacks it is not."""
    mount = {"Type": kind, "Source": "/s", "Name": "s", "Destination": "/own", "RW": True, "Driver": "local"}
    seen = "520 492 0:25 / /own rw - tmpfs tmpfs rw"
    containers = everybody(network=f"container:{VPN}", layer=None, mounts=(mount,))
    for shown, name in ((seen, "updater"), ("", "mate")):
        traces = Traces("0::/\n", "\n".join((root(SNAPSHOT), files(VPN), shown, KERNEL)))
        assert name in [one.name for one in own_container(traces, containers).containers]
        other = {"updater": "mate", "mate": "updater"}[name]
        assert other not in [one.name for one in own_container(traces, containers).containers]


def test_the_start_of_process_1_tells_those_in_one_network_apart() -> None:
    """Unless one of them has the processes of another container, and so no process 1 of its own."""
    mounts = "\n".join((root(SNAPSHOT), files(VPN), KERNEL))
    traces = Traces("0::/\n", mounts, is_first=lambda one: one["Id"] == MATE)
    containers = everybody(network=f"container:{VPN}", layer=None)
    assert [one.name for one in own_container(traces, containers).containers] == ["mate"]
    containers = everybody(network=f"container:{VPN}", pid=f"container:{VPN}", layer=None)
    assert {one.name for one in own_container(traces, containers).containers} == {"mate", "updater"}


def test_one_that_has_ended_is_not_the_one() -> None:
    """This program runs, so its container does."""
    traces = Traces("0::/\n", "\n".join((root(SNAPSHOT), files(VPN), KERNEL)))
    containers = [container(VPN, layer=None, status="exited"), container(SELF, network=f"container:{VPN}", layer=None)]
    assert [one.name for one in own_container(traces, containers).containers] == ["updater"]


def test_the_mounts_of_a_main_program_tell_where_numbers_of_processes_are_the_engines() -> None:
    """A process with our mounts that began when a container did is of it; one of another moment has got its number."""
    real = Traces.of_this_process()
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    booted = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if "btime" in line)
    began = datetime.fromtimestamp(booted + ticks / os.sysconf("SC_CLK_TCK"), UTC)

    def state(pid: int, started: datetime) -> dict[str, Any]:
        return inspection({"State/Pid": pid, "State/StartedAt": started.isoformat()})

    assert real.is_with(state(os.getpid(), began))
    assert not real.is_with(state(os.getpid(), began - timedelta(hours=1)))
    assert not real.is_with(state(0, began))
    assert not real.is_with(state(2**22 + 1, began))
    assert not real.is_with(inspection({"State/Pid": None}))
    found = own_container(Traces(is_with=lambda one: one["Id"] == MATE), everybody())
    assert [one.name for one in found.containers] == ["mate"]
