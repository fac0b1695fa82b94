"""The project's own engines: they answer, and they leave no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from tests.engines import LOCAL, NAMES, PrivateEngine, catalog, debian, namespaces
from tests.engines.images import busybox_tar
from tests.engines.private import answers

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a private engine")


@pytest.mark.parametrize("name", NAMES)
def test_each_engine_keeps_to_its_own_folders(name: str) -> None:
    """Every path in the words that start an engine lies in one of its two folders."""
    places = catalog.Places(Path("/run/own"), Path("/data/own"))
    words = catalog.command(catalog.recipe(name), places, overlay=True)
    paths = [word.removeprefix("unix://") for word in words if word.removeprefix("unix://").startswith("/")]
    assert len(paths) == 5
    assert [path for path in paths if not path.startswith(("/run/own", "/data/own"))] == []


def test_an_unknown_engine_is_named_with_those_there_are() -> None:
    """A name that is none gets an answer that lists the names."""
    with pytest.raises(LookupError, match=r"docker-0\.1.*docker-28\.5"):
        PrivateEngine("docker-0.1")


def test_what_was_fetched_before_is_there_for_who_may_not_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that is unpacked already takes no lock, which a user without root could not open."""
    monkeypatch.setenv("DOCKER_ROLLBACK_ENGINES", str(tmp_path))
    kept = tmp_path / "docker-compose-forky"
    kept.mkdir()
    assert debian.compose().is_relative_to(kept)
    assert list(tmp_path.iterdir()) == [kept]


@as_root
@pytest.mark.engine
def test_a_private_engine_lives_and_leaves_no_trace() -> None:
    """An engine answers in its block; afterwards its process, folders and mounts are gone."""
    with PrivateEngine(LOCAL, instance=str(os.getpid())) as engine:
        pid = engine.pid
        client = docker.DockerClient(engine.address)
        assert client.info()["DockerRootDir"] == str(engine.places.data)
        client.close()
    assert pid is not None
    assert engine.pid is None
    assert not Path(f"/proc/{pid}").exists()
    assert not engine.places.run.exists()
    assert not engine.places.data.exists()
    assert str(engine.places.run) not in Path("/proc/self/mountinfo").read_text()


@as_root
@pytest.mark.engine
def test_an_engine_ends_alone() -> None:
    """Where an engine ends, one whose name only begins like its own goes on."""
    with PrivateEngine(LOCAL, instance=f"{os.getpid()}x") as other:
        with PrivateEngine(LOCAL, instance=str(os.getpid())):
            pass
        assert answers(other.address)


@as_root
@pytest.mark.engine
def test_an_engine_that_is_killed_starts_again_with_what_it_had() -> None:
    """After a kill and a start, an engine has its images and its network, and starts what it is to keep running."""
    with PrivateEngine(LOCAL, instance=str(os.getpid())) as engine:
        client = docker.DockerClient(engine.address)
        client.api.import_image_from_data(busybox_tar(), repository="kept")
        client.containers.run("kept", ["sleep", "1000"], name="kept", detach=True, restart_policy={"Name": "always"})
        network = engine.places.network.stat().st_ino
        engine.kill()
        assert not answers(engine.address)
        engine.start()
        assert client.containers.get("kept").status == "running"
        assert engine.places.network.stat().st_ino == network
        client.close()


def test_nobody_answers_where_no_engine_is(tmp_path: Path) -> None:
    """An address without an engine is told from one with."""
    assert not answers(f"unix://{tmp_path}/docker.sock")


@pytest.mark.parametrize("name", NAMES)
def test_each_suite_has_the_programs_of_its_engines(name: str) -> None:
    """The root file system of a suite gets each engine that is taken from there, and nothing for others."""
    suite = catalog.recipe(name).suite
    packages = catalog.root_packages(str(suite))
    kinds = {known.kind for known in catalog.RECIPES if known.suite == suite}
    assert [kind for kind, package in (("docker", "docker.io"), ("podman", "podman")) if package in packages] == sorted(
        kinds if suite else ()
    )


@as_root
def test_a_network_is_joined_though_its_engine_has_moved_on(tmp_path: Path) -> None:
    """Who joins a private network comes into the first one of its engine, wherever its main thread is by now."""
    handle = tmp_path / "net"
    own = [sys.executable, "-I", namespaces.__file__, "--network-handle", str(handle), "--"]
    moved = ["unshare", "--net", "sh", "-c", "readlink /proc/self/ns/net; read line"]
    script = "readlink /proc/self/ns/net; exec " + " ".join(f"'{word}'" for word in moved)
    join = f"from tests.engines import namespaces as n; n.join_network(n.Path({str(handle)!r})); import os;"
    join += "print(os.readlink('/proc/thread-self/ns/net'))"
    try:
        with subprocess.Popen([*own, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
            assert engine.stdin is not None
            assert engine.stdout is not None
            first, now = engine.stdout.readline(), engine.stdout.readline()
            joined = subprocess.run([sys.executable, "-c", join], capture_output=True, check=True).stdout
            engine.stdin.close()
        assert first != now
        assert joined == first
    finally:
        debian.remove_tree(tmp_path)
