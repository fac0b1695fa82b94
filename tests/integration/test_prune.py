"""Somebody prunes on a real engine while a container is stopped: the service comes back with all that it held."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import docker
import pytest
from docker.errors import APIError

from docker_rollback import (
    BackupStore,
    DockerEngine,
    Progress,
    RollbackRequested,
    Status,
    VolumeArchiver,
    compare,
    recover,
    rollback,
)
from docker_rollback._host.processes import may_do_anything
from docker_rollback._model.backup import Way
from docker_rollback.errors import CaptureError, VolumeNotFoundError
from docker_rollback.testing import FailingEngine, Killed
from tests.engines import LOCAL, NAMES, PrivateEngine
from tests.engines.images import busybox_tar
from tests.engines.results import cannot
from tests.programs import run_in

# It starts an engine of its own, which takes root.
pytestmark = [pytest.mark.engine, pytest.mark.direct]

Answer = TypeVar("Answer")
Prune: TypeAlias = Callable[[docker.DockerClient], object]

IMAGE = "prune-busybox:1"
NAME, NETWORK, VOLUME = "prune-web", "prune-net", "prune-data"


def everything(client: docker.DockerClient) -> None:
    """Do what ``docker system prune --all --volumes`` and ``docker volume prune --all`` do."""
    client.containers.prune()
    client.networks.prune()
    try:
        client.volumes.prune(filters={"all": True})
    except APIError:
        # Docker before 23 knows no such filter, and prunes all.
        client.volumes.prune()
    client.images.prune(filters={"dangling": False})


def system(client: docker.DockerClient) -> None:
    """Do what ``docker system prune`` does."""
    client.containers.prune()
    client.networks.prune()
    client.images.prune()


def remove(client: docker.DockerClient) -> None:
    """Remove the container with its anonymous volumes, unless it runs."""
    with suppress(APIError):
        client.api.remove_container(NAME, v=True)


class Pruned(FailingEngine):
    """An engine on which somebody prunes after a call of one kind, once it is told to.

    Attributes:
        verb: after which call; None for never.
        dies: whether our process dies then.
    """

    def __init__(self, client: docker.DockerClient, prune: Prune, verb: str | None, *, dies: bool = False) -> None:
        super().__init__(DockerEngine(client))
        self.client, self.prune, self.verb, self.dies = client, prune, verb, dies

    def pass_on(self, verb: str, work: Callable[[], Answer], *arguments: object) -> Answer:
        """Do one call."""
        answer = super().pass_on(verb, work, *arguments)
        if verb == self.verb:
            self.verb = None
            self.prune(self.client)
            if self.dies:
                self._dead = True
                raise Killed(verb)
        return answer


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    """Give an engine that nobody else uses: a prune concerns everything."""
    wanted = os.environ.get("DOCKER_ROLLBACK_TEST_ENGINE", "")
    with PrivateEngine(wanted if wanted in NAMES else LOCAL, instance=f"{os.getpid()}-prune") as engine:
        client = docker.DockerClient(base_url=engine.address, timeout=120)
        yield client
        client.close()


@pytest.fixture
def before(client: docker.DockerClient) -> Iterator[dict[str, Any]]:
    """Run a container with a file in its layer, in a named and in an anonymous volume; give its inspection."""
    repository, _, tag = IMAGE.partition(":")
    client.api.import_image_from_data(busybox_tar(), repository=repository, tag=tag)
    client.networks.create(NETWORK)
    client.containers.run(
        IMAGE,
        ["sleep", "100000"],
        name=NAME,
        detach=True,
        network=NETWORK,
        volumes=[f"{VOLUME}:/data", "/cache"],
        stop_signal="SIGKILL",
        restart_policy={"Name": "always"},
    )
    run_in(client, NAME, ["sh", "-c", "echo layer > /layer; echo data > /data/file; echo cache > /cache/file"])
    yield dict(DockerEngine(client).inspect_container(NAME))
    for container in client.api.containers(all=True):
        client.api.remove_container(container["Id"], force=True, v=True)
    everything(client)


def check_serving(client: docker.DockerClient) -> None:
    """Assert that the container runs with all that it held, and that no container of ours is left."""
    found = client.containers.get(NAME)
    assert found.status == "running"
    assert found.attrs["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert NETWORK in found.attrs["NetworkSettings"]["Networks"]
    code, text = found.exec_run("cat /layer /data/file /cache/file")
    assert (code, text) == (0, b"layer\ndata\ncache\n")
    assert [one.name for one in client.containers.list(all=True)] == [NAME]


@pytest.mark.parametrize("prune", [system, everything, remove])
def test_a_prune_while_stopped_loses_nothing(
    client: docker.DockerClient, before: dict[str, Any], tmp_path: Path, prune: Prune
) -> None:
    """Right after the stop the container is removed; it is recreated with all its data, and the error says so."""
    engine = Pruned(client, prune, "stop_container")
    with (
        pytest.raises(CaptureError, match="somebody removed it while it was stopped") as raised,
        rollback(NAME, client=engine, store=tmp_path / "store", verify=None),
    ):
        pytest.fail("the block was entered")
    assert raised.value.container == NAME
    check_serving(client)
    after = DockerEngine(client).inspect_container(NAME)
    named = {
        "HostConfig.Binds",
        "HostConfig.Mounts",
        "Image",
        "Config.Image",
        "Mounts./cache.Name",
        "Mounts./cache.Mode",
    }
    assert {one.path for one in compare(before, after)} <= named
    assert BackupStore(tmp_path / "store").list() == []


@pytest.mark.parametrize("prune", [system, everything])
def test_a_prune_while_several_are_stopped_that_share_a_guard_loses_nothing(
    client: docker.DockerClient, before: dict[str, Any], tmp_path: Path, prune: Prune
) -> None:
    """They have written nothing to their layers; the image keeps its name as well."""
    names = [f"{NAME}-{number}" for number in range(3)]
    for name in names:
        # The last one has no place made for a volume in its layer either.
        volumes = [f"{VOLUME}-{name}:/data", "/cache"] if name != names[-1] else []
        client.containers.run(
            IMAGE, ["sleep", "100000"], name=name, detach=True, volumes=volumes, stop_signal="SIGKILL"
        )
        for folder in ("data", "cache") if volumes else ():
            run_in(client, name, ["sh", "-c", f"echo {name} > /{folder}/file"])
    client.api.remove_container(before["Id"], force=True, v=True)
    image = DockerEngine(client).inspect_container(names[0])["Image"]

    class PrunedLate(Pruned):
        """Somebody prunes once the last one has stopped."""

        stopping, pruned = threading.Lock(), False

        def pass_on(self, verb: str, work: Callable[[], Answer], *arguments: object) -> Answer:
            answer = super().pass_on(verb, work, *arguments)
            with self.stopping:
                if verb == "stop_container" and not self.pruned and not any(map(self.runs, names)):
                    self.pruned = True
                    prune(client)
            return answer

        def runs(self, name: str) -> bool:
            return bool(client.api.inspect_container(name)["State"]["Running"])

    engine = PrunedLate(client, prune, None)
    with (
        pytest.raises(CaptureError, match="somebody removed it while it was stopped"),
        rollback(*names, client=engine, store=tmp_path / "store", verify=None),
    ):
        pytest.fail("the block was entered")
    guards = [call for call in engine.called("create_container") if "guard" in str(call.arguments[0])]
    assert len(guards) == 1
    assert DockerEngine(client).inspect_image(IMAGE)["Id"] == image
    for name in names:
        found = client.containers.get(name)
        assert (found.status, found.attrs["Image"]) == ("running", image)
        if name != names[-1]:
            assert run_in(client, name, ["cat", "/data/file", "/cache/file"]) == (0, f"{name}\n{name}\n")
    assert {one.name for one in client.containers.list(all=True)} == {*names}
    assert BackupStore(tmp_path / "store").list() == []


def test_a_pruned_network_comes_back(client: docker.DockerClient, before: dict[str, Any], tmp_path: Path) -> None:
    """Where its network alone is removed, the same container runs on a network that is made again."""
    if DockerEngine(client).info().flavour == "podman":
        cannot(client, "it keeps the networks of stopped containers")
    engine = Pruned(client, lambda client: client.networks.prune(), "stop_container")
    with (
        pytest.raises(CaptureError, match="somebody removed its network"),
        rollback(NAME, client=engine, store=tmp_path / "store", verify=None),
    ):
        pytest.fail("the block was entered")
    check_serving(client)
    assert client.containers.get(NAME).id == before["Id"]


def test_recovery_recreates_what_was_pruned(
    client: docker.DockerClient, before: dict[str, Any], tmp_path: Path
) -> None:
    """Our process dies once everything is pruned; recovery brings the container back."""
    engine = Pruned(client, everything, "stop_container", dies=True)
    with pytest.raises(Killed), rollback(NAME, client=engine, store=tmp_path / "store", verify=None):
        pytest.fail("the block was entered")
    (done,) = recover(client=client, store=tmp_path / "store")
    assert done.outcome == "discarded"
    check_serving(client)
    assert client.containers.get(NAME).id != before["Id"]


@pytest.mark.parametrize("way", [pytest.param("direct", marks=pytest.mark.direct), "helper"])
def test_a_volume_that_is_pruned_while_it_is_filled_is_filled_again(
    client: docker.DockerClient, before: dict[str, Any], tmp_path: Path, way: Way
) -> None:
    """The created container goes first, and with nobody to hold it the volume, in the middle of its data."""
    run_in(client, NAME, ["sh", "-c", "head -c 30000000 /dev/urandom > /data/large"])
    pruned: list[Progress] = []

    def told(news: Progress) -> None:
        begun = news.step == "data" and news.subject == VOLUME and news.done
        if begun and tx.status is Status.ROLLING_BACK and not pruned:
            pruned.append(news)
            everything(client)

    tx = rollback(NAME, client=client, store=tmp_path / "store", verify=None, progress=told, way=way)
    with tx:
        client.api.remove_container(NAME, force=True, v=True)
        client.api.remove_volume(VOLUME)
        raise RollbackRequested
    assert len(pruned) == 1
    assert tx.status is Status.ROLLED_BACK
    check_serving(client)
    assert run_in(client, NAME, ["sh", "-c", "wc -c < /data/large"]) == (0, "30000000\n")
    after = DockerEngine(client).inspect_container(NAME)
    assert {one.path for one in compare(before, after)} <= {"Image", "Config.Image"}


@pytest.mark.direct
@pytest.mark.skipif(not may_do_anything(), reason="reaching files directly takes root")
def test_a_volume_that_is_pruned_while_nobody_has_it_is_not_found(client: docker.DockerClient, tmp_path: Path) -> None:
    """Filling one by itself tells of it, instead of an archive that would be in a folder that is gone."""
    client.volumes.create(VOLUME)
    Path(client.volumes.get(VOLUME).attrs["Mountpoint"], "large").write_bytes(os.urandom(30_000_000))
    store = BackupStore(tmp_path / "store")
    pruned: list[int] = []

    def told(_: str, done: int) -> None:
        if done and filling and not pruned:
            pruned.append(done)
            everything(client)

    archiver, filling = VolumeArchiver(DockerEngine(client), store, way="direct", progress=told), False
    archive = archiver.archive(VOLUME)
    filling = True
    with pytest.raises(VolumeNotFoundError, match=VOLUME):
        archiver.extract(archive)
    assert pruned


def test_a_prune_on_the_way_back_does_not_fail_it(
    client: docker.DockerClient, before: dict[str, Any], tmp_path: Path
) -> None:
    """What a rollback has created, and not started yet, is pruned with its volumes: it is made once more."""
    engine = Pruned(client, everything, None)
    with rollback(NAME, client=engine, store=tmp_path / "store", verify=None) as tx:
        client.api.remove_container(NAME, force=True, v=True)
        client.api.remove_volume(VOLUME)
        engine.verb = "create_container"
        raise RollbackRequested
    assert engine.verb is None
    assert tx.status is Status.ROLLED_BACK
    check_serving(client)
    after = DockerEngine(client).inspect_container(NAME)
    assert {one.path for one in compare(before, after)} <= {"Image", "Config.Image"}
