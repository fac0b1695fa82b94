"""What real engines are known to get wrong, or each its own way, and `DockerEngine` does not pass on."""

from __future__ import annotations

import secrets
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest

from docker_rollback._engine.docker.engine import DockerEngine
from docker_rollback._engine.docker.http import Wire
from docker_rollback._engine.docker.kill import MARK, Killer
from docker_rollback._engine.port import ContainerFilter
from docker_rollback.errors import EngineError, ImageNotFoundError
from tests.contract.suite import Lab, file_system
from tests.engines.results import cannot

pytestmark = pytest.mark.usefixtures("test_labels")  # by which the engine is left clean
WATCHED = 2.0
"""Seconds for which a container that must stay down is watched: longer than engines wait between two runs."""


@pytest.fixture
def engine(docker_client: docker.DockerClient) -> DockerEngine:
    """Give the engine under test."""
    return DockerEngine(docker_client)


@pytest.fixture
def lab(engine: DockerEngine, busybox_image: str, test_labels: dict[str, str]) -> Iterator[Lab]:
    """Give what a test works with."""
    lab = Lab(engine, busybox_image, {**test_labels, "docker-rollback.contract": secrets.token_hex(4)})
    yield lab
    lab.clean()


def _until(done: Callable[[], bool]) -> None:
    """Wait until something holds; fails after a while."""
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


@pytest.mark.parametrize("verb", ["stop_container", "kill_container"])
def test_what_fails_again_and_again_stays_down(engine: DockerEngine, lab: Lab, verb: str) -> None:
    """A container that its policy restarts time and again is down for good once it was ended, its policy untouched."""
    policy = {"Name": "on-failure", "MaximumRetryCount": 99}
    made = lab.running("false", host={"RestartPolicy": policy})
    _until(lambda: engine.inspect_container(made)["RestartCount"] > 0)
    getattr(engine, verb)(made)
    began = engine.inspect_container(made)["State"]["StartedAt"]
    end = time.monotonic() + WATCHED
    while time.monotonic() < end:
        state = engine.inspect_container(made)["State"]
        assert (state["Running"], state["StartedAt"]) == (False, began)
    assert engine.inspect_container(made)["HostConfig"]["RestartPolicy"] == policy


def test_a_connection_that_ends_does_not_end_its_program(docker_client: docker.DockerClient, lab: Lab) -> None:
    """A program by exec runs on when its connection ends; a shell in its container finds and ends it."""
    api, made, mark = docker_client.api, lab.running(), secrets.token_hex(8)
    exec_id = api.exec_create(made, ["sleep", "600"], environment=[f"{MARK}={mark}"])["Id"]
    api.exec_start(exec_id, detach=True)
    assert api.exec_inspect(exec_id)["Running"]
    assert Killer(Wire(api, timeout=60, patience=60), made, mark).search()
    _until(lambda: not api.exec_inspect(exec_id)["Running"])


def test_where_there_is_no_shell_nobody_searches(docker_client: docker.DockerClient, lab: Lab) -> None:
    """In a container without a shell a program cannot be looked for, and that is known at once."""
    made = lab.running(Cmd=["sleep", "600"])
    lab.run(made, "rm", "/bin/sh")
    assert not Killer(Wire(docker_client.api, timeout=60, patience=60), made, "mark").search()


def test_nulls_and_empty_lists_are_not_the_same(
    engine: DockerEngine, lab: Lab, docker_client: docker.DockerClient
) -> None:
    """A container that hides no paths keeps that, where the engine shows it at all."""
    if engine.info().flavour == "podman":
        cannot(docker_client, "it does not show which paths it hides")
    made = lab.created(host={"MaskedPaths": [], "ReadonlyPaths": None})
    found = engine.inspect_container(made)["HostConfig"]
    assert found["MaskedPaths"] == []
    assert found["ReadonlyPaths"]


def test_a_real_refusal_tells_no_secret(engine: DockerEngine, lab: Lab) -> None:
    """An engine repeats a bad variable with its value; the error does not."""
    secret = secrets.token_hex(12)
    with pytest.raises(EngineError) as caught:
        engine.create_container(lab.name(), lab.request(Env=[f"={secret}"]))
    assert secret not in "".join(traceback.format_exception(caught.value))


def test_removing_an_image_leaves_those_below_it(
    engine: DockerEngine, lab: Lab, docker_client: docker.DockerClient
) -> None:
    """An untagged image on which another was built stays when that one is removed."""
    if engine.info().containerd_store:
        cannot(docker_client, "containerd's store keeps no untagged image")
    below, above = lab.tag(), lab.tag()
    kept = engine.commit_container(lab.created(), below)
    made = engine.create_container(lab.name(), {**lab.request(), "Image": below})
    engine.commit_container(made, above)
    engine.remove_container(made)
    # The name goes to another image, as it does where a user pulls a new one.
    engine.tag_image(lab.image, below)
    engine.remove_image(above)
    assert engine.inspect_image(kept)["Id"] == kept
    engine.remove_image(kept)
    with pytest.raises(ImageNotFoundError):
        engine.inspect_image(kept)


def test_an_image_without_its_end_is_not_loaded_as_another(engine: DockerEngine, lab: Lab) -> None:
    """A failed import leaves the name with the image that had it."""
    tag = lab.tag()
    before = engine.import_image([file_system({})], tag)
    with pytest.raises(EngineError):
        engine.import_image([b"junk" * 1000], tag)
    assert engine.inspect_image(tag)["Id"] == before


def test_an_update_of_one_thing_leaves_the_others(engine: DockerEngine, lab: Lab) -> None:
    """To change a container's share of the processor does not change when it is restarted."""
    made = lab.running(host={"RestartPolicy": {"Name": "always"}})
    engine.update_container(made, {"CpuShares": 512})
    assert engine.inspect_container(made)["HostConfig"]["RestartPolicy"]["Name"] == "always"


@pytest.mark.parametrize("tty", [True, False])
def test_both_streams_are_in_the_log(engine: DockerEngine, lab: Lab, *, tty: bool) -> None:
    """The log has what a program says on both its streams, and what it says to a terminal."""
    made = lab.running("sh", "-c", "echo out; echo err >&2", Tty=tty)
    _until(lambda: not engine.list_containers(ContainerFilter(running=True, labels=lab.labels)))
    assert sorted(engine.container_logs(made, tail=10).split()) == ["err", "out"]


def test_an_engine_serves_many_threads_at_once(engine: DockerEngine, lab: Lab) -> None:
    """Threads that ask of many things at once do not close each other's connections."""
    containers = [lab.created() for _ in range(12)]
    running = lab.running()

    def ask(number: int) -> bool:
        data = bytes([number]) * 100_000
        for container in containers:
            assert engine.inspect_container(container)["Id"] == container
        return lab.run(running, "cat", stdin=data) == (data, 0)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(12)))


def test_the_engine_says_what_it_is(engine: DockerEngine, docker_client: docker.DockerClient) -> None:
    """What an engine is said to be agrees with what it says of itself."""
    info, told = engine.info(), docker_client.info()
    assert (info.version, info.storage_driver, info.root) == (
        docker_client.version()["Version"],
        told["Driver"],
        told["DockerRootDir"],
    )
    assert tuple(map(int, info.api_version.split("."))) <= (1, 51)
    assert info.containerd_store == ("snapshotter" in str(told.get("DriverStatus")))
