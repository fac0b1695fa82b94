"""A run that Docker loses, made with the very event by which it does so after its own death."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import docker
import pytest

from docker_rollback import BackupStore, Status, rollback
from tests.engines.results import cannot
from tests.engines.unprivileged import as_root

PATIENCE = 30.0
SHOWS = 4.0
"""Seconds in which Docker kills or loses each run that it is going to."""


def engine_folder(url: str) -> Path:
    """Return the folder of a private engine: of its socket."""
    return Path(url.removeprefix("unix://")).parent


def parts_of(number: int, value: bytes | int) -> Iterator[int]:
    """Yield one field of a protobuf message: a number, or bytes after their length."""
    yield number << 3 | (2 if isinstance(value, bytes) else 0)
    left = len(value) if isinstance(value, bytes) else value
    while left > 127:
        yield left & 127 | 128
        left >>= 7
    yield left
    yield from value if isinstance(value, bytes) else b""


def tell_of_an_end(url: str, container: str, pid: int) -> None:
    """Have the engine's containerd tell that the process of a container was killed, as it does of an earlier run."""
    said = bytes([*parts_of(1, container.encode()), *parts_of(2, container.encode()), *parts_of(3, pid)])
    said += bytes(parts_of(4, 137))
    event = bytes([*parts_of(1, b"containerd.events.TaskExit"), *parts_of(2, said)])
    folder = engine_folder(url)
    with as_root():
        leader = (folder / "leader").read_text().strip()
    words = [
        "nsenter",
        "-t",
        leader,
        "-m",
        "-r",
        "containerd",
        "--address",
        str(folder / "exec/containerd/containerd.sock"),
    ]
    with as_root():
        subprocess.run([*words, "publish", "--topic", "/tasks/exit", "--namespace", "moby"], input=event, check=True)


def processes_of(container: str) -> list[int]:
    """Return the processes of a container by its control group, whatever its engine says."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if container in (folder / "cgroup").read_text():
                found.append(int(folder.name))
        except OSError:  # ended meanwhile
            continue
    return found


@pytest.mark.parametrize("policy", ["always", "no"])
def test_a_run_that_docker_has_lost_is_replaced(
    engine_url: str,
    docker_client: docker.DockerClient,
    busybox_image: str,
    test_labels: dict[str, str],
    tmp_path: Path,
    policy: Literal["always", "no"],
) -> None:
    """What counts as rolled back has one process, which stays, a network, and its own restart policy."""
    version = docker_client.version()
    major = 0 if "Podman" in str(version) else int(str(version["Version"]).split(".")[0])
    if not 24 <= major < 29:
        cannot(docker_client, "it takes no end of an earlier run for that of the present one")
    if not (engine_folder(engine_url) / "leader").exists():
        pytest.skip("it is no private engine, whose containerd is at hand")
    own: Any = {"Name": policy}
    container = docker_client.containers.run(
        busybox_image,
        ["sleep", "1000000"],
        detach=True,
        labels=test_labels,
        stop_signal="SIGKILL",
        restart_policy=own,
    )
    name = str(container.name)
    with pytest.raises(ZeroDivisionError), rollback(name, client=docker_client, store=BackupStore(tmp_path)) as tx:
        container.reload()
        tell_of_an_end(engine_url, str(container.id), container.attrs["State"]["Pid"])
        end = time.monotonic() + PATIENCE
        while container.status == "running" and time.monotonic() < end:
            container.reload()
        assert container.status != "running"
        raise ZeroDivisionError
    assert tx.status is Status.ROLLED_BACK
    container = docker_client.containers.get(name)
    pid = container.attrs["State"]["Pid"]
    time.sleep(SHOWS)
    container.reload()
    assert (container.status, container.attrs["State"]["Pid"]) == ("running", pid)
    assert processes_of(str(container.id)) == [pid]
    assert all(one["EndpointID"] for one in container.attrs["NetworkSettings"]["Networks"].values())
    assert container.attrs["HostConfig"]["RestartPolicy"]["Name"] == policy
