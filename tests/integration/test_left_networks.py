"""Containers that are not on the network of their mode: they left it, and are on others, or on none."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest
from attrs import field, frozen

from docker_rollback import (
    BackupStore,
    DockerEngine,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    backup,
    compare,
    restore,
    rollback,
)
from docker_rollback._engine.port import Inspection
from tests.engines.results import cannot

pytestmark = pytest.mark.engine

SERVICE = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]


@frozen
class SetUp:
    """How a container came to its networks.

    Attributes:
        mode: its network mode; a word that is no network of an engine's own is one of the test's networks.
        joined: the networks that it was connected to, with what was asked for.
        on_docker: whether Docker alone lets a container leave that network.
    """

    mode: str
    joined: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    on_docker: bool = False


SET_UPS = {
    "the default network for another": SetUp("default", {"dmz": {"Aliases": ["till"]}}),
    "the default network": SetUp("bridge"),
    "its own for two others": SetUp("front", {"dmz": {"Aliases": ["till"]}, "back": {}}),
    "its own for one with an address": SetUp("front", {"dmz": {"IPAMConfig": {"IPv4Address": "10.222.7.9"}}}),
    "its own": SetUp("front"),
    "its own for the default one": SetUp("front", {"bridge": {}}),
    "none for another": SetUp("none", {"dmz": {}}, on_docker=True),
    "none": SetUp("none", on_docker=True),
    "the host's": SetUp("host", on_docker=True),
}


class Town:
    """A container that has left the network of its mode, in networks of its own."""

    def __init__(self, client: docker.DockerClient, image: str, labels: dict[str, str]) -> None:
        self.client, self.image, self.labels = client, image, labels
        self.engine = DockerEngine(client)
        self.name = f"left-{secrets.token_hex(3)}"
        self.podman = self.engine.info().flavour == "podman"
        self.networks = {word: f"{self.name}-{word}" for word in ("front", "dmz", "back", "new")}
        for word, name in self.networks.items():
            pools = [docker.types.IPAMPool(subnet="10.222.7.0/24")] if word == "dmz" else None
            ipam = docker.types.IPAMConfig(pool_configs=pools) if pools else None
            client.api.create_network(name, labels=labels, ipam=ipam)

    def called(self, word: str) -> str:
        """Return the name of a network."""
        own = "podman" if self.podman else "bridge"
        return self.networks.get(word, own if word in ("default", "bridge") else word)

    def stand(self, set_up: SetUp, *, running: bool) -> None:
        """Create the container as a set-up says."""
        if set_up.on_docker and self.podman:
            cannot(self.client, "a container in this mode cannot leave it")
        mode = self.networks.get(set_up.mode, set_up.mode)
        create: Any = self.client.api.create_container_from_config
        body = {"Image": self.image, "Cmd": SERVICE, "Labels": self.labels, "HostConfig": {"NetworkMode": mode}}
        made = create(body, self.name)["Id"]
        self.engine.disconnect_network(self.called(set_up.mode), made, force=True)
        for word, endpoint in set_up.joined.items():
            self.engine.connect_network(self.called(word), made, endpoint)
        self.client.api.start(made)
        if not running:
            self.client.api.stop(made)

    def inspect(self) -> Inspection:
        """Return the container's inspection, as the library reads it."""
        return self.engine.inspect_container(self.name)

    def on(self) -> set[str]:
        """Return the networks that the container is on."""
        return set(self.inspect()["NetworkSettings"]["Networks"])

    def joined(self, since: float) -> set[str]:
        """Return the networks that the container has been up on since a moment, as its engine tells it (Docker)."""
        asked = {"type": "network", "event": "connect"}
        events: Any = self.client.api.events  # its stub takes whole seconds alone
        happened = events(since=since, until=time.time(), filters=asked, decode=True)
        found = [event["Actor"]["Attributes"] for event in happened]
        return {str(one["name"]) for one in found if one["container"] == self.inspect()["Id"]}

    def check(self, before: Inspection, since: float) -> None:
        """Assert that the container is on the networks that it was on, and has been on no other."""
        assert self.on() == set(before["NetworkSettings"]["Networks"])
        assert [str(found) for found in compare(before, self.inspect())] == []
        if not self.podman:
            assert self.joined(since) <= self.on()


@pytest.fixture
def town(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Iterator[Town]:
    """Networks, and a container to come."""
    town = Town(docker_client, busybox_image, test_labels)
    yield town
    town.engine.remove_container(town.name, force=True)


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
@pytest.mark.parametrize("set_up", SET_UPS.values(), ids=SET_UPS)
@pytest.mark.parametrize("update", ["removed it", "moved it"])
def test_a_rollback_leaves_it_where_it_was(
    town: Town, tmp_path: Path, set_up: SetUp, update: str, *, running: bool
) -> None:
    """Recreated or put back itself, it is on the networks that it was on, and has been on no other."""
    town.stand(set_up, running=running)
    before, since = town.inspect(), time.time()
    with rollback(town.name, client=town.client, store=BackupStore(tmp_path), verify=None) as tx:
        assert compare(before, town.inspect()) == []
        if update == "removed it":
            town.engine.remove_container(town.name, force=True)
            for name in town.networks.values():
                town.engine.remove_network(name)
        else:
            town.client.api.stop(town.name)
            for name in town.on():
                town.engine.disconnect_network(name, town.name, force=True)
            # Podman cannot connect a container to a network again if its mode takes none.
            town.engine.connect_network(town.called("new"), town.name, {})
        since = time.time() if update == "moved it" else since
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert (town.inspect()["Id"] == before["Id"]) == (update == "moved it")
    if running:
        town.check(before, since)
    else:
        assert town.on() == set(before["NetworkSettings"]["Networks"])
    assert town.inspect()["State"]["Running"] is running


@pytest.mark.parametrize("set_up", SET_UPS.values(), ids=SET_UPS)
def test_its_successor_is_where_it_was(town: Town, tmp_path: Path, set_up: SetUp) -> None:
    """`tx.replace` puts the new container on the networks of the old one; so does a restore of the backup later."""
    town.stand(set_up, running=True)
    before, since = town.inspect(), time.time()
    store = BackupStore(tmp_path)
    with rollback(town.name, client=town.client, store=store, verify=None) as tx:
        new = tx.replace(town.name, environment={"A": "1"})
    assert tx.status is Status.COMMITTED
    assert town.inspect()["Id"] == new
    assert town.on() == set(before["NetworkSettings"]["Networks"])
    assert [found.path for found in compare(before, town.inspect())] == ["Config.Env"]
    restore(tx.backup, client=town.client, store=store)
    town.check(before, since)


def test_what_cannot_start_without_a_network_that_is_gone_is_refused(town: Town, tmp_path: Path) -> None:
    """The network of its mode, which it left, was removed: Docker 25 and later could not start it again."""
    town.stand(SET_UPS["its own for two others"], running=True)
    town.engine.remove_network(town.called("front"))
    before, store = town.inspect(), BackupStore(tmp_path)
    api = tuple(map(int, town.engine.info().api_version.split(".")))
    if town.podman or api < (1, 44):
        taken = backup(town.name, client=town.client, store=store)
        town.engine.remove_container(town.name, force=True)
        restore(taken, client=town.client, store=store)
        assert compare(before, town.inspect()) == []
        return
    with pytest.raises(UnsupportedContainerError, match=f"network '{town.called('front')}'.*which is gone"):
        backup(town.name, client=town.client, store=store)
    assert town.inspect() == before
