"""A process that dies on a real engine: what it left is finished by the next one."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from docker_rollback import (
    BackupStore,
    ContainerBusyError,
    DockerEngine,
    Status,
    UnfinishedRollbackError,
    compare,
    recover,
    rollback,
)
from tests.programs import run_in

pytestmark = pytest.mark.engine

SERVICE = 'trap "exit 0" TERM; while :; do sleep 0.1; done'

CHILD = """
import os, signal, sys
import docker
from docker_rollback import rollback, DockerEngine
url, store, name = sys.argv[1:]
client = docker.DockerClient(base_url=url)
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
class Engine(DockerEngine):
    def {verb}(self, *words):
        super().{verb}(*words)
        die()
with rollback(name, client=Engine(client), store=store, verify=None):
    found = client.containers.get(name)
    {update}
    if {in_body}:
        die()
    raise RuntimeError("the update failed")
"""


class Service:
    """A container with data, its store, and processes that die while they update it."""

    def __init__(self, url: str, client: docker.DockerClient, name: str, folder: Path) -> None:
        self.url = url
        self.client = client
        self.name = name
        self.store = folder / "store"
        self.before = self.inspect()

    def inspect(self) -> dict[str, Any]:
        """Return what the library sees of the container."""
        return dict(DockerEngine(self.client).inspect_container(self.name))

    def die(self, update: str = "pass", *, after: str = "") -> None:
        """Let a process die in the body of a rollback, once it has updated; or after its first call of a verb."""
        program = CHILD.format(update=update, verb=after or "never", in_body=not after)
        command = [sys.executable, "-c", program, self.url, str(self.store), self.name]
        died = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert died.returncode == -signal.SIGKILL, died.stderr

    def read(self, path: str) -> str:
        """Return what a file in the container holds, empty where there is none."""
        code, output = run_in(self.client, self.name, ["cat", path])
        return "" if code else output

    def check(self) -> None:
        """Assert that all is as it was, and that nothing of ours is left in the engine or noted in the store."""
        assert compare(self.before, self.inspect()) == []
        assert self.read("/data/table") == "rows\n"
        assert BackupStore(self.store).journal.names() == []
        names = [volume.name for volume in self.client.volumes.list()]
        assert f"docker-rollback-busy-{self.name}" not in names
        listed = [str(container.name) for container in self.client.containers.list(all=True)]
        assert [name for name in listed if name.startswith(f"{self.name}-docker-rollback")] == []


@pytest.fixture
def service(
    engine_url: str,
    docker_client: docker.DockerClient,
    busybox_image: str,
    test_labels: dict[str, str],
    tmp_path: Path,
) -> Iterator[Service]:
    """A running container with a volume and a restart policy."""
    name = f"mortal-{secrets.token_hex(4)}"
    docker_client.api.create_volume(f"{name}-data", labels=test_labels)
    docker_client.containers.run(
        busybox_image,
        ["sh", "-c", f"test -e /data/table || echo rows > /data/table; {SERVICE}"],
        name=name,
        detach=True,
        labels=test_labels,
        volumes={f"{name}-data": {"bind": "/data"}},
        restart_policy={"Name": "always"},
    )
    found = Service(engine_url, docker_client, name, tmp_path)
    while found.read("/data/table") != "rows\n":
        pass
    yield found
    recover(client=docker_client, store=found.store, keep_found=False)


def test_the_next_rollback_finishes_one_that_died_before_it_changed_anything(service: Service) -> None:
    """Nothing was started or changed since, so it is put back without being asked for."""
    service.die()
    with rollback(service.name, client=service.client, store=service.store, verify=None) as tx:
        (done,) = tx.recovered
        assert done.outcome == "rolled back"
        assert done.kept is not None, "the service ran on, and may have written"
    assert tx.status is Status.COMMITTED
    service.check()


def test_a_death_in_the_capture_brings_the_service_back(service: Service) -> None:
    """It was stopped, and its half-made backup is gone."""
    service.die(after="stop_container")
    assert service.client.containers.get(service.name).status != "running"
    (done,) = recover(client=service.client, store=service.store)
    assert done.outcome == "discarded"
    service.check()
    assert BackupStore(service.store).list() == []


def test_a_removed_container_is_made_again_by_recovery(service: Service) -> None:
    """The original is gone; what was in its volume is kept."""
    service.die(update='found.exec_run(["sh", "-c", "echo migrated > /data/table"]); found.remove(force=True)')
    (done,) = recover(client=service.client, store=service.store)
    assert done.outcome == "rolled back"
    assert done.kept is not None
    service.check()
    assert recover(client=service.client, store=service.store) == ()


def test_later_work_is_asked_about(service: Service) -> None:
    """A container that was started since is not overruled, until recovery is asked for."""
    service.die(update="found.restart(timeout=1)")
    with (
        pytest.raises(UnfinishedRollbackError, match="was started since"),
        rollback(service.name, client=service.client, store=service.store, verify=None),
    ):
        pytest.fail("the block was entered")
    (done,) = recover(client=service.client, store=service.store)
    assert done.outcome == "rolled back"
    service.check()


def test_who_was_taken_off_a_network_is_put_back(service: Service, test_labels: dict[str, str]) -> None:
    """A death between the removal of a changed network and its return: who was in it before joins it again."""
    client, network, watcher = service.client, f"{service.name}-net", f"{service.name}-watcher"
    client.api.create_network(network, labels=test_labels)
    client.api.connect_container_to_network(service.name, network, aliases=["till"])
    service.before = service.inspect()
    image = service.before["Config"]["Image"]
    client.containers.run(image, ["sh", "-c", SERVICE], name=watcher, detach=True, labels=test_labels)
    client.api.connect_container_to_network(watcher, network, aliases=["eyes"])
    before = DockerEngine(client).inspect_container(watcher)
    update = f"""
    found.remove(force=True)
    client.api.disconnect_container_from_network({watcher!r}, {network!r})
    client.api.remove_network({network!r})
    client.api.create_network({network!r}, internal=True, labels={test_labels!r})
    client.api.connect_container_to_network({watcher!r}, {network!r}, aliases=["eyes"])
    """
    service.die(update=update.strip(), after="remove_network")
    assert network not in client.containers.get(watcher).attrs["NetworkSettings"]["Networks"]
    (done,) = recover(client=client, store=service.store)
    assert done.outcome == "rolled back"
    service.check()
    assert compare(before, DockerEngine(client).inspect_container(watcher)) == []


def test_two_stores_do_not_update_one_container_at_once(service: Service, tmp_path: Path) -> None:
    """The mark in the engine keeps a process with another store out, and tells it who is at work."""
    with (
        rollback(service.name, client=service.client, store=service.store, verify=None) as tx,
        pytest.raises(ContainerBusyError, match=str(service.store)),
        rollback(service.name, client=service.client, store=tmp_path / "other", verify=None),
    ):
        pytest.fail("the block was entered")
    assert tx.status is Status.COMMITTED
    service.check()


def test_the_command_recovers(service: Service) -> None:
    """``python -m docker_rollback recover`` does what a service at boot needs."""
    service.die(update="found.remove(force=True)")
    ran = subprocess.run(
        [sys.executable, "-m", "docker_rollback", "recover", "--store", str(service.store)],
        env={"DOCKER_HOST": service.url, "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert f"{service.name}: " in ran.stdout
    assert "rolled back; the state before recovery is kept as backup" in ran.stdout
    service.check()
