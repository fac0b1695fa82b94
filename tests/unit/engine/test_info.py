"""What an engine says of itself, and of volumes that it does not name."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from docker_rollback._engine.docker.references import with_names
from docker_rollback._engine.port import EngineInfo
from tests.unit.engine.scripted import VERSION, ScriptedEngine, answer

DOCKER = {
    "ID": "NBER:G3HE",
    "Name": "host",
    "ServerVersion": "28.5.2",
    "Architecture": "aarch64",
    "Driver": "overlay2",
    "DriverStatus": [["Backing Filesystem", "extfs"]],
    "DefaultRuntime": "runc",
    "DockerRootDir": "/var/lib/docker",
}
PODMAN = {**VERSION, "Components": [{"Name": "Podman Engine"}]}


def test_an_engine_is_described_by_its_own_words(script: ScriptedEngine) -> None:
    """Each fact comes from the field of its information that holds it."""
    script.says("GET", "/info", answer(DOCKER))
    assert script.engine().info() == EngineInfo(
        flavour="docker",
        version="28.5.2",
        api_version="1.51",
        architecture="aarch64",
        storage_driver="overlay2",
        containerd_store=False,
        default_runtime="runc",
        address=f"unix://{script.path}",
        root="/var/lib/docker",
        identity="NBER:G3HE",
    )


@pytest.mark.parametrize("empty", [{}, dict.fromkeys(DOCKER), dict.fromkeys(DOCKER, "")])
def test_what_an_engine_does_not_say_of_itself_is_empty(script: ScriptedEngine, empty: dict[str, Any]) -> None:
    """A field that is missing, null or empty is an empty text, never the word None."""
    script.says("GET", "/info", answer(empty))
    found = script.engine().info()
    assert (found.version, found.architecture, found.storage_driver, found.default_runtime, found.root) == ("",) * 5
    assert (found.containerd_store, found.identity) == (False, ":")


@pytest.mark.parametrize(
    ("info", "store"),
    [
        ([["driver-type", "io.containerd.snapshotter.v1"]], True),
        ([["Backing Filesystem", "extfs"], ["driver-type", "io.containerd.snapshotter.v1"]], True),
        ([["Backing Filesystem", "extfs"]], False),
    ],
)
def test_containerds_store_is_told_by_the_drivers_status(
    script: ScriptedEngine, info: list[list[str]], *, store: bool
) -> None:
    """Its snapshotter stands among the lines of the driver's status."""
    script.says("GET", "/info", answer({**DOCKER, "DriverStatus": info}))
    assert script.engine().info().containerd_store is store


@pytest.mark.parametrize(("said", "kernels"), [("amd64", "x86_64"), ("arm64", "aarch64"), ("riscv64", "riscv64")])
def test_podman_is_known_and_names_architectures_as_the_kernel_does(
    script: ScriptedEngine, said: str, kernels: str
) -> None:
    """Podman says how Go calls an architecture; its id is made up for each answer, so its host and folder stand in."""
    script.says("GET", "/version", answer(PODMAN))
    script.says("GET", "/info", answer({**DOCKER, "Architecture": said}))
    found = script.engine().info()
    assert (found.flavour, found.architecture, found.identity) == ("podman", kernels, "host:/var/lib/docker")


# Volumes without a name

ANONYMOUS = "0f" * 32
NAMELESS = {"Type": "volume", "Source": f"/var/lib/docker/volumes/{ANONYMOUS}/_data", "Destination": "/cache"}


@pytest.mark.parametrize("nameless", [NAMELESS, {**NAMELESS, "Name": ""}, {**NAMELESS, "Name": None}])
def test_an_anonymous_volume_without_a_name_is_named_by_its_place(nameless: dict[str, Any]) -> None:
    """All else of it stays, and the mounts around it stay as they are."""
    bind = {"Type": "bind", "Source": NAMELESS["Source"], "Destination": "/b"}
    named = {"Type": "volume", "Name": "data", "Source": "/var/lib/docker/volumes/data/_data", "Destination": "/d"}
    found = with_names({"Id": "1", "Mounts": [bind, nameless, named]})
    assert found == {"Id": "1", "Mounts": [bind, {**NAMELESS, "Name": ANONYMOUS}, named]}


@pytest.mark.parametrize(
    "mount",
    [
        {"Type": "bind", "Source": f"/var/lib/docker/volumes/{ANONYMOUS}/_data", "Destination": "/b"},
        {"Type": "volume", "Name": "data", "Source": f"/var/lib/docker/volumes/{ANONYMOUS}/_data"},
        {"Type": "volume", "Source": "/mnt/elsewhere", "Destination": "/b"},
        {"Type": "volume", "Source": "", "Destination": "/b"},
    ],
)
def test_a_mount_that_is_named_or_has_no_such_place_is_left_alone(mount: dict[str, Any]) -> None:
    """A bind never gets a name, a name is never replaced, and a place that tells none gives none."""
    assert with_names({"Mounts": [mount]}) == {"Mounts": [mount]}
    assert with_names({"Mounts": [mount, NAMELESS]})["Mounts"][0] == mount


@pytest.mark.parametrize("none", [{}, {"Mounts": None}, {"Mounts": []}])
def test_a_container_without_mounts_stays_as_it_is(none: dict[str, Any]) -> None:
    """There is nothing to name."""
    assert with_names(none) == none


def test_threads_that_ask_who_it_is_at_once_send_one_request(script: ScriptedEngine) -> None:
    """Several containers are restored at once, and the answer is expensive for an engine."""
    script.says("GET", "/info", answer(DOCKER))
    engine, together = script.engine(), threading.Barrier(8)

    def ask(_: int) -> None:
        together.wait()
        engine.info()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert len([one for one in script.asked if one.path.endswith("/info")]) == 1


def test_threads_do_not_wait_for_an_engine_that_hangs_one_after_the_other(
    script: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each asks for itself then, so that all fail, or have their answers, at once."""
    monkeypatch.setattr("docker_rollback._engine.docker.engine._TURN", 0.0)
    script.says("GET", "/info", answer(DOCKER))
    engine = script.engine()
    with engine._asking, ThreadPoolExecutor(1) as pool:
        assert pool.submit(engine.info).result(timeout=10).flavour == "docker"
    assert engine.info().flavour == "docker"
