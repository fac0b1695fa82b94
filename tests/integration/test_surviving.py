"""Containers that run and could not start again: refused while they run, on real engines."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from docker_rollback import BackupStore, DockerEngine, RollbackRequested, Status, UnsupportedContainerError, rollback
from tests.engines.results import cannot
from tests.engines.unprivileged import as_root

pytestmark = pytest.mark.engine

SERVICE = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]


class Pair:
    """A container under test and the one whose namespaces, links or volumes it uses."""

    def __init__(self, client: docker.DockerClient, image: str, labels: Mapping[str, str], folder: Path) -> None:
        self.client, self.image, self.labels, self.folder = client, image, labels, folder
        self.engine = DockerEngine(client)
        self.name = f"needs-{secrets.token_hex(3)}"
        self.partner = f"{self.name}-partner"
        self.podman = self.engine.info().flavour == "podman"

    def start(self, name: str, **host: Any) -> None:
        """Create a container and start it."""
        body = {"Image": self.image, "Cmd": SERVICE, "Labels": dict(self.labels), "StopTimeout": 1, "HostConfig": host}
        self.engine.start_container(self.engine.create_container(name, body))

    def check_refused(self, store: Path, told: str) -> None:
        """Assert that a rollback is refused by words, in its check too, and that the container was not touched."""
        before = self.engine.inspect_container(self.name)
        block = rollback(self.name, client=self.client, store=store, verify=None)
        assert told in str(block.check().refused[self.name])
        with pytest.raises(UnsupportedContainerError) as raised:
            block.__enter__()
        assert told in str(raised.value)
        assert self.engine.inspect_container(self.name) == before


@pytest.fixture
def pair(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Iterator[Pair]:
    """Give two names on an engine, and a folder of its host at the same path."""
    root = Path(docker_client.info()["DockerRootDir"])
    if not root.is_dir():
        pytest.skip("this engine sees no folder of this machine")
    # Some engines of the tests have a root file system of their own, and share this folder alone with the machine.
    folder = root / f"needs-{secrets.token_hex(4)}"
    with as_root():
        folder.mkdir()
        # Who is no root may use it, too; Docker lets nobody pass through its folder.
        folder.chmod(0o777)
        root.chmod(root.stat().st_mode | 0o001)
    pair = Pair(docker_client, busybox_image, test_labels, folder)
    try:
        yield pair
    finally:
        for name in (pair.name, pair.partner):
            pair.engine.remove_container(name, force=True, volumes=True)
        with as_root():
            shutil.rmtree(folder, ignore_errors=True)


USES: dict[str, tuple[str, Callable[[str], Mapping[str, Any]]]] = {
    "network": ("the network", lambda partner: {"NetworkMode": f"container:{partner}"}),
    "memory": ("the shared memory", lambda partner: {"IpcMode": f"container:{partner}"}),
    "link": ("a link", lambda partner: {"Links": [f"{partner}:db"]}),
}


@pytest.mark.parametrize("fate", ["gone", "stopped"])
@pytest.mark.parametrize("use", USES)
def test_what_another_container_gave_is_missed_before_the_stop(pair: Pair, tmp_path: Path, use: str, fate: str) -> None:
    """The other container was removed or stopped, so no engine could start this one again."""
    what, options = USES[use]
    if pair.podman and (use == "link" or fate == "gone"):
        cannot(pair.client, "Podman knows no links, and removes no container that another one needs")
    pair.start(pair.partner, IpcMode="shareable")
    pair.start(pair.name, **options(pair.partner))
    if fate == "gone":
        pair.engine.remove_container(pair.partner, force=True)
        pair.check_refused(tmp_path / "store", f"it uses {what} of container ")
    else:
        pair.engine.stop_container(pair.partner)
        pair.check_refused(tmp_path / "store", f"it uses {what} of container '{pair.partner}', which does not run")


def test_a_donor_of_volumes_that_is_gone_is_missed(pair: Pair, tmp_path: Path) -> None:
    """No engine creates a container with the volumes of one that is gone."""
    pair.start(pair.partner, Binds=[f"{pair.folder}:/data"])
    pair.start(pair.name, VolumesFrom=[pair.partner])
    pair.engine.remove_container(pair.partner, force=True)
    pair.check_refused(tmp_path / "store", f"the volumes of container '{pair.partner}', which is gone")


@pytest.mark.parametrize("asked", ["Binds", "Mounts"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_it_binds_and_is_gone_is_missed_before_the_stop(pair: Pair, tmp_path: Path, asked: str, kind: str) -> None:
    """The program still has it open; one that was written anew under its name is not missed."""
    source = pair.folder / "app.conf"
    make = source.mkdir if kind == "folder" else source.touch
    make()
    mount = {"Type": "bind", "Source": str(source), "Target": "/app.conf"}
    pair.start(pair.name, **({"Binds": [f"{source}:/app.conf"]} if asked == "Binds" else {"Mounts": [mount]}))
    source.rmdir() if kind == "folder" else source.unlink()
    if pair.engine.info().address.startswith("unix://"):
        pair.check_refused(tmp_path / "store", f"it was given '{source}' of the engine's host, which is gone")
        assert not source.exists()
    make()
    with rollback(pair.name, client=pair.client, store=BackupStore(tmp_path / "store"), verify=None) as tx:
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK


def test_a_device_that_was_unplugged_is_missed_before_the_stop(pair: Pair, tmp_path: Path) -> None:
    """As a stick is that comes back under another name."""
    device = Path(f"/dev/{pair.name}")
    with as_root():
        os.mknod(device, 0o20600, os.makedev(1, 3))
    try:
        given = {"PathOnHost": str(device), "PathInContainer": "/dev/stick", "CgroupPermissions": "rwm"}
        pair.start(pair.name, Devices=[given])
    finally:
        with as_root():
            device.unlink()
    if pair.podman:
        cannot(pair.client, "Podman keeps a device by its numbers and starts the container without its name")
    pair.check_refused(tmp_path / "store", f"it was given '{device}' of the engine's host, which is gone")


def test_a_stopped_container_whose_network_is_gone_is_refused(pair: Pair, tmp_path: Path) -> None:
    """Docker lets the network go; it could neither start nor create the container again."""
    if pair.podman:
        cannot(pair.client, "Podman removes no network that a container is on")
    pair.engine.create_network({"Name": pair.name, "Labels": dict(pair.labels)})
    pair.start(pair.name, NetworkMode=pair.name)
    pair.engine.stop_container(pair.name)
    pair.engine.remove_network(pair.name)
    pair.check_refused(tmp_path / "store", f"it is on network '{pair.name}', which is gone")
