"""The examples run on a real engine, and do what their pages say."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import NotFound

from tests.engines import debian
from tests.engines.images import busybox_tar
from tests.programs import run_in

pytestmark = pytest.mark.engine

PROJECT = Path(__file__).parent.parent.parent
WAIT = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


class Images:
    """Makes versions of a program as images."""

    def __init__(self, client: docker.DockerClient, labels: dict[str, str]) -> None:
        self._client = client
        self._labels = [f"LABEL {key}={value}" for key, value in labels.items()]
        self._repository = f"docker-rollback-test-example-{secrets.token_hex(4)}"

    def make(self, tag: str, script: str) -> str:
        """Make an image whose program is a shell script, and return its name."""
        changes = [*self._labels, f"CMD {json.dumps(['sh', '-c', script])}"]
        self._client.api.import_image_from_data(busybox_tar(), repository=self._repository, tag=tag, changes=changes)
        return f"{self._repository}:{tag}"


@pytest.fixture
def images(docker_client: docker.DockerClient, test_labels: dict[str, str]) -> Images:
    """What makes images, of which none stays after the tests: they bear the label."""
    return Images(docker_client, test_labels)


def run(engine_url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run an example as its user would."""
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=PROJECT,
        env={**os.environ, "DOCKER_HOST": engine_url},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def reference(client: docker.DockerClient, name: str) -> str:
    """Return what a container was made from, without the registry that Podman puts before it."""
    return str(client.api.inspect_container(name)["Config"]["Image"]).rpartition("/")[2]


def test_the_deployment_script(
    engine_url: str, docker_client: docker.DockerClient, images: Images, tmp_path: Path
) -> None:
    """It deploys a good version, takes a bad one back, and says so by its exit code and in its log."""
    old, new, bad = (images.make(tag, script) for tag, script in (("1", WAIT), ("2", WAIT), ("3", "echo oops; exit 4")))
    name = f"example-{secrets.token_hex(4)}"
    docker_client.containers.run(old, name=name, detach=True)
    log = tmp_path / "log.jsonl"
    options = ["--store", str(tmp_path / "store"), "--log", str(log), "--stable-for", "1", "--max-downtime", "60"]
    done = run(engine_url, "examples.deploy", name, new, *options, "--before", "true")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{name}: committed" in done.stdout
    assert reference(docker_client, name) == new
    done = run(engine_url, "examples.deploy", name, bad, *options)
    assert done.returncode == 2, done.stderr
    assert f"{name}: rolled back" in done.stdout
    assert "it said: oops" in done.stdout
    assert reference(docker_client, name) == new
    done = run(engine_url, "examples.deploy", name, new, *options, "--watch", "1")
    assert (done.returncode, done.stdout) == (0, f"{name}: unchanged\n")
    done = run(engine_url, "examples.deploy", name, old, *options, "--before", "exit 1")
    assert done.returncode == 1
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [one["status"] for one in told] == ["committed", "rolled back", "unchanged", "failed"]
    assert [one["entered"] for one in told] == [True, True, False, False]
    assert told[1]["kept"] is not None


def test_the_middleware_manager(
    engine_url: str, docker_client: docker.DockerClient, images: Images, tmp_path: Path, test_labels: dict[str, str]
) -> None:
    """It upgrades two containers or none, lists the versions, and goes back to one with its data."""
    old, new, bad = (images.make(tag, script) for tag, script in (("1", WAIT), ("2", WAIT), ("3", "exit 4")))
    token = secrets.token_hex(4)
    db, web, volume = f"db-{token}", f"web-{token}", f"rows-{token}"
    docker_client.volumes.create(volume, labels=test_labels)
    docker_client.containers.run(old, name=db, detach=True, volumes={volume: {"bind": "/rows"}})
    docker_client.containers.run(old, name=web, detach=True)
    docker_client.containers.get(db).exec_run(["sh", "-c", "echo apples > /rows/table"])
    store = ["--store", str(tmp_path / "store")]
    done = run(engine_url, "examples.middleware", *store, "upgrade", f"{db}={new}", f"{web}={bad}")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("rolled back: ")
    assert {reference(docker_client, name) for name in (db, web)} == {old}
    done = run(engine_url, "examples.middleware", *store, "upgrade", f"{db}={new}", f"{web}={new}")
    assert (done.returncode, done.stdout) == (0, "committed\n")
    docker_client.containers.get(db).exec_run(["rm", "/rows/table"])
    done = run(engine_url, "examples.middleware", *store, "versions", db, web)
    good = [line.split()[0] for line in done.stdout.splitlines() if not line.endswith("failed")]
    assert len(good) == 2
    done = run(engine_url, "examples.middleware", *store, "go-back", good[-1], db, web)
    assert done.returncode == 0, done.stderr
    assert {reference(docker_client, name) for name in (db, web)} == {old}
    assert run_in(docker_client, db, ["cat", "/rows/table"]) == (0, "apples\n")


@pytest.fixture
def project(docker_client: docker.DockerClient, busybox_image: str, tmp_path: Path) -> Iterator[Path]:
    """The folder of the compose example, copied, with an image that is there."""
    debian.need("docker-compose")
    folder = tmp_path / f"example{secrets.token_hex(4)}"
    shutil.copytree(PROJECT / "examples" / "compose", folder)
    (folder / "settings.env").write_text(f"SHOP_IMAGE={busybox_image}\nSHOP_VERSION=1\n")
    yield folder
    where = {"label": [f"com.docker.compose.project={folder.name}"]}
    for container in docker_client.api.containers(all=True, filters=where):
        with suppress(NotFound):
            docker_client.api.remove_container(container["Id"], force=True, v=True)
    for volume in docker_client.api.volumes(filters=where)["Volumes"] or ():
        docker_client.api.remove_volume(volume["Name"], force=True)
    for network in docker_client.api.networks(filters=where):
        docker_client.api.remove_network(network["Id"])


def test_the_compose_project(
    engine_url: str, docker_client: docker.DockerClient, project: Path, tmp_path: Path
) -> None:
    """A good update stays; of a bad one nothing is left, in the engine and in the settings."""
    settings = project / "settings.env"
    environment = {
        **os.environ,
        "DOCKER_HOST": engine_url,
        **dict(line.partition("=")[::2] for line in settings.read_text().splitlines()),
    }
    up = ["docker-compose", "-f", str(project / "docker-compose.yml"), "-p", project.name, "up", "-d"]
    subprocess.run(up, env=environment, check=True, capture_output=True)
    options = ["--store", str(tmp_path / "store"), "--compose", "docker-compose"]
    done = run(engine_url, "examples.compose.update", str(project), "SHOP_VERSION=2", *options)
    assert (done.returncode, done.stdout) == (0, f"{project.name}: committed\n"), done.stderr
    good = settings.read_text()
    assert "SHOP_VERSION=2" in good
    done = run(engine_url, "examples.compose.update", str(project), "SHOP_VERSION=broken", *options)
    assert (done.returncode, done.stdout) == (1, f"{project.name}: rolled back\n"), done.stderr
    assert "UpdateRejectedError" in done.stderr
    assert settings.read_text() == good
    where = {"label": [f"com.docker.compose.project={project.name}"]}
    commands = [docker_client.api.inspect_container(one["Id"]) for one in docker_client.api.containers(filters=where)]
    assert len(commands) == 2, "both run"
    assert not any("test broken" in " ".join(one["Config"]["Cmd"]) for one in commands)
