"""One container inside a compose project, brought up by pytest-docker: compose sees no difference after a rollback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from docker_rollback import BackupStore, DockerEngine, RollbackRequested, Status, compare, rollback
from tests.engines import debian
from tests.programs import run_in

pytestmark = pytest.mark.engine

PROJECT = """
version: "2.4"
services:
  db:
    image: {image}
    command: ["sh", "-c", "while :; do date >> /data/log; sleep 0.2; done"]
    stop_signal: SIGKILL
    volumes: ["tables:/data"]
    networks: {{back: {{aliases: [store]}}}}
    healthcheck: {{test: ["CMD", "test", "-e", "/data/log"], interval: 0.2s}}
  web:
    image: {image}
    command: ["sleep", "1000"]
    stop_signal: SIGKILL
    depends_on: [db]
    networks: [back]
volumes:
  tables: {{}}
networks:
  back: {{}}
"""


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    """Compose as Debian has it, installed where it is missing."""
    debian.need("docker-compose")
    return "docker-compose"


@pytest.fixture(scope="session")
def docker_compose_file(busybox_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A project of two services, one volume and one network."""
    path = tmp_path_factory.mktemp("project") / "docker-compose.yml"
    path.write_text(PROJECT.format(image=busybox_image), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    """Compose 1.29 knows no `--wait`."""
    return ["up -d"]


@pytest.fixture(scope="session", autouse=True)
def _compose_finds_the_engine(engine_url: str) -> Iterator[None]:
    """Have compose talk to the engine under test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine_url)
        yield


@pytest.mark.usefixtures("docker_services")
def test_compose_notices_nothing(
    docker_compose_file: str,
    docker_compose_project_name: str,
    docker_compose_command: str,
    docker_client: docker.DockerClient,
    tmp_path: Path,
) -> None:
    """After the rollback of one service that the update removed, `up` with the same file has nothing to do."""
    name = f"{docker_compose_project_name}_db_1"
    db, web = docker_client.containers.get(name), docker_client.containers.get(name.replace("_db_", "_web_"))
    assert web.exec_run(["nslookup", "store"]).exit_code == 0
    before = DockerEngine(docker_client).inspect_container(name)
    db.exec_run(["sh", "-c", "echo row > /data/table"])
    with rollback(db, client=docker_client, store=BackupStore(tmp_path / "store")) as tx:
        db.remove(force=True)
        docker_client.api.remove_volume(f"{docker_compose_project_name}_tables")
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    after = DockerEngine(docker_client).inspect_container(name)
    assert {found.path for found in compare(before, after)} <= {"Image"}
    assert run_in(docker_client, name, ["cat", "/data/table"]) == (0, "row\n")
    assert web.exec_run(["nslookup", "store"]).exit_code == 0

    up = [docker_compose_command, "-f", docker_compose_file, "-p", docker_compose_project_name, "up", "-d"]
    said = subprocess.run(up, capture_output=True, text=True, check=True)
    assert "up-to-date" in said.stderr
    assert "Recreating" not in said.stderr
    assert docker_client.api.inspect_container(name)["Id"] == after["Id"]
