"""Proof that a folder here is a volume's own."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from docker_rollback._host import processes
from docker_rollback._volumes.access import same_folder

PID = os.getpid()


def started(pid: int) -> str:
    """Return when a process began, as an engine writes it."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    booted = int(Path("/proc/stat").read_text().partition("btime ")[2].split()[0])
    return datetime.fromtimestamp(booted + ticks / os.sysconf("SC_CLK_TCK"), UTC).isoformat().replace("+00:00", "Z")


@pytest.fixture
def container(tmp_path: Path) -> dict[str, Any]:
    """Give the inspection of a container whose main program is this very process, with a volume at a folder of ours."""
    return {
        "Id": Path("/proc/self/cgroup").read_text().strip().splitlines()[0],
        "State": {"Pid": PID, "StartedAt": started(PID)},
        "Mounts": [{"Type": "volume", "Name": "vol", "Destination": str(tmp_path)}],
    }


@pytest.fixture
def root(tmp_path: Path) -> same_folder.Root:
    """Give that folder as the kernel knows it."""
    found = same_folder.look(str(tmp_path))
    assert found is not None
    return found


as_root = pytest.mark.skipif(
    not processes.may_do_anything(), reason="what is proven here takes root, with every capability"
)


@as_root
def test_a_running_container_shows_its_volume(container: dict[str, Any], root: same_folder.Root) -> None:
    """Where a container's main program sees the same folder, the folder is the volume's."""
    assert same_folder.shown_by([container], "vol", root)


@as_root
@pytest.mark.parametrize(
    "change",
    [
        {"Id": "f" * 64},
        {"State": {"Pid": PID, "StartedAt": "2020-01-02T03:04:05.123456789Z"}},
        {"State": {"Pid": PID, "StartedAt": ""}},
        {"State": {"Pid": 0, "StartedAt": "2020-01-02T03:04:05Z"}},
        {"State": {"Pid": 1 << 30, "StartedAt": "2020-01-02T03:04:05Z"}},
        {"Mounts": [{"Type": "volume", "Name": "vol", "Destination": "/"}]},
        {"Mounts": [{"Type": "volume", "Name": "vol", "Destination": "/nowhere/at/all"}]},
        {"Mounts": [{"Type": "volume", "Name": "other", "Destination": "/"}]},
        {"Mounts": None},
    ],
    ids=[
        "another-id",
        "began-elsewhen",
        "began-never",
        "no-process",
        "gone",
        "other-folder",
        "no-folder",
        "other",
        "none",
    ],
)
def test_anything_that_differs_is_no_proof(
    container: dict[str, Any], root: same_folder.Root, change: dict[str, Any]
) -> None:
    """Another container, another process, another folder: each leaves it unproven."""
    assert not same_folder.shown_by([container | change], "vol", root)


def test_a_folder_is_known_by_device_and_inode(tmp_path: Path, root: same_folder.Root) -> None:
    """What is no folder, or not there, is none; a folder that was made anew is another one."""
    (tmp_path / "file").touch()
    assert same_folder.look(str(tmp_path / "file")) is None
    assert same_folder.look(str(tmp_path / "nothing")) is None
    assert root.number == f"{tmp_path.stat().st_dev}:{tmp_path.stat().st_ino}"


def test_a_helper_on_this_kernel_is_told_by_its_identity() -> None:
    """What the programs of `IDENTITY` print here is this kernel; anything else is not."""
    ours = Path("/proc/sys/kernel/random/boot_id").read_text() + Path("/proc/self/uid_map").read_text()
    assert processes.same_kernel(ours)
    assert not processes.same_kernel("")
    assert not processes.same_kernel(ours.replace(ours[0], "x", 1))


@pytest.mark.parametrize(
    ("inspection", "plain"),
    [
        ({"Driver": "local", "Options": None, "Mountpoint": "/v"}, True),
        ({"Driver": "local", "Options": {}, "Mountpoint": "/v"}, True),
        ({"Driver": "local", "Options": {"o": "bind"}, "Mountpoint": "/v"}, False),
        ({"Driver": "nfs", "Options": None, "Mountpoint": "/v"}, False),
        ({"Driver": "local", "Options": None, "Mountpoint": ""}, False),
        ({}, False),
    ],
)
def test_only_a_folder_of_the_engine_is_plain(inspection: dict[str, Any], *, plain: bool) -> None:
    """Whatever has a driver or options of its own may show an empty folder where its files are not."""
    assert same_folder.is_plain(inspection) is plain


def test_rights_are_read_from_the_kernel(tmp_path: Path) -> None:
    """Root without a capability, root of its own namespace only, and another user cannot do anything."""
    every = "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n"
    cases = {
        "root": (every, "0 0 4294967295", True),
        "user": (every.replace("0\t0\t0", "0\t1000\t0"), "0 0 4294967295", False),
        "no-sys-admin": (every.replace("01ffffffffff", "01ffffdfffff"), "0 0 4294967295", False),
        "own-namespace": (every, "0 100000 65536", False),
    }
    for name, (status, owners, allowed) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "status").write_text(status)
        (folder / "uid_map").write_text(owners + "\n")
        assert processes.may_do_anything(str(folder)) is allowed, name
    assert not processes.may_do_anything(str(tmp_path / "nothing"))
