"""On a real engine: a successor has its own image's defaults, whatever became of the old one's image and name."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import NotFound

from docker_rollback import RollbackRequested, rollback
from tests.engines.images import busybox_tar
from tests.programs import run_in

pytestmark = pytest.mark.engine


class Versions:
    """A name that goes from one image to the next, all of the same layers, and a container of the first."""

    def __init__(self, client: docker.DockerClient, labels: dict[str, str]) -> None:
        self.client, self.labels = client, labels
        self.name = f"defaults-{secrets.token_hex(4)}"

    def build(self, version: int) -> None:
        """Give the name to a new image."""
        changes = [
            f"ENV VERSION={version}",
            f"LABEL version={version}",
            *(f"LABEL {key}={value}" for key, value in self.labels.items()),
            f'CMD ["sleep", "10{version}"]',
        ]
        self.client.api.import_image_from_data(busybox_tar(), repository=self.name, tag="1", changes=changes)

    def check(self, version: int) -> None:
        """Assert that all but the user's own setting is from one version."""
        config = self.client.api.inspect_container(self.name)["Config"]
        environment = dict(entry.partition("=")[::2] for entry in config["Env"])
        assert (environment["VERSION"], environment["MODE"]) == (str(version), "fast")
        assert config["Labels"]["version"] == str(version)
        assert config["Cmd"] == ["sleep", f"10{version}"]


@pytest.fixture
def versions(docker_client: docker.DockerClient, test_labels: dict[str, str], busybox_image: str) -> Iterator[Versions]:
    """The first version, at work; its images go with that of busybox."""
    assert busybox_image
    versions = Versions(docker_client, test_labels)
    try:
        versions.build(1)
        docker_client.containers.run(
            f"{versions.name}:1", name=versions.name, environment=["MODE=fast"], stop_signal="SIGKILL", detach=True
        )
        yield versions
    finally:
        with suppress(NotFound):
            docker_client.api.remove_container(versions.name, force=True, v=True)


@pytest.mark.parametrize("dirty", [True, False])
def test_a_repaired_version_has_its_own_defaults(versions: Versions, tmp_path: Path, *, dirty: bool) -> None:
    """After two updates that failed, the name being moved each time, and with another store, which knows nothing."""
    client, name = versions.client, versions.name
    for number in (2, 3):
        if dirty:
            assert run_in(client, name, ["sh", "-c", f"echo {number} > /own{number}"])[0] == 0
        versions.build(number)
        with rollback(name, client=client, store=tmp_path / "one", verify=None):
            client.api.remove_container(name, force=True, v=True)
            raise RollbackRequested
        versions.check(1)
    versions.build(4)
    with rollback(name, client=client, store=tmp_path / "two", verify=None) as tx:
        tx.replace(name, f"{name}:1")
    versions.check(4)
