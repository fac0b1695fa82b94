"""What a container may do to its host is told in plain words, from the request as an inspection has it."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from docker_rollback._inspection.preflight_report import Report
from docker_rollback._model.backup import Observed
from docker_rollback._model.privileges import privileges, privileges_of_volume
from docker_rollback._restore.plan import plan_restore
from tests.unit.values import backup, snapshot, volume

ORDINARY: dict[str, Any] = {
    "HostConfig": {
        "Binds": ["data:/data:rw"],
        "CapAdd": None,
        "CapDrop": ["NET_RAW"],
        "CgroupnsMode": "private",
        "Devices": [],
        "IpcMode": "private",
        "MaskedPaths": ["/proc/kcore"],
        "Mounts": [{"Type": "volume", "Source": "data", "Target": "/data"}],
        "NetworkMode": "bridge",
        "PidMode": "",
        "Privileged": False,
        "ReadonlyPaths": ["/proc/sys"],
        "Runtime": "runc",
        "SecurityOpt": ["no-new-privileges:true"],
        "Sysctls": None,
        "UTSMode": "",
        "UsernsMode": "",
    },
    "Mounts": [{"Type": "volume", "Name": "data", "Destination": "/data", "RW": True}],
}


def test_an_ordinary_container_has_none() -> None:
    """Volumes, dropped capabilities and tighter options give nothing away."""
    assert privileges(ORDINARY) == ()
    assert privileges({}) == ()
    assert privileges({"HostConfig": None, "Mounts": None}) == ()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"Privileged": True}, ["privileged"]),
        ({"CapAdd": ["SYS_ADMIN", "CAP_NET_ADMIN"]}, ["capability SYS_ADMIN", "capability NET_ADMIN"]),
        ({"CapAdd": ["ALL"]}, ["every capability"]),
        ({"CapAdd": ["cap_sys_ptrace"]}, ["capability SYS_PTRACE"]),
        ({"NetworkMode": "host"}, ["host network"]),
        ({"PidMode": "host"}, ["host pid"]),
        ({"IpcMode": "host"}, ["host ipc"]),
        ({"UTSMode": "host"}, ["host uts"]),
        ({"UsernsMode": "host"}, ["host userns"]),
        ({"CgroupnsMode": "host"}, ["host cgroupns"]),
        ({"PidMode": "container:web"}, []),
        ({"Binds": ["/etc:/x"]}, ["binds /etc of the host (read-write)"]),
        ({"Binds": ["/etc:/x:ro"]}, ["binds /etc of the host (read-only)"]),
        ({"Binds": ["/etc:/x:ro,rslave"]}, ["binds /etc of the host (read-only)"]),
        ({"Binds": ["/mnt:/x:rw,rshared"]}, ["binds /mnt of the host (read-write, rshared)"]),
        ({"Binds": ["/srv/../etc/:/x:z"]}, ["binds /etc of the host (read-write)"]),
        ({"Binds": ["/:/host"]}, ["binds / of the host (read-write)"]),
        ({"Binds": ["/var/run/docker.sock:/s:ro"]}, ["mounts the engine's socket /var/run/docker.sock"]),
        ({"Binds": ["/run/podman/podman.sock:/s"]}, ["mounts the engine's socket /run/podman/podman.sock"]),
        (
            {"Mounts": [{"Type": "bind", "Source": "/boot", "Target": "/x", "ReadOnly": True}]},
            ["binds /boot of the host (read-only)"],
        ),
        (
            {
                "Mounts": [
                    {"Type": "bind", "Source": "/b", "Target": "/x", "BindOptions": {"Propagation": "shared"}},
                ]
            },
            ["binds /b of the host (read-write, shared)"],
        ),
        (
            {
                "Mounts": [
                    {
                        "Type": "volume",
                        "Source": "v",
                        "Target": "/x",
                        "VolumeOptions": {"DriverConfig": {"Options": {"type": "none", "o": "bind", "device": "/etc"}}},
                    }
                ]
            },
            ["binds /etc of the host (read-write)"],
        ),
        ({"Devices": [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/x"}]}, ["device /dev/sda"]),
        ({"DeviceCgroupRules": ["c 1:* rwm"]}, ["devices by the rule 'c 1:* rwm'"]),
        (
            {"DeviceRequests": [{"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]]}]},
            ["devices (gpu)"],
        ),
        (
            {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["vendor.com/gpu=all"]}]},
            ["devices of driver cdi (vendor.com/gpu=all)"],
        ),
        ({"SecurityOpt": ["seccomp=unconfined"]}, ["security option seccomp=unconfined"]),
        ({"SecurityOpt": ["seccomp:unconfined"]}, ["security option seccomp=unconfined"]),
        ({"SecurityOpt": ["apparmor=unconfined"]}, ["security option apparmor=unconfined"]),
        ({"SecurityOpt": ["label=disable"]}, ["security option label=disable"]),
        ({"SecurityOpt": ["label:type:spc_t"]}, ["security option label=type:spc_t"]),
        ({"SecurityOpt": ["systempaths=unconfined"]}, ["security option systempaths=unconfined"]),
        ({"SecurityOpt": ['seccomp={"defaultAction": "x"}']}, ["security option seccomp=(a profile of its own)"]),
        ({"MaskedPaths": [], "ReadonlyPaths": []}, ["security option systempaths=unconfined"]),
        ({"MaskedPaths": None, "ReadonlyPaths": None}, []),
        ({"Privileged": True, "MaskedPaths": []}, ["privileged"]),
        ({"Sysctls": {"net.ipv4.ip_forward": "1"}}, ["sysctl net.ipv4.ip_forward=1"]),
        ({"Runtime": "kata"}, ["runtime kata"]),
    ],
)
def test_each_is_told_in_words(asked: dict[str, Any], words: list[str]) -> None:
    """One thing asked for beyond an ordinary container, one line."""
    inspection = {**ORDINARY, "HostConfig": {**ORDINARY["HostConfig"], **asked}}
    assert list(privileges(inspection)) == words


def test_a_mount_that_only_the_outcome_names_counts() -> None:
    """Podman and older records have binds there alone; one that both name is told once."""
    mount = {"Type": "bind", "Source": "/etc", "Destination": "/x", "RW": False, "Propagation": "rprivate"}
    assert privileges({"Mounts": [mount]}) == ("binds /etc of the host (read-only)",)
    assert privileges({"HostConfig": {"Binds": ["/etc:/x:ro"]}, "Mounts": [mount]}) == (
        "binds /etc of the host (read-only)",
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (None, ()),
        ({"type": "tmpfs", "device": "tmpfs"}, ()),
        ({"type": "none", "o": "bind", "device": "/etc"}, ("binds /etc of the host (read-write)",)),
        ({"type": "none", "o": "rbind,ro", "device": "/etc"}, ("binds /etc of the host (read-only)",)),
        ({"type": "ext4", "device": "/dev/sda1"}, ("mounts the device /dev/sda1 of the host",)),
        ({"type": "nfs", "o": "addr=10.0.0.1", "device": ":/export"}, ()),
    ],
)
def test_a_volume_may_show_the_host(options: dict[str, str] | None, words: tuple[str, ...]) -> None:
    """Its driver's options name a folder or a device of the host."""
    assert privileges_of_volume({"Driver": "local", "Options": options}) == words


def test_a_plan_shows_them() -> None:
    """Who looks at what a restore would do sees what it would give away, of containers and of volumes."""
    web = evolve(snapshot("web"), inspection={"HostConfig": {"Privileged": True, "PidMode": "host"}})
    data = evolve(volume("data"), inspection={"Options": {"o": "bind", "device": "/etc"}})
    said = [str(step) for step in plan_restore(backup(web, volumes=(data,)))]
    assert web.privileges == ("privileged", "host pid")
    assert "restore container 'web', with: privileged; host pid" in said
    assert "restore volume 'data', with: binds /etc of the host (read-write)" in said


def test_a_check_shows_them() -> None:
    """A report has them of each container that has any."""
    containers = (
        Observed("web", "1", {"HostConfig": {"Privileged": True}}, snapshot("web").state, ()),
        Observed("db", "2", ORDINARY, snapshot("db").state, ()),
    )
    assert Report(containers).privileges == {"web": ("privileged",)}
