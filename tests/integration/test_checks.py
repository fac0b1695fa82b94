"""Checks against what real engines say of containers that fall over, one way each."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from docker_rollback import (
    BackupStore,
    CheckedContainer,
    DockerEngine,
    RollbackRequested,
    Status,
    UpdateRejectedError,
    eventually,
    healthy,
    replace,
    rollback,
)
from docker_rollback._model.backup import ContainerState

pytestmark = pytest.mark.engine

NEVER = 600.0
"""Seconds that no check here may take."""

Run = Callable[..., CheckedContainer]


@pytest.fixture
def run(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Run:
    """Give a function that starts a container which runs a script, and returns it as a check sees it."""

    def start(script: str, *, check: dict[str, Any] | None = None, **host_config: Any) -> CheckedContainer:
        name = f"checked-{secrets.token_hex(4)}"
        body = {
            "Image": busybox_image,
            "Cmd": ["sh", "-c", script],
            "Env": ["DB_PASSWORD=s3cret-word"],
            "Labels": test_labels,
            "StopSignal": "SIGKILL",
            "Healthcheck": check,
            "HostConfig": host_config,
        }
        create: Any = docker_client.api.create_container_from_config
        docker_client.api.start(create(body, name)["Id"])
        return CheckedContainer(DockerEngine(docker_client), name, ContainerState("running"))

    return start


def rejected(check: Callable[[CheckedContainer], None], container: CheckedContainer) -> UpdateRejectedError:
    """Return the error by which a check fails, long before its time is over."""
    begun = time.monotonic()
    with pytest.raises(UpdateRejectedError) as error:
        check(container)
    assert time.monotonic() - begun < NEVER / 10
    return error.value


def test_what_fails_fails_at_once(run: Run, docker_client: docker.DockerClient) -> None:
    """Gone, ended with an error, started again and again: each is found, with its state and its last words."""
    ended = rejected(healthy(stable_for=NEVER), run("echo out of luck with s3cret-word; exit 7"))
    assert (ended.state, ended.exit_code) == ("exited", 7)
    assert ended.log == ("out of luck with ${DB_PASSWORD}",)
    again = rejected(healthy(stable_for=NEVER), run("sleep 0.5; exit 3", RestartPolicy={"Name": "always"}))
    # Podman says "exited" between two runs.
    assert again.reason in ("it keeps ending and is being restarted", "it ended with exit code 3")
    gone = run("sleep 60")
    docker_client.api.remove_container(gone.name, force=True)
    assert rejected(healthy(stable_for=NEVER), gone).reason == "it is gone"


@pytest.mark.default_check
def test_a_container_that_dies_after_four_seconds_is_rolled_back_by_default(
    run: Run, docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    """It has no health check and no check was asked for; the seconds count from its start, by the engine's clock."""
    good = run("trap 'exit 0' TERM; while :; do sleep 0.1; done")
    with pytest.raises(UpdateRejectedError, match="exit code 3"):
        replace(good.name, client=docker_client, store=tmp_path / "store", command=["sh", "-c", "sleep 4; exit 3"])
    found = good.inspect()
    assert (found["State"]["Status"], found["Config"]["Cmd"][2][:4]) == ("running", "trap")
    assert good.up_for(found) < 60.0


def test_a_job_that_ends_well_is_well(run: Run) -> None:
    """It ended with 0, and its policy does not bring it back after that."""
    eventually(healthy(stable_for=0.0), timeout=30.0)(run("exit 0", RestartPolicy={"Name": "on-failure"}))


def test_a_container_that_runs_out_of_memory_is_rejected(run: Run) -> None:
    """The kernel ends it; the reason says so where the engine does, and at least that it ended."""
    error = rejected(
        healthy(stable_for=NEVER),
        # As little as runc itself can begin with.
        run("sleep 1; head -c 300m /dev/zero | tail", Memory=32 << 20, MemorySwap=32 << 20),
    )
    assert error.reason in ("it ran out of memory", "it ended with exit code 137")


def probing(test: str) -> dict[str, Any]:
    """Return a health check that decides within seconds."""
    return {"Test": ["CMD-SHELL", test], "Interval": 300_000_000, "Timeout": 5_000_000_000, "Retries": 2}


@pytest.mark.usefixtures("_probes")
def test_a_health_check_decides(run: Run) -> None:
    """It turns healthy when its probes pass; where they fail, what they say is in the error, without the secrets."""
    well = run("sleep 2; touch /tmp/up; sleep 60", check={**probing("test -e /tmp/up"), "Retries": 100})
    healthy()(well)
    assert well.inspect()["State"]["Health"]["Status"] == "healthy"
    error = rejected(healthy(), run("sleep 60", check=probing("echo no route with s3cret-word; exit 1")))
    assert error.reason == "its health check says that it is unhealthy"
    assert error.probe == "exit code 1, no route with ${DB_PASSWORD}"


def test_a_group_is_rejected_by_one_and_rolled_back_whole(
    run: Run, docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    """One of three falls over in the update; all three are what they were, by their ids."""
    service = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
    group = [run(f"test ! -e /tmp/broken || exit 5; {service}") for _ in range(3)]
    before = [container.inspect()["Id"] for container in group]
    names = [container.name for container in group]
    with (
        pytest.raises(UpdateRejectedError, match="exit code 5") as error,
        rollback(*names, client=docker_client, store=BackupStore(tmp_path), verify=healthy(stable_for=3.0)) as tx,
    ):
        middle = docker_client.containers.get(names[1])
        assert middle.exec_run(["touch", "/tmp/broken"]).exit_code == 0
        middle.restart(timeout=0)
    assert tx.status is Status.ROLLED_BACK
    assert error.value.container == names[1]
    after = [container.inspect() for container in group]
    assert [found["State"]["Status"] for found in after] == ["running"] * 3
    assert [found["Id"] for found in after][::2] == before[::2]
    assert docker_client.containers.get(names[1]).exec_run(["test", "-e", "/tmp/broken"]).exit_code == 1


@pytest.mark.usefixtures("_probes")
def test_a_check_that_did_not_hold_before_is_not_asked_after(
    run: Run, docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    """A service that was unhealthy before may be so again after a rollback."""
    sick = run("trap 'exit 0' TERM; while :; do sleep 0.2; done", check=probing("exit 1"))
    while sick.inspect()["State"]["Health"]["Status"] == "starting":
        time.sleep(0.1)
    with rollback(sick.name, client=docker_client, store=BackupStore(tmp_path)) as tx:
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
