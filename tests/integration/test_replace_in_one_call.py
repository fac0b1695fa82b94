"""`replace` on a real engine, with images from a registry of this machine."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from attrs import define
from docker.errors import APIError, NotFound

from docker_rollback import (
    BackupStore,
    DockerEngine,
    EngineError,
    ImageNotFoundError,
    Outcome,
    Status,
    UpdateRejectedError,
    healthy,
    replace,
)
from docker_rollback.errors import ImagePlatformError
from tests.engines.images import busybox_tar
from tests.integration.registry import Registry, digest_of, registry_of
from tests.removal import remove_container

pytestmark = pytest.mark.engine


@define
class Shop:
    """A container of version 1 of an image, and a registry that has version 2, which the engine has not."""

    client: docker.DockerClient
    engine: DockerEngine
    labels: dict[str, str]
    repository: str
    name: str
    store: BackupStore

    def image(self, tag: str, *, version: str) -> str:
        """Make an image and return its id."""
        changes = [f"ENV VERSION={version}", *(f"LABEL {key}={value}" for key, value in self.labels.items())]
        changes.append('CMD ["sh", "-c", "trap \'exit 0\' TERM; while :; do sleep 0.1; done"]')
        self.client.api.import_image_from_data(busybox_tar(), repository=self.repository, tag=tag, changes=changes)
        return self.id_of(tag)

    def publish(self, tag: str, *, version: str) -> str:
        """Have the registry lead a tag to a new image that the engine does not have; return its digest."""
        before = None
        with suppress(ImageNotFoundError):
            before = self.id_of(tag)
        made = self.image(tag, version=version)
        self.client.api.push(self.repository, tag)
        digest = digest_of(self.repository, tag)
        self.client.api.remove_image(f"{self.repository}:{tag}")
        with suppress(NotFound):
            self.client.api.remove_image(made, force=True)
        if before is not None:
            self.client.api.tag(before, self.repository, tag)
        return digest

    def start(self) -> None:
        """Start the container from version 1."""
        self.image("1", version="1")
        body = {"Image": f"{self.repository}:1", "HostConfig": {"RestartPolicy": {"Name": "always"}}}
        create: Any = self.client.api.create_container_from_config
        self.client.api.start(create(body, self.name)["Id"])

    def update(self, image: str | None, **options: Any) -> Outcome:
        """Replace the container."""
        chosen: dict[str, Any] = {"verify": healthy(stable_for=0.2), **options}
        return replace(self.name, image, client=self.client, store=self.store, **chosen)

    def run(self) -> tuple[str, str]:
        """Return the container's id and since when it runs: the same as long as nobody has stopped it."""
        found = self.engine.inspect_container(self.name)
        assert found["State"]["Status"] == "running"
        return str(found["Id"]), str(found["State"]["StartedAt"])

    def version(self) -> str:
        """Return the version that runs."""
        environment = self.engine.inspect_container(self.name)["Config"]["Env"]
        return next(str(entry).partition("=")[2] for entry in environment if entry.startswith("VERSION="))

    def id_of(self, tag: str) -> str:
        """Return the id of the image that a tag leads to."""
        return str(self.engine.inspect_image(f"{self.repository}:{tag}")["Id"])

    def remove(self) -> None:
        """Remove the container and the images."""
        with suppress(NotFound):
            remove_container(self.client, self.name)
        for tag in ("1", "2", "3", "latest", "foreign"):
            with suppress(NotFound):
                self.client.api.remove_image(f"{self.repository}:{tag}", force=True)
        for image in self.client.api.images(
            filters={"label": [f"{key}={value}" for key, value in self.labels.items()]}
        ):
            if any(self.repository in name for name in [*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())]):
                with suppress(APIError):
                    self.client.api.remove_image(image["Id"], force=True)


@pytest.fixture
def registry(docker_client: docker.DockerClient, engine_url: str, tmp_path: Path) -> Registry:
    """A registry that does not run yet."""
    return registry_of(docker_client, engine_url, tmp_path)


@pytest.fixture
def shop(
    docker_client: docker.DockerClient, test_labels: dict[str, str], registry: Registry, tmp_path: Path
) -> Iterator[Shop]:
    """The shop, at work on version 1; its registry does not answer."""
    token = secrets.token_hex(4)
    repository, store = f"{registry.address}/shop-{token}", BackupStore(tmp_path / "store")
    shop = Shop(docker_client, DockerEngine(docker_client), test_labels, repository, f"shop-{token}", store)
    try:
        shop.start()
        yield shop
    finally:
        shop.remove()


def test_an_image_is_fetched_and_the_second_call_does_nothing(shop: Shop, registry: Registry) -> None:
    """By its tag, by its digest and by its id; the container is not stopped for what it runs already."""
    with registry.running():
        digest = shop.publish("2", version="2")
        assert shop.update(f"{shop.repository}:2").status is Status.COMMITTED
        assert shop.version() == "2"
        run = shop.run()
        for same in (f"{shop.repository}:2", shop.id_of("2"), None):
            for pull in ("missing", "always") if same != shop.id_of("2") else ("missing",):
                assert shop.update(same, pull=pull).status is Status.UNCHANGED
        assert shop.run() == run
        pinned = f"{shop.repository}@{digest}"
        if shop.engine.info().flavour == "podman":  # which does not tell by which name of an image
            shop.update(shop.id_of("1"))
        assert shop.update(pinned, pull="always").status is Status.COMMITTED
        assert shop.version() == "2"
        shown = shop.engine.inspect_container(shop.name)["Config"]["Image"]
        assert shown == pinned or shop.engine.info().flavour == "podman"
        run = shop.run()
        assert shop.update(pinned).status is Status.UNCHANGED
        assert shop.run() == run
    old = shop.id_of("1")
    assert shop.update(old).status is Status.COMMITTED
    assert (shop.version(), shop.engine.inspect_container(shop.name)["Image"]) == ("1", old)


def test_a_registry_that_does_not_help_costs_nothing(shop: Shop, registry: Registry) -> None:
    """Down, or without such an image: the container is not stopped, and the store is not made."""
    run, told = shop.run(), list[Outcome]()
    with pytest.raises(EngineError):
        shop.update(f"{shop.repository}:2", on_outcome=told.append)
    with registry.running():
        shop.publish("2", version="2")
        with pytest.raises(EngineError):
            shop.update(f"{shop.repository}:typo", on_outcome=told.append)
        with pytest.raises(ImageNotFoundError):
            shop.update(f"{shop.repository}:2", pull="never", on_outcome=told.append)
    assert [(one.status, one.entered) for one in told] == [(Status.FAILED, False)] * 3
    assert shop.run() == run
    assert not shop.store.path.exists()


def test_a_moved_tag_leads_back_where_the_update_fails(shop: Shop, registry: Registry) -> None:
    """The tag is fetched again; a failed update leaves tag and container as they were, a good one moves both."""
    old, run = shop.id_of("1"), shop.run()
    with registry.running():
        shop.publish("1", version="1.1")

        def rejects(_: object) -> None:
            assert shop.version() == "1"

        with pytest.raises(UpdateRejectedError):
            shop.update(None, pull="always", verify=rejects)
        assert (shop.id_of("1"), shop.version(), shop.run()[0]) == (old, "1", run[0])
        outcome = shop.update(None, pull="always")
        assert (outcome.status, shop.version()) == (Status.COMMITTED, "1.1")
        assert shop.id_of("1") == shop.engine.inspect_container(shop.name)["Image"] != old


def test_a_name_without_a_tag_means_the_latest(shop: Shop, registry: Registry) -> None:
    """It is fetched, moved and found again like any other."""
    shop.image("latest", version="0")
    with registry.running():
        shop.publish("latest", version="2")
        outcome = shop.update(shop.repository, pull="always")
        assert (outcome.status, shop.version()) == (Status.COMMITTED, "2")
        assert shop.id_of("latest") == shop.engine.inspect_container(shop.name)["Image"]
        assert shop.update(shop.repository, pull="always").status is Status.UNCHANGED


def test_an_image_that_exists_in_the_engine_alone_is_taken(shop: Shop) -> None:
    """No registry is needed for it, nor in its name; the second call finds that it runs."""
    name = f"{shop.name}:3"
    shop.engine.tag_image(shop.image("3", version="3"), name)
    try:
        assert shop.update(name).status is Status.COMMITTED
        assert shop.version() == "3"
        run = shop.run()
        assert shop.update(name).status is Status.UNCHANGED
        assert shop.run() == run
    finally:
        remove_container(shop.client, shop.name)
        shop.client.api.remove_image(name, force=True)


def test_an_image_of_another_platform_costs_nothing(shop: Shop) -> None:
    """It is in the engine, and its kernel does not run it."""
    name, run = f"{shop.repository}:foreign", shop.run()
    shop.engine.load_image([_archive(name, shop.labels)])
    with pytest.raises(ImagePlatformError, match="linux/s390x"):
        shop.update(name)
    assert shop.run() == run
    assert not shop.store.path.exists()


def _archive(name: str, labels: dict[str, str]) -> bytes:
    """Return an image of busybox as another machine would have it, as `docker save` writes one."""
    layer = busybox_tar()
    config = {
        "architecture": "s390x",
        "os": "linux",
        "config": {"Cmd": ["sh"], "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created_by": "a test"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer,
        "manifest.json": json.dumps(manifest).encode(),
    }
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return whole.getvalue()
