"""Fixtures for every test: a real engine, a small image in it, and an engine left clean after each test.

The engine is the one that DOCKER_ROLLBACK_TEST_ENGINE says: a URL, or the name of a private one (`tests.engines`).
Without it, it is the one that runs on this machine or, where none answers, a private one.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http import HTTPStatus
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, NotFound
from hypothesis import settings

from docker_rollback import DockerEngine, healthy, rollback
from docker_rollback._names import ROLE_LABEL, STORE_LABEL
from tests.engines import LOCAL, NAMES, EngineStartError, PrivateEngine, debian, join_network, running_engine
from tests.engines.images import busybox_tar
from tests.engines.results import cannot
from tests.removal import remove_container

TEST_LABEL = "docker-rollback.test"
"""The label of everything that a test makes; its value tells one run of the tests from another on the same engine."""

# How long an example takes depends on what else the machine does.
settings.register_profile("without deadline", settings(), deadline=None)
settings.load_profile("without deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark whatever uses the engine as such, so that ``-m "not engine"`` is true."""
    for item in items:
        if "engine_url" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def engine_url() -> Iterator[str]:
    """Give the address of a real engine; a private one is ended when the session ends."""
    wanted = os.environ.get("DOCKER_ROLLBACK_TEST_ENGINE") or running_engine() or LOCAL
    with ExitStack() as ended:
        try:
            if wanted in NAMES:
                engine = PrivateEngine(wanted, instance=str(os.getpid()))
                wanted = ended.enter_context(engine).address
        except (EngineStartError, debian.DistributionError) as error:
            pytest.fail(f'no engine for the tests: {error}\n(pytest -m "not engine" runs those that need none)')
        join_network(wanted)
        yield wanted


@pytest.fixture(scope="session")
def docker_client(engine_url: str) -> Iterator[docker.DockerClient]:
    """Give a client of the docker SDK: the tests' own eyes, past all that is under test."""
    client = docker.DockerClient(base_url=engine_url, timeout=120)
    yield client
    client.close()


@pytest.fixture(scope="session")
def test_labels() -> dict[str, str]:
    """Give the labels by which what a test makes is found and removed afterwards."""
    return {TEST_LABEL: secrets.token_hex(4)}


@pytest.fixture(scope="session")
def busybox_image(docker_client: docker.DockerClient, test_labels: dict[str, str]) -> Iterator[str]:
    """Give an image of Debian's busybox; its containers inherit the label, so they are removed after each test."""
    repository, tag = "docker-rollback-test-busybox", test_labels[TEST_LABEL]
    changes = [f"LABEL {TEST_LABEL}={tag}", 'CMD ["sh"]']
    docker_client.api.import_image_from_data(busybox_tar(), repository=repository, tag=tag, changes=changes)
    yield f"{repository}:{tag}"
    # Images that were committed from its containers bear the label too.
    left = [image["Id"] for image in docker_client.api.images(all=True, filters=_labelled(test_labels))]
    while left:
        # One that others were committed from goes after them.
        parents = [image for image in left if not _is_removed(docker_client, image)]
        assert len(parents) < len(left), f"images of the tests are left over: {parents}"
        left = parents


def _is_removed(client: docker.DockerClient, image: str) -> bool:
    try:
        client.api.remove_image(image, force=True)
    except NotFound:  # untagged along with another
        return True
    except APIError as error:
        if error.status_code != HTTPStatus.CONFLICT:
            raise
        return False
    return True


@pytest.fixture
def _probes(docker_client: docker.DockerClient) -> None:
    """Need an engine that runs health checks; Podman leaves that to systemd's timers."""
    is_podman = DockerEngine(docker_client).info().flavour == "podman"
    if is_podman and not Path("/run/systemd/system").exists():
        cannot(docker_client, "it has systemd run health checks, which is not here")


@pytest.fixture(autouse=True)
def _quick_default(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `rollback` and `replace` wait less by default; what they wait for is tested where it is marked."""
    if request.node.get_closest_marker("default_check") is None:
        on_a_real_engine = "engine_url" in request.fixturenames
        quick = healthy(stable_for=1.0 if on_a_real_engine else 0.0)
        monkeypatch.setattr(rollback, "__kwdefaults__", {**(rollback.__kwdefaults__ or {}), "verify": quick})


@pytest.fixture(autouse=True)
def _clean_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove what the test made in the engine, also when it failed."""
    if "engine_url" not in request.fixturenames:
        yield
        return
    client: docker.DockerClient = request.getfixturevalue("docker_client")
    where = _labelled(request.getfixturevalue("test_labels"))
    stores: Path = request.getfixturevalue("tmp_path_factory").getbasetemp()
    yield
    for container in client.api.containers(all=True, filters=where):
        remove_container(client, container["Id"])
        # The mark of a rollback that the test left unfinished.
        for name in container["Names"]:
            with suppress(NotFound):
                client.api.remove_volume(f"docker-rollback-busy-{name.lstrip('/')}", force=True)
    for volume in client.api.volumes(filters=where)["Volumes"] or ():
        client.api.remove_volume(volume["Name"], force=True)
    for network in client.api.networks(filters=where):
        client.api.remove_network(network["Id"])
    # A rollback that stays unfinished is told to every later `recover` of the same engine.
    for mark in client.api.volumes(filters={"label": [f"{ROLE_LABEL}=marker"]})["Volumes"] or ():
        if Path(mark["Labels"][STORE_LABEL]).is_relative_to(stores):
            client.api.remove_volume(mark["Name"], force=True)
    # The names by which backups hold their images; Podman writes a registry before them.
    held = [tag for image in client.api.images(filters=where) for tag in image["RepoTags"] or ()]
    for tag in held:
        if tag.removeprefix("localhost/").removeprefix("docker.io/library/").startswith("docker-rollback:"):
            client.api.remove_image(tag)


def _labelled(labels: dict[str, str]) -> dict[str, list[str]]:
    return {"label": [f"{key}={value}" for key, value in labels.items()]}
