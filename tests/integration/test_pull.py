"""Images from a registry, on a real engine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound

from docker_rollback import DockerEngine, EngineError, ImageNotFoundError
from tests.integration.registry import registry_of

pytestmark = pytest.mark.engine


@pytest.fixture
def repository(
    docker_client: docker.DockerClient, busybox_image: str, tmp_path: Path, engine_url: str
) -> Iterator[str]:
    """Give a repository in a registry that has one image, tagged "1", which the engine has not."""
    with registry_of(docker_client, engine_url, tmp_path).running() as address:
        repository = f"{address}/shop-{secrets.token_hex(4)}"
        docker_client.api.tag(busybox_image, repository, "1")
        docker_client.api.push(repository, "1")
        docker_client.api.remove_image(f"{repository}:1")
        yield repository
        with suppress(ImageNotFound):
            docker_client.api.remove_image(f"{repository}:1")


def test_an_image_is_pulled(docker_client: docker.DockerClient, repository: str, busybox_image: str) -> None:
    """By its name; what the registry does not have is not found, and no image comes of it."""
    engine = DockerEngine(docker_client)
    with pytest.raises(ImageNotFoundError):
        engine.inspect_image(f"{repository}:1")
    pulled = engine.pull_image(f"{repository}:1")
    assert engine.inspect_image(f"{repository}:1")["Id"] == pulled
    layers = engine.inspect_image(busybox_image)["RootFS"]["Layers"]
    assert engine.inspect_image(pulled)["RootFS"]["Layers"] == layers
    with pytest.raises(EngineError):
        engine.pull_image(f"{repository}:2")
    with pytest.raises(ImageNotFoundError):
        engine.inspect_image(f"{repository}:2")
