"""Containers on an attachable overlay network, where Docker refuses to rename a container that runs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, NotFound

from docker_rollback import (
    BackupStore,
    DockerEngine,
    RollbackRequested,
    Status,
    backup,
    compare,
    replace,
    restore,
    rollback,
)
from docker_rollback._engine.port import Inspection
from tests.engines.results import cannot

pytestmark = pytest.mark.engine

SERVICE = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
GATEWAY = "docker_gwbridge"
"""The network by which containers on an overlay network reach the outside; a swarm leaves it behind."""


class Mesh:
    """A service on an overlay network, and another container there that reaches it by its name."""

    def __init__(self, client: docker.DockerClient, image: str, labels: dict[str, str], store: BackupStore) -> None:
        token = secrets.token_hex(3)
        self.client, self.image, self.labels, self.store = client, image, labels, store
        self.engine = DockerEngine(client)
        self.name, self.other, self.network = f"web-{token}", f"other-{token}", f"mesh-{token}"
        self.began = 0.0
        self.first: list[str] = []

    def build(self) -> None:
        """Create the network and the two containers."""
        self.create_network()
        self.first.append(self.run(self.name, IPAMConfig={"IPv4Address": "10.80.5.77"}, Aliases=["till"]))
        self.first.append(self.run(self.other))
        self.began = time.time()

    def create_network(self, subnet: str = "10.80.5.0/24") -> None:
        """Create the network."""
        ipam = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=subnet)])
        create: Any = self.client.api.create_network
        create(self.network, driver="overlay", attachable=True, ipam=ipam, labels={"team": "x"})

    def run(self, name: str, **endpoint: Any) -> str:
        """Create a container on the network, start it, and return its id."""
        body = {
            "Image": self.image,
            "Cmd": SERVICE,
            "Labels": self.labels,
            "HostConfig": {"NetworkMode": self.network, "RestartPolicy": {"Name": "unless-stopped"}},
            "NetworkingConfig": {"EndpointsConfig": {self.network: endpoint}},
        }
        create: Any = self.client.api.create_container_from_config
        made: str = create(body, name)["Id"]
        self.client.api.start(made)
        return made

    def remove(self) -> None:
        """Remove the containers and the network; a swarm lists it for some moments more."""
        for name in (self.name, f"{self.name}-old", self.other):
            self.engine.remove_container(name, force=True)
        with suppress(NotFound):
            self.client.api.remove_network(self.network)
        deadline = time.monotonic() + 30
        while self.client.api.networks(names=[self.network]):
            assert time.monotonic() < deadline, f"{self.network} is still there"
            time.sleep(0.05)

    def inspect(self) -> Inspection:
        """Return the service's inspection."""
        return self.engine.inspect_container(self.name)

    def check(self) -> None:
        """Assert that the other container reaches the service by its name and its alias."""
        for name in (self.name, "till"):
            made = self.client.api.exec_create(self.other, ["ping", "-c1", "-W5", name])
            run: Any = self.client.api.exec_start
            said: bytes = run(made)
            assert self.client.api.exec_inspect(made["Id"])["ExitCode"] == 0, said.decode()

    def renamed(self) -> dict[str, bool]:
        """Return which containers have been renamed since the start, by their ids, and whether any ran then."""
        events: Any = self.client.api.events  # its stub takes whole seconds alone
        found, running = dict[str, bool](), set(self.first)
        for event in events(since=self.began, until=time.time(), filters={"type": "container"}, decode=True):
            one = str(event["Actor"]["ID"])
            match event["Action"]:
                case "start":
                    running.add(one)
                case "die":
                    running.discard(one)
                case "rename":
                    found[one] = found.get(one, False) or one in running
        return found


@pytest.fixture(scope="module")
def swarm(docker_client: docker.DockerClient) -> Iterator[None]:
    """Have the engine be a swarm of one."""
    if DockerEngine(docker_client).info().flavour == "podman":
        cannot(docker_client, "it has no swarm, and no overlay networks")
    if docker_client.info()["Swarm"]["LocalNodeState"] == "active":
        yield
        return
    there = docker_client.api.networks(names=[GATEWAY])
    docker_client.swarm.init(advertise_addr="127.0.0.1", listen_addr="127.0.0.1")
    try:
        yield
    finally:
        docker_client.swarm.leave(force=True)
        if not there:
            with suppress(APIError):
                docker_client.api.remove_network(GATEWAY)


@pytest.fixture
def mesh(
    swarm: None,  # noqa: ARG001 - it has no value
    docker_client: docker.DockerClient,
    busybox_image: str,
    test_labels: dict[str, str],
    tmp_path: Path,
) -> Iterator[Mesh]:
    """Give a service on an overlay network."""
    made = Mesh(docker_client, busybox_image, test_labels, BackupStore(tmp_path))
    try:
        made.build()
        made.check()
        yield made
    finally:
        made.remove()


def test_a_running_container_cannot_be_renamed(mesh: Mesh) -> None:
    """The engine refuses it on an overlay network, which is why the library stops a container before."""
    with pytest.raises(APIError, match=r"(?i)could not add service state"):
        mesh.client.api.rename(mesh.name, f"{mesh.name}-old")


@pytest.mark.parametrize("at_once", [False, True], ids=["tx.replace", "replace"])
def test_a_replacement_renames_none_that_runs(mesh: Mesh, *, at_once: bool) -> None:
    """The new container has name, alias and address; those renamed were stopped; a restore brings the old one back."""
    before = mesh.inspect()
    if at_once:
        outcome = replace(mesh.name, environment={"A": "1"}, client=mesh.client, store=mesh.store)
        assert outcome.status is Status.COMMITTED
        taken = mesh.store.list()[0].id
    else:
        with rollback(mesh.name, client=mesh.client, store=mesh.store) as tx:
            tx.replace(mesh.name, environment={"A": "1"})
            mesh.check()
        assert tx.status is Status.COMMITTED
        taken = tx.backup.id
    assert [found.path for found in compare(before, mesh.inspect())] == ["Config.Env"]
    mesh.check()
    assert set(mesh.renamed()) >= {before["Id"], mesh.inspect()["Id"]}
    assert not any(mesh.renamed().values())
    restore(taken, client=mesh.client, store=mesh.store)
    assert compare(before, mesh.inspect()) == []
    mesh.check()
    assert not any(mesh.renamed().values())


@pytest.mark.parametrize("update", ["replaced it", "renamed it", "removed it", "removed the network"])
def test_a_failed_update_is_rolled_back(mesh: Mesh, update: str) -> None:
    """The service is what it was, and can be reached by its name; no container is renamed while it runs."""
    before = mesh.inspect()
    with rollback(mesh.name, mesh.other, client=mesh.client, store=mesh.store) as tx:
        if update == "replaced it":
            tx.replace(mesh.name, environment={"A": "1"})
        elif update == "renamed it":
            mesh.client.api.stop(mesh.name)
            mesh.client.api.rename(mesh.name, f"{mesh.name}-old")
            mesh.run(mesh.name)
        elif update == "removed it":
            mesh.engine.remove_container(mesh.name, force=True)
        else:
            mesh.remove()
            mesh.create_network("10.80.6.0/24")
            mesh.run(mesh.name)
            mesh.run(mesh.other)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert compare(before, mesh.inspect()) == []
    assert (mesh.inspect()["Id"] == before["Id"]) == (update in ("replaced it", "renamed it"))
    mesh.check()
    assert not any(mesh.renamed().values())


def test_a_removed_service_and_its_network_are_restored(mesh: Mesh) -> None:
    """The network is an overlay network again, of the same subnet, to which containers can be attached."""
    before, network = mesh.inspect(), mesh.client.api.inspect_network(mesh.network)
    taken = backup(mesh.name, mesh.other, client=mesh.client, store=mesh.store)
    mesh.remove()
    restore(taken, client=mesh.client, store=mesh.store)
    after = mesh.client.api.inspect_network(mesh.network)
    asked = ("Name", "Scope", "Driver", "Attachable", "Internal", "IPAM", "Labels")
    assert {key: after[key] for key in asked} == {key: network[key] for key in asked}
    assert compare(before, mesh.inspect()) == []
    mesh.check()
