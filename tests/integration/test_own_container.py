"""A program in a container of a real engine knows that container, in whichever namespaces that is."""

from __future__ import annotations

import os
import secrets
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from attrs import evolve
from docker.errors import APIError, NotFound

import docker_rollback
from docker_rollback import DockerEngine
from docker_rollback._containers.find import find_containers
from docker_rollback._containers.own_container import Traces, own_container
from docker_rollback._engine.port import ContainerFilter
from tests.engines.results import cannot
from tests.removal import remove_container

MODES: dict[str, dict[str, Any]] = {
    "bridge": {},
    "host network": {"NetworkMode": "host"},
    "no network": {"NetworkMode": "none"},
    "another's network": {"NetworkMode": "container:{}"},
    "another's network and processes": {"NetworkMode": "container:{}", "PidMode": "container:{}"},
    "another's network and memory": {"NetworkMode": "container:{}", "IpcMode": "container:{}"},
    "host processes": {"PidMode": "host"},
    "host name": {"UTSMode": "host", "NetworkMode": "host"},
    "host control groups": {"CgroupnsMode": "host", "NetworkMode": "container:{}"},
    "own control groups": {"CgroupnsMode": "private", "NetworkMode": "container:{}"},
    "read-only": {"ReadonlyRootfs": True, "NetworkMode": "container:{}"},
    "privileged": {"Privileged": True, "NetworkMode": "container:{}"},
}
PROGRAM = """
import sys, docker_rollback
for name in sys.argv[1:]:
    try:
        docker_rollback.rollback(name, store="/tmp/store").check().raise_refusals()
        print("it may be rolled back", flush=True)
    except docker_rollback.DockerRollbackError as error:
        print("refused:", error, flush=True)
"""


class Town:
    """A vpn, a mate in its network and an updater, by their names and ids."""

    def __init__(self, client: docker.DockerClient, image: str) -> None:
        self.client = client
        self.image = image
        token = secrets.token_hex(4)
        self.names = {role: f"{role}-{token}" for role in ("vpn", "mate", "updater")}
        self.run("vpn", {"IpcMode": "shareable"})
        self.run("mate", {"NetworkMode": f"container:{self.names['vpn']}"})

    def run(self, role: str, host_config: dict[str, Any], **config: Any) -> str:
        """Run one of them, and return its id."""
        settled = {
            key: value.format(self.names["vpn"]) if isinstance(value, str) else value
            for key, value in host_config.items()
        }
        request = {
            "Image": self.image,
            "Cmd": ["sh", "-c", "sleep 600"],
            "StopSignal": "SIGKILL",
            "HostConfig": settled,
            **config,
        }
        create: Any = self.client.api.create_container_from_config  # the SDK's types leave it out
        made: str = create(request, self.names[role])["Id"]
        try:
            self.client.api.start(made)
        except APIError as error:
            if "unable to apply caps" not in str(error):
                raise
            cannot(self.client, "its host does not let it give a container every capability")
        return made

    def said(self, container: str, *words: str) -> str:
        """Run a program in a container, and return what it prints."""
        made = self.client.api.exec_create(container, list(words))
        printed: bytes = self.client.api.exec_start(made["Id"])
        return printed.decode()


@pytest.fixture
def town(docker_client: docker.DockerClient, busybox_image: str) -> Iterator[Town]:
    """Give the others; those that live off another go before it, as Podman wants it."""
    made = Town(docker_client, busybox_image)
    yield made
    for role in ("updater", "mate", "vpn"):
        with suppress(NotFound):
            remove_container(docker_client, made.names[role])


@pytest.mark.parametrize("mode", MODES)
def test_the_traces_of_a_container_lead_to_it(town: Town, mode: str) -> None:
    """What its kernel tells names it and no other, also where its control group tells nothing."""
    updater = town.run("updater", MODES[mode])
    traces = Traces(
        town.said(updater, "cat", "/proc/self/cgroup"),
        town.said(updater, "cat", "/proc/self/mountinfo"),
    )
    engine = DockerEngine(town.client)
    containers = [
        one for one in find_containers(engine, ContainerFilter(running=True)) if one.name in town.names.values()
    ]
    own = own_container(traces, containers)
    assert updater in [one.id for one in own.containers]
    by_layer = (town.client.api.inspect_container(updater).get("GraphDriver") or {}).get("Data")
    if by_layer or updater in traces.cgroup or "container:" not in str(MODES[mode].get("NetworkMode")):
        assert [one.id for one in own.containers] == [updater]
    # As where each container has a namespace of control groups to itself.
    mounts = [line for line in traces.mountinfo.splitlines() if "cgroup" not in line]
    alone = own_container(evolve(traces, cgroup="0::/\n", mountinfo="\n".join(mounts)), containers)
    assert updater in [one.id for one in alone.containers]
    if by_layer or "container:" not in str(MODES[mode].get("NetworkMode")):
        assert [one.id for one in alone.containers] == [updater]


@pytest.mark.parametrize("mode", MODES)
def test_a_program_in_a_container_does_not_stop_it(town: Town, engine_url: str, mode: str) -> None:
    """The whole library in a container refuses to stop that, and the one whose network it uses; both run on."""
    # The library under test before one that may be installed.
    libraries = [Path(docker_rollback.__file__).parent.parent, Path(sysconfig.get_path("purelib"))]
    shared = {Path("/usr"), Path("/lib"), Path("/lib64"), Path(sys.executable).resolve().parent.parent, *libraries}
    socket = Path(engine_url.removeprefix("unix://"))
    updater = town.run(
        "updater",
        {
            **MODES[mode],
            "Binds": [
                *(f"{path}:{path}:ro" for path in sorted(map(str, shared)) if Path(path).is_dir()),
                f"{socket.parent}:/engine",
            ],
            "Tmpfs": {"/tmp": ""},
        },
        Env=[f"PYTHONPATH={os.pathsep.join(map(str, libraries))}", f"DOCKER_HOST=unix:///engine/{socket.name}"],
    )
    python = str(Path(sys.executable).resolve())
    if "at hand" not in town.said(updater, "sh", "-c", f"{python} -c 'import docker_rollback; print(\"at hand\")'"):
        cannot(town.client, "it does not see this machine's files, Python among them")
    printed = town.said(updater, python, "-c", PROGRAM, town.names["updater"], town.names["vpn"], updater[:12])
    own, other, by_id = printed.splitlines()
    assert "this program runs in it" in own
    assert town.names["updater"] in by_id
    assert "this program runs in it" in by_id
    if "container:" in str(MODES[mode].get("NetworkMode")):
        assert f"this program runs in {town.names['updater']!r}, which uses the network" in other
    else:
        assert "this program" not in other
    running = {one["Id"] for one in town.client.api.containers()}
    assert {updater, *(town.client.api.inspect_container(name)["Id"] for name in town.names.values())} <= running
