"""Addresses that were asked for come back, also where the engine does not tell them from those that it chose."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from docker_rollback import BackupStore, RollbackRequested, Status, backup, restore, rollback
from docker_rollback.errors import RestoreError
from tests.engines.results import cannot

pytestmark = pytest.mark.engine

MAC = "02:11:22:33:44:77"
SERVICE = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]


class Host:
    """A container with an address of its own in one network, and none of its own in another."""

    def __init__(self, client: docker.DockerClient, image: str, labels: dict[str, str]) -> None:
        self.client, self.labels = client, labels
        self.name = f"addressed-{secrets.token_hex(3)}"
        self.subnet = f"10.221.{int(self.name[-2:], 16)}"
        self.front, self.back = f"{self.name}-front", f"{self.name}-back"
        self.network(self.front)
        client.api.create_network(self.back, labels=labels)
        asked = {"Aliases": ["till"], "IPAMConfig": {"IPv4Address": f"{self.subnet}.77"}}
        config: dict[str, Any] = {}
        if tuple(map(int, client.api.api_version.split("."))) < (1, 44):
            config["MacAddress"] = MAC
        else:
            asked["MacAddress"] = MAC
        body = {
            "Image": image,
            "Cmd": SERVICE,
            "HostConfig": {"NetworkMode": self.front},
            "NetworkingConfig": {"EndpointsConfig": {self.front: asked}},
            **config,
        }
        create: Any = client.api.create_container_from_config
        client.api.start(create(body, self.name)["Id"])
        client.api.connect_container_to_network(self.name, self.back)

    def network(self, name: str) -> None:
        """Make a network that has the subnet."""
        pool = docker.types.IPAMPool(subnet=f"{self.subnet}.0/24")
        self.client.api.create_network(name, ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels=self.labels)

    def endpoints(self) -> Mapping[str, Any]:
        """Return how it stands in its networks."""
        found: Mapping[str, Any] = self.client.api.inspect_container(self.name)["NetworkSettings"]["Networks"]
        return found

    def check(self) -> None:
        """Assert that it has what was asked for, and is in both networks."""
        front = self.endpoints()[self.front]
        assert (front["IPAddress"], front["MacAddress"]) == (f"{self.subnet}.77", MAC)
        assert self.endpoints()[self.back]["IPAddress"]


@pytest.fixture
def host(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Host:
    """A running container with addresses."""
    return Host(docker_client, busybox_image, test_labels)


@pytest.mark.parametrize("update", ["removed", "taken off", "untouched"])
def test_an_address_that_was_asked_for_comes_back(host: Host, tmp_path: Path, update: str) -> None:
    """Made anew or put back itself, the container has its address and its MAC address."""
    host.check()
    store = BackupStore(tmp_path / "store")
    with rollback(host.name, client=host.client, store=store, verify=None) as tx:
        host.check()
        if update == "removed":
            host.client.api.remove_container(host.name, force=True)
            host.client.api.remove_network(host.front)
        elif update == "taken off":
            host.client.api.disconnect_container_from_network(host.name, host.front)
        raise RollbackRequested
    assert not [gap for gap in tx.backup.not_covered if "address on network" in gap.what]
    host.check()


def test_addresses_that_the_network_of_an_update_has_come_back(host: Host, busybox_image: str, tmp_path: Path) -> None:
    """The network got another name and the container with it, beside a new one; engines give freed subnets away."""
    new, beside = f"{host.name}-new", f"{host.name}-beside"
    with rollback(host.name, client=host.client, store=BackupStore(tmp_path / "store"), verify=None) as tx:
        host.client.api.remove_container(host.name, force=True)
        host.client.api.remove_network(host.front)
        host.network(new)
        for name in (host.name, beside):
            host.client.containers.run(busybox_image, SERVICE, name=name, network=new, detach=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    host.check()
    assert host.client.networks.list(names=[new]) == []
    assert host.client.containers.get(beside).status == "running"


def test_a_restore_names_the_network_that_has_the_addresses(host: Host, tmp_path: Path) -> None:
    """It may be anybody's: nothing is touched."""
    store = BackupStore(tmp_path / "store")
    taken = backup(host.name, client=host.client, store=store)
    host.client.api.disconnect_container_from_network(host.name, host.front)
    host.client.api.remove_network(host.front)
    host.network(f"{host.name}-other")
    before = host.client.api.inspect_container(host.name)
    with pytest.raises(RestoreError, match=f"'{host.name}-other'.*has addresses of network '{host.front}'"):
        restore(taken, client=host.client, store=store)
    assert host.client.api.inspect_container(host.name) == before
    host.client.api.remove_network(f"{host.name}-other")
    restore(taken, client=host.client, store=store)
    host.check()


def test_what_only_a_start_could_tell_is_said(host: Host, tmp_path: Path) -> None:
    """Captured by pause on Podman, nobody knows which address was asked for: the backup says so.

    On Docker 28, nobody knows whether the MAC address on the second network was; before, it is made from the address.
    """
    podman = "Podman" in str(host.client.version().get("Components"))
    store = BackupStore(tmp_path / "store")
    taken = backup(host.name, client=host.client, store=store, quiesce="pause")
    said = {gap.what for gap in taken.not_covered if "address on network" in gap.what}
    if podman:
        assert said == {f"address on network {name}" for name in (host.front, host.back)}
    else:
        random = tuple(map(int, host.client.api.api_version.split("."))) >= (1, 48)
        assert said == ({f"MAC address on network {host.back}"} if random else set())


@pytest.mark.parametrize("replaced", [False, True], ids=["recreated", "replaced"])
def test_a_mac_address_on_a_second_network_comes_back(host: Host, tmp_path: Path, *, replaced: bool) -> None:
    """Docker does not tell it from a generated one; what a stop and start leave as it was, was asked for."""
    if tuple(map(int, host.client.api.api_version.split("."))) < (1, 44):
        cannot(host.client, "it has MAC addresses for a container's first network alone")
    second = "02:11:22:33:44:88"
    create: Any = host.client.api.create_container_from_config
    image = host.client.api.inspect_container(host.name)["Config"]["Image"]
    endpoints = {host.front: {}, host.back: {"MacAddress": second, "Aliases": ["stock"]}}
    host.client.api.remove_container(host.name, force=True)
    body = {"Image": image, "Cmd": SERVICE, "HostConfig": {"NetworkMode": host.front}}
    host.client.api.start(create({**body, "NetworkingConfig": {"EndpointsConfig": endpoints}}, host.name)["Id"])
    generated = host.endpoints()[host.front]["MacAddress"]
    with rollback(host.name, client=host.client, store=BackupStore(tmp_path / "store"), verify=None) as tx:
        if replaced:
            tx.replace(host.name, environment={"A": "1"})
            assert host.endpoints()[host.back]["MacAddress"] == second
        host.client.api.remove_container(host.name, force=True)
        raise RollbackRequested
    assert not [gap for gap in tx.backup.not_covered if "address on network" in gap.what]
    assert host.endpoints()[host.back]["MacAddress"] == second
    assert "stock" in host.endpoints()[host.back]["Aliases"]
    host.client.api.restart(host.name, timeout=5)
    assert host.endpoints()[host.back]["MacAddress"] == second
    assert host.endpoints()[host.front]["MacAddress"] != second != generated
