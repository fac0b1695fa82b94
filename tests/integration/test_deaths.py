"""Processes that are killed at any moment of a capture on a real engine: recovery leaves nothing of them."""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import docker
import pytest

from docker_rollback import BackupStore, DockerEngine, UnfinishedElsewhereError, backup, compare, recover
from docker_rollback._names import aside_name
from tests.programs import run_in

pytestmark = pytest.mark.engine

CHILD = """
import sys
import docker
from docker_rollback import backup
url, store, name, way = sys.argv[1:]
client = docker.DockerClient(base_url=url)
print("begun", flush=True)
backup(name, client=client, store=store, way=way or None)
print("done", flush=True)
"""

WAITING = """
import sys
import docker
from docker_rollback import rollback
url, store, name = sys.argv[1:]
with rollback(name, client=docker.DockerClient(base_url=url), store=store, verify=None):
    print("in the body", flush=True)
    sys.stdin.read()
"""

SERVICE = 'trap "exit 0" TERM; while :; do sleep 0.1; done'
MEGABYTES = 50
DEATHS = 10
PATIENCE = 20.0


@pytest.fixture
def name(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> str:
    """Give the name of a running container with a volume of some size and something in its writable layer."""
    name = f"killed-{secrets.token_hex(4)}"
    docker_client.api.create_volume(f"{name}-data", labels=test_labels)
    docker_client.containers.run(
        busybox_image,
        ["sh", "-c", SERVICE],
        name=name,
        detach=True,
        labels=test_labels,
        volumes={f"{name}-data": {"bind": "/data"}},
        restart_policy={"Name": "always"},
    )
    code, said = run_in(docker_client, name, ["dd", "if=/dev/urandom", "of=/data/big", "bs=1M", f"count={MEGABYTES}"])
    assert code == 0, said
    code, said = run_in(docker_client, name, ["sh", "-c", "echo dirty > /layer"])
    assert code == 0, said
    return name


def files(store: Path) -> dict[str, bytes]:
    """Return every file of a store with its content, but for its locks."""
    found = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    return {path: data for path, data in found.items() if not path.startswith("locks/") or ".tmp" in path}


def ours(client: docker.DockerClient) -> set[str]:
    """Return the names of all that is of this library in an engine."""
    names = [str(one.name) for one in client.containers.list(all=True)]
    names += [str(one.name) for one in client.volumes.list()]
    names += [tag.removeprefix("localhost/") for image in client.api.images() for tag in image["RepoTags"] or ()]
    mine = {name for name in names if "docker-rollback" in name}
    return {name for name in mine if not name.startswith("docker-rollback-test")}


def run_child(url: str, store: Path, name: str, way: str, *, kill_after: float | None) -> float:
    """Run a backup in a process of its own, killed after so many seconds; return how long it took."""
    command = [sys.executable, "-c", CHILD, url, str(store), name, way]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n", child.communicate()[1]
        begun = time.monotonic()
        try:
            _, said = child.communicate(timeout=kill_after or 120)
            assert child.returncode == 0, said
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
        return time.monotonic() - begun


@pytest.mark.parametrize("way", ["", "helper"])
def test_a_capture_that_is_killed_at_random_leaves_nothing(
    engine_url: str, docker_client: docker.DockerClient, tmp_path: Path, name: str, way: str
) -> None:
    """The service runs as before, the store has the files that it had, and the engine has nothing of ours."""
    store, engine = BackupStore(tmp_path / "store"), DockerEngine(docker_client)
    took = run_child(engine_url, store.path, name, way, kill_after=None)
    for taken in store.ids():
        store.delete(taken)
    before, inspection, present = files(store.path), engine.inspect_container(name), ours(docker_client)
    chosen = random.Random(took)
    killed = 0
    for number in range(DEATHS):
        moment = took * (number + chosen.random()) / DEATHS
        run_child(engine_url, store.path, name, way, kill_after=moment)
        killed += bool(store.journal.names()) or files(store.path) != before
        recover(client=docker_client, store=store.path)
        end = time.monotonic() + PATIENCE
        while ours(docker_client) != present and time.monotonic() < end:
            # The engine may carry out a request after the death of the process that made it.
            recover(client=docker_client, store=store.path)
        for taken in store.ids():
            store.verify(taken)
            store.delete(taken)
        assert files(store.path).keys() == before.keys(), f"killed after {moment:.2f} of {took:.2f} s"
        assert files(store.path) == before
        assert ours(docker_client) == present, f"killed after {moment:.2f} of {took:.2f} s"
        assert compare(inspection, engine.inspect_container(name)) == []
    assert killed >= DEATHS // 2, "most of them were killed at work"


def test_another_store_is_told_of_the_dead_and_not_of_the_living(
    engine_url: str, docker_client: docker.DockerClient, tmp_path: Path, name: str
) -> None:
    """The command ends with 0 while the owner lives and with 5 once it is dead; the command that it prints helps."""
    store, other = BackupStore(tmp_path / "store"), BackupStore(tmp_path / "other")
    other.check()
    run = [sys.executable, "-m", "docker_rollback", "recover", "--store"]
    environment = {**os.environ, "DOCKER_HOST": engine_url}
    command = [sys.executable, "-c", WAITING, engine_url, str(store.path), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "in the body\n"
        asked = subprocess.run([*run, str(other.path)], env=environment, check=False, capture_output=True, text=True)
        assert (asked.returncode, asked.stdout) == (0, "nothing was interrupted\n"), asked.stderr
        child.kill()
    asked = subprocess.run([*run, str(other.path)], env=environment, check=False, capture_output=True, text=True)
    assert asked.returncode == 5
    assert f"'{name}'" in asked.stderr
    assert asked.stderr.splitlines()[-1].strip() == f"python -m docker_rollback recover --store {store.path}"
    with pytest.raises(UnfinishedElsewhereError):
        recover(client=docker_client, store=tmp_path / "mistyped")
    asked = subprocess.run([*run, str(store.path)], env=environment, check=False, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    assert recover(client=docker_client, store=other.path) == ()
    assert not (tmp_path / "mistyped").exists()


def test_what_no_record_names_goes_where_that_is_safe(
    docker_client: docker.DockerClient,
    busybox_image: str,
    test_labels: dict[str, str],
    tmp_path: Path,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A container that was renamed away stays until its successor runs and this store has its backup; images go."""
    store, client = BackupStore(tmp_path / "store"), docker_client
    taken = backup(name, client=client, store=store)
    original = client.containers.get(name)
    aside = aside_name(name, str(original.id))
    original.stop(timeout=1)
    original.rename(aside)
    users = client.images.get(busybox_image)
    users.tag("docker-rollback", tag=f"{taken.id}.0.{name}")
    users.tag("docker-rollback-helper", tag="0123456789abcdef")
    recover(client=client, store=store.path)
    assert client.containers.get(aside).status == "exited"
    assert f"docker rename {aside} {name}" in caplog.text
    client.containers.run(busybox_image, ["sh", "-c", SERVICE], name=name, detach=True, labels=test_labels)
    recover(client=client, store=tmp_path / "store")
    assert [one for one in ours(client) if name in one or "helper" in one] == []
    assert client.images.get(busybox_image).id == users.id
    assert client.volumes.get(f"{name}-data").name == f"{name}-data"


def test_a_hang_up_rolls_back(engine_url: str, docker_client: docker.DockerClient, tmp_path: Path, name: str) -> None:
    """A process that gets SIGHUP in its block puts the container back, leaves nothing, and ends with 129."""
    inspection = DockerEngine(docker_client).inspect_container(name)
    # The tests may run under nohup, and the library leaves a signal alone that its program ignores.
    heeding = ["env", "--default-signal=HUP"]
    command = [*heeding, sys.executable, "-c", WAITING, engine_url, str(tmp_path / "store"), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "in the body\n"
        docker_client.containers.get(name).remove(force=True)
        child.send_signal(signal.SIGHUP)
        assert child.wait(120) == 128 + signal.SIGHUP
    # Something was written to its layer, so it is recreated on the image of the backup.
    differences = compare(inspection, DockerEngine(docker_client).inspect_container(name))
    assert {difference.path for difference in differences} <= {"Image", "Config.Image"}
    assert run_in(docker_client, name, ["cat", "/layer"]) == (0, "dirty\n")
    assert recover(client=docker_client, store=tmp_path / "store") == ()
    assert [one for one in ours(docker_client) if "-busy-" in one or "-aside-" in one or "helper" in one] == []
