"""How volumes are reached: directly if their folders are proven to be here, else by a helper."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import evolve

from docker_rollback._engine.port import EngineInfo, Inspection
from docker_rollback._host import processes
from docker_rollback._volumes.access import host_programs, sandbox
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.volume_access import VolumeAccess
from docker_rollback.errors import ContainerNotFoundError, VolumeAccessError
from docker_rollback.testing import FakeEngine, Run
from docker_rollback.testing._fake.programs import PROGRAMS

takes_root = pytest.mark.skipif(not processes.may_do_anything(), reason="reaching files directly takes root")
pytestmark = pytest.mark.direct


class Here(FakeEngine):
    """An engine of this machine: its volumes are folders below one of ours, and its helpers see their numbers.

    What it has in memory for a volume differs from the folder, so that a test sees the way that was gone.

    Attributes:
        folder: where the folders of its volumes are.
        address: where it answers.
        flavour: what it says that it is.
        kernel: what its helpers say of their kernel; None if they cannot tell.
        numbers: what a helper says of a volume's folder instead of the truth.
        folders: where it says that a volume's folder is instead of the truth.
        created: the names of the containers that were created.
        claims: what it says of containers, by name, beyond what is so.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.address = "unix:///run/engine.sock"
        self.flavour: Literal["docker", "podman", "fake"] = "fake"
        self.kernel: bytes | None = b"".join(Path(file).read_bytes() for file in processes.IDENTITY[1:])
        self.numbers: dict[str, str] = {}
        self.folders: dict[str, str] = {}
        self.created: list[str] = []
        self.claims: dict[str, dict[str, Any]] = {}
        self.program("cat", self._cat)
        self.program("stat", self._stat)

    def has(self, *names: str) -> None:
        """Have volumes with a folder each."""
        for name in names:
            (self.folder / name).mkdir()
            (self.folder / name / "file").write_text(f"{name}, here")
            self.volume(name).write("/file", f"{name}, by a helper")
            self.volume(name).write("/name", name)

    def info(self) -> EngineInfo:
        """Say that it is of this machine."""
        return evolve(super().info(), address=self.address, flavour=self.flavour)

    def inspect_volume(self, name: str) -> Inspection:
        """Return the inspection of a volume, with its folder here."""
        return {**super().inspect_volume(name), "Mountpoint": self.folders.get(name, str(self.folder / name))}

    def inspect_container(self, ref: str) -> Inspection:
        """Return the inspection of a container, with what is claimed of it."""
        found = super().inspect_container(ref)
        return {**found, **self.claims.get(found["Name"].lstrip("/"), {})}

    def create_container(self, name: str, request: Mapping[str, Any], *, platform: str | None = None) -> str:
        """Create a container, and note its name."""
        self.created.append(name)
        return super().create_container(name, request, platform=platform)

    def _cat(self, run: Run) -> int | None:
        if run.arguments[1:] != list(processes.IDENTITY[1:]):
            return PROGRAMS["cat"](run)
        run.stdout += self.kernel or b""
        return 0 if self.kernel is not None else 1

    def _stat(self, run: Run) -> int | None:
        if run.arguments[1:3] != ["-c", "%d:%i"]:
            return PROGRAMS["stat"](run)
        for path in run.arguments[3:]:
            name = run.files.read(f"{path}/name").decode()
            found = (self.folder / name).stat()
            run.stdout += self.numbers.get(name, f"{found.st_dev}:{found.st_ino}").encode() + b"\n"
        return 0


@pytest.fixture
def engine(field: Path) -> Here:
    """Give an engine of this machine with two volumes."""
    engine = Here(field)
    engine.has("data", "more")
    return engine


def said(reach: Reach, *words: str) -> str:
    """Return what a program next to a volume prints."""
    with reach.run(words) as process:
        return b"".join(iter(lambda: process.read(1 << 16), b"")).decode()


def seen(reach: Reach) -> str:
    """Return what is in the file of a volume, as a program next to it sees it."""
    return said(reach, "cat", f"{reach.root}/file")


# Read


@takes_root
def test_a_volume_that_a_helper_shows_to_be_here_is_reached_directly(engine: Here) -> None:
    """The helper that proved it is gone before anything is read, and its files are at hand for us too."""
    with VolumeAccess(engine).reading(["data"], operation="op") as (reach,):
        assert engine.list_containers() == []
        assert (reach.volume, reach.way, reach.root) == ("data", "direct", sandbox.VOLUME)
        assert reach.inspection == engine.inspect_volume("data")
        assert reach.tree is not None
        assert reach.tree.identity == (_device(engine, "data"), _inode(engine, "data"))
        assert seen(reach) == "data, here"
    assert len(engine.created) == 1


@takes_root
def test_what_was_proven_is_not_proven_again_while_the_folder_stays(engine: Here) -> None:
    """A second look takes no helper; a folder that was replaced since does."""
    access = VolumeAccess(engine)
    assert access.probe(["data"]) == {"data": "direct"}
    assert access.probe(["data"]) == {"data": "direct"}
    assert len(engine.created) == 1
    (engine.folder / "data").rename(engine.folder / "before")
    (engine.folder / "data").mkdir()
    engine.numbers["data"] = f"{_device(engine, 'before')}:{_inode(engine, 'before')}"
    assert access.probe(["data"]) == {"data": "helper"}
    assert len(engine.created) == 2


@takes_root
def test_several_volumes_have_a_way_each(engine: Here) -> None:
    """One helper proves those that are here and reads the others; their order, and their records, are kept apart."""
    engine.has("third")
    engine.numbers["more"] = "1:2"
    with VolumeAccess(engine).reading(["more", "data", "third"], operation="op") as reaches:
        assert [(reach.volume, reach.way, seen(reach)) for reach in reaches] == [
            ("more", "helper", "more, by a helper"),
            ("data", "direct", "data, here"),
            ("third", "direct", "third, here"),
        ]
        assert [Path(reach.snapshot).name for reach in reaches] == ["0", "1", "2"]
        assert reaches[0].tree is None
        assert len(engine.list_containers()) == 1
    assert engine.list_containers() == []
    assert len(engine.created) == 1


def _other_kernel(engine: Here) -> None:
    engine.kernel = b"another boot\n0 0 4294967295\n"


def _no_kernel(engine: Here) -> None:
    engine.kernel = None


def _other_folder(engine: Here) -> None:
    engine.numbers["data"] = f"{_device(engine, 'data')}:{_inode(engine, 'data') + 1}"


def _no_numbers(engine: Here) -> None:
    engine.numbers["data"] = ""


@takes_root
@pytest.mark.parametrize("differ", [_other_kernel, _no_kernel, _other_folder, _no_numbers])
def test_what_nothing_proves_is_reached_by_a_helper(engine: Here, differ: Callable[[Here], None]) -> None:
    """A folder of that name here may be another machine's; where only directly is allowed, the error says so."""
    differ(engine)
    with VolumeAccess(engine).reading(["data"], operation="op") as (reach,):
        assert (reach.way, seen(reach)) == ("helper", "data, by a helper")
    with pytest.raises(VolumeAccessError, match=r"volume 'data': .*nothing proves that .*/data on this machine"):
        VolumeAccess(engine, way="direct").probe(["data"])
    assert engine.list_containers() == []


@takes_root
def test_a_way_that_was_chosen_before_is_gone_again(engine: Here) -> None:
    """By a helper although the folder is here; directly only if that can be proven now, whatever else is allowed."""
    access = VolumeAccess(engine)
    with access.reading(["data", "more"], operation="op", ways={"data": "helper"}) as (data, more):
        assert (data.way, more.way) == ("helper", "direct")
    assert VolumeAccess(engine, way="helper").probe(["data"]) == {"data": "helper"}
    _other_kernel(engine)
    with (
        pytest.raises(VolumeAccessError, match="'more'"),
        VolumeAccess(engine).reading(["data", "more"], operation="op", ways={"more": "direct"}),
    ):
        pass


def shows(engine: Here, destination: Path) -> None:
    """Have a running container whose main program is this very process, which sees a volume at a path."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    booted = int(Path("/proc/stat").read_text().partition("btime ")[2].split()[0])
    began = datetime.fromtimestamp(booted + ticks / os.sysconf("SC_CLK_TCK"), UTC)
    engine.add_image("app")
    engine.run("app", image="app", volumes={"data": "/data"})
    engine.claims["app"] = {
        "Id": Path("/proc/self/cgroup").read_text().strip().splitlines()[0],
        "State": {"Status": "running", "Running": True, "Pid": os.getpid(), "StartedAt": began.isoformat()},
        "Mounts": [{"Type": "volume", "Name": "data", "Destination": str(destination)}],
    }
    engine.created.clear()


@takes_root
def test_a_running_container_proves_a_volume_without_a_helper(engine: Here) -> None:
    """What its main program sees counts, of an engine at a socket of this machine, and only of that very folder."""
    shows(engine, engine.folder / "data")
    access = VolumeAccess(engine)
    assert access.probe(["data"]) == {"data": "direct"}
    engine.claims["app"]["Mounts"] = []
    assert access.probe(["data"]) == {"data": "direct"}
    assert engine.created == []


@takes_root
@pytest.mark.parametrize(("address", "folder"), [("tcp://127.0.0.1:2375", "data"), ("unix:///x.sock", "more")])
def test_a_container_elsewhere_or_with_another_folder_proves_nothing(engine: Here, address: str, folder: str) -> None:
    """A process of the same number on another machine, or one that sees another folder: a helper has to look."""
    shows(engine, engine.folder / folder)
    engine.address = address
    assert VolumeAccess(engine).probe(["data"]) == {"data": "direct"}
    assert len(engine.created) == 1


# Filled


@takes_root
@pytest.mark.parametrize("known", [False, True])
def test_a_volume_that_is_here_is_filled_directly(engine: Here, *, known: bool) -> None:
    """What a program writes is in its folder, and no helper is left, or made at all where the folder is known."""
    access = VolumeAccess(engine)
    if known:
        access.probe(["data"])
    engine.created.clear()
    with access.filling("data", operation="op") as reach:
        assert engine.list_containers() == []
        assert reach.way == "direct"
        with reach.run(("tee", f"{reach.root}/new"), stdin=True) as process:
            process.write(b"new")
            assert process.finish().exit_code == 0
    assert (engine.folder / "data" / "new").read_bytes() == b"new"
    assert len(engine.created) == (0 if known else 1)


@takes_root
def test_on_podman_a_helper_mounts_what_is_filled(engine: Here) -> None:
    """Podman takes the volume for filled then; the files are reached directly all the same."""
    engine.flavour = "podman"
    access = VolumeAccess(engine)
    for fills in (1, 2):
        with access.filling("data", operation="op") as reach:
            assert reach.way == "direct"
            assert engine.list_containers() == []
        assert len(engine.created) == fills


@takes_root
def test_a_volume_that_is_not_here_is_filled_by_a_helper(engine: Here) -> None:
    """Nothing in the folder of that name changes; where only directly is allowed, nothing is filled."""
    _other_kernel(engine)
    with VolumeAccess(engine).filling("data", operation="op") as reach:
        assert (reach.way, seen(reach)) == ("helper", "data, by a helper")
        assert len(engine.list_containers()) == 1
    with (
        pytest.raises(VolumeAccessError, match="nothing proves"),
        VolumeAccess(engine, way="direct").filling("data", operation="op"),
    ):
        pass
    assert engine.list_containers() == []


@takes_root
def test_by_a_helper_alone_nothing_is_proven(engine: Here) -> None:
    """Where a helper is the only way, it fills the volume, also one that is here."""
    with VolumeAccess(engine, way="helper").filling("data", operation="op") as reach:
        assert (reach.way, seen(reach)) == ("helper", "data, by a helper")


# Why not directly


def _not_root(_: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "may_do_anything", lambda: False)


def _no_tar(_: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_programs, "find_tar", lambda: None)


def _no_folder(engine: Here, _: pytest.MonkeyPatch) -> None:
    (engine.folder / "data").rename(engine.folder / "elsewhere")


def _a_driver(engine: Here, _: pytest.MonkeyPatch) -> None:
    engine.remove_volume("data")
    engine.create_volume({"Name": "data", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}})


@takes_root
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_not_root, "takes root, with every capability"),
        (_no_tar, "takes GNU tar, which this machine does not have"),
        (_no_folder, "data on the engine's host, cannot be read here"),
        (_a_driver, "it has a driver or options of its own"),
    ],
)
def test_the_error_says_why_a_volume_is_not_reached_directly(
    engine: Here, monkeypatch: pytest.MonkeyPatch, change: Callable[[Here, pytest.MonkeyPatch], None], reason: str
) -> None:
    """Whether it is to be read or filled; and for filling, no helper is made that could not help."""
    change(engine, monkeypatch)
    engine.add_image("tools")
    access = VolumeAccess(engine, way="direct", helper_image="tools")
    with pytest.raises(VolumeAccessError, match=reason), access.filling("data", operation="op"):
        pass
    assert engine.created == []
    with pytest.raises(VolumeAccessError, match=f"volume 'data': .*{reason}"):
        access.probe(["data"])


# There again


@pytest.mark.parametrize(
    ("address", "mountpoint", "made"),
    [
        ("unix:///run/engine.sock", "gone", True),
        ("tcp://10.0.0.7:2375", "gone", False),
        ("unix:///run/engine.sock", "data", False),
        ("unix:///run/engine.sock", "no/such/root/gone", False),
    ],
)
def test_a_volumes_folder_that_is_gone_is_made_again(
    engine: Here, address: str, mountpoint: str, *, made: bool
) -> None:
    """By the engine, and only where it can be seen here that it is gone, and not the place of all volumes with it."""
    folder = str(engine.folder / mountpoint)
    engine.address = address
    engine.folders["data"] = folder
    VolumeAccess(engine).provide("data")
    assert engine.host.exists(folder) is made
    assert engine.list_containers() == []


# Who uses it


def test_running_containers_use_a_volume(engine: Here) -> None:
    """Paused ones too; ended ones, guards and our own helpers while they are wanted do not count."""
    engine.add_image("app")
    for name, start in (("app", True), ("paused", True), ("ended", False), ("docker-rollback-guard-1", True)):
        engine.run(name, image="app", volumes={"data": "/data"}, start=start)
    engine.pause_container("paused")
    engine.run("other", image="app", volumes={"more": "/data"})
    access = VolumeAccess(engine, way="helper")
    with access.reading(["data"], operation="op"):
        assert {one["Name"] for one in access.users("data")} == {"/app", "/paused"}
    labels = {"docker-rollback.operation": "op"}
    engine.run("docker-rollback-helper-1", image="app", volumes={"data": "/data"}, labels=labels)
    assert {one["Name"] for one in access.users("data")} == {"/app", "/paused", "/docker-rollback-helper-1"}


def test_a_container_that_goes_meanwhile_uses_nothing(engine: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was listed and is gone when it is looked at is passed over."""
    engine.add_image("app")
    gone = engine.run("gone", image="app", volumes={"data": "/data"})
    engine.run("stays", image="app", volumes={"data": "/data"})
    inspect = engine.inspect_container

    def inspect_others(ref: str) -> Inspection:
        if ref == gone:
            raise ContainerNotFoundError(ref)
        return inspect(ref)

    monkeypatch.setattr(engine, "inspect_container", inspect_others)
    assert [one["Name"] for one in VolumeAccess(engine).users("data")] == ["/stays"]


def test_folders_that_are_kept_are_never_reached(engine: Here, tmp_path: Path) -> None:
    """The folders that were named at the beginning are refused by what they are; others are not."""
    access = VolumeAccess(engine, kept={"the store": str(tmp_path / "store")})
    with pytest.raises(VolumeAccessError, match=f"the store is there, at {tmp_path / 'store'}"):
        access.inspect(str(tmp_path))
    assert access.inspect(str(tmp_path / "other"))["Mountpoint"] == str(tmp_path / "other")
    assert VolumeAccess(engine).inspect(str(tmp_path))["Mountpoint"] == str(tmp_path)


def _device(engine: Here, name: str) -> int:
    return (engine.folder / name).stat().st_dev


def _inode(engine: Here, name: str) -> int:
    return (engine.folder / name).stat().st_ino
