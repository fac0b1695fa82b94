"""What is told, limited and hooked in around a rollback, on a real engine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Literal

import docker
import pytest

from docker_rollback import (
    BackupStore,
    DowntimeExceededError,
    Exec,
    HookError,
    Outcome,
    RollbackRequested,
    Status,
    UpdateRejectedError,
    healthy,
    recover,
    restore,
    rollback,
)
from docker_rollback._store.files import Disk
from docker_rollback.parts import Call
from tests.integration.test_volumes import WAYS
from tests.programs import run_in

pytestmark = pytest.mark.engine

SERVICE = "trap 'exit 0' TERM; while :; do date +%s%N >> /data/log; sleep 0.1; done"
SLOW_TO_STOP = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done"


@pytest.fixture
def store(tmp_path: Path) -> BackupStore:
    """An empty store."""
    return BackupStore(tmp_path / "store")


@pytest.fixture
def shop(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> str:
    """A running service with a volume; return its name."""
    docker_client.volumes.create("outcome-data", labels=test_labels)
    return run(docker_client, busybox_image, "outcome-shop", SERVICE)


def run(client: docker.DockerClient, image: str, name: str, script: str) -> str:
    """Run a container of a shell script on the volume; return its name."""
    volumes = {"outcome-data": {"bind": "/data"}}
    client.containers.run(image, ["sh", "-c", script], name=name, detach=True, volumes=volumes)
    return name


def started(client: docker.DockerClient, name: str) -> str:
    """Return when a container was started last."""
    return str(client.api.inspect_container(name)["State"]["StartedAt"])


def test_an_update_that_fails_is_told(docker_client: docker.DockerClient, store: BackupStore, shop: str) -> None:
    """The report has the check that failed, the downtimes and the loss window, and is JSON."""
    told: list[Outcome] = []
    with (
        pytest.raises(UpdateRejectedError),
        rollback(shop, client=docker_client, store=store, verify=healthy(stable_for=3.0), on_outcome=told.append) as tx,
    ):
        tx.replace(shop, command=["sh", "-c", "echo no tables; exit 4"])
    (outcome,) = told
    assert outcome.status is Status.ROLLED_BACK
    assert [(check.exit_code, check.log) for check in outcome.rejected] == [(4, ("no tables",))]
    down = outcome.downtime[shop]
    assert min(down.capture, down.update, down.rollback) > 0.0
    whole = (outcome.ended - outcome.begun).total_seconds()
    assert down.capture + down.update + down.rollback < whole
    assert sum(step.seconds for step in outcome.steps) == pytest.approx(whole, abs=1.0)
    assert json.loads(outcome.to_json())["lost"] == outcome.lost


def test_hooks_run_in_a_container(docker_client: docker.DockerClient, store: BackupStore, shop: str) -> None:
    """A program writes before the capture and its file comes back; another one sees the service run again."""
    up: list[str] = []
    with rollback(
        shop,
        client=docker_client,
        store=store,
        verify=healthy(stable_for=0.1),
        before_quiesce=Exec(shop, ["sh", "-c", "echo done > /data/dump"]),
        after_resume=[Exec(shop, ["sh", "-c", "test -e /data/dump"]), Call(lambda: up.append("up"))],
        after_rollback=Exec(shop, ["test", "-e", "/data/dump"]),
    ) as tx:
        assert docker_client.containers.get(shop).exec_run(["rm", "/data/dump"]).exit_code == 0
        raise RollbackRequested
    assert up == ["up"]
    assert tx.outcome.problems == ()
    assert run_in(docker_client, shop, ["cat", "/data/dump"]) == (0, "done\n")


@pytest.mark.parametrize(
    ("script", "timeout", "code"),
    [("echo full >&2; exit 3", 60.0, 3), ("sleep 600", 0.5, None)],
    ids=["fails", "hangs"],
)
def test_a_hook_that_fails_leaves_the_service_alone(
    docker_client: docker.DockerClient, store: BackupStore, shop: str, script: str, timeout: float, code: int | None
) -> None:
    """The service was never stopped, and a program that hangs does not run on."""
    before = started(docker_client, shop)
    hook = Exec(shop, ["sh", "-c", script], timeout=timeout)
    with (
        pytest.raises(HookError) as failed,
        rollback(shop, client=docker_client, store=store, before_quiesce=hook),
    ):
        pytest.fail("the block was entered")
    assert failed.value.exit_code == code
    assert started(docker_client, shop) == before
    assert store.list() == []
    assert "sleep 600" not in run_in(docker_client, shop, ["ps", "-o", "args"])[1]


def test_a_limit_that_is_passed_lets_the_service_run(
    docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str], store: BackupStore
) -> None:
    """A service that takes a second to stop, with half of one allowed: it runs again, and nothing is left over."""
    docker_client.volumes.create("outcome-data", labels=test_labels)
    shop = run(docker_client, busybox_image, "outcome-slow", SLOW_TO_STOP)
    before = started(docker_client, shop)
    with (
        pytest.raises(DowntimeExceededError) as failed,
        rollback(shop, client=docker_client, store=store, max_downtime=0.5),
    ):
        pytest.fail("the block was entered")
    assert (failed.value.containers, failed.value.allowed, failed.value.step) == ((shop,), 0.5, "quiesce")
    assert started(docker_client, shop) != before
    assert docker_client.containers.get(shop).status == "running"
    assert store.list() == []
    assert recover(client=docker_client, store=store) == ()
    assert not any(image.startswith("docker-rollback:") for image in tags(docker_client))


class SlowDisk(Disk):
    """A disk that takes a megabyte a second, as one over a network may."""

    def write(self, fd: int, data: bytes | memoryview) -> None:
        """Write, and take the time for it."""
        time.sleep(len(data) / 1e6)
        super().write(fd, data)


@pytest.mark.parametrize("way", WAYS)
def test_an_archive_that_takes_too_long_is_broken_off(
    docker_client: docker.DockerClient, tmp_path: Path, shop: str, way: Literal["direct", "helper"]
) -> None:
    """Where the data takes most of a minute and five seconds are allowed, tar is ended, and the service runs on."""
    if way == "direct" and not is_within_reach(docker_client):
        pytest.skip("the engine's volumes are not visible here")
    store = BackupStore(tmp_path / "store", disk=SlowDisk())
    tx = rollback(
        shop,
        client=docker_client,
        store=store,
        quiesce="pause",
        way=way,
        max_downtime=5.0,
        # Too late for a pass while the service runs.
        before_quiesce=Exec(shop, ["dd", "if=/dev/urandom", "of=/data/large", "bs=1M", "count=50"]),
    )
    with pytest.raises(DowntimeExceededError) as failed, tx:
        pytest.fail("the block was entered")
    assert failed.value.step == "capture"
    assert tx.outcome.downtime[shop].capture < 40.0
    assert docker_client.containers.get(shop).status == "running"
    assert store.list() == []
    assert recover(client=docker_client, store=store) == ()


def test_a_failed_state_is_kept_and_the_good_one_comes_back(
    docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str], tmp_path: Path
) -> None:
    """What a rejected update wrote is in a backup of its own, which puts it back; before, all is as it was."""
    store = BackupStore(tmp_path / "store")
    docker_client.volumes.create("outcome-data", labels=test_labels)
    shop = run(docker_client, busybox_image, "outcome-quiet", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
    identity = docker_client.api.inspect_container(shop)["Id"]
    outcomes: list[Outcome] = []
    for _ in range(2):
        with (
            pytest.raises(UpdateRejectedError),
            rollback(
                shop,
                client=docker_client,
                store=store,
                verify=healthy(stable_for=3.0),
                keep=1,
                keep_failed=True,
                on_outcome=outcomes.append,
            ) as tx,
        ):
            tx.replace(shop, command=["sh", "-c", "echo half > /data/migrated; touch /trace; exit 4"])
        assert docker_client.api.inspect_container(shop)["Id"] == identity
        assert docker_client.containers.get(shop).exec_run(["test", "-e", "/data/migrated"]).exit_code == 1
    last = outcomes[-1]
    assert last.kept is not None
    assert last.backup is not None
    assert {found.id for found in store.list()} == {last.backup.id, last.kept}
    assert last.problems == ()
    store.verify(last.kept)
    restore(last.kept, client=docker_client, store=store)
    found = docker_client.containers.get(shop)
    assert found.attrs["Config"]["Cmd"][-1].endswith("exit 4")
    found.start()
    assert found.wait()["StatusCode"] == 4


def is_within_reach(client: docker.DockerClient) -> bool:
    """Say whether the engine's volumes are folders of this machine that we may read."""
    return os.access(str(client.api.inspect_volume("outcome-data")["Mountpoint"]), os.R_OK)


def tags(client: docker.DockerClient) -> list[str]:
    """Return the names of all images, without the registry that Podman puts before them."""
    return [tag.removeprefix("localhost/") for image in client.api.images() for tag in image["RepoTags"] or ()]
