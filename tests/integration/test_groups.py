"""A group of services on a real engine: two stores that one request writes to agree after a rollback."""

from __future__ import annotations

import secrets
import threading
import time
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
    RollbackRequested,
    Status,
    UpdateRejectedError,
    compare,
    recover,
    rollback,
)
from docker_rollback.errors import CaptureError
from tests.integration.counting import REQUESTS, SERVICE

pytestmark = pytest.mark.engine


class Group:
    """A web server that writes to the volumes of a database and of a cache, a helper in its network, and a reader."""

    def __init__(self, client: docker.DockerClient, image: str, labels: dict[str, str]) -> None:
        self.client = client
        self.image = image
        self.labels = labels
        token = secrets.token_hex(4)
        self.names = {role: f"{role}-{token}" for role in ("db", "cache", "web", "sidecar", "reader")}
        self.rows, self.keys, self.network = f"rows-{token}", f"keys-{token}", f"net-{token}"
        self.project = f"group-{token}"

    def build(self) -> None:
        """Make all of it, and let requests come in."""
        for volume in (self.rows, self.keys):
            self.client.api.create_volume(volume, labels=self.labels)
        self.client.api.create_network(self.network, labels=self.labels)
        rows, keys = f"{self.rows}:/rows", f"{self.keys}:/keys"
        self.run("db", SERVICE, Binds=[rows], NetworkMode=self.network)
        self.run("cache", SERVICE, Binds=[keys], NetworkMode=self.network)
        web = self.run("web", REQUESTS, Binds=[rows, keys], NetworkMode=self.network)
        self.run("sidecar", SERVICE, NetworkMode=f"container:{web}")
        self.run("reader", SERVICE, VolumesFrom=[self.names["web"]])
        self.client.api.pause(self.names["cache"])

    def run(self, role: str, script: str, **host_config: Any) -> str:
        """Create and start one container."""
        compose = {
            "com.docker.compose.project": self.project,
            "com.docker.compose.service": role,
            "com.docker.compose.depends_on": "db:service_started:false,cache:service_started:false"
            if role == "web"
            else "",
        }
        body = {
            "Image": self.image,
            "Cmd": ["sh", "-c", script],
            "Labels": self.labels | compose,
            "HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}, **host_config},
        }
        create: Any = self.client.api.create_container_from_config
        created: str = create(body, self.names[role])["Id"]
        self.client.api.start(created)
        return created

    def inspect(self) -> dict[str, Mapping[str, Any]]:
        """Return the inspection of each."""
        engine = DockerEngine(self.client)
        return {role: engine.inspect_container(name) for role, name in self.names.items()}

    def agree(self) -> bool:
        """Say whether the stores agreed whenever requests began to come in."""
        reader = self.client.containers.get(self.names["reader"])
        return reader.exec_run(["test", "-e", "/rows/torn"]).exit_code == 1

    def remove(self) -> None:
        """Remove the containers, those that live in others first."""
        for name in reversed(self.names.values()):
            with suppress(NotFound):
                self.client.api.remove_container(name, force=True, v=True)

    def break_it(self) -> None:
        """Remove everything, the data of the cache included, and write nonsense into the other."""
        self.remove()
        self.client.api.remove_volume(self.keys)
        self.client.api.remove_network(self.network)
        self.run("db", "echo 0 > /rows/count; exit 4", Binds=[f"{self.rows}:/rows"])


@pytest.fixture
def group(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Iterator[Group]:
    """The group, at work."""
    group = Group(docker_client, busybox_image, test_labels)
    try:
        group.build()
        yield group
    finally:
        group.remove()


def test_two_stores_agree_after_a_rollback(group: Group, docker_client: docker.DockerClient, tmp_path: Path) -> None:
    """Everything was removed; everything is back, in its state, and no request is counted in one store alone."""
    before, store = group.inspect(), BackupStore(tmp_path)
    names = list(group.names.values())
    with (
        pytest.raises(UpdateRejectedError) as rejected,
        rollback(*names, client=docker_client, store=store) as tx,
    ):
        group.break_it()
    assert tx.status is Status.ROLLED_BACK
    assert rejected.value.container in names
    assert sorted(archive.name for archive in tx.backup.volumes) == sorted([group.rows, group.keys])
    after = group.inspect()
    states = {role: found["State"]["Status"] for role, found in after.items()}
    assert states == {"db": "running", "cache": "paused", "web": "running", "sidecar": "running", "reader": "running"}
    for role, found in after.items():
        paths = {difference.path for difference in compare(before[role], found)}
        assert paths <= {"HostConfig.NetworkMode", "Image"}, role
    assert after["sidecar"]["HostConfig"]["NetworkMode"] == f"container:{after['web']['Id']}"
    assert group.agree()


def test_an_untouched_group_is_put_back_itself(
    group: Group, docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    """The update killed the requests half way and changed one store: the stores agree, each container is itself."""
    before = {role: found["Id"] for role, found in group.inspect().items()}
    names = list(reversed(group.names.values()))
    with rollback(*names, client=docker_client, store=BackupStore(tmp_path)) as tx:
        docker_client.api.kill(group.names["web"])
        docker_client.containers.get(group.names["db"]).exec_run(["sh", "-c", "echo 7 > /rows/count"])
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert {role: found["Id"] for role, found in group.inspect().items()} == before
    assert group.agree()


def test_eight_that_take_a_second_each_to_stop_are_down_together(
    docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str], tmp_path: Path
) -> None:
    """They stop and start at once, and come back at once after an update has removed them; a ninth one comes last."""
    token = secrets.token_hex(4)
    names = [f"slow-{token}-{number}" for number in range(8)]
    script = "trap 'sleep 1; exit 0' TERM; sleep 1000 & wait"
    create: Any = docker_client.api.create_container_from_config
    bodies: dict[str, dict[str, Any]] = {
        name: {"Image": busybox_image, "Cmd": ["sh", "-c", script], "Labels": test_labels} for name in names
    }
    bodies[f"last-{token}"] = {**bodies[names[0]], "HostConfig": {"NetworkMode": f"container:{names[0]}"}}
    try:
        for name, body in bodies.items():
            create(body, name)
            docker_client.api.start(name)
        with rollback(*bodies, client=docker_client, store=BackupStore(tmp_path)) as tx:
            runs = {name: docker_client.api.inspect_container(name)["State"] for name in bodies}
            for name in reversed(bodies):
                docker_client.api.remove_container(name, force=True)
            raise RollbackRequested
        assert tx.status is Status.ROLLED_BACK
        assert all(run["Status"] == "running" for run in runs.values())
        assert runs[f"last-{token}"]["StartedAt"] > runs[names[0]]["StartedAt"]
        after = {name: docker_client.api.inspect_container(name) for name in bodies}
        assert {found["State"]["Status"] for found in after.values()} == {"running"}
        assert after[f"last-{token}"]["HostConfig"]["NetworkMode"] == f"container:{after[names[0]]['Id']}"
        assert tx.outcome is not None
        stops = sum(step.seconds for step in tx.outcome.steps if step.step == "quiesce")
        assert stops < 8, "one after the other they take nine seconds"
    finally:
        for name in reversed(bodies):
            with suppress(NotFound):
                docker_client.api.remove_container(name, force=True, v=True)


def test_one_that_is_removed_on_the_way_down_holds_up_no_other(
    docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str], tmp_path: Path
) -> None:
    """Of eight, one ignores its signal, one dies by itself, and somebody removes one: the error names that one."""
    token, api = secrets.token_hex(4), docker_client.api
    names = {role: f"{role}-{token}" for role in ("base", "stubborn", "removed", *"abcde")}
    project = {"com.docker.compose.project": f"down-{token}"}
    create: Any = api.create_container_from_config
    for role, name in names.items():
        labels = project | {
            "com.docker.compose.service": role,
            "com.docker.compose.depends_on": "" if role == "base" else "base:service_started:false",
        }
        script = "trap '' TERM; while :; do sleep 0.1; done" if role == "stubborn" else SERVICE
        body = {"Image": busybox_image, "Cmd": ["sh", "-c", script], "Labels": test_labels | labels, "StopTimeout": 3}
        create(body, name)
        api.start(name)
    before = {role: api.inspect_container(name) for role, name in names.items()}
    went: list[str] = []

    def status(role: str) -> str:
        return str(api.inspect_container(names[role])["State"]["Status"])

    def interfere() -> None:
        # The others wait for the stubborn one, and the one that they need has not been asked to stop.
        while status("removed") != "exited":
            time.sleep(0.05)
        went.append(status("stubborn"))
        api.remove_container(names["removed"])
        api.kill(names["base"])

    other = threading.Thread(target=interfere)
    try:
        other.start()
        with (
            pytest.raises(CaptureError) as failed,
            rollback(*names.values(), client=docker_client, store=BackupStore(tmp_path)),
        ):
            pytest.fail("there is no backup")
        other.join()
        assert went in (["running"], ["stopping"])
        assert failed.value.container == names["removed"]
        after = {role: api.inspect_container(name) for role, name in names.items()}
        assert {role: found["State"]["Status"] for role, found in after.items()} == dict.fromkeys(names, "running")
        assert [role for role in names if after[role]["Id"] != before[role]["Id"]] == ["removed"]
        assert all(found["State"]["StartedAt"] >= after["base"]["State"]["StartedAt"] for found in after.values())
        assert recover(client=docker_client, store=BackupStore(tmp_path)) == ()
    finally:
        other.join()
        for name in names.values():
            with suppress(NotFound):
                api.remove_container(name, force=True, v=True)
