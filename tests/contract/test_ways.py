"""Programs in a container behave the same by every way to the engine."""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.tls import TLSConfig

from docker_rollback._engine.docker.engine import DockerEngine
from docker_rollback._engine.port import Engine
from tests.contract.relay import certificate, relay
from tests.programs import run_in

pytestmark = pytest.mark.usefixtures("test_labels")  # by which the engine is left clean
MUCH = "dd if=/dev/zero bs=1024 count=512"


@pytest.fixture(params=["tcp", "tls"])
def distant(request: pytest.FixtureRequest, engine_url: str, tmp_path: Path) -> Iterator[Engine]:
    """Give the engine by another way."""
    if request.param == "tcp":
        with relay(engine_url) as address:
            client = docker.APIClient(address, version="1.41")
            yield DockerEngine(client)
            client.close()
        return
    public, private = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    with relay(engine_url, context) as address:
        tls = TLSConfig(ca_cert=str(public), verify=True)
        client = docker.APIClient(address, version="1.41", tls=tls)
        yield DockerEngine(client)
        client.close()


@pytest.fixture
def container(docker_client: docker.DockerClient, busybox_image: str) -> str:
    """Give a container that runs."""
    made = docker_client.containers.run(busybox_image, ["sleep", "600"], detach=True, stop_signal="SIGKILL")
    return str(made.id)


def test_the_engine_is_known_by_its_way(distant: Engine, engine_url: str, docker_client: docker.DockerClient) -> None:
    """The same engine answers, at the address by which it was reached."""
    info = distant.info()
    assert info.address.startswith("tcp://127.0.0.1:")
    assert info.root == docker_client.info()["DockerRootDir"]
    assert info.address != engine_url


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_input_may_end_before_output(distant: Engine, container: str, size: int) -> None:
    """The input is closed while output is still on its way, and none of it is lost."""
    data = random.Random(size).randbytes(size)
    for _ in range(3):
        with distant.exec(
            container, ["sh", "-c", "cat; dd if=/dev/zero bs=1024 count=512; echo done"], stdin=True
        ) as process:
            process.write(data)
            process.close_input()
            output = b"".join(iter(lambda: process.read(1 << 20), b""))
            assert process.finish().exit_code == 0
        assert output == data + bytes(512 * 1024) + b"done\n"


def test_an_early_end_is_seen(distant: Engine, container: str) -> None:
    """A program that ends before its input is not waited for."""
    with distant.exec(container, ["false"], stdin=True) as process:
        for _ in range(4):
            process.write(bytes(1 << 20))
        assert process.finish().exit_code == 1


def test_a_program_can_be_ended(distant: Engine, container: str, docker_client: docker.DockerClient) -> None:
    """A program that runs on is ended from afar."""
    with distant.exec(container, ["sleep", "1234"]):
        pass
    code, processes = run_in(docker_client, container, ["ps"])
    assert code == 0
    assert "1234" not in processes


def test_an_archive_goes_both_ways(distant: Engine, busybox_image: str) -> None:
    """An image is saved and loaded by every way."""
    distant.load_image(distant.save_image(busybox_image))
