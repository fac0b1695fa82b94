"""The project's own engines: they answer, and they leave no trace."""

from __future__ import annotations

import os
from pathlib import Path

import docker
import pytest

from tests.engines import LOCAL, NAMES, PrivateEngine, catalog
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


def test_nobody_answers_where_no_engine_is(tmp_path: Path) -> None:
    """An address without an engine is told from one with."""
    assert not answers(f"unix://{tmp_path}/docker.sock")
