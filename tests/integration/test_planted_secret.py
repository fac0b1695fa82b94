"""A secret is planted in a container and looked for wherever others can read: it is in blobs of the store alone."""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import pytest

from docker_rollback import (
    BackupStore,
    DockerRollbackError,
    Exec,
    Progress,
    RollbackRequested,
    backup,
    restore,
    rollback,
)
from docker_rollback._model.backup import Way
from docker_rollback.testing import CHANGING, READING, FailingEngine, FakeEngine
from tests.integration.test_volumes import WAYS

pytestmark = pytest.mark.engine


class Watch:
    """Looks, again and again, at what every user of this machine can see of processes."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch of processes")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look as long as the block lasts."""
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.001):
            for process in Path("/proc").glob("[0-9]*"):
                # What a process was started with; of our own children, what they know besides.
                with suppress(OSError):
                    self.seen.add((process / "cmdline").read_bytes())
                    if self._is_child(process):
                        self.seen.add((process / "environ").read_bytes())

    @staticmethod
    def _is_child(process: Path) -> bool:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()


def shown(client: docker.DockerClient) -> str:
    """Return the names and labels of all that an engine has."""
    api = client.api
    found: list[Any] = [
        *((one["Names"], one["Labels"], one["Command"]) for one in api.containers(all=True)),
        *((one["RepoTags"], one["Labels"]) for one in api.images(all=True)),
        *((one["Name"], one["Labels"]) for one in api.volumes()["Volumes"] or ()),
        *((one["Name"], one["Labels"]) for one in api.networks()),
    ]
    return json.dumps(found)


def outside_of_blobs(store: BackupStore, secret: str) -> list[str]:
    """Return the files of a store, but for its blobs, that hold the secret or have it in their names."""
    files = [path for path in store.path.rglob("*") if path.is_file() and path.parent.name != "sha256"]
    return [str(path) for path in files if secret.encode() in path.read_bytes() or secret in str(path)]


@pytest.mark.parametrize("way", WAYS)
def test_a_planted_secret_is_in_blobs_alone(
    docker_client: docker.DockerClient,
    busybox_image: str,
    test_labels: dict[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    way: Way,
) -> None:
    """Through a backup, a rollback and a restore it is in no log, progress, argument, label, name, lock or journal."""
    caplog.set_level(logging.DEBUG)
    secret = f"planted{secrets.token_hex(8)}"
    name = f"secretive-{secrets.token_hex(4)}"
    docker_client.api.create_volume(name, labels=test_labels)
    docker_client.containers.run(
        busybox_image,
        ["sleep", "9999"],
        name=name,
        labels=test_labels,
        environment={"DB_PASSWORD": secret},
        volumes=[f"{name}:/data"],
        network_mode="none",
        stop_signal="SIGKILL",
        detach=True,
    )
    fill = f"echo {secret} > /data/password; echo {secret} > /root/password; head -c 8000000 /dev/urandom > /data/more"
    docker_client.containers.get(name).exec_run(["sh", "-c", fill.replace(secret, "$DB_PASSWORD")])
    store = BackupStore(tmp_path / "store")
    told: list[str] = []
    looks: set[str] = set()

    def listen(news: Progress) -> None:
        told.append(repr(news))
        looks.add(shown(docker_client))

    def complain() -> None:
        raise ValueError(f"the login by {secret} was refused")

    options: dict[str, Any] = {
        "before_quiesce": Exec(name, ["sh", "-c", "echo $DB_PASSWORD >&2"]),
        "after_resume": complain,
        "after_rollback": Exec(name, ["sh", "-c", "echo $DB_PASSWORD >&2; exit 1"]),
        "keep_failed": True,
    }
    watch = Watch()
    with watch.running():
        taken = backup(name, client=docker_client, store=store, way=way, progress=listen)
        with rollback(name, client=docker_client, store=store, way=way, progress=listen, verify=None, **options) as tx:
            in_flight = outside_of_blobs(store, secret)
            docker_client.api.remove_container(name, force=True)
            raise RollbackRequested(f"the login by {secret} was refused")
        restore(taken, client=docker_client, store=store, way=way, progress=listen)
    # Each of these has seen what it would have told of.
    assert len(told) > 20
    assert len(looks) > 2
    assert [problem.step for problem in tx.outcome.problems] == ["after_resume", "after_rollback"]
    assert "${DB_PASSWORD}" in tx.outcome.to_json()
    assert f"backup {taken.id} is taken" in caplog.text
    assert any(b"--listed-incremental" in words for words in watch.seen)
    found = {
        "the log": secret in caplog.text,
        "progress": any(secret in line for line in told),
        "processes": any(secret.encode() in words for words in watch.seen),
        "names and labels": any(secret in look for look in looks),
        "the store, in flight": in_flight,
        "the store": outside_of_blobs(store, secret),
        "the outcome": secret in tx.outcome.to_json(),
        "what is printed": secret in f"{taken!r} {tx.backup!r} {tx!r}",
    }
    assert {place for place, is_there in found.items() if is_there} == set()
    blobs = (store.path / "blobs" / "sha256").iterdir()
    assert any(secret.encode() in path.read_bytes() for path in blobs)


def test_no_error_shows_a_planted_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whichever call to the engine fails during an update and its rollback, no error or log shows the value."""
    caplog.set_level(logging.DEBUG)
    secret = f"planted{secrets.token_hex(8)}"
    errors: list[DockerRollbackError] = []
    for number in range(1, 120, 8):
        fake = FakeEngine()
        fake.add_image("shop:1", files={"/app": "x"})
        fake.run("shop", image="shop:1", volumes={"data": "/data"}, env=[f"DB_PASSWORD={secret}"])
        engine = FailingEngine(fake, at=number, verbs=CHANGING | READING)
        try:
            with rollback("shop", client=engine, store=tmp_path / str(number), verify=None):
                fake.remove_container("shop", force=True)
                raise RollbackRequested
        except DockerRollbackError as error:
            errors.append(error)
    assert len(errors) > 5
    assert [error for error in errors if secret in "".join(traceback.format_exception(error)) + repr(error)] == []
    assert secret not in caplog.text
