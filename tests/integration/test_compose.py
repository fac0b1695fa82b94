"""Whole compose projects on a real engine, updated by real compose in ways that fail: compose notices nothing.

The project counts requests in two stores. Compose is 1.29, which Debian calls `docker-compose`, and 2.x, of Debian's
testing suite.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import docker
import pytest
from docker.errors import NotFound

from docker_rollback import BackupStore, RollbackRequested, Status, backup, recover, restore, rollback
from tests.engines import debian
from tests.integration.counting import REQUESTS, SERVICE
from tests.removal import remove_container, unless_gone

pytestmark = pytest.mark.engine

Version: TypeAlias = Literal["1", "2"]


def service(image: str, *script: str, **more: Any) -> dict[str, Any]:
    """Return a service of a compose file."""
    # Compose looks for variables.
    command = ["sh", "-c", *(word.replace("$", "$$") for word in script)]
    return {"image": image, "command": command, "networks": ["back"], **more}


class Project:
    """A database, a cache with a replica, and a web server that depends on both."""

    def __init__(self, client: docker.DockerClient, command: Path, version: Version, folder: Path, image: str) -> None:
        self.client = client
        self.command = command
        self.version = version
        self.file = folder / "docker-compose.yml"
        token = secrets.token_hex(4)
        self.name = f"shop{token}"
        self.app = f"docker-rollback-test-app-{token}:1"
        self.folder = folder
        self.image = image
        self.tag(image)

    def tag(self, image: str) -> None:
        """Have the name of the web server's image mean another one, as a build does."""
        repository, _, tag = self.app.partition(":")
        self.client.api.tag(image, repository, tag, force=True)

    def built(self) -> str:
        """Make another image and return its id."""
        made = self.client.api.create_container(self.image, ["true"])["Id"]
        try:
            built: str = self.client.api.commit(made, conf={"Cmd": ["false"]})["Id"]
        finally:
            self.client.api.remove_container(made)
        return built

    def old(self) -> dict[str, Any]:
        """Return the file as it was."""
        rows, keys = "rows:/rows", "keys:/keys"
        needs = ["db", "cache"]
        return {
            "version": "2.4",
            "services": {
                "db": service(self.image, SERVICE, volumes=[rows]),
                "cache": service(self.image, SERVICE, volumes=[keys]),
                "web": service(self.app, REQUESTS, volumes=[rows, keys], depends_on=needs, restart="on-failure"),
                "once": service(self.image, "exit 0"),
            },
            "volumes": {"rows": {}, "keys": {"labels": {"precious": "yes"}}},
            "networks": {"back": {}},
        }

    def new(self) -> dict[str, Any]:
        """Return the file of an update: a service more, one under another name on the same volume, another image."""
        file = self.old()
        database = file["services"].pop("db")
        file["services"] |= {
            "database": database,
            "search": service(self.image, SERVICE, volumes=["index:/index", "rows:/rows"], networks=["front", "back"]),
        }
        file["services"]["web"] |= {"depends_on": ["database", "cache"], "environment": {"MODE": "new"}}
        file["volumes"]["index"] = {}
        file["networks"]["front"] = {}
        return file

    def write(self, file: Mapping[str, Any]) -> None:
        """Write the compose file; JSON is YAML."""
        self.file.write_text(json.dumps(file), encoding="utf-8")

    def words(self, *words: str) -> list[str]:
        """Return a command of compose."""
        return [str(self.command), "-f", str(self.file), "-p", self.name, *words]

    def compose(self, *words: str, check: bool = True) -> str:
        """Run compose; return what it said."""
        done = subprocess.run(self.words(*words), capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def up(self, *words: str) -> str:
        """Bring the project up, two caches in it."""
        scale = [] if "--scale" in words else ["--scale", "cache=2"]
        return self.compose("up", "-d", *scale, *words)

    def recreates(self) -> bool:
        """Say whether this compose can make a container anew here: 1.29 looks for a field that newer engines lack."""
        return self.version == "2" or "ContainerConfig" in self.client.images.get(self.image).attrs

    def containers(self) -> dict[str, Mapping[str, Any]]:
        """Return the inspections of all containers of the project, by name."""
        inspected: dict[str, Mapping[str, Any]] = {}
        for found in self.client.api.containers(all=True, filters=self.label()):
            with unless_gone():  # compose is at work
                inspection = self.client.api.inspect_container(found["Id"])
                inspected[inspection["Name"].removeprefix("/")] = inspection
        return inspected

    def label(self) -> dict[str, Any]:
        """Return a filter for what is of the project."""
        return {"label": [f"com.docker.compose.project={self.name}"]}

    def stock(self) -> dict[str, list[str]]:
        """Return the names of all that is of the project."""
        return {
            "containers": sorted(self.containers()),
            "volumes": sorted(one["Name"] for one in self.client.api.volumes(filters=self.label())["Volumes"] or ()),
            "networks": sorted(one["Name"] for one in self.client.api.networks(filters=self.label())),
        }

    def runs(self) -> dict[str, tuple[str, str]]:
        """Return of each container its id and when it was started."""
        return {name: (found["Id"], found["State"]["StartedAt"]) for name, found in self.containers().items()}

    def ps(self) -> list[str]:
        """Return the services that compose knows to run, by its own words."""
        words = self.words("ps", "--services", "--filter", "status=running")
        return sorted(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())

    def one(self, kind: str) -> str:
        """Return the name of a service's container, of replicas the first by name."""
        # The engine lists the newest first, and replicas that are recreated at once come in any order.
        label = "com.docker.compose.service"
        return min(name for name, found in self.containers().items() if found["Config"]["Labels"][label] == kind)

    def agree(self) -> bool:
        """Say whether both stores were of one request whenever the web server began."""
        looked = self.client.containers.get(self.one("web")).exec_run(["test", "-e", "/rows/torn"])
        return bool(looked.exit_code == 1)

    def remove(self) -> None:
        """Remove all that is left of it."""
        for name in self.containers():
            remove_container(self.client, name)
            with suppress(NotFound):
                self.client.api.remove_volume(f"docker-rollback-busy-{name}", force=True)
        for volume in [*self.stock()["volumes"], f"docker-rollback-busy-_project.{self.name}"]:
            with suppress(NotFound):
                self.client.api.remove_volume(volume, force=True)
        for network in self.stock()["networks"]:
            self.client.api.remove_network(network)
        with suppress(NotFound):
            self.client.api.remove_image(self.app)


BOTH = pytest.mark.parametrize("project", ["1", "2"], indirect=True)
NEWER = pytest.mark.parametrize("project", ["2"], indirect=True)
"""Where the library does the same whatever compose did before, one version will do."""


@pytest.fixture
def project(
    request: pytest.FixtureRequest,
    docker_client: docker.DockerClient,
    engine_url: str,
    busybox_image: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Project]:
    """The project, up, by the version of compose that is asked for."""
    monkeypatch.setenv("DOCKER_HOST", engine_url)
    if request.param == "1":
        debian.need("docker-compose")
        command = Path("docker-compose")
    else:
        command = debian.compose()
    project = Project(docker_client, command, request.param, tmp_path, busybox_image)
    try:
        project.write(project.old())
        project.up()
        yield project
    finally:
        project.remove()


@pytest.fixture
def store(tmp_path: Path) -> BackupStore:
    """An empty store."""
    return BackupStore(tmp_path / "store")


def check_restored(project: Project, before: Mapping[str, Any]) -> None:
    """Assert that all is there again and agrees, and that `ps`, `up` and `down` behave as if nothing had happened."""
    assert project.stock() == before["stock"]
    states = {name: found["State"]["Status"] for name, found in project.containers().items()}
    # What had run once and is made anew has not run yet.
    assert {name: state for name, state in states.items() if state == "running"} == before["running"]
    assert project.agree()
    project.write(project.old())
    assert project.ps() == before["ps"]
    runs = project.runs()
    said = project.up()
    after = project.runs()
    once = project.one("once")
    assert {name: run for name, run in after.items() if name != once} == {
        name: run for name, run in runs.items() if name != once
    }, said
    assert after[once][0] == runs[once][0], said
    project.compose("down", "-v")
    assert project.stock() == {"containers": [], "volumes": [], "networks": []}


def look(project: Project) -> dict[str, Any]:
    """Return what `check_restored` compares with."""
    states = {name: found["State"]["Status"] for name, found in project.containers().items()}
    running = {name: state for name, state in states.items() if state == "running"}
    return {"stock": project.stock(), "running": running, "ps": project.ps()}


def migrate(project: Project) -> None:
    """Run a migration that spoils one store and fails."""
    spoil = "echo 0 > /rows/count; touch /rows/torn; exit 4"
    subprocess.run(
        project.words("run", "--rm", "-T", "search", "sh", "-c", spoil), check=True, capture_output=True, text=True
    )


@BOTH
def test_an_update_that_fails_in_its_migration(project: Project, docker_client: Any, store: BackupStore) -> None:
    """A service came with a volume and a network, one changed its name, one its image and its environment."""
    before = look(project)
    with (
        pytest.raises(subprocess.CalledProcessError) as failed,
        rollback(project=project.name, client=docker_client, store=store) as tx,
    ):
        if not project.recreates():
            project.compose("rm", "-s", "-f", "web")
        project.tag(project.built())
        project.write(project.new())
        project.up("--remove-orphans")
        assert {"database", "search"} <= set(project.ps())
        migrate(project)
    assert "run" in failed.value.cmd
    assert tx.status is Status.ROLLED_BACK
    assert len(tx.backup.containers) == 5
    check_restored(project, before)


@BOTH
def test_an_update_that_breaks_off_half_way(project: Project, docker_client: Any, store: BackupStore) -> None:
    """Compose is killed as soon as it has made something: whatever it has renamed, made or removed is undone."""
    before = look(project)
    with rollback(project=project.name, client=docker_client, store=store) as tx:
        cut_off(project, project.words("up", "-d", "--scale", "cache=3", "--remove-orphans"))
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    check_restored(project, before)


def cut_off(project: Project, command: Sequence[str]) -> None:
    """Begin the update, and kill it when its first container is there."""
    project.write(project.new())
    there = set(project.containers())
    wait_and_kill(subprocess.Popen(command, stderr=subprocess.DEVNULL), lambda: set(project.containers()) - there)


def wait_and_kill(process: subprocess.Popen[bytes], happened: Callable[[], object]) -> None:
    """Kill a process once something has happened, unless it ends before."""
    deadline = time.monotonic() + 120
    try:
        while process.poll() is None and not happened():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


DIES = """
import os, signal, subprocess, sys
import docker_rollback
with docker_rollback.rollback(project=sys.argv[1], store=sys.argv[2]):
    subprocess.run(sys.argv[3:], stderr=subprocess.DEVNULL)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@NEWER
def test_a_deployment_that_dies(project: Project, docker_client: Any, store: BackupStore) -> None:
    """The process is killed when its update has scaled and added: `recover` finishes, and keeps what it finds."""
    before = look(project)
    file = project.old()
    file["services"]["search"] = project.new()["services"]["search"]
    file |= {"volumes": project.new()["volumes"], "networks": project.new()["networks"]}
    project.write(file)
    up = project.words("up", "-d", "--scale", "cache=1")
    done = subprocess.run(
        [sys.executable, "-c", DIES, project.name, str(store.path), *up], check=False, env=os.environ, timeout=300
    )
    assert done.returncode == -signal.SIGKILL
    assert project.stock() != before["stock"]
    (recovered,) = recover(client=docker_client, store=store)
    assert recovered.outcome == "rolled back"
    assert recovered.kept is not None
    assert f"{project.name}_index" in [volume.name for volume in store.get(recovered.kept).volumes]
    check_restored(project, before)


@NEWER
def test_a_project_that_was_taken_down_is_restored(project: Project, docker_client: Any, store: BackupStore) -> None:
    """`down -v` took everything, images apart; the backup brings it back, and removes what came since but for data."""
    before = look(project)
    taken = backup(project=project.name, client=docker_client, store=store)
    project.compose("down", "-v")
    project.write(project.new())
    project.up()
    project.client.containers.get(project.one("search")).exec_run(["touch", "/index/word"])
    restore(taken, client=docker_client, store=store)
    index = f"{project.name}_index"
    assert index in project.stock()["volumes"]
    docker_client.api.remove_volume(index)
    check_restored(project, before)


@NEWER
@pytest.mark.usefixtures("_probes")
def test_a_service_that_needs_a_healthy_one_starts_after_it(
    project: Project, docker_client: Any, store: BackupStore
) -> None:
    """By the capture and by the rollback as by compose: it would end at once where the other one is not ready."""
    file = project.old()
    late = "trap 'rm /rows/ready; exit 0' TERM; sleep 1; touch /rows/ready; while :; do sleep 0.1; done"
    health = {"test": ["CMD", "test", "-e", "/rows/ready"], "interval": "1s", "retries": 30}
    file["services"]["db"] = service(project.image, late, volumes=["rows:/rows"], healthcheck=health)
    needy = f"test -e /rows/ready || exit 5; {SERVICE}"
    file["services"]["web"] = service(
        project.image, needy, volumes=["rows:/rows"], depends_on={"db": {"condition": "service_healthy"}}
    )
    project.write(file)
    project.up()
    with rollback(project=project.name, client=docker_client, store=store) as tx:
        assert project.containers()[project.one("web")]["State"]["Status"] == "running"
        project.client.containers.get(project.one("db")).exec_run(["touch", "/spoilt"])
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert project.containers()[project.one("web")]["State"]["Status"] == "running"
