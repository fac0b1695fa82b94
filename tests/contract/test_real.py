"""A real engine, by way of docker-py, holds the contract; and what of it no fake can show."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress

import docker
import pytest
from attrs import frozen
from docker.errors import NotFound

from docker_rollback._engine.docker.engine import DockerEngine
from docker_rollback._engine.port import Engine
from tests.contract.suite import EngineContract, Eyes, file_system
from tests.engines import debian

PROGRAMS = ("cat", "false", "sleep", "tar", "touch", "true", "dd", "echo", "env", "grep", "sh")


@frozen
class ClientEyes:
    """Sees with the SDK's own models."""

    client: docker.DockerClient

    def container(self, full_id: str) -> str | None:
        """Return the state of a container; None where there is none."""
        with suppress(NotFound):
            return str(self.client.containers.get(full_id).status)
        return None

    def image(self, tag: str) -> bool:
        """Tell whether an image bears this name."""
        with suppress(NotFound):
            return bool(self.client.images.get(tag).id)
        return False

    def network(self, name: str) -> bool:
        """Tell whether there is a network of this name."""
        return any(network.name == name for network in self.client.networks.list(names=[name]))

    def volume(self, name: str) -> bool:
        """Tell whether there is a volume of this name."""
        with suppress(NotFound):
            return self.client.volumes.get(name).name == name
        return False


@pytest.fixture(scope="session")
def busybox_archive() -> bytes:
    """Give a tar with Debian's busybox under the names of the contract's programs and of a few more."""
    return file_system({"busybox": debian.busybox().read_bytes(), **dict.fromkeys(PROGRAMS, "busybox")})


@pytest.fixture(scope="session")
def contract_image(
    docker_client: docker.DockerClient, busybox_archive: bytes, test_labels: dict[str, str]
) -> Iterator[str]:
    """Give an image of it, made past the engine under test."""
    tag = secrets.token_hex(4)
    changes = [f"LABEL {key}={value}" for key, value in test_labels.items()]
    docker_client.api.import_image_from_data(busybox_archive, repository="contract-base", tag=tag, changes=changes)
    yield f"contract-base:{tag}"
    with suppress(NotFound):  # it bears the label by which the session's images are removed
        docker_client.images.remove(f"contract-base:{tag}", force=True)


@pytest.mark.usefixtures("test_labels")  # by which the engine is left clean
class TestDockerEngine(EngineContract):
    """`DockerEngine` holds the contract."""

    @pytest.fixture
    def engine(self, docker_client: docker.DockerClient) -> Engine:
        """Give the engine under test."""
        return DockerEngine(docker_client)

    @pytest.fixture
    def eyes(self, docker_client: docker.DockerClient) -> Eyes:
        """Give the SDK's eyes."""
        return ClientEyes(docker_client)

    @pytest.fixture
    def archive(self, busybox_archive: bytes) -> bytes:
        """Give a file system with programs that run."""
        return busybox_archive

    @pytest.fixture
    def image(self, contract_image: str) -> str:
        """Give the image that was made once for all."""
        return contract_image

    @pytest.fixture
    def labels(self, test_labels: dict[str, str]) -> dict[str, str]:
        """Give labels of each test's own, and those by which the engine is left clean."""
        return {**test_labels, "docker-rollback.contract": secrets.token_hex(4)}
