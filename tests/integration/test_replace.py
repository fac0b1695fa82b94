"""`tx.replace` on a real engine: a container with networks, volumes and a sidecar; updates that stay, and that fail."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import NotFound

from docker_rollback import (
    BackupStore,
    DockerEngine,
    ImageNotFoundError,
    Status,
    UpdateRejectedError,
    compare,
    healthy,
    rollback,
)
from tests.engines.images import busybox_tar
from tests.programs import run_in

pytestmark = pytest.mark.engine

SERVICE = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


class Shop:
    """A container of version 1 of an image of two, with a sidecar in its network."""

    def __init__(self, client: docker.DockerClient, labels: dict[str, str]) -> None:
        self.client = client
        self.engine = DockerEngine(client)
        self.labels = labels
        self.token = secrets.token_hex(4)
        self.name, self.sidecar = f"shop-{self.token}", f"sidecar-{self.token}"
        self.front, self.back, self.orders = (f"{word}-{self.token}" for word in ("front", "back", "orders"))
        self.subnet = f"10.214.{int(self.token[:2], 16)}"

    def image(self, version: int) -> str:
        """Return the name of an image."""
        return f"replaced-{self.token}:{version}"

    def build(self) -> None:
        """Make images, networks, a volume and the two containers."""
        for version in (1, 2):
            changes = [
                f"ENV VERSION={version}",
                f"ENV PATH=/bin:/v{version}",
                f"LABEL version={version}",
                *(f"LABEL {key}={value}" for key, value in self.labels.items()),
                f'CMD ["sh", "-c", "test {version} != 9; {SERVICE}"]',
                "VOLUME /cache",
                f"WORKDIR /v{version}",
            ]
            repository, _, tag = self.image(version).partition(":")
            self.client.api.import_image_from_data(busybox_tar(), repository=repository, tag=tag, changes=changes)
        pool = docker.types.IPAMPool(subnet=f"{self.subnet}.0/24")
        ipam = docker.types.IPAMConfig(pool_configs=[pool])
        self.client.api.create_network(self.front, ipam=ipam, labels=self.labels)
        self.client.api.create_network(self.back, labels=self.labels)
        self.client.api.create_volume(self.orders, labels=self.labels)
        endpoint = {"IPAMConfig": {"IPv4Address": f"{self.subnet}.77"}, "Aliases": ["till"]}
        body = {
            "Image": self.image(1),
            "Env": ["MODE=fast", "SECRET_KEY=old"],
            "Labels": {"team": "x"},
            "HostConfig": {
                "Binds": [f"{self.orders}:/orders"],
                "NetworkMode": self.front,
                "RestartPolicy": {"Name": "unless-stopped"},
                "Memory": 64 << 20,
            },
            "NetworkingConfig": {"EndpointsConfig": {self.front: endpoint}},
        }
        create: Any = self.client.api.create_container_from_config
        shop = create(body, self.name)["Id"]
        self.client.api.connect_container_to_network(shop, self.back, aliases=["stock"])
        self.client.api.start(shop)
        beside = {"Image": self.image(1), "HostConfig": {"NetworkMode": f"container:{shop}"}}
        self.client.api.start(create(beside, self.sidecar)["Id"])
        self.run("echo rows > /orders/table; echo warm > /cache/kept")

    def run(self, script: str, name: str | None = None) -> str:
        """Run a script in a container that has to succeed."""
        code, output = run_in(self.client, name or self.name, ["sh", "-c", script])
        assert code == 0, output
        return output.strip()

    def inspect(self, name: str | None = None) -> Mapping[str, Any]:
        """Return the inspection of a container."""
        return self.engine.inspect_container(name or self.name)

    def present(self) -> list[str]:
        """Return the names of all containers of this shop."""
        found = self.client.api.containers(all=True, filters={"name": self.token})
        return sorted(one["Names"][0].removeprefix("/") for one in found)

    def remove(self) -> None:
        """Remove the containers, and with them what keeps the images."""
        for name in sorted(self.present(), key=lambda one: not one.startswith("sidecar")):
            self.client.api.remove_container(name, force=True, v=True)
        for version in (1, 2):
            with suppress(NotFound):
                self.client.api.remove_image(self.image(version), force=True)


@pytest.fixture
def shop(docker_client: docker.DockerClient, test_labels: dict[str, str]) -> Iterator[Shop]:
    """The shop, at work."""
    shop = Shop(docker_client, test_labels)
    try:
        shop.build()
        yield shop
    finally:
        shop.remove()


def test_a_good_update_stays(shop: Shop, tmp_path: Path) -> None:
    """The new image's own defaults, the user's own settings, the same addresses, the same data; the sidecar follows."""
    before = shop.inspect()
    with rollback(shop.name, client=shop.client, store=BackupStore(tmp_path)) as tx:
        new = tx.replace(shop.name, shop.image(2), environment={"SECRET_KEY": "new"})
    assert tx.status is Status.COMMITTED
    after = shop.inspect()
    assert after["Id"] == new != before["Id"]
    assert shop.present() == sorted([shop.name, shop.sidecar])
    environment = dict(entry.partition("=")[::2] for entry in after["Config"]["Env"])
    wanted = {"VERSION": "2", "PATH": "/bin:/v2", "MODE": "fast", "SECRET_KEY": "new"}
    assert {name: environment.get(name) for name in wanted} == wanted
    assert (after["Config"]["Labels"]["version"], after["Config"]["Labels"]["team"]) == ("2", "x")
    assert "test 2 != 9" in after["Config"]["Cmd"][2]
    assert after["Config"]["WorkingDir"] == "/v2"
    assert after["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert after["HostConfig"]["Memory"] == 64 << 20
    if shop.engine.info().flavour != "podman":  # which does not tell an address that was asked for from another
        assert f"{shop.subnet}.77" in shop.run("ip addr")
        assert f"{shop.subnet}.77" in shop.run("ip addr", shop.sidecar)
    assert shop.run("cat /orders/table /cache/kept").split() == ["rows", "warm"]
    assert shop.run("nslookup till | grep -c .; nslookup stock | grep -c .")
    assert shop.run("ip addr show eth0 | grep 'inet '", shop.sidecar) == shop.run("ip addr show eth0 | grep 'inet '")


def test_a_failed_update_brings_the_very_same_containers_back(shop: Shop, tmp_path: Path) -> None:
    """The new version falls over: both are themselves again, by their ids, and nothing of ours is left."""
    before, beside = shop.inspect(), shop.inspect(shop.sidecar)
    verify = healthy(stable_for=2.0)
    with (
        pytest.raises(UpdateRejectedError, match=r"exit code 7|keeps ending|it ended before") as rejected,
        rollback(shop.name, client=shop.client, store=BackupStore(tmp_path), verify=verify) as tx,
    ):
        tx.replace(shop.name, shop.image(2), command=["sh", "-c", "echo half > /orders/table; echo no room; exit 7"])
    assert tx.status is Status.ROLLED_BACK
    assert rejected.value.container == shop.name
    assert shop.inspect()["Id"] == before["Id"]
    assert shop.inspect(shop.sidecar)["Id"] == beside["Id"]
    assert [found.path for found in compare(before, shop.inspect())] == []
    assert shop.present() == sorted([shop.name, shop.sidecar])
    assert shop.run("cat /orders/table /cache/kept").split() == ["rows", "warm"]
    assert f"{shop.subnet}.77" in shop.run("ip addr", shop.sidecar)


def test_what_cannot_be_had_touches_nothing(shop: Shop, tmp_path: Path) -> None:
    """No such image: the container has not been stopped since its capture."""
    with rollback(shop.name, client=shop.client, store=BackupStore(tmp_path)) as tx:
        started = shop.inspect()["State"]["StartedAt"]
        with pytest.raises(ImageNotFoundError):
            tx.replace(shop.name, shop.image(3), pull="never")
        assert shop.inspect()["State"]["StartedAt"] == started
    assert tx.status is Status.COMMITTED
