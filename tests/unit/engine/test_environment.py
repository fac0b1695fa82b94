"""The engine that the environment names: by DOCKER_HOST, or by a context; what is missing on the way is said."""

from __future__ import annotations

from importlib.metadata import requires
from pathlib import Path
from typing import Any

import docker
import pytest
from docker import ContextAPI

from docker_rollback import DockerEngine, EngineUnavailableError
from docker_rollback._engine.docker import environment


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home without anything of Docker's, and an environment that names no engine."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    # Without it, docker-py puts contexts into the folder in which it runs.
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text("{}")
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the addresses at which an engine was looked for; none is there."""
    found: list[str] = []
    real = docker.APIClient.__init__

    def made(self: docker.APIClient, *arguments: Any, **options: Any) -> None:
        found.append(str(options.get("base_url")))
        real(self, *arguments, **{**options, "version": "1.44"})

    monkeypatch.setattr(docker.APIClient, "__init__", made)
    return found


def test_a_context_is_followed_unless_the_host_is_named(
    home: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DOCKER_HOST comes first, then DOCKER_CONTEXT, then the one that is in use, then the default socket."""
    ContextAPI.create_context("used", host="unix:///engines/used.sock")
    ContextAPI.create_context("named", host="unix:///engines/named.sock")
    DockerEngine.from_env()
    (home / ".docker" / "config.json").write_text('{"currentContext": "used"}')
    DockerEngine.from_env()
    monkeypatch.setenv("DOCKER_CONTEXT", "")
    DockerEngine.from_env()
    monkeypatch.setenv("DOCKER_CONTEXT", "named")
    DockerEngine.from_env()
    monkeypatch.setenv("DOCKER_HOST", "unix:///engines/host.sock")
    DockerEngine.from_env()
    default, *others = asked
    assert default.endswith("/var/run/docker.sock") or default == "None"
    assert [one.rpartition("/")[2] for one in others] == ["used.sock", "used.sock", "named.sock", "host.sock"]


def test_a_context_that_is_not_there_is_not_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a slip of the finger does not lead to another engine."""
    monkeypatch.setenv("DOCKER_CONTEXT", "prod")
    with pytest.raises(EngineUnavailableError, match=r"no docker context 'prod'; `docker context ls` lists"):
        DockerEngine.from_env()


def test_ssh_without_its_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By DOCKER_HOST and by a context; the extra that it names is one of ours, and has docker-py's."""
    monkeypatch.setattr(environment, "find_spec", lambda _: None)
    monkeypatch.setenv("DOCKER_HOST", "ssh://root@far")
    with pytest.raises(EngineUnavailableError, match=r"ssh://root@far needs paramiko.*with its extra 'ssh'"):
        DockerEngine.from_env()
    monkeypatch.delenv("DOCKER_HOST")
    ContextAPI.create_context("far", host="ssh://root@further")
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    with pytest.raises(EngineUnavailableError, match=r"ssh://root@further\S* needs paramiko"):
        DockerEngine.from_env()
    project = Path(__file__).parents[3].joinpath("pyproject.toml").read_text()
    assert 'ssh = ["docker[ssh]' in project
    assert any("extra == 'ssh'" in one or 'extra == "ssh"' in one for one in requires("docker") or ())


@pytest.mark.parametrize("named", [True, False])
def test_tls_without_its_files_says_which(home: Path, monkeypatch: pytest.MonkeyPatch, *, named: bool) -> None:
    """In the folder that is named, or the one that is looked into by default."""
    folder = home / ("certs" if named else ".docker")
    folder.mkdir(exist_ok=True)
    (folder / "ca.pem").touch()
    monkeypatch.setenv("DOCKER_HOST", "tcp://far:2376")
    monkeypatch.setenv("DOCKER_CERT_PATH" if named else "DOCKER_TLS_VERIFY", str(folder) if named else "1")
    with pytest.raises(EngineUnavailableError, match=rf"{folder} has no cert.pem, key.pem; set DOCKER_CERT_PATH"):
        DockerEngine.from_env()


@pytest.mark.parametrize("address", ["far:2375", "/var/run/docker.sock", "foo://x", "://"])
def test_what_is_no_address_is_said_to_be_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With examples of what would be one."""
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(
        EngineUnavailableError, match=r"is not an engine.s address; set DOCKER_HOST to one such as unix:///"
    ):
        DockerEngine.from_env()


def test_the_docker_library_is_one_that_knows_contexts() -> None:
    """An older one would go to the default socket without a word."""
    project = Path(__file__).parents[3].joinpath("pyproject.toml").read_text()
    assert '"docker>=7.2"' in project
    assert tuple(map(int, docker.__version__.split(".")[:2])) >= (7, 2)
    assert hasattr(ContextAPI, "kwargs_from_context")
