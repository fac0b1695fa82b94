"""What a container may use of the machine."""

from __future__ import annotations

from typing import Any

from tests.integration.matrix.lab import Case, Lab, table

ROWS, row = table()

_MB = 1 << 20


def _kept(lab: Lab, limit: str | None = None, **host: Any) -> Case:
    """Return the case of a container with these settings, all of which its inspection shows."""
    return Case(
        body=lab.body(host=host), shows={f"HostConfig.{key}": value for key, value in host.items()}, limit=limit
    )


def _cgroup(lab: Lab, first: str, second: str) -> str:
    """Return what the kernel says of a limit, by its name in the first or the second version of control groups."""
    return lab.run(f"cat /sys/fs/cgroup/{first} 2>/dev/null || cat /sys/fs/cgroup/{second}")


@row
def memory(lab: Lab) -> Case:
    """A limit to memory; the engine fills in the one for swap."""

    def works() -> None:
        assert _cgroup(lab, "memory/memory.limit_in_bytes", "memory.max") == str(64 * _MB)

    return Case(body=lab.body(host={"Memory": 64 * _MB}), shows={"HostConfig.Memory": 64 * _MB}, works=works)


@row
def memory_and_swap(lab: Lab) -> Case:
    """Limits to memory, to memory with swap, and a softer one below."""
    return _kept(lab, Memory=64 * _MB, MemorySwap=96 * _MB, MemoryReservation=32 * _MB)


@row
def no_swap(lab: Lab) -> Case:
    """No swap: both limits are one."""
    return _kept(lab, Memory=64 * _MB, MemorySwap=64 * _MB)


@row
def swap_without_limit(lab: Lab) -> Case:
    """Swap without a limit beside memory with one."""
    return _kept(lab, "it reads 'without limit' as twice the memory", Memory=64 * _MB, MemorySwap=-1)


@row
def swappiness(lab: Lab) -> Case:
    """How eagerly memory is swapped out, zero included, which is not the same as unsaid."""
    return _kept(lab, Memory=64 * _MB, MemorySwappiness=0)


@row
def out_of_memory(lab: Lab) -> Case:
    """Who is killed first when memory runs out, and who never."""

    def works() -> None:
        assert lab.run("cat /proc/1/oom_score_adj") == "321"

    return Case(
        body=lab.body(host={"OomScoreAdj": 321, "OomKillDisable": True, "Memory": 64 * _MB}),
        shows={"HostConfig.OomScoreAdj": 321},
        works=works,
    )


@row
def kernel_memory(lab: Lab) -> Case:
    """A limit to the kernel's memory, which newer engines no longer know."""
    if lab.api >= (1, 42):
        lab.cannot(f"its API {lab.info.api_version} no longer has KernelMemory")
    return _kept(lab, Memory=64 * _MB, KernelMemory=32 * _MB)


@row
def processors(lab: Lab) -> Case:
    """Processors as a number with a fraction."""
    return _kept(lab, NanoCpus=500_000_000)


@row
def processor_quota(lab: Lab) -> Case:
    """Processors as a quota within a period, and a share among others."""
    return _kept(lab, CpuPeriod=50_000, CpuQuota=20_000, CpuShares=512)


@row
def processor_set(lab: Lab) -> Case:
    """Which processors and which memory banks may be used."""

    def works() -> None:
        assert "Cpus_allowed_list:\t0" in lab.run("cat /proc/self/status")

    return Case(
        body=lab.body(host={"CpusetCpus": "0", "CpusetMems": "0"}), shows={"HostConfig.CpusetCpus": "0"}, works=works
    )


@row
def number_of_processes(lab: Lab) -> Case:
    """A limit to the number of processes."""

    def works() -> None:
        assert _cgroup(lab, "pids/pids.max", "pids.max") == "77"

    return Case(body=lab.body(host={"PidsLimit": 77}), shows={"HostConfig.PidsLimit": 77}, works=works)


@row
def number_of_processes_without_limit(lab: Lab) -> Case:
    """No limit to the number of processes, expressly."""

    def works() -> None:
        assert _cgroup(lab, "pids/pids.max", "pids.max") == "max"

    return Case(body=lab.body(host={"PidsLimit": -1}), works=works)


@row
def limits_of_a_process(lab: Lab) -> Case:
    """Limits of a process, soft and hard."""
    wanted = [{"Name": "nofile", "Soft": 1000, "Hard": 2000}, {"Name": "core", "Soft": 0, "Hard": 0}]

    def works() -> None:
        said = lab.run("grep 'Max open files' /proc/1/limits")
        assert said.split()[3:5] == ["1000", "2000"]

    return Case(body=lab.body(host={"Ulimits": wanted}), works=works)


@row
def block_devices(lab: Lab) -> Case:
    """Weights and rates for block devices."""
    device = "/dev/vda"
    rate = [{"Path": device, "Rate": _MB}]
    return Case(
        body=lab.body(
            host={
                "BlkioDeviceReadBps": rate,
                "BlkioDeviceWriteBps": rate,
                "BlkioDeviceReadIOps": [{"Path": device, "Rate": 100}],
                "BlkioDeviceWriteIOps": [{"Path": device, "Rate": 200}],
            }
        ),
        shows={
            "HostConfig.BlkioDeviceReadBps": rate,
            "HostConfig.BlkioDeviceWriteIOps": [{"Path": device, "Rate": 200}],
        },
        refused="no such file or directory",
    )


@row
def block_weight(lab: Lab) -> Case:
    """A weight for block devices."""
    found = lab.run("find /sys/fs/cgroup -maxdepth 2 -name blkio.weight -o -name io.weight", name=lab.other("eyes"))
    if not found:
        lab.cannot("its kernel has no weights for block devices")
    return _kept(lab, BlkioWeight=300)


@row
def shared_memory(lab: Lab) -> Case:
    """The size of the memory to share."""

    def works() -> None:
        assert "size=8192k" in lab.run("grep ' /dev/shm ' /proc/self/mounts")

    return Case(body=lab.body(host={"ShmSize": 8 * _MB}), shows={"HostConfig.ShmSize": 8 * _MB}, works=works)


@row
def kernel_settings(lab: Lab) -> Case:
    """Settings of the kernel, of its network and of its memory to share."""
    wanted = {"net.ipv4.ip_unprivileged_port_start": "1000", "kernel.msgmax": "8888"}

    def works() -> None:
        assert lab.run("cat /proc/sys/kernel/msgmax") == "8888"

    return Case(
        body=lab.body(host={"Sysctls": wanted}),
        shows={"HostConfig.Sysctls": wanted},
        limit="it takes settings of the kernel and does not show them",
        works=works,
    )


@row
def device(lab: Lab) -> Case:
    """A device of the host under another name, with some of the rights to it."""
    wanted = [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/sink", "CgroupPermissions": "rwm"}]

    def works() -> None:
        assert lab.run("echo x > /dev/sink; stat -c %F /dev/sink") == "character special file"

    return Case(body=lab.body(host={"Devices": wanted}), shows={"HostConfig.Devices": wanted}, works=works)


@row
def device_for_reading(lab: Lab) -> Case:
    """A device that may only be read."""
    wanted = [{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/zeros", "CgroupPermissions": "r"}]
    return Case(
        body=lab.body(host={"Devices": wanted}),
        shows={"HostConfig.Devices": wanted},
        limit="it does not show the rights to a device",
    )


@row
def device_rules(lab: Lab) -> Case:
    """Rules for devices that are not there yet."""
    return _kept(lab, "it takes rules for devices and does not show them", DeviceCgroupRules=["c 42:* rmw", "b 7:0 r"])


@row
def control_group(lab: Lab) -> Case:
    """The control group below which a container's own is made, and whether it sees the host's."""

    def works() -> None:
        assert "matrix-parent" in lab.run("cat /proc/self/cgroup")

    return Case(
        body=lab.body(host={"CgroupParent": "/matrix-parent", "CgroupnsMode": "host"}),
        shows={"HostConfig.CgroupParent": "/matrix-parent", "HostConfig.CgroupnsMode": "host"},
        works=works,
    )


@row
def own_control_group(lab: Lab) -> Case:
    """A control group namespace of its own."""
    eyes = lab.other("eyes", host={"CgroupnsMode": "host"})

    def works() -> None:
        assert lab.run("readlink /proc/self/ns/cgroup") != lab.run("readlink /proc/self/ns/cgroup", name=eyes)

    return Case(
        body=lab.body(host={"CgroupnsMode": "private"}), shows={"HostConfig.CgroupnsMode": "private"}, works=works
    )
