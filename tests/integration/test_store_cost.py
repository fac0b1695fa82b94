"""What backups of a real engine cost in the store: each thing once.

The image of the tests has 30 MB; `DOCKER_ROLLBACK_TEST_IMAGE_MB` asks for another size.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import NotFound

from docker_rollback import BackupStore, VolumeArchiver, backup
from docker_rollback._engine.docker.engine import DockerEngine
from docker_rollback._model.backup import Way
from tests.integration.test_volumes import WAYS
from tests.unit.store import making

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.engine

LAYERS = 3
CHANGE = 20_000
"""Bytes that the service writes between two backups, into its own file system and into its volume each."""

BOOKKEEPING = 40_000
"""Bytes of JSON that a backup may take: its record, its manifests, an image's config."""


class Service:
    """A container on an image of several layers that cannot be compressed, with a volume."""

    def __init__(self, client: docker.DockerClient, base: str, labels: dict[str, str]) -> None:
        self.client = client
        self.token = secrets.token_hex(4)
        self.name = f"cost-{self.token}"
        self.volume = f"cost-{self.token}"
        self.tag = f"docker-rollback-test-cost:{self.token}"
        client.api.create_volume(self.volume, labels=labels)
        image = base
        size = int(os.environ.get("DOCKER_ROLLBACK_TEST_IMAGE_MB", "30")) << 20
        for number in range(LAYERS):
            command = ["sh", "-c", _noise(f"/layer{number}", size // LAYERS)]
            made = client.containers.create(image, command, labels=labels, network_mode="none")
            made.start()
            assert made.wait()["StatusCode"] == 0
            image = str(made.commit(*self.tag.split(":")).id)
            made.remove()
        client.containers.run(
            self.tag,
            ["sleep", "9999"],
            name=self.name,
            labels=labels,
            volumes={self.volume: {"bind": "/data"}},
            network_mode="none",
            stop_signal="SIGKILL",
            detach=True,
        )

    def change(self) -> None:
        """Write what cannot be compressed into the file system of the container and into the volume."""
        for folder in ("/root", "/data"):
            self.run(_noise(f"{folder}/changed", CHANGE))

    def run(self, script: str) -> None:
        """Run a shell script in the container."""
        code, output = self.client.containers.get(self.name).exec_run(["sh", "-c", script])
        assert code == 0, output


def _noise(path: str, size: int) -> str:
    """Return the script that writes so many bytes of noise into a file."""
    return f"head -c {size} /dev/urandom > {path}"


def _size(store: BackupStore) -> int:
    """Return the bytes that a store's blobs take."""
    return sum(path.stat().st_size for path in making.blob_files(store))


@pytest.fixture
def store(tmp_path: Path) -> BackupStore:
    """Give a store that is not there yet."""
    return BackupStore(tmp_path / "store")


@pytest.fixture
def service(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Iterator[Service]:
    """Give the service; its container and its volume go by their label, its image here."""
    service = Service(docker_client, busybox_image, test_labels)
    yield service
    docker_client.api.remove_container(service.name, force=True)
    for image in docker_client.api.images(all=True, filters={"reference": [service.tag]}):
        try:
            docker_client.api.remove_image(image["Id"], force=True)
        except NotFound:
            continue


def test_ten_backups_cost_one_image_and_the_changes(service: Service, store: BackupStore) -> None:
    """Ten backups of a container that changes a little cost at most 1.1 times its image, plus the changes."""
    taken = []
    sizes = []
    for _ in range(10):
        service.change()
        taken.append(backup(service.name, client=service.client, store=store))
        sizes.append(_size(store))
    one = sizes[0]
    logger.info("one backup: %d bytes; ten: %d, %.3f times one", one, sizes[-1], sizes[-1] / one)
    changes = 9 * 2 * CHANGE
    assert sizes[-1] <= 1.1 * one + changes
    # And no more than that, whatever the size of the image.
    assert sizes[-1] - one <= 1.1 * changes + 9 * BOOKKEEPING
    for made in taken:
        store.verify(made.id)


@pytest.mark.parametrize("way", WAYS)
def test_a_volume_that_did_not_change_costs_nothing(service: Service, store: BackupStore, way: Way) -> None:
    """A second archive of a volume that was only read since is the same blob; one of a changed volume is another."""
    service.change()
    service.run("mkdir /data/d && for i in $(seq 200); do echo $i > /data/d/$i; done")
    service.run(_noise("/data/large", 3 << 20))
    archiver = VolumeArchiver(DockerEngine(service.client), store, way=way)
    first = archiver.archive(service.volume, in_use=True)
    before = _size(store)
    # To read a file changes the time of its last reading, and nothing that counts.
    service.run("cat /data/* /data/d/* 2> /dev/null | md5sum > /dev/null")
    second = archiver.archive(service.volume, in_use=True)
    assert second.base.digest == first.base.digest
    assert _size(store) - before <= BOOKKEEPING
    service.change()
    assert archiver.archive(service.volume, in_use=True).base.digest != first.base.digest


@pytest.mark.direct
def test_both_ways_make_the_same_archive(service: Service, store: BackupStore) -> None:
    """What was archived directly and what a helper archived of the same volume is one blob in the store."""
    service.change()
    engine = DockerEngine(service.client)
    archives = [
        VolumeArchiver(engine, store, way=way).archive(service.volume, in_use=True).base.digest
        for way in ("direct", "helper")
    ]
    assert archives[0] == archives[1]
