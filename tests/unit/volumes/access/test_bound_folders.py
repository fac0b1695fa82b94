"""Folders of the engine's host, archived and filled like volumes, over the in-memory engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from docker_rollback._engine.port import EngineInfo
from docker_rollback._host.tree import Tree
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.access.bound_folders import HostFolders
from docker_rollback._volumes.archiver import VolumeArchiver
from docker_rollback.errors import VolumeAccessError
from docker_rollback.testing import FakeEngine


class Here(FakeEngine):
    """An engine of this machine, whose data is in a folder."""

    def __init__(self, root: str = "/var/lib/fake-engine") -> None:
        super().__init__()
        self._root = root

    def info(self) -> EngineInfo:
        """Say so."""
        return evolve(super().info(), address="unix:///run/engine.sock", root=self._root)


@pytest.fixture
def fake() -> FakeEngine:
    """Give an engine with a container that does not run, and binds a folder."""
    engine = FakeEngine()
    engine.add_image("app")
    engine.host.write("/srv/data/deep/file", "content", mode=0o640, uid=77)
    engine.host.set("/srv/data", mode=0o2750, uid=1234, mtime=1_234_567_890_123_456_789)
    engine.run("app", image="app", volumes={"/srv/data": "/data"}, start=False)
    return engine


@pytest.fixture
def archiver(fake: FakeEngine, tmp_path: Path) -> VolumeArchiver:
    """Give an archiver with an empty store."""
    return VolumeArchiver(fake, BackupStore(tmp_path / "store"))


def test_a_folder_comes_back_as_it_was(fake: FakeEngine, archiver: VolumeArchiver) -> None:
    """What was changed, removed and added in a folder is undone; its own attributes too; all outside stays."""
    fake.host.write("/srv/other/file", "outside")
    before, outside = fake.host.facts("/srv/data"), fake.host.facts("/srv/other")
    archive = archiver.archive("/srv//data/")
    assert (archive.name, archive.way) == ("/srv/data", "helper")
    fake.host.delete("/srv/data/deep")
    fake.host.write("/srv/data/stray", "x")
    fake.host.set("/srv/data", mode=0o777, uid=0)
    archiver.extract(archive)
    assert fake.host.facts("/srv/data") == before
    assert fake.host.facts("/srv/other") == outside
    assert len(fake.list_containers()) == 1


def test_a_folder_that_is_gone_is_made_again(fake: FakeEngine, archiver: VolumeArchiver) -> None:
    """Provided and filled, it has the attributes that it had; those above it are made as well."""
    before = fake.host.facts("/srv/data")
    archive = archiver.archive("/srv/data")
    fake.host.delete("/srv")
    archiver.provide("/srv/data")
    archiver.provide("/srv/data")
    assert fake.host.list("/srv/data") == []
    archiver.extract(archive)
    assert fake.host.facts("/srv/data") == before


def test_a_file_in_the_place_of_a_folder_is_left_alone(fake: FakeEngine, archiver: VolumeArchiver) -> None:
    """A single file in a folder's place is no folder to fill."""
    archive = archiver.archive("/srv/data")
    fake.host.delete("/srv/data")
    fake.host.write("/srv/data", "a file")
    with pytest.raises(VolumeAccessError, match="'/srv/data': a regular file is in its place"):
        archiver.provide("/srv/data")
    with pytest.raises(VolumeAccessError, match="it is a regular file now, and was a folder"):
        archiver.extract(archive)
    assert fake.host.read("/srv/data") == b"a file"


@pytest.mark.parametrize("later", [False, True], ids=["same boot", "after a boot"])
def test_a_link_that_leads_elsewhere_by_now_is_not_followed(
    fake: FakeEngine, archiver: VolumeArchiver, *, later: bool
) -> None:
    """Where the update put a symlink in the folder's place, nothing behind it is touched, and the error tells."""
    archive = archiver.archive("/srv/data")
    if later:
        place = {**archive.inspection["Place"], "Boot": "another one", "Device": "1:2"}
        archive = evolve(archive, inspection={**archive.inspection, "Place": place})
    fake.host.rename("/srv/data", "/srv/data.old")
    fake.host.write("/home/precious", "precious")
    fake.host.symlink("/srv/data", "/home")
    with pytest.raises(VolumeAccessError, match=r"leads to /home .* and led to /srv/data"):
        archiver.extract(archive)
    assert fake.host.read("/home/precious") == b"precious"


def test_a_link_that_leads_where_it_led_is_followed(fake: FakeEngine, archiver: VolumeArchiver) -> None:
    """A folder that has always been behind a symlink is archived and filled there; the link stays."""
    fake.host.symlink("/srv/current", "data")
    before = fake.host.facts("/srv/data")
    archive = archiver.archive("/srv/current")
    fake.host.delete("/srv/data/deep")
    archiver.extract(archive)
    assert fake.host.facts("/srv/data") == before
    assert fake.host.readlink("/srv/current") == "data"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/proc", "file system of the kernel's"),
        ("/dev/shm", "file system of the kernel's"),
        ("/var/lib/fake-engine/volumes", "engine's own data"),
        ("/var/lib", "engine's own data"),
        ("/var/lib/docker", "leads to /var/lib/docker"),
        ("/etc", "leads to /etc"),
    ],
)
def test_a_link_into_what_is_never_touched_is_refused(
    fake: FakeEngine, archiver: VolumeArchiver, target: str, words: str
) -> None:
    """A symbolic link hides nothing: it counts where a path leads."""
    fake.host.mkdir(target)
    fake.host.symlink("/srv/link", target)
    with pytest.raises(VolumeAccessError, match=words):
        archiver.probe(["/srv/link"])


def test_what_is_never_touched_is_refused_without_a_look(fake: FakeEngine, archiver: VolumeArchiver) -> None:
    """By its path alone the engine's folder is refused: no helper stands up for it."""
    watched = len(fake.list_containers())
    with pytest.raises(VolumeAccessError, match="never archived: /var/lib/fake-engine is a folder of the engine's own"):
        archiver.probe(["/var/lib/fake-engine/volumes/x"])
    assert len(fake.list_containers()) == watched


def test_the_store_and_what_holds_it_are_refused(tmp_path: Path) -> None:
    """The folder of the backups, a link to it and what it lies in are never archived: a fill would empty them."""
    store, link = tmp_path / "backups" / "store", tmp_path / "link"
    store.mkdir(parents=True)
    link.symlink_to(store)
    folders = HostFolders(Here(), {"the store": str(link)})
    for path in (store, store / "blobs", tmp_path / "backups", link):
        with pytest.raises(VolumeAccessError, match="the store is there"):
            folders.inspect(os.fspath(path))
    assert folders.inspect(os.fspath(tmp_path / "other"))["Name"] == os.fspath(tmp_path / "other")


def test_a_folder_that_others_use_is_refused(fake: FakeEngine, archiver: VolumeArchiver) -> None:
    """One that a running container writes to, or binds a part of, is not archived and not filled."""
    archive = archiver.archive("/srv/data")
    fake.run("other", image="app", volumes={"/srv/data/deep": "/x"})
    with pytest.raises(VolumeAccessError, match="running containers use it: 'other'"):
        archiver.archive("/srv/data")
    with pytest.raises(VolumeAccessError, match="running containers use it: 'other'"):
        archiver.extract(archive)
    fake.remove_container("other", force=True)
    fake.run("reader", image="app", volumes={"/srv": "/x:ro"})
    assert archiver.archive("/srv/data").name == "/srv/data"


# A folder that is at hand


def nobody(words: object, *, stdin: bool = False) -> Any:
    """Fail: of a folder that is at hand nobody else is asked."""
    raise AssertionError(words, stdin)


def place_of(folder: Path, engine: FakeEngine | None = None, **kept: Path) -> dict[str, Any]:
    """Return where a folder of this machine leads."""
    folders = HostFolders(engine or Here(), {what: str(path) for what, path in kept.items()})
    with Tree.at(folder) as tree:
        return dict(folders.place(str(folder), nobody, "/of no use", tree)["Place"])


def test_a_folder_at_hand_is_known_by_the_boot_and_where_it_leads(tmp_path: Path) -> None:
    """Its file system's number and its path there are those of the kernel, through a symbolic link too."""
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    place = place_of(folder)
    assert place["Boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert place["Path"].endswith(f"/{tmp_path.name}/folder")
    assert place_of(link) == place
    assert place_of(tmp_path)["Path"] == place["Path"].removesuffix("/folder")
    HostFolders(Here(), {}).check_same(str(link), place_of(link), place)


def test_a_folder_at_hand_is_the_one_that_is_open(tmp_path: Path) -> None:
    """One that was moved since leads where it is now; of one that was removed nothing tells."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with Tree.at(folder) as tree:
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        place = HostFolders(Here(), {}).place(str(folder), nobody, "", tree)["Place"]
        assert place["Path"].endswith(f"/{tmp_path.name}/moved")
        (tmp_path / "moved").rmdir()
        with pytest.raises(VolumeAccessError, match="its place on the host cannot be determined"):
            HostFolders(Here(), {}).place(str(folder), nobody, "", tree)


def test_a_link_at_hand_into_what_is_never_touched_is_refused(tmp_path: Path) -> None:
    """The engine's own data and the folders that are kept, however their own paths are written."""
    for name in ("engine/volumes", "store/blobs", "free"):
        (tmp_path / name).mkdir(parents=True)
    for name, target in (
        ("to-engine", "engine/volumes"),
        ("to-store", "store/blobs"),
        ("here", "."),
        ("free2", "free"),
    ):
        (tmp_path / name).symlink_to(target)
    engine = Here(str(tmp_path / "here" / "engine"))
    with pytest.raises(VolumeAccessError, match="leads to the engine's own data"):
        place_of(tmp_path / "to-engine", engine)
    with pytest.raises(VolumeAccessError, match="it is never archived: it leads to the_store"):
        place_of(tmp_path / "to-store", engine, the_store=tmp_path / "here" / "store")
    assert place_of(tmp_path / "free2", engine, the_store=tmp_path / "here" / "store")["Path"].endswith("/free")
