"""Volumes of unusual kinds on a real engine: with mount points, read-only, with long paths, without their folder."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from attrs import field, frozen
from docker.errors import NotFound

from docker_rollback import (
    BackupStore,
    DockerRollbackError,
    Rollback,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    backup,
    restore,
    rollback,
)
from docker_rollback._host import processes
from docker_rollback._model.backup import Way
from tests.engines.results import cannot
from tests.unit.volumes.comparing import differences, picture

pytestmark = [
    pytest.mark.engine,
    # Mounting something on the engine's host takes root, next to it.
    pytest.mark.direct,
    pytest.mark.skipif(not processes.may_do_anything(), reason="mounting something takes root"),
]

WAYS: tuple[Way, ...] = ("direct", "helper")
_IN_NAMESPACE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
file, does, *target = sys.argv[1:]
assert libc.setns(int(file), 0x20000) == 0
if does == "mount":
    assert libc.mount(b"none", target[0].encode(), b"tmpfs", ctypes.c_ulong(0), b"") == 0
elif does == "umount":
    libc.umount2(target[0].encode(), 2)
else:
    print(open("/proc/self/mountinfo").read())
"""
"""Mounts a file system in memory, takes it away, or lists all mounts."""


@frozen
class Host:
    """An engine, a folder of its host, and a service with volumes."""

    client: docker.DockerClient
    image: str
    labels: dict[str, str]
    folder: Path
    name: str
    store: BackupStore
    made: ExitStack = field(factory=ExitStack)
    namespace: list[int] = field(factory=list)

    def volume(self, **options: str) -> str:
        """Create a volume."""
        name = f"odd-{secrets.token_hex(4)}"
        self.client.api.create_volume(name, labels=self.labels, driver_opts=options or None)
        self.made.callback(self._remove_volume, name)
        return name

    def _remove_volume(self, name: str) -> None:
        with suppress(NotFound):
            self.client.api.remove_volume(name, force=True)

    def root(self, volume: str) -> Path:
        """Return where a volume lies on this host."""
        folder = Path(self.client.api.inspect_volume(volume)["Mountpoint"])
        assert folder.is_dir(), f"the engine's volumes cannot be seen here ({folder})"
        return folder

    def enter(self) -> None:
        """Look where the engine has its mounts; a container has to run."""
        main = self.client.api.inspect_container(self.name)["State"]["Pid"]
        # Its parent is a process of the engine's own.
        parent = Path(f"/proc/{main}/stat").read_text().rpartition(")")[2].split()[1]
        self.namespace.append(os.open(f"/proc/{parent}/ns/mnt", os.O_RDONLY))
        self.made.callback(os.close, self.namespace[-1])

    def mounts(self, *words: str) -> str:
        """Have a program that is in the engine's mount namespace do what `_IN_NAMESPACE` knows of."""
        file = self.namespace[-1]
        command = [sys.executable, "-c", _IN_NAMESPACE, str(file), *words]
        return subprocess.run(command, pass_fds=[file], check=True, capture_output=True, text=True).stdout

    def mount(self, target: Path) -> None:
        """Mount a file system in memory where the engine has its mounts."""
        self.mounts("mount", str(target))
        self.made.callback(self.mounts, "umount", str(target))

    def run(self, *binds: str) -> None:
        """Create the service with some binds, and start it."""
        self.create({"Binds": list(binds)})

    def create(self, options: dict[str, Any], *, command: str = "sleep 600", signal: str = "SIGKILL") -> None:
        """Create the service, and start it."""
        body = {
            "Image": self.image,
            "Cmd": ["sh", "-c", command],
            "StopSignal": signal,
            "HostConfig": {**options, "NetworkMode": "none"},
        }
        create: Any = self.client.api.create_container_from_config  # the SDK's types leave it out
        create(body, self.name)
        self.made.callback(self.remove)
        self.client.api.start(self.name)

    def remove(self) -> None:
        """Remove the service."""
        for found in self.client.api.containers(all=True, filters={"name": self.name}):
            with suppress(NotFound):
                self.client.api.remove_container(found["Id"], force=True)

    def said(self, command: str) -> str:
        """Return what a command prints in the service."""
        made = self.client.api.exec_create(self.name, ["sh", "-c", command])
        run: Any = self.client.api.exec_start
        said: bytes = run(made)
        return said.decode()

    def rollback(self, **options: Any) -> Rollback:
        """Return a rollback of the service."""
        return rollback(self.name, client=self.client, store=self.store, **{"verify": None, **options})


@pytest.fixture
def host(
    docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str], tmp_path: Path
) -> Iterator[Host]:
    """Give an engine next to us, with a folder that it sees at the same path."""
    name = f"odd-{secrets.token_hex(4)}"
    # Private engines with a root file system of their own share the folder for temporary files with the machine.
    folder = tmp_path / "host"
    folder.mkdir()
    made = Host(docker_client, busybox_image, test_labels, folder, name, BackupStore(tmp_path / "store"))
    with made.made:
        made.made.callback(shutil.rmtree, folder, ignore_errors=True)
        yield made


def is_podman(client: docker.DockerClient) -> bool:
    """Whether the engine is Podman."""
    return any("Podman" in one["Name"] for one in client.version().get("Components") or ())


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("plain", "direct"),
        ("folder", "direct"),
        ("plain", "helper"),
        ("folder", "helper"),
        # Volumes with options are reached by a helper alone.
        ("rbind", "helper"),
    ],
)
def test_a_mount_point_is_neither_archived_nor_touched(host: Host, kind: str, way: Way) -> None:
    """It is listed as not covered; after a rollback it is mounted as before, with what the update wrote there."""
    if kind == "rbind" and is_podman(host.client):
        cannot(host.client, "Podman needs a program for volumes with options that its host may lack")
    root, options = host.folder / "data", {}
    root.mkdir()
    source = str(root)
    if kind == "plain":
        source = host.volume()
        root = host.root(source)
    elif kind == "rbind":
        source = host.volume(type="none", device=str(root), o="rbind")
    else:
        options["include_binds"] = [source]
    for name in ("disk", "a/place"):
        (root / name).mkdir(parents=True)
    (root / "file").write_text("before")
    host.run(f"{host.volume()}:/none")
    host.enter()
    host.remove()
    host.mount(root / "disk")
    host.run(f"{source}:/data")
    host.said("echo theirs > /data/disk/big")
    with host.rollback(way=way, **options) as tx:
        assert [gap.what.split(" in ")[0] for gap in tx.backup.not_covered if "mount point" in gap.what] == [
            "mount point disk"
        ]
        said = host.said(
            "rm -rf /data/file /data/disk /data/a; mkdir -p /data/new /data/stray; echo more > /data/disk/more"
        )
        assert "busy" in said
        host.mount(root / "new")
        raise RollbackRequested
    assert host.said("cat /data/file") == "before"
    assert host.said("cat /data/disk/more") == "more\n"
    assert sorted(host.said("ls /data").split()) == ["a", "disk", "file", "new"]
    assert sorted(host.said("ls /data/a").split()) == ["place"]
    listed = host.mounts("list")
    assert all(f" {root / name} " in listed for name in ("disk", "new"))


# At the first stop alone: Podman's containers see no mount that comes later, so that rm would take it away.
_REMOVES = "trap '[ ! -e /data/gone/file ] || rm -r /data/gone; exit 0' TERM; while :; do sleep 0.1; done"


@pytest.mark.parametrize("way", WAYS)
def test_a_removed_folder_does_not_come_back_with_its_files(host: Host, way: Way) -> None:
    """The base has it, the capture not: what is mounted in a new folder of its name stays, no more."""
    volume = host.volume()
    host.run(f"{volume}:/data")
    host.enter()
    root = host.root(volume)
    # Enough for the volume to be archived while it is in use.
    (root / "big").write_bytes(os.urandom(20 << 20))
    (root / "gone/disk").mkdir(parents=True)
    (root / "gone/file").write_text("before")
    host.remove()
    host.create({"Binds": [f"{volume}:/data"]}, command=_REMOVES, signal="SIGTERM")
    with host.rollback(way=way) as tx:
        assert tx.backup.volume(volume).increment is not None
        assert sorted(one.name for one in root.iterdir()) == ["big"]
        (root / "gone/disk").mkdir(parents=True)
        host.mount(root / "gone/disk")
        (root / "gone/stray").write_text("stray")
        raise RollbackRequested
    assert sorted(one.name for one in (root / "gone").rglob("*")) == ["disk"]
    assert f" {root}/gone/disk " in host.mounts("list")


@pytest.mark.parametrize("way", WAYS)
def test_what_lies_too_deep_for_a_path_is_removed(host: Host, way: Way) -> None:
    """The update copied a folder into itself, over and over: a rollback removes all of it."""
    volume = host.volume()
    host.run(f"{volume}:/data")
    host.said("echo before > /data/file")
    with host.rollback(way=way):
        host.said(f"cd /data; for one in $(seq 40); do mkdir {'d' * 200}; cd {'d' * 200}; done; echo > /data/file")
        raise RollbackRequested
    assert host.said("ls /data; cat /data/file") == "file\nbefore\n"


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_put_back_is_refused_before_the_stop(host: Host, way: Way) -> None:
    """A path that lies too deep in a volume is named, and the service runs on."""
    volume = host.volume()
    host.run(f"{volume}:/data")
    host.said(f"cd /data; for one in $(seq 40); do mkdir {'d' * 200}; cd {'d' * 200}; done")
    started = host.client.api.inspect_container(host.name)["State"]["StartedAt"]
    with pytest.raises(DockerRollbackError, match=f"'{volume}'.*more than 4064 bytes"), host.rollback(way=way):
        pytest.fail("there is no update")
    assert host.client.api.inspect_container(host.name)["State"]["StartedAt"] == started
    assert host.store.list() == []


def test_nothing_is_written_to_a_read_only_volume(host: Host) -> None:
    """It is backed up; a rollback leaves it alone if it is as it was, and says what differs if it is not."""
    if is_podman(host.client):
        cannot(host.client, "Podman needs a program for volumes with options that its host may lack")
    root = host.folder / "data"
    (root / "sub").mkdir(parents=True)
    (root / "file").write_text("before")
    (root / "sub/file").write_text("before")
    volume, more = host.volume(type="none", device=str(root), o="bind,ro"), host.volume()
    host.run(f"{volume}:/data", f"{more}:/more")
    host.said("echo before > /more/file")
    assert "Read-only" in host.said("touch /data/file")
    before = picture(root)
    with host.rollback():
        host.said("echo after > /more/file")
        raise RollbackRequested
    assert host.said("cat /more/file") == "before\n"
    assert differences(before, picture(root)) == []
    with (
        pytest.raises(RollbackFailedError, match=f"'{volume}': it is read-only, and differs.*sub/file"),
        host.rollback(),
    ):
        (root / "sub/file").write_text("changed on the host")
        host.said("echo after > /more/file")
        raise RollbackRequested
    assert (root / "sub/file").read_text() == "changed on the host"


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_an_empty_read_only_volume_is_refused_before_anything_is_touched(host: Host, kind: str) -> None:
    """Its engine could not create the container again with it: the error names both, and what to do."""
    if is_podman(host.client):
        cannot(host.client, "Podman needs a program for volumes with options that its host may lack")
    # Every engine sees the folder of another volume.
    root = host.root(host.volume())
    memory = {"type": "tmpfs", "device": "tmpfs", "o": "ro"}
    volume = host.volume(**(memory if kind == "memory" else {"type": "none", "device": str(root), "o": "bind,ro"}))
    host.run(f"{volume}:/nowhere")
    host.said("touch /layer")
    before = host.client.api.inspect_container(host.name)
    words = "nothing can be put back" if kind == "memory" else "copy into it what the image has at /nowhere"
    with pytest.raises(UnsupportedContainerError, match=f"container '{host.name}' .*'{volume}' .*{words}") as refused:
        backup(host.name, client=host.client, store=host.store, quiesce="pause")
    assert refused.value.container == host.name
    assert host.client.api.inspect_container(host.name) == before
    assert host.store.list() == []


@pytest.mark.parametrize("remedy", ["nocopy", "a file"])
def test_a_read_only_volume_that_need_not_be_copied_into_is_rolled_back(host: Host, remedy: str) -> None:
    """What the refusal of an empty one names helps: the container that the update removed stands again."""
    if is_podman(host.client):
        cannot(host.client, "Podman needs a program for volumes with options that its host may lack")
    # Every engine sees the folder of another volume.
    root = host.root(host.volume())
    if remedy == "a file":
        (root / "file").touch()
    volume = host.volume(type="none", device=str(root), o="bind,ro")
    host.run(f"{volume}:/nowhere" + (":nocopy" if remedy == "nocopy" else ""))
    host.said("echo before > /layer")
    with host.rollback() as tx:
        host.client.api.remove_container(host.name, force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert host.said("cat /layer") == "before\n"


@pytest.mark.parametrize("removed", [False, True], ids=["volume-stays", "volume-removed"])
def test_a_volume_without_its_folder_is_named(host: Host, removed: bool) -> None:  # noqa: FBT001 - a parameter
    """The update removed the folder that a volume is bound to: the error has both, and nothing is left behind."""
    if is_podman(host.client):
        cannot(host.client, "Podman needs a program for volumes with options that its host may lack")
    root = host.folder / "data"
    root.mkdir()
    (root / "file").write_text("before")
    volume = host.volume(type="none", device=str(root), o="bind")
    host.run(f"{volume}:/data")
    host.said("echo before > /file")
    with pytest.raises(RollbackFailedError) as caught, host.rollback() as tx:
        host.said("echo after > /file")
        host.client.api.remove_container(host.name, force=True)
        shutil.rmtree(root)
        if removed:
            host.client.api.remove_volume(volume)
        raise RollbackRequested
    told = str(caught.value)
    assert f"volume '{volume}'" in told
    assert f"'{root}'" in told
    assert "which is gone" in told
    assert not root.exists()
    left = [one for one in host.client.api.containers(all=True) if volume in str(one["Mounts"]) + str(one["Names"])]
    assert left == []
    root.mkdir()
    assert restore(tx.backup.id, client=host.client, store=host.store) == [host.name]
    assert host.said("cat /data/file /file") == "beforebefore\n"


@pytest.mark.parametrize("way", WAYS)
def test_a_check_counts_the_room_for_volumes(host: Host, way: Way) -> None:
    """By a look the first time, by the last archive later; and it names what a backup would refuse."""
    volume = host.volume()
    host.run(f"{volume}:/data")
    host.said("head -c 5000000 /dev/urandom > /data/file")
    first = host.rollback(way=way).check()
    assert first.sizes[volume] == pytest.approx(5_000_000, rel=0.01)
    assert first.shortage is None
    taken = backup(host.name, client=host.client, store=host.store, way=way)
    assert host.rollback(way=way).check().sizes[volume] == taken.volume(volume).size
    other = host.store.path.parent / "other"
    host.said(f"cd /data; for one in $(seq 40); do mkdir {'d' * 200}; cd {'d' * 200}; done")
    refused = rollback(host.name, client=host.client, store=other, way=way).check().refused
    assert "more than 4064 bytes" in str(refused[host.name])


@pytest.mark.parametrize("asked", ["Binds", "Mounts"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_container_binds_and_is_gone_is_named(host: Host, asked: str, kind: str) -> None:
    """Nobody has its content: the rollback says so, and no folder is made in its place; put back, it is restored."""
    source = host.folder / "app.conf"

    def make() -> None:
        if kind == "folder":
            source.mkdir()
        else:
            source.write_text("setting=1")

    make()
    mount = {"Type": "bind", "Source": str(source), "Target": "/app.conf", "ReadOnly": True}
    options = {"Binds": [f"{source}:/app.conf:ro"]} if asked == "Binds" else {"Mounts": [mount]}
    host.create(options)
    told = f"container '{host.name}'.*binds '{source}'.*which is gone"
    with pytest.raises(RollbackFailedError, match=told), host.rollback() as tx:
        host.client.api.remove_container(host.name, force=True)
        subprocess.run(["rm", "-r", str(source)], check=True)
        raise RollbackRequested
    assert not source.exists()
    make()
    assert restore(tx.backup.id, client=host.client, store=host.store) == [host.name]
    assert host.client.api.inspect_container(host.name)["State"]["Running"]


_MAKER = """
cd /made; trap 'rm -r *; exit 0' TERM; sleep 0.5
mkdir -p "$(dirname PATH)" && touch PATH; while :; do sleep 0.1; done
"""


@pytest.mark.parametrize("path", ["by", "sub/by"])
def test_what_another_container_makes_at_its_start_is_waited_for(host: Host, path: str) -> None:
    """A file that goes with the stop of the group, and comes back when its maker starts, is not missed."""
    maker, folder = with_maker(host, path)
    options: dict[str, Any] = {"verify": None, "quiesce": "pause"}
    with rollback(host.name, maker, client=host.client, store=host.store, **options) as tx:
        await_file(folder / path)
        host.client.api.remove_container(host.name, force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert (folder / path).is_file()
    assert host.client.api.inspect_container(host.name)["State"]["Running"]


@pytest.mark.parametrize("first", ["its user", "its maker"])
def test_a_capture_waits_for_what_another_container_makes(host: Host, first: str) -> None:
    """Both are stopped: the one that binds the file starts once the other has made it again, and no folder is made."""
    maker, folder = with_maker(host)
    names = (host.name, maker) if first == "its user" else (maker, host.name)
    backup(*names, client=host.client, store=host.store)
    assert (folder / "by").is_file()
    assert all(host.client.api.inspect_container(name)["State"]["Running"] for name in names)
    assert host.said("test -f /by && echo there") == "there\n"


def test_a_container_without_a_network_is_put_back(host: Host) -> None:
    """The container that was renamed away for the update is the same one as before, and not recreated."""
    host.run()
    before = host.client.api.inspect_container(host.name)["Id"]
    with host.rollback():
        host.client.api.stop(host.name)
        raise RollbackRequested
    assert host.client.api.inspect_container(host.name)["Id"] == before


def with_maker(host: Host, path: str = "by") -> tuple[str, Path]:
    """Have the service bind a file that another container makes, and removes when it stops; return that, and where.

    The file is at `path`, in the folder that is returned.
    """
    maker = f"{host.name}-maker"
    folder = host.folder / "made"
    folder.mkdir()
    create: Any = host.client.api.create_container_from_config  # the SDK's types leave it out
    made_by = {"Binds": [f"{folder}:/made"], "NetworkMode": "none"}
    create(
        {
            "Image": host.image,
            "Cmd": ["sh", "-c", _MAKER.replace("PATH", path)],
            "Labels": host.labels,
            "HostConfig": made_by,
        },
        maker,
    )
    host.made.callback(host.remove)
    host.client.api.start(maker)
    await_file(folder / path)
    host.run(f"{folder / path}:/by:ro")
    return maker, folder


def await_file(path: Path) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was never made"
        time.sleep(0.05)
