"""Traps that no single container shows: others in the way, what was replaced under its name, who meddles."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from docker_rollback import (
    BackupStore,
    DockerEngine,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    compare,
    rollback,
)
from docker_rollback.errors import CaptureError
from tests.engines.results import cannot
from tests.programs import run_in

pytestmark = pytest.mark.engine

SERVICE = ["sh", "-c", "trap 'exit 0' TERM; httpd -p 8000 -h /etc; while :; do sleep 0.1; done"]


class Service:
    """A service on a port of this machine, with a volume and a network that have labels."""

    def __init__(self, client: docker.DockerClient, image: str, labels: dict[str, str], folder: Path) -> None:
        self.client, self.image, self.labels = client, image, labels
        self.name = f"trapped-{secrets.token_hex(3)}"
        self.volume, self.network = f"{self.name}-data", f"{self.name}-net"
        self.store = BackupStore(folder / "store")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        client.api.create_volume(self.volume, labels={**labels, "of": "one"})
        client.api.create_network(self.network, labels=labels)
        self.create(self.name)
        run_in(client, self.name, ["sh", "-c", "echo rows > /data/table"])
        self.before = self.inspect()

    def create(self, name: str) -> None:
        """Create and start a container of the service."""
        self.client.containers.run(
            self.image,
            SERVICE,
            name=name,
            detach=True,
            labels=self.labels,
            network=self.network,
            ports={"8000/tcp": ("127.0.0.1", self.port)},
            volumes={self.volume: {"bind": "/data"}},
        )

    def inspect(self) -> dict[str, Any]:
        """Return what the library sees of the container."""
        return dict(DockerEngine(self.client).inspect_container(self.name))

    def remove(self) -> None:
        """Remove the container."""
        self.client.api.remove_container(self.name, force=True)

    def check(self) -> None:
        """Assert that it is as it was, runs, and has its data."""
        assert compare(self.before, self.inspect()) == []
        assert self.inspect()["State"]["Running"]
        assert run_in(self.client, self.name, ["cat", "/data/table"]) == (0, "rows\n")


@pytest.fixture
def service(
    docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str], tmp_path: Path
) -> Iterator[Service]:
    """A running service."""
    found = Service(docker_client, busybox_image, test_labels, tmp_path)
    yield found
    found.remove()


def test_who_took_its_port_is_stopped(service: Service) -> None:
    """A second container that the update started on the port, and on the volume, makes way for the first."""
    other = f"{service.name}-new"
    with rollback(service.name, client=service.client, store=service.store, verify=None) as tx:
        service.remove()
        service.create(other)
        run_in(service.client, other, ["sh", "-c", "echo half > /data/table"])
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    service.check()
    assert not service.client.api.inspect_container(other)["State"]["Running"]


def test_another_volume_of_its_name_is_replaced(service: Service) -> None:
    """One with other labels is another volume: driver, options, labels and data come back."""
    with rollback(service.name, client=service.client, store=service.store, verify=None) as tx:
        service.remove()
        service.client.api.remove_volume(service.volume)
        service.client.api.create_volume(service.volume, labels={**service.labels, "of": "another"})
        service.create(service.name)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    service.check()
    assert service.client.api.inspect_volume(service.volume)["Labels"]["of"] == "one"


def test_a_start_during_the_capture_is_noticed(service: Service) -> None:
    """Whoever starts what is to be at rest: the backup is given up, nothing of it is left, and the service runs."""

    class Meddled(DockerEngine):
        def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
            service.client.api.start(service.name)
            return super().commit_container(ref, tag, author=author)

    with (
        pytest.raises(CaptureError, match="somebody else started it meanwhile"),
        rollback(service.name, client=Meddled(service.client), store=service.store, verify=None),
    ):
        pytest.fail("the block was entered")
    service.check()
    assert service.store.list() == []
    tags = [tag for image in service.client.api.images() for tag in image["RepoTags"] or ()]
    assert [tag for tag in tags if service.name in tag] == []


def test_one_that_cannot_start_again_is_refused(service: Service) -> None:
    """Docker lists an endpoint twice that was asked for by part of the network's id, and starts it once only."""
    identity = str(service.client.api.inspect_network(service.network)["Id"])[:12]
    name = f"{service.name}-short"
    body = {
        "Image": service.image,
        "Cmd": SERVICE,
        "Labels": service.labels,
        "HostConfig": {"NetworkMode": service.network},
        "NetworkingConfig": {"EndpointsConfig": {identity: {}}},
    }
    create: Any = service.client.api.create_container_from_config
    try:
        made = create(body, name)["Id"]
        service.client.api.start(made)
    except docker.errors.APIError as error:
        cannot(service.client, f"it does not take part of a network's id: {error.explanation}")
    if identity not in service.client.api.inspect_container(name)["NetworkSettings"]["Networks"]:
        cannot(service.client, "it lists an endpoint by the network's name alone")
    with (
        pytest.raises(UnsupportedContainerError, match="by a prefix of that network's id"),
        rollback(name, client=service.client, store=service.store, verify=None),
    ):
        pytest.fail("the block was entered")
    assert service.client.api.inspect_container(name)["State"]["Running"]
