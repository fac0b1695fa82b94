"""Volumes and file trees of the in-memory engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from docker_rollback.errors import EngineConflictError, EngineError, VolumeNotFoundError
from docker_rollback.testing import FakeEngine


def mounts(fake: FakeEngine, ref: str = "shop") -> dict[str, Any]:
    """Return a container's mounts by destination."""
    return {one["Destination"]: one for one in fake.inspect_container(ref)["Mounts"]}


def test_a_volume_is_what_was_asked_for(fake: FakeEngine) -> None:
    """Its inspection shows the request; an equal one may be asked for again, another one of its name not."""
    request = {"Name": "data", "Driver": "local", "DriverOpts": {"type": "nfs"}, "Labels": {"l": "1"}}
    assert fake.create_volume(request) == fake.create_volume(request) == "data"
    found = fake.inspect_volume("data")
    assert (found["Driver"], found["Options"], found["Labels"]) == ("local", {"type": "nfs"}, {"l": "1"})
    assert fake.list_volumes(labels={"l": "1"}) == ["data"]
    assert fake.list_volumes(labels={"l": "2"}) == []
    with pytest.raises(EngineConflictError, match="labels"):
        fake.create_volume({**request, "Labels": {}})
    fake.remove_volume("data")
    fake.remove_volume("data")
    with pytest.raises(VolumeNotFoundError):
        fake.inspect_volume("data")


def test_a_volume_without_a_name_gets_one(fake: FakeEngine) -> None:
    """It is labelled as anonymous."""
    name = fake.create_volume({})
    assert len(name) == 64
    assert fake.inspect_volume(name)["Labels"] == {"com.docker.volume.anonymous": ""}


@pytest.mark.parametrize("request_", [{"Name": "a b"}, {"Name": "x"}, {"Name": "data", "Driver": "nosuch"}])
def test_a_volume_that_cannot_be_is_refused(fake: FakeEngine, request_: dict[str, Any]) -> None:
    """A name that is none and a driver that is not there are refused."""
    with pytest.raises(EngineError):
        fake.create_volume(request_)


def test_another_driver_may_be_there() -> None:
    """An engine has the drivers that it was given."""
    fake = FakeEngine(volume_drivers=("local", "cloud"))
    fake.create_volume({"Name": "data", "Driver": "cloud"})
    assert fake.inspect_volume("data")["Driver"] == "cloud"


def test_a_volume_in_use_is_not_removed(fake: FakeEngine) -> None:
    """A container keeps its volumes, whatever its state."""
    identity = fake.run("shop", image="shop:1", volumes={"data": "/data"}, start=False)
    with pytest.raises(EngineConflictError, match=identity):
        fake.remove_volume("data")
    fake.remove_container("shop", volumes=True)
    assert fake.list_volumes() == ["data"]
    fake.remove_volume("data")


def test_anonymous_volumes_come_from_everywhere(fake: FakeEngine) -> None:
    """The image's, the request's and those of Mounts without a source go with ``rm -v``; named ones stay."""
    fake.run(
        "shop",
        image="shop:1",
        anonymous=["/one"],
        Mounts=[{"Type": "volume", "Target": "/two"}, {"Type": "volume", "Source": "named", "Target": "/three"}],
        Binds=["/four", "bound:/five:ro"],
    )
    found = mounts(fake)
    assert {path for path, one in found.items() if len(one["Name"]) == 64} == {"/data", "/one", "/two", "/four"}
    assert (found["/five"]["Mode"], found["/five"]["RW"]) == ("ro", False)
    fake.remove_container("shop", force=True, volumes=True)
    assert sorted(fake.list_volumes()) == ["bound", "named"]


def test_an_empty_volume_takes_the_images_content(fake: FakeEngine) -> None:
    """Files, and the folder's own mode and owner, are copied at creation; a volume that holds something is let be."""
    fake.add_image("own:1", files={"/data/seed": "x"}, fill=lambda files: files.set("/data", mode=0o2770, uid=7, gid=8))
    fake.run("first", image="own:1", volumes={"empty": "/data"}, start=False)
    root = fake.volume("empty").node()
    assert (root.mode, root.uid, root.gid) == (0o2770, 7, 8)
    assert fake.volume("empty").read("seed") == b"x"
    fake.volume("full").write("mine", "y")
    fake.run("second", image="own:1", volumes={"full": "/data"})
    assert fake.volume("full").list() == ["mine"]


@pytest.mark.parametrize(
    "host",
    [
        {"Binds": ["empty:/data:nocopy"]},
        {"Mounts": [{"Type": "volume", "Source": "empty", "Target": "/data", "VolumeOptions": {"NoCopy": True}}]},
        {"Binds": ["empty:/elsewhere"]},
        {"Binds": ["empty:/app"]},
    ],
)
def test_nothing_is_copied_where_nothing_is_to_copy(fake: FakeEngine, host: dict[str, Any]) -> None:
    """A volume stays empty where copying is off, and where the image has no folder at its place."""
    fake.create_container("shop", {"Image": "shop:1", "HostConfig": host})
    assert fake.volume("empty").list() == []


def test_a_part_of_a_volume_is_mounted(fake: FakeEngine) -> None:
    """A subpath shows that folder; one that is not there shows at the start."""
    fake.volume("data").write("inner/file", "x")
    mount = {"Type": "volume", "Source": "data", "Target": "/part", "VolumeOptions": {"Subpath": "inner"}}
    fake.run("shop", image="shop:1", Mounts=[mount])
    assert fake.container("shop").read("/part/file") == b"x"
    fake.volume("data").delete("inner")
    fake.stop_container("shop")
    with pytest.raises(EngineError):
        fake.start_container("shop")


def test_volumes_are_taken_from_another_container(fake: FakeEngine) -> None:
    """VolumesFrom mounts the same volumes, read-only where asked; they stay with their owner."""
    fake.run("owner", image="shop:1", volumes={"named": "/named"}, Tmpfs={"/tmp": ""})
    fake.create_container("guest", {"Image": "shop:1", "HostConfig": {"VolumesFrom": ["owner:ro"]}})
    assert mounts(fake, "guest")["/data"]["Name"] == mounts(fake, "owner")["/data"]["Name"]
    assert not mounts(fake, "guest")["/named"]["RW"]
    fake.remove_container("guest", volumes=True)
    assert len(fake.list_volumes()) == 2


def test_a_mount_goes_through_the_images_links(fake: FakeEngine) -> None:
    """A mount point whose way leads through a symlink of the image is made where that leads; through a file, never."""
    fake.add_image("linked:1", files={"/real/file": "x"}, fill=lambda files: files.symlink("/link", "/real"))
    fake.run("shop", image="linked:1", volumes={"data": "/link/data"})
    assert fake.container("shop").list("/real") == ["data", "file"]
    fake.run("bad", image="linked:1", volumes={"data": "/real/file/data"}, start=False)
    with pytest.raises(EngineError):
        fake.start_container("bad")


def test_a_bind_shows_the_host(fake: FakeEngine) -> None:
    """A bind mount leads to the host's files, both ways; by Binds, a missing folder is made."""
    fake.host.write("/etc/app/conf", "x")
    fake.run("shop", image="shop:1", volumes={"/etc/app": "/conf", "/srv/new": "/new"})
    shop = fake.container("shop")
    assert shop.read("/conf/conf") == b"x"
    shop.write("/new/file", "y")
    assert fake.host.read("/srv/new/file") == b"y"
    assert mounts(fake)["/conf"]["Type"] == "bind"


def test_a_tmpfs_is_empty_after_a_stop(fake: FakeEngine) -> None:
    """What is in memory only does not outlive the run; Tmpfs of HostConfig is no mount of the inspection."""
    fake.run("shop", image="shop:1", Tmpfs={"/run": ""}, Mounts=[{"Type": "tmpfs", "Target": "/cache"}])
    shop = fake.container("shop")
    shop.write("/run/pid", "1")
    shop.write("/cache/page", "1")
    fake.stop_container("shop")
    fake.start_container("shop")
    assert shop.list("/run") == shop.list("/cache") == []
    assert "/cache" in mounts(fake)
    assert "/run" not in mounts(fake)


def test_a_volume_in_memory_lives_while_something_holds_it(fake: FakeEngine) -> None:
    """A volume of type tmpfs is empty once the last container that mounts it has stopped."""
    fake.create_volume({"Name": "fast", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}})
    fake.run("shop", image="shop:1", volumes={"fast": "/fast"})
    fake.run("holder", image="shop:1", volumes={"fast": "/fast"})
    fake.container("shop").write("/fast/x", "x")
    fake.stop_container("shop")
    assert fake.container("holder").list("/fast") == ["x"]
    fake.stop_container("holder")
    fake.start_container("shop")
    assert fake.container("shop").list("/fast") == []


def test_a_local_volume_may_show_a_folder_of_the_host(fake: FakeEngine) -> None:
    """A volume of the local driver that binds a device leads to the host's folder."""
    fake.host.write("/srv/data/x", "x")
    options = {"type": "none", "o": "bind", "device": "/srv/data"}
    fake.create_volume({"Name": "bound", "DriverOpts": options})
    fake.run("shop", image="shop:1", volumes={"bound": "/bound"})
    assert fake.container("shop").read("/bound/x") == b"x"


def test_a_read_only_place_is_not_written(fake: FakeEngine) -> None:
    """Mounts and file systems that are read-only refuse every change."""
    fake.volume("data").write("x", "x")
    fake.run("shop", image="shop:1", volumes={"data": "/data:ro"}, ReadonlyRootfs=True)
    shop = fake.container("shop")
    changes: list[Callable[[], None]] = [
        lambda: shop.write("/data/x", "y"),
        lambda: shop.write("/data/new", "y"),
        lambda: shop.delete("/data/x"),
        lambda: shop.touch("/data/x"),
        lambda: shop.symlink("/etc/link", "x"),
        lambda: shop.write("/app", "y"),
    ]
    for change in changes:
        with pytest.raises(OSError, match="Read-only"):
            change()
    with pytest.raises(OSError, match="busy"):
        shop.delete("/data")


def test_paths_lead_through_links(fake: FakeEngine) -> None:
    """Symlinks are followed within the tree, also over mounts, and a loop ends."""
    fake.run("shop", image="shop:1", volumes={"data": "/var/data"})
    shop = fake.container("shop")
    shop.symlink("/link", "var/data")
    shop.symlink("/etc/up", "../link/../data")
    shop.write("/etc/up/file", "x")
    assert fake.volume("data").read("file") == b"x"
    shop.symlink("/loop", "/loop")
    with pytest.raises(OSError, match="symbolic links"):
        shop.read("/loop/x")
    assert shop.exists("/loop")
    assert not shop.exists("/loop/x")
    assert shop.node("/..") is shop.node("/")


def test_files_keep_all_that_they_have(fake: FakeEngine) -> None:
    """Mode, owner, time, attributes and links are kept, and compared by `facts`."""
    data = fake.volume("data")
    data.write("a", "x", mode=0o600, uid=1, gid=2, mtime=5, xattrs={"user.x": b"\x00"})
    data.mkdir("folder", mode=0o700, uid=3, gid=4)
    data.special("null", "character", device=(1, 3))
    data.link("a", "folder/b")
    before = data.facts()
    assert before["/folder/b"][-1] == "/a"
    data.write("a", "x", mtime=5)
    assert data.facts() == before
    data.rename("folder/b", "folder/c")
    data.write("folder/b", "x", mode=0o600, uid=1, gid=2, mtime=5, xattrs={"user.x": b"\x00"})
    data.delete("folder/c")
    assert data.facts().keys() == before.keys()
    assert data.facts() != before
    assert data.facts("/null")["/"][0] == "character"


def test_a_rename_takes_the_place_of_what_is_there(fake: FakeEngine) -> None:
    """A folder moves with all that it holds and stays the same inode; what was at its new place is gone."""
    data = fake.volume("data")
    data.write("old/file", "x")
    data.write("new/other", "y")
    node = data.node("old")
    data.rename("old", "new")
    assert data.node("new") is node
    assert data.list() == ["new"]
    assert data.list("new") == ["file"]


def test_wrong_uses_of_files_raise_as_the_system_does(fake: FakeEngine) -> None:
    """Missing files, folders in the place of files and the other way round raise what the kernel would."""
    data = fake.volume("data")
    data.write("file", "x")
    data.mkdir("folder")
    with pytest.raises(FileNotFoundError):
        data.read("nosuch")
    with pytest.raises(FileNotFoundError):
        data.delete("nosuch")
    with pytest.raises(FileNotFoundError):
        data.node("nosuch/file")
    with pytest.raises(NotADirectoryError):
        data.node("file/inner")
    with pytest.raises(NotADirectoryError):
        data.write("file/inner", "y")
    with pytest.raises(IsADirectoryError):
        data.read("folder")
    with pytest.raises(IsADirectoryError):
        data.write("folder", "y")
    with pytest.raises(FileExistsError):
        data.symlink("file", "x")
    with pytest.raises(NotADirectoryError):
        data.mkdir("file")


def test_what_is_asked_by_a_wrong_path_is_named(fake: FakeEngine) -> None:
    """A place without a volume has no volume's name."""
    fake.run("shop", image="shop:1", volumes={"named": "/named"})
    assert fake.anonymous_volume("shop", "/named") == "named"
    with pytest.raises(KeyError):
        fake.anonymous_volume("shop", "/elsewhere")


# Folders of the host


def test_a_start_looks_a_bound_folder_up_again(fake: FakeEngine) -> None:
    """A container that starts sees the folder that lies at the path by then; one that is gone is made, as -v does."""
    fake.add_image("app:1")
    fake.host.write("/srv/data/file", "old")
    fake.run("app", image="app:1", volumes={"/srv/data": "/data"})
    fake.host.delete("/srv/data")
    assert fake.container("app").read("/data/file") == b"old"
    fake.stop_container("app")
    fake.start_container("app")
    assert fake.host.list("/srv/data") == fake.container("app").list("/data") == []


def test_a_mount_that_asks_for_its_folder_does_not_start_without(fake: FakeEngine) -> None:
    """A bind that is asked for as a mount, not as -v does, needs its folder at each start."""
    fake.add_image("app:1")
    fake.host.mkdir("/srv/data")
    fake.run("app", image="app:1", Mounts=[{"Type": "bind", "Source": "/srv/data", "Target": "/data"}])
    fake.stop_container("app")
    fake.host.delete("/srv/data")
    with pytest.raises(EngineError, match="bind source path does not exist: /srv/data"):
        fake.start_container("app")
    assert not fake.host.exists("/srv/data")


def test_programs_see_where_a_mount_leads(fake: FakeEngine) -> None:
    """The kernel's list of mounts names the folder behind a symlink, and what kind of file system that is on."""
    fake.add_image("app:1")
    fake.host.mkdir("/srv/real data")
    fake.host.symlink("/srv/link", "../srv/real data")
    fake.host.mkdir("/proc")
    fake.run("app", image="app:1", volumes={"/srv/link": "/a", "/proc": "/b", "named": "/c"})
    with fake.exec("app", ["cat", "/proc/self/mountinfo"]) as cat:
        lines = [line.split() for line in cat.read(1 << 20).decode().splitlines()]
    seen = {line[4]: (line[3], line[7]) for line in lines}
    root = fake.info().root
    assert seen["/a"] == (r"/srv/real\040data", "ext4")
    assert seen["/b"] == ("/", "proc")
    assert seen["/c"] == (f"{root}/volumes/named/_data", "ext4")
    assert seen["/etc/hosts"][0] == f"{root}/containers/{fake.container('app').id}/hosts"
