"""Containers that somebody else starts, and those in a crash loop, on a real engine."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

from docker_rollback import BackupStore, DockerEngine, RollbackRequested, Status, healthy, rollback
from docker_rollback._model.backup import Quiesce
from tests.programs import run_in

pytestmark = pytest.mark.engine

SERVICE = "echo run >> /data/started; trap 'exit 0' TERM; while :; do sleep 0.1; done"


@pytest.fixture
def volume(docker_client: docker.DockerClient, test_labels: dict[str, str]) -> str:
    """A volume; return its name."""
    return str(docker_client.volumes.create("others-data", labels=test_labels).name)


@contextlib.contextmanager
def supervised(engine_url: str, name: str) -> Iterator[None]:
    """Have a container started by its name, all the time, whenever it does not run."""
    over = threading.Event()

    def supervise() -> None:
        with contextlib.closing(docker.DockerClient(engine_url)) as client:
            while not over.wait(0.02):
                # It has no container of that name, or the engine is at work on it.
                with contextlib.suppress(APIError):
                    if not client.api.inspect_container(name)["State"]["Running"]:
                        client.api.start(name)

    thread = threading.Thread(target=supervise)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("replaced", [False, True], ids=["original", "replaced"])
def test_a_supervisor_starts_nothing_on_half_of_its_data(
    docker_client: docker.DockerClient,
    engine_url: str,
    busybox_image: str,
    volume: str,
    tmp_path: Path,
    *,
    replaced: bool,
) -> None:
    """It comes back with its data, although somebody starts it by its name whenever it does not run."""

    def run(script: str) -> None:
        docker_client.containers.run(
            busybox_image,
            ["sh", "-c", script],
            name="others-shop",
            detach=True,
            volumes={volume: {"bind": "/data"}},
            stop_signal="SIGKILL",
        )

    run(SERVICE)
    tx = rollback("others-shop", client=docker_client, store=BackupStore(tmp_path / "store"), verify=None)
    with contextlib.ExitStack() as during, tx:
        shop = docker_client.containers.get("others-shop")
        assert shop.exec_run(["sh", "-c", "echo new > /data/version"]).exit_code == 0
        if replaced:
            shop.remove(force=True)
            run(f"echo half > /data/half; {SERVICE}")
        during.enter_context(supervised(engine_url, "others-shop"))
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    shop = docker_client.containers.get("others-shop")
    assert shop.status == "running"
    assert run_in(docker_client, "others-shop", ["ls", "/data"]) == (0, "started\n")
    assert run_in(docker_client, "others-shop", ["cat", "/data/started"]) == (0, "run\n" * 2)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("quiesce", ["stop", "pause"])
def test_one_that_is_started_during_its_capture_is_captured_again(
    docker_client: docker.DockerClient, busybox_image: str, volume: str, tmp_path: Path, quiesce: Quiesce, times: int
) -> None:
    """Somebody starts it before it is committed, a few times: then it is captured, and comes back as it was."""
    api, starts = docker_client.api, list[str]()

    class Meddled(DockerEngine):
        def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
            if len(starts) < times and not tag.endswith("-live"):
                starts.append(tag)
                (api.start if quiesce == "stop" else api.unpause)("others-shop")
            return super().commit_container(ref, tag, author=author)

    docker_client.containers.run(
        busybox_image,
        ["sh", "-c", SERVICE],
        name="others-shop",
        detach=True,
        volumes={volume: {"bind": "/data"}},
        stop_signal="SIGKILL",
    )
    store, engine = BackupStore(tmp_path / "store"), Meddled(docker_client)
    with rollback("others-shop", client=engine, store=store, verify=None, quiesce=quiesce) as tx:
        assert docker_client.containers.get("others-shop").status == "running"
        docker_client.containers.get("others-shop").exec_run(["rm", "/data/started"])
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert len(starts) == times
    runs = (times + 1) if quiesce == "stop" else 1
    before = run_in(docker_client, "others-shop", ["cat", "/data/started"])
    assert before[0] == 0
    assert before[1].startswith("run\n" * runs)
    assert store.journal.names() == []


def test_a_crash_loop_is_back_when_it_loops(
    docker_client: docker.DockerClient, busybox_image: str, tmp_path: Path
) -> None:
    """It is backed up from the middle of a run, and a rollback of it ends well."""
    docker_client.containers.run(
        busybox_image,
        ["sh", "-c", "sleep 0.5; exit 3"],
        name="others-loop",
        detach=True,
        restart_policy={"Name": "always"},
    )

    def look() -> tuple[str, int]:
        found = docker_client.api.inspect_container("others-loop")
        return str(found["State"]["Status"]), int(found["RestartCount"])

    while look()[1] < 2:
        time.sleep(0.02)
    checks = healthy(stable_for=1)
    with rollback("others-loop", client=docker_client, store=BackupStore(tmp_path / "store"), verify=checks) as tx:
        docker_client.containers.get("others-loop").remove(force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    while not look()[1]:
        time.sleep(0.02)
    assert look()[0] in ("running", "restarting", "exited")
