"""Folders of the host that containers bind, backed up and put back on a real engine, by both ways."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from attrs import frozen

from docker_rollback import (
    BackupStore,
    Rollback,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    backup,
    rollback,
)
from docker_rollback._host import processes
from docker_rollback._model.backup import Way
from docker_rollback._volumes.access.helper_image import pack_kit
from tests.programs import run_in
from tests.racing import Swapping, exchange
from tests.unit.volumes import awkward
from tests.unit.volumes.comparing import differences, picture

pytestmark = [
    pytest.mark.engine,
    # Making every kind of file takes root.
    pytest.mark.direct,
    pytest.mark.skipif(not processes.may_do_anything(), reason="making every kind of file takes root"),
]

WAYS: tuple[Way, ...] = ("direct", "helper")


@frozen
class Host:
    """An engine, its host's folders, and a service that binds one of them."""

    client: docker.DockerClient
    image: str
    folder: Path
    name: str
    store: BackupStore

    def run(self, *binds: str, name: str = "", command: str = "sleep 600", mounts: Any = ()) -> str:
        """Create a container and start it."""
        body = {
            "Image": self.image,
            "Cmd": ["sh", "-c", command],
            "StopSignal": "SIGKILL",
            "HostConfig": {"Binds": list(binds), "Mounts": list(mounts), "NetworkMode": "none"},
        }
        create: Any = self.client.api.create_container_from_config  # the SDK's types leave it out
        made: str = create(body, name or self.name)["Id"]
        self.client.api.start(made)
        return made

    def remove(self) -> None:
        """Remove the service."""
        self.client.api.remove_container(self.name, force=True)

    def look(self, *binds: str, command: str) -> str:
        """Return what a command prints in a container of its own."""
        made = self.run(*binds, name=f"look-{secrets.token_hex(4)}", command=command)
        self.client.api.wait(made)
        said: bytes = self.client.api.logs(made)
        self.client.api.remove_container(made)
        return said.decode().strip()

    def rollback(self, folder: object, **options: Any) -> Rollback:
        """Return a rollback of the service with a folder."""
        chosen: dict[str, Any] = {"verify": None, "include_binds": [str(folder)], **options}
        return rollback(self.name, client=self.client, store=self.store, **chosen)


@pytest.fixture
def host(docker_client: docker.DockerClient, busybox_image: str, tmp_path: Path) -> Iterator[Host]:
    """Give an engine, with a folder that it sees at the same path; an engine may have another root than we."""
    token = secrets.token_hex(4)
    name = f"docker-rollback-test-{token}"
    near = Path(docker_client.info()["DockerRootDir"]).parent
    for parent in (near, tmp_path):
        if not parent.is_dir():
            continue
        folder = parent / name
        made = Host(docker_client, busybox_image, folder, f"binds-{token}", BackupStore(tmp_path / "store"))
        folder.mkdir()
        try:
            if name in made.look(f"{parent}:/parent:ro", command="ls /parent").split():
                yield made
                left = docker_client.api.containers(all=True, filters={"label": "docker-rollback.role=helper"})
                assert not [one for one in left if str(folder) in str(one["Mounts"])]
                return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    pytest.skip("this engine sees no folder of this machine")


def dampen(root: Path) -> None:
    """Take off the root what nothing in a helper takes off, where it has no setfattr; a warning of the log says so."""
    if "setfattr" not in pack_kit().prefixes:
        for attribute in ("user.stray", "trusted.stray"):
            os.removexattr(root, attribute)


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_file_comes_back(host: Host, way: Way) -> None:
    """After an awful update a folder is as before, byte for byte and attribute for attribute; outside all stays."""
    root, outside = host.folder / "data", host.folder / "outside"
    root.mkdir()
    outside.mkdir()
    awkward.make(root)
    before = picture(root, sockets=False)
    host.run(f"{root}:/data")
    with host.rollback(root, way=way) as tx:
        assert tx.backup.volume(str(root)).way == way
        gaps = [gap.what for gap in tx.backup.not_covered if str(root) in gap.what]
        assert gaps == [rf"socket ./special/socket\n1 in folder {root}"]
        awkward.damage(root, outside)
        if way == "helper":
            dampen(root)
        untouched = picture(outside)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert differences(before, picture(root)) == []
    assert [line for line in differences(untouched, picture(outside)) if "links was" not in line] == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["-v", "--mount"])
def test_a_folder_that_the_update_removed_is_made_again(host: Host, way: Way, kind: str) -> None:
    """With the container gone too, both come back: the folder with its attributes, and the container that binds it."""
    root = host.folder / "deep" / "data"
    root.mkdir(parents=True)
    (root / "table").write_text("rows")
    os.chown(root, 1234, 5678)
    root.chmod(0o2750)
    os.utime(root, ns=(0, 1_234_567_890_123_456_789))
    before = picture(root)
    if kind == "-v":
        host.run(f"{root}:/data")
    else:
        host.run(mounts=[{"Type": "bind", "Source": str(root), "Target": "/data"}])
    with host.rollback(root, way=way) as tx:
        host.remove()
        shutil.rmtree(root.parent)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert differences(before, picture(root)) == []
    assert host.client.containers.get(host.name).status == "running"


def test_a_folder_of_the_same_path_here_may_be_another_one(host: Host) -> None:
    """What the engine's host has at a path is archived and filled, and not what lies at that path on this machine."""
    folder = Path(f"/srv/{host.folder.name}")
    decoy = not folder.exists()
    try:
        host.run(f"{folder}:/data")
        # Made by the engine, so it is there by now where the engine has the same root as we.
        decoy = decoy and not folder.exists()
        if decoy:
            folder.mkdir(parents=True)
            (folder / "ours").write_text("ours")
        host.client.containers.get(host.name).exec_run(["sh", "-c", "echo rows > /data/table"])
        with host.rollback(folder) as tx:
            assert tx.backup.volume(str(folder)).way == ("helper" if decoy else "direct")
            host.remove()
            host.look("/srv:/srv", command=f"rm -r {folder}")
            raise RollbackRequested
        assert tx.status is Status.ROLLED_BACK
        assert run_in(host.client, host.name, ["cat", "/data/table"]) == (0, "rows\n")
        if decoy:
            assert [path.name for path in folder.iterdir()] == ["ours"]
    finally:
        host.look("/srv:/srv", command=f"rm -rf {folder}")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["engine", "link", "socket", "store", "mount", "nobody"])
def test_what_is_never_archived_is_refused(host: Host, way: Way, kind: str) -> None:
    """By its path, and by where it leads: the error names container, path and reason; the service still runs."""
    root, path = host.folder, host.folder / kind
    words = {
        "engine": "is a folder of the engine's own",
        "link": "leads into a file system of the kernel's",
        "socket": "it is a socket; folders and regular files alone|cannot be read here",
        "store": "it is never archived: the store",
        "mount": "file system of the kernel's|system folder of the engine's host",
        "nobody": "which no container of the rollback binds",
    }
    if kind == "engine":
        path = Path(host.client.info()["DockerRootDir"]) / "volumes"
        path.mkdir(exist_ok=True)
    elif kind == "link":
        path.symlink_to("/proc")
    elif kind == "socket":
        # Its path is longer than a bound socket's may be.
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "store":
        path = host.folder
        host = Host(host.client, host.image, host.folder, host.name, BackupStore(path / "deep" / "store"))
    elif kind == "mount":
        path = Path("/")
    host.run(f"{root if kind == 'nobody' else path}:/data:ro")
    with pytest.raises(UnsupportedContainerError, match=words[kind]) as refused:
        backup(host.name, client=host.client, store=host.store, way=way, include_binds=[str(path)])
    assert refused.value.container == host.name
    assert str(path) in str(refused.value)
    assert host.client.containers.get(host.name).status == "running"
    assert host.store.list() == []


def test_a_folders_owner_cannot_have_us_write_elsewhere(host: Host) -> None:
    """While a rollback fills a folder, its owner swaps a folder in it for a link: nothing lands behind the link."""
    root, outside = host.folder / "data", host.folder / "outside"
    (root / "sub").mkdir(parents=True)
    for number in range(500):
        (root / "sub" / f"file-{number}").write_text("its own")
    outside.mkdir()
    (outside / "precious").write_text("precious")
    host.run(f"{root}:/data")
    # The attack may keep the rollback from coming to its end; that is no way out of the folder.
    with ExitStack() as attack, suppress(RollbackFailedError), host.rollback(root, way="direct"):
        shutil.rmtree(root / "sub")
        (root / "sub").mkdir()
        (root / "link").symlink_to(outside)
        swapping = attack.enter_context(Swapping(root / "sub", root / "link"))
        raise RollbackRequested
    assert swapping.count > 0
    assert [path.name for path in outside.iterdir()] == ["precious"]


def test_a_folder_that_is_swapped_itself_is_not_filled(host: Host) -> None:
    """Who owns the folder above puts another one in its place: that is no folder of this backup, and stays."""
    root, other = host.folder / "data", host.folder / "other"
    root.mkdir()
    (root / "file").write_text("its own")
    other.mkdir()
    (other / "precious").write_text("precious")
    link = host.folder / "link"
    link.symlink_to(other)
    host.run(f"{root}:/data")
    with pytest.raises(RollbackFailedError), host.rollback(root, way="direct"):
        exchange(root, link)
        raise RollbackRequested
    assert [path.name for path in other.iterdir()] == ["precious"]
    exchange(root, link)


@pytest.mark.parametrize("update", ["written", "replaced", "removed", "made a folder"])
def test_a_single_file_comes_back(host: Host, update: str) -> None:
    """Content, owner, mode, times and attributes are as before; it keeps its inode if it is there; others stay."""
    path, other = host.folder / "app.conf", host.folder / "other.conf"
    path.write_bytes(os.urandom(300_000))
    other.write_text("not ours")
    os.truncate(path, 5_000_000)
    os.chown(path, 1234, 5678)
    path.chmod(0o4750)
    os.setxattr(path, "user.kept", b"1")
    os.setxattr(path, "trusted.kept", b"1")
    os.utime(path, ns=(0, 1_234_567_890_123_456_789))
    os.link(path, host.folder / "second name")
    before, inode, around = picture(path), path.stat().st_ino, picture(other)
    host.run(f"{path}:/app.conf")
    host.client.containers.get(host.name).exec_run(["sh", "-c", "echo before > /layer"])
    with host.rollback(path) as tx:
        assert [gap.what for gap in tx.backup.not_covered if str(path) in gap.what] == []
        if update == "written":
            # By the container itself, which cannot rename over what it binds.
            host.client.containers.get(host.name).exec_run(["sh", "-c", "echo after > /app.conf; echo x > /layer"])
            path.chmod(0o666)
            os.chown(path, 0, 0)
            os.setxattr(path, "user.kept", b"2")
            os.removexattr(path, "trusted.kept")
        elif update == "replaced":
            (host.folder / "new").write_text("after")
            (host.folder / "new").rename(path)
        else:
            host.remove()
            path.unlink()
        if update == "made a folder":
            # As an engine does that is to bind what is gone.
            path.mkdir()
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    # Names of the file are told by their number: it lost one to the update.
    left = [line for line in differences(before, picture(path)) if "links" not in line]
    assert left == []
    assert picture(other) == around
    if update == "written":
        assert path.stat().st_ino == inode
    assert host.client.containers.get(host.name).status == "running"
    said = run_in(host.client, host.name, ["busybox", "stat", "-c", "%i %s", "/app.conf"])
    assert said == (0, f"{path.stat().st_ino} 5000000\n")


def test_a_single_file_is_reached_by_a_helper_alone(host: Host) -> None:
    """Asked to go directly, a backup is refused, and says why."""
    path = host.folder / "app.conf"
    path.write_text("setting=1")
    host.run(f"{path}:/app.conf")
    with pytest.raises(UnsupportedContainerError, match="single file, which can be reached by a helper"):
        backup(host.name, client=host.client, store=host.store, way="direct", include_binds=[str(path)])
    assert host.store.list() == []
