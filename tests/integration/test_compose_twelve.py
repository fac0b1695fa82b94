"""A project of twelve services, of all kinds that compose has, updated by an `up` that fails, and rolled back."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from docker_rollback import BackupStore, Status, recover, rollback
from tests.engines import debian
from tests.integration.counting import SERVICE
from tests.integration.test_compose import Project, service
from tests.programs import run_in

pytestmark = pytest.mark.engine

READY = "trap 'rm -f /rows/ready; exit 0' TERM; touch /rows/ready; while :; do sleep 0.1; done"
"""A database, which is ready once it has said so in its volume."""


FILES = {"settings.env": "MODE=old\n", "file.conf": "on\n", "key.pem": "secret\n", ".env": "LEVEL=info\n"}
"""The files that are next to the compose file; compose puts the variables of `.env` into it."""


class Twelve(Project):
    """Twelve services in thirteen containers."""

    def old(self) -> dict[str, Any]:
        """Return the file as it was."""
        image, app, rows = self.image, self.app, "rows:/rows"
        once = {"condition": "service_completed_successfully"}
        healthy = {"condition": "service_healthy"}
        started = {"condition": "service_started"}
        ready = {"test": ["CMD", "test", "-e", "/rows/ready"], "interval": "1s", "retries": 30}
        alive = {"test": ["CMD", "true"], "interval": "1s"}
        # A network of its own is what `network_mode` stands for.
        sidecar = service(image, SERVICE, depends_on={"web": started})
        del sidecar["networks"]
        return {
            "services": {
                "db": service(image, READY, volumes=[rows], healthcheck=ready),
                "cache": service(image, SERVICE, volumes=["/cache"], scale=2),
                "migrate": service(image, "touch /rows/migrated", volumes=[rows], depends_on={"db": healthy}),
                "web": service(
                    app,
                    f"test -e /rows/migrated && {SERVICE}",
                    volumes=[rows],
                    depends_on={"db": healthy, "migrate": once, "cache": started},
                    env_file=["settings.env"],
                    healthcheck=alive,
                ),
                "sidecar": {**sidecar, "network_mode": "service:web"},
                "proxy": service(image, SERVICE, depends_on={"web": {**healthy, "restart": True}}),
                "worker": service(image, SERVICE, volumes=[rows, "/scratch", "/spool"], depends_on={"db": healthy}),
                "settings": service(image, SERVICE, configs=[{"source": "inline", "target": "/inline"}]),
                "vault": service(image, SERVICE, secrets=["token"]),
                "files": service(image, SERVICE, configs=["file"], secrets=["key"]),
                "search": service(image, SERVICE, volumes=["index:/index"], networks=["front", "back"]),
                "mail": service(
                    image, SERVICE, restart="always", links=["cache:store"], labels=["level=${LEVEL}"], init=True
                ),
            },
            "volumes": {"rows": {}, "index": {}},
            "networks": {"back": {}, "front": {}},
            "configs": {"inline": {"content": "mode = old\n"}, "file": {"file": "./file.conf"}},
            "secrets": {"token": {"environment": "TOKEN"}, "key": {"file": "./key.pem"}},
        }

    def update(self, *but: str) -> dict[str, Any]:
        """Return a file whose migration fails, and which changes each service but for some."""
        file = self.old()
        for name, one in file["services"].items():
            if name not in but:
                one["environment"] = {"MODE": "new"}
        file["services"]["migrate"]["command"] = ["sh", "-c", "echo torn > /rows/migrated; exit 4"]
        return file

    def up(self, *words: str) -> str:
        """Bring the project up, as its file says."""
        return self.compose("up", "-d", *words)

    def ids(self) -> dict[str, str]:
        """Return the containers' ids by name."""
        return {name: found["Id"] for name, found in self.containers().items()}

    def read(self, name: str, path: str) -> tuple[int, str]:
        """Return what a service's container has in a file."""
        return run_in(self.client, self.one(name), ["cat", path])


@pytest.fixture
def twelve(
    docker_client: docker.DockerClient,
    engine_url: str,
    busybox_image: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Twelve]:
    """The project, up, and something written into each place that has to come back."""
    monkeypatch.setenv("DOCKER_HOST", engine_url)
    monkeypatch.setenv("TOKEN", "open sesame")
    # An engine may have another root than we, and sees its own data at the same path.
    data = Path(docker_client.info()["DockerRootDir"])
    folder = (data if os.access(data, os.W_OK) else tmp_path) / f"docker-rollback-test-{secrets.token_hex(4)}"
    twelve = Twelve(docker_client, debian.compose(), "2", folder, busybox_image)
    try:
        folder.mkdir()
        for name, content in FILES.items():
            (folder / name).write_text(content, encoding="utf-8")
        twelve.write(twelve.old())
        twelve.up()
        assert len(twelve.containers()) == 13
        for name, path in WRITTEN.items():
            code, _ = run_in(docker_client, twelve.one(name), ["sh", "-c", f"echo {name} > {path}"])
            assert code == 0
        yield twelve
    finally:
        try:
            twelve.remove()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


WRITTEN = {"worker": "/spool/job", "search": "/index/word", "sidecar": "/note", "mail": "/queue", "cache": "/cache/one"}
"""A file of an anonymous volume, of a named one, of two layers, and of a replica's volume."""


def fail(twelve: Twelve, file: dict[str, Any], store: BackupStore) -> Any:
    """Update the project in a way that fails, and return the rollback."""
    before = twelve.stock()
    with (
        pytest.raises(subprocess.CalledProcessError),
        rollback(project=twelve.name, client=twelve.client, store=store, include_files=True) as tx,
    ):
        twelve.write(file)
        (twelve.folder / ".env").write_text("LEVEL=debug\n", encoding="utf-8")
        subprocess.run(twelve.words("up", "-d"), check=True, capture_output=True, text=True)
    # An old container next to a new file is updated again by the next `up`.
    check_files(twelve)
    assert len(tx.outcome.files) == 2
    assert tx.status is Status.ROLLED_BACK
    assert twelve.stock() == before
    return tx


def check_files(twelve: Twelve) -> None:
    """Assert that the files that compose reads are as before, and nothing is next to them."""
    assert json.loads(twelve.file.read_text(encoding="utf-8")) == twelve.old()
    assert {name: (twelve.folder / name).read_text(encoding="utf-8") for name in FILES} == FILES
    assert {path.name for path in twelve.folder.iterdir()} == {*FILES, twelve.file.name}


def check_content(twelve: Twelve) -> None:
    """Assert that volumes, layers, configs, secrets and environment are as before."""
    for name, path in WRITTEN.items():
        assert twelve.read(name, path) == (0, f"{name}\n"), name
    assert twelve.read("settings", "/inline") == (0, "mode = old\n")
    assert twelve.read("vault", "/run/secrets/token") == (0, "open sesame")
    assert twelve.read("files", "/file") == (0, "on\n")
    assert twelve.read("files", "/run/secrets/key") == (0, "secret\n")
    assert twelve.read("web", "/rows/migrated") == (0, "")
    assert run_in(twelve.client, twelve.one("web"), ["sh", "-c", "echo $MODE"]) == (0, "old\n")


def test_up_recreates_nothing_after_an_update_that_failed(twelve: Twelve, store: BackupStore) -> None:
    """Every service but the one whose network another one shares was recreated; compose sees no difference."""
    running = twelve.ps()
    fail(twelve, twelve.update("web", "sidecar"), store)
    assert twelve.ps() == running
    check_content(twelve)
    ids = twelve.ids()
    said = twelve.up()
    assert twelve.ids() == ids, said
    assert "Recreate" not in said
    check_content(twelve)
    assert twelve.ps() == running


def test_what_compose_recreates_after_all_is_said(twelve: Twelve, store: BackupStore) -> None:
    """The label of a container that shares a network has a hash over the other one's id, which only compose can make.

    So `up` recreates that one container, and `up --no-recreate` does not. The backup says so.
    """
    tx = fail(twelve, twelve.update(), store)
    check_content(twelve)
    ids, sidecar = twelve.ids(), twelve.one("sidecar")
    assert any(sidecar in gap.what and "--no-recreate" in gap.reason for gap in tx.backup.not_covered)
    twelve.up("--no-recreate")
    assert twelve.ids() == ids
    check_content(twelve)
    said = twelve.up()
    after = twelve.ids()
    assert {name for name in ids if ids[name] != after[name]} == {sidecar}, said


DIES = """
import os, signal, subprocess, sys
from pathlib import Path
from docker_rollback import rollback
project, store, file, new, *up = sys.argv[1:]
with rollback(project=project, store=store, include_files=True):
    Path(file).write_text(new)
    Path(file).with_name(".env").unlink()
    subprocess.run(up, capture_output=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_recovery_writes_the_files_back_and_keeps_a_repair(twelve: Twelve, store: BackupStore) -> None:
    """The process dies during the update, and somebody mends the compose file before anything else happens."""
    before, new = twelve.stock(), json.dumps(twelve.update("web", "sidecar"))
    words = [twelve.name, str(store.path), str(twelve.file), new, *twelve.words("up", "-d")]
    done = subprocess.run([sys.executable, "-c", DIES, *words], check=False, env=os.environ, timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert twelve.file.read_text(encoding="utf-8") == new
    twelve.file.write_text("# mended\n", encoding="utf-8")
    (recovered,) = recover(client=twelve.client, store=store)
    assert recovered.outcome == "rolled back"
    assert twelve.stock() == before
    check_files(twelve)
    check_content(twelve)
    (mended,) = [said for said in recovered.files if twelve.file.name in said]
    assert Path(mended.split()[-1]).read_text(encoding="utf-8") == "# mended\n"
    ids = twelve.ids()
    twelve.up()
    assert twelve.ids() == ids


@pytest.fixture
def store(tmp_path: Path) -> BackupStore:
    """An empty store."""
    return BackupStore(tmp_path / "store")
