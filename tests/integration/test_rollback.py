"""Whole rollbacks of a container with an awkward but common configuration, on a real engine."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import docker
import pytest

from docker_rollback import (
    BackupStore,
    ContainerNotFoundError,
    DockerEngine,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    UpdateRejectedError,
    backup,
    compare,
    healthy,
    restore,
    rollback,
)
from docker_rollback.errors import RestoreError
from tests.programs import run_in

pytestmark = pytest.mark.engine

SERVICE = "while :; do date +%s%N >> /data/log; sleep 0.2; done"


class UpdateFailedError(Exception):
    """What the update under test raises."""


class Shop:
    """A container with two networks, three volumes and most settings that people use, and what it needs."""

    def __init__(self, client: docker.DockerClient, image: str, labels: dict[str, str]) -> None:
        self.client = client
        self.image = image
        self.labels = labels
        self.token = secrets.token_hex(4)
        self.name = f"shop-{self.token}"
        octet = int(self.token[:2], 16)
        self.subnet = f"10.213.{octet}"

    def build(self) -> None:
        """Make the networks, the volumes, the container, and some data in each volume."""
        api = self.client.api
        pool = docker.types.IPAMPool(subnet=f"{self.subnet}.0/24")
        front, back = self.network("front"), self.network("back")
        api.create_network(front, ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels=self.labels)
        api.create_network(back, labels=self.labels)
        for volume in ("data", "config"):
            api.create_volume(self.volume(volume), labels=self.labels)
        self.create(self.name, self.image)
        self.client.api.start(self.name)
        self.run("mkdir -p /data/deep/er /anonymous/x && echo rows > /data/deep/er/table && ln -s ../data /data/link")
        self.run("echo precious > /anonymous/x/kept && chmod 0640 /anonymous/x/kept && chown 1234:4321 /anonymous/x")

    def create(self, name: str, image: str, **changes: Any) -> str:
        """Create the container, not started, from a raw request."""
        body: dict[str, Any] = {
            "Image": image,
            "Cmd": ["sh", "-c", SERVICE],
            "Env": ["B=2", "A=1=x", "EMPTY="],
            "Labels": {**self.labels, "role": "shop"},
            "Hostname": "counter",
            "ExposedPorts": {"8000/tcp": {}, "5353/udp": {}},
            "Volumes": {"/anonymous": {}},
            "WorkingDir": "/tmp",
            "StopSignal": "SIGKILL",
            "StopTimeout": 3,
            "Healthcheck": {"Test": ["CMD", "test", "-e", "/data/log"], "Interval": 200_000_000, "Retries": 9},
            "HostConfig": {
                "Binds": [f"{self.volume('data')}:/data", f"{self.volume('config')}:/config:ro"],
                "NetworkMode": self.network("front"),
                "PortBindings": {
                    "8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
                    "5353/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
                },
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
                "CapAdd": ["NET_ADMIN"],
                "CapDrop": ["MKNOD"],
                "Ulimits": [{"Name": "nofile", "Soft": 1000, "Hard": 2000}],
                "Tmpfs": {"/run": "size=1m"},
                "Memory": 64 << 20,
                "NanoCpus": 500_000_000,
                "ShmSize": 8 << 20,
                "ExtraHosts": ["elsewhere:10.9.8.7"],
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
            },
            "NetworkingConfig": {
                "EndpointsConfig": {
                    self.network("front"): {
                        "Aliases": ["till", "desk"],
                        "IPAMConfig": {"IPv4Address": f"{self.subnet}.77"},
                    }
                }
            },
        }
        create: Any = self.client.api.create_container_from_config
        created: str = create(body | changes, name)["Id"]
        self.client.api.connect_container_to_network(created, self.network("back"), aliases=["stock"])
        return created

    def network(self, name: str) -> str:
        """Return the whole name of one of its networks."""
        return f"{name}-{self.token}"

    def volume(self, name: str) -> str:
        """Return the whole name of one of its volumes."""
        return f"{name}-{self.token}"

    def inspect(self) -> dict[str, Any]:
        """Return the inspection of the container that has the name now, as the library sees it."""
        return dict(DockerEngine(self.client).inspect_container(self.name))

    def run(self, script: str) -> str:
        """Run a shell script in the container and return what it prints; raises where it fails."""
        code, output = run_in(self.client, self.name, ["sh", "-c", script])
        assert code == 0, output
        return output

    def listing(self, path: str) -> str:
        """Return names, modes, owners, times, links and checksums of all below a path, but the growing log."""
        return self.run(
            f"cd {path} && find . ! -name log | sort | xargs stat -c '%n %A %u:%g %Y %s %N' && "
            f"find . -type f ! -name log | sort | xargs md5sum"
        )

    def remove(self) -> None:
        """Do what a careless update does: remove the container with its anonymous volumes, networks and volumes too."""
        self.client.api.remove_container(self.name, v=True, force=True)
        for network in ("front", "back"):
            self.client.api.remove_network(self.network(network))
        for volume in ("data", "config"):
            self.client.api.remove_volume(self.volume(volume))


@pytest.fixture
def client(docker_client: docker.DockerClient) -> docker.DockerClient:
    """A docker-py client of the engine under test."""
    return docker_client


@pytest.fixture
def shop(client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Shop:
    """The awkward container, running; the test's cleaning takes it away by its label."""
    shop = Shop(client, busybox_image, test_labels)
    shop.build()
    return shop


@pytest.fixture
def store(tmp_path: Path) -> BackupStore:
    """An empty store."""
    return BackupStore(tmp_path / "store")


def ours(client: docker.DockerClient, name: str) -> tuple[set[str], set[str], set[str]]:
    """Return the containers of the library, its images of one container, and all volumes, by name."""
    containers = {
        name
        for container in client.api.containers(all=True)
        for name in container["Names"]
        if "docker-rollback" in name or "docker-rollback.role" in (container["Labels"] or {})
    }
    images = {
        tag
        for image in client.api.images()
        for tag in image["RepoTags"] or []
        if "docker-rollback:" in tag and name in tag
    }
    volumes = {volume["Name"] for volume in client.api.volumes()["Volumes"] or []}
    return containers, images, volumes


def test_a_removed_container_comes_back_equal_again_and_again(
    client: docker.DockerClient, shop: Shop, store: BackupStore
) -> None:
    """Twenty updates in a row remove the container, its networks and volumes; twenty times all of it comes back."""
    before, data, anonymous = shop.inspect(), shop.listing("/data"), shop.listing("/anonymous")
    volumes_before = ours(client, shop.name)[2]
    for _ in range(20):
        with (
            pytest.raises(UpdateFailedError),
            rollback(shop.name, client=client, store=store, verify=healthy(timeout=120)) as tx,
        ):
            assert shop.inspect()["State"]["Running"]
            shop.remove()
            raise UpdateFailedError
        assert tx.status is Status.ROLLED_BACK
        after = shop.inspect()
        assert [d for d in compare(before, after) if d.path != "Image"] == []
        assert shop.listing("/data") == data
        assert shop.listing("/anonymous") == anonymous
    containers, images, volumes = ours(client, shop.name)
    assert containers == set()
    assert len(images) <= 1, "at most the name of the image that the container stands on"
    mounted = {mount["Name"] for mount in shop.inspect()["Mounts"] if mount["Type"] == "volume"}
    assert volumes - volumes_before <= mounted, "no volume is left over"
    assert len(store.list()) == 3


def test_an_untouched_container_is_put_back_itself(client: docker.DockerClient, shop: Shop, store: BackupStore) -> None:
    """Where the update only renamed it, changed its limits, networks and data, the very same container comes back."""
    before, data = shop.inspect(), shop.listing("/data")
    with pytest.raises(UpdateFailedError), rollback(shop.name, client=client, store=store):
        shop.run("rm -rf /data/deep && echo migrated > /data/new")
        client.api.update_container(shop.name, mem_limit=32 << 20, memswap_limit=64 << 20)
        client.api.disconnect_container_from_network(shop.name, shop.network("back"))
        client.api.rename(shop.name, shop.name + "-old")
        shop.create(shop.name, shop.image, Env=["NEW=1"])
        raise UpdateFailedError
    after = shop.inspect()
    assert after["Id"] == before["Id"]
    assert compare(before, after) == []
    assert shop.listing("/data") == data


def test_a_changed_file_system_comes_back_in_an_equal_container(
    client: docker.DockerClient, shop: Shop, store: BackupStore
) -> None:
    """What the container wrote outside its volumes before the backup is there again, what it wrote after is not."""
    shop.run("mkdir /own && echo mine > /own/file && ln /own/file /own/twin && rm /etc/passwd")
    before = shop.inspect()
    with pytest.raises(UpdateFailedError), rollback(shop.name, client=client, store=store):
        shop.run("rm -rf /own && touch /stray")
        raise UpdateFailedError
    assert shop.run("cat /own/file; stat -c %h /own/twin; ls / | grep -c stray || true") == "mine\n2\n0\n"
    with pytest.raises(AssertionError):
        shop.run("test -e /etc/passwd")
    assert {d.path for d in compare(before, shop.inspect())} == {"Image", "Config.Image"}


def test_a_good_update_stays(client: docker.DockerClient, shop: Shop, store: BackupStore) -> None:
    """An update that passes its checks is kept, and the backup with it."""
    # Podman has systemd ask for a container's health; where that is not there, nobody does.
    podman = DockerEngine(client).info().flavour == "podman"
    with rollback(shop.name, client=client, store=store, verify=None if podman else healthy(timeout=120)) as tx:
        shop.run("echo updated > /data/version")
    assert tx.status is Status.COMMITTED
    assert shop.run("cat /data/version") == "updated\n"
    assert [found.id for found in store.list()] == [tx.backup.id]
    assert ours(client, shop.name)[:2] == (set(), set())


def test_an_update_that_does_not_run_is_rejected(client: docker.DockerClient, shop: Shop, store: BackupStore) -> None:
    """A new version that ends with an error is put back, and the error says with which code it ended."""
    before = shop.inspect()
    with (
        pytest.raises(UpdateRejectedError, match="exit code 3") as rejected,
        rollback(shop.name, client=client, store=store, verify=healthy(stable_for=3.0)) as tx,
    ):
        client.api.remove_container(shop.name, force=True)
        shop.create(shop.name, shop.image, Cmd=["sh", "-c", "echo no luck; exit 3"], HostConfig={})
        client.api.start(shop.name)
    assert tx.status is Status.ROLLED_BACK
    assert "no luck" in str(rejected.value)
    assert {d.path for d in compare(before, shop.inspect())} <= {"Image"}


def test_a_rollback_on_purpose_is_silent(client: docker.DockerClient, shop: Shop, store: BackupStore) -> None:
    """`RollbackRequested` puts everything back and does not leave the block."""
    data = shop.listing("/data")
    with rollback(shop.name, client=client, store=store) as tx:
        shop.run("rm -rf /data/deep")
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert shop.listing("/data") == data


@pytest.mark.parametrize("state", ["paused", "exited", "created"])
def test_the_prior_state_comes_back(
    client: docker.DockerClient, busybox_image: str, store: BackupStore, state: str
) -> None:
    """A paused container is paused again, a stopped one does not run, one that never ran was not started."""
    name = f"state-{secrets.token_hex(4)}"
    container = client.containers.create(busybox_image, ["sleep", "1000"], name=name)
    if state != "created":
        container.start()
    if state == "paused":
        container.pause()
    if state == "exited":
        container.kill()
        container.wait()
    with rollback(name, client=client, store=store) as tx:
        container.remove(force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    container = client.containers.get(name)
    assert container.status == (state if state == "paused" else "created")
    if state == "paused":
        container.unpause()


def test_a_backup_restores_long_after(client: docker.DockerClient, shop: Shop, store: BackupStore) -> None:
    """`backup` and `restore` work without an update between them, from the store alone, the image gone."""
    before, data = shop.inspect(), shop.listing("/data")
    taken = backup(shop.name, client=client, store=store)
    assert taken.durable
    shop.remove()
    assert restore(taken.id, client=client, store=store) == [shop.name]
    assert {d.path for d in compare(before, shop.inspect())} <= {"Image"}
    assert shop.listing("/data") == data


def test_an_image_left_in_the_engine_is_a_weaker_backup(
    client: docker.DockerClient, shop: Shop, store: BackupStore
) -> None:
    """With `export_image=False` the rollback works while the engine has the image, and says that it depends on it."""
    before = shop.inspect()
    with pytest.raises(UpdateFailedError), rollback(shop.name, client=client, store=store, export_image=False) as tx:
        shop.remove()
        raise UpdateFailedError
    assert not tx.backup.durable
    assert {d.path for d in compare(before, shop.inspect())} <= {"Image"}


def test_a_failed_rollback_keeps_the_backup_and_says_how_to_go_on(
    client: docker.DockerClient, shop: Shop, store: BackupStore
) -> None:
    """A damaged backup fails the rollback before anything is destroyed; both errors are there."""
    with pytest.raises(RollbackFailedError) as failed, rollback(shop.name, client=client, store=store) as tx:
        (store.path / "blobs" / "sha256" / tx.backup.volumes[0].base.digest.removeprefix("sha256:")).unlink()
        raise UpdateFailedError
    assert tx.status is Status.FAILED
    assert isinstance(failed.value.__cause__, UpdateFailedError)
    assert f"docker_rollback.restore({tx.backup.id!r}" in str(failed.value)
    assert shop.inspect()["State"]["Running"]


def test_what_cannot_be_rolled_back_is_refused(
    client: docker.DockerClient, busybox_image: str, store: BackupStore
) -> None:
    """A Swarm task is refused before anything is touched, and so is a container that is not there."""
    name = f"task-{secrets.token_hex(4)}"
    task = client.containers.run(
        busybox_image,
        ["sleep", "1000"],
        name=name,
        labels={"com.docker.swarm.task.id": "x"},
        detach=True,
    )
    started = client.api.inspect_container(name)["State"]["StartedAt"]
    tx = rollback(task, client=client, store=store)
    assert list(tx.check().refused) == [name]
    with pytest.raises(UnsupportedContainerError, match="Swarm"), tx:
        pytest.fail("the block was entered")
    assert client.api.inspect_container(name)["State"]["StartedAt"] == started
    with pytest.raises(ContainerNotFoundError), rollback("nobody", client=client, store=store):
        pytest.fail("the block was entered")


def test_a_stranger_in_the_volume_stops_a_restore(
    client: docker.DockerClient, shop: Shop, store: BackupStore, busybox_image: str
) -> None:
    """A running container outside the backup that uses a volume of it is named, and nothing is touched."""
    taken = backup(shop.name, client=client, store=store)
    started = shop.inspect()["State"]["StartedAt"]
    other = f"other-{shop.token}"
    client.containers.run(
        busybox_image,
        ["sleep", "1000"],
        name=other,
        labels=shop.labels,
        volumes=[f"{shop.volume('data')}:/d"],
        detach=True,
    )
    with pytest.raises(RestoreError, match=other):
        restore(taken, client=client, store=store)
    assert shop.inspect()["State"]["StartedAt"] == started
