"""The engine in memory answers as Docker 28 does: both are asked the same, and their inspections compared.

What an engine makes up (ids, times, addresses, names of anonymous volumes) counts by being there or not.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import docker
import pytest
from attrs import frozen

from docker_rollback._engine.docker.engine import DockerEngine
from docker_rollback._engine.port import Engine, Inspection
from docker_rollback.errors import EngineError
from docker_rollback.testing import FakeEngine

MADE_UP = frozenset(
    {
        "Created",
        "CreatedAt",
        "EndpointID",
        "FinishedAt",
        "Gateway",
        "HostnamePath",
        "HostsPath",
        "HostPort",
        "Id",
        "IPAddress",
        "LastTagTime",
        "LogPath",
        "MacAddress",
        "Mountpoint",
        "NetworkID",
        "Pid",
        "ResolvConfPath",
        "SandboxID",
        "SandboxKey",
        "Source",
        "StartedAt",
    }
)
"""What an engine makes up as it goes."""

HOSTS_OWN = frozenset(
    {"CgroupnsMode", "Driver", "DockerVersion", "GraphDriver", "IPPrefixLen", "OomKillDisable", "Size"}
)
"""What depends on the host alone."""

REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "configured": {
        "Entrypoint": ["/bin/busybox"],
        "Cmd": ["sleep", "600"],
        "Env": ["A=1", "EMPTY=", "BARE"],
        "Hostname": "own",
        "Domainname": "example",
        "User": "0:0",
        "WorkingDir": "/work",
        "StopSignal": "SIGKILL",
        "StopTimeout": 3,
        "Tty": True,
        "OpenStdin": True,
        "Healthcheck": {"Test": ["NONE"]},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
    },
    "cleared": {"Entrypoint": [""], "Cmd": ["sleep", "600"]},
    "limited": {
        "HostConfig": {
            "Memory": 64 << 20,
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
            "ExtraHosts": ["other:192.0.2.7"],
            "CapAdd": ["SYS_TIME"],
            "SecurityOpt": ["no-new-privileges"],
            "Annotations": {"a": "b"},
            "MaskedPaths": [],
            "LogConfig": {"Type": "none"},
            "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
        }
    },
    "mounted": {
        "Volumes": {"/anonymous": {}},
        "HostConfig": {
            "Binds": ["{volume}:/bound:ro", "/tmp:/host:ro,private"],
            "Mounts": [
                {"Type": "volume", "Target": "/nameless"},
                {"Type": "volume", "Source": "{volume}", "Target": "/named", "VolumeOptions": {"NoCopy": True}},
                {"Type": "tmpfs", "Target": "/memory"},
            ],
            "Tmpfs": {"/run": ""},
        },
    },
    "networked": {
        "HostConfig": {"NetworkMode": "{network}", "PortBindings": {"80/tcp": [{"HostPort": ""}]}},
        "ExposedPorts": {"80/tcp": {}},
        "NetworkingConfig": {
            "EndpointsConfig": {
                "{network}": {
                    "Aliases": ["alias"],
                    "IPAMConfig": {"IPv4Address": "198.18.77.9"},
                    "MacAddress": "02:00:00:00:00:09",
                    "GwPriority": 2,
                },
                "bridge": {},
            }
        },
    },
    "of the host": {"HostConfig": {"NetworkMode": "none", "Privileged": True}},
    "sharing": {"HostConfig": {"NetworkMode": "container:{owner}", "PidMode": "container:{owner}"}},
    "borrowing": {"HostConfig": {"VolumesFrom": ["{owner}:ro"], "Links": ["{owner}:db"], "PublishAllPorts": True}},
    "refused: policy": {"HostConfig": {"AutoRemove": True, "RestartPolicy": {"Name": "always"}}},
    "refused: twice": {"HostConfig": {"Binds": ["{volume}:/x", "{volume}:/x"]}},
    "refused: hostname": {"Hostname": "own", "HostConfig": {"NetworkMode": "container:{owner}"}},
    "refused: alias": {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"Aliases": ["alias"]}}}},
    "refused: source": {"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/no/such/place", "Target": "/x"}]}},
    "refused: runtime": {"HostConfig": {"Runtime": "nosuch"}},
    "refused: network": {"HostConfig": {"NetworkMode": "nosuch"}},
}


@frozen
class Pair:
    """A real engine and the one in memory, with the same image in both.

    Attributes:
        real: the real one.
        fake: the one in memory.
        names: what stands for the words in braces, the same in both.
        image: the image.
        labels: what everything that is made bears.
    """

    real: Engine
    fake: FakeEngine
    names: Mapping[str, str]
    image: str
    labels: Mapping[str, str]

    def filled(self, value: Any) -> Any:
        """Return a request with names in place of the words in braces."""
        if isinstance(value, dict):
            return {self.filled(key): self.filled(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.filled(one) for one in value]
        return value.format_map(self.names) if isinstance(value, str) else value


@pytest.fixture
def pair(docker_client: docker.DockerClient, busybox_image: str, test_labels: dict[str, str]) -> Iterator[Pair]:
    """Give both engines, with a container, a network and a volume that requests refer to."""
    version = docker_client.version()
    if not version["Version"].startswith("28.") or "containerd" in str(docker_client.info()["DriverStatus"]):
        pytest.skip("the engine in memory takes after Docker 28 with a store of its own")
    token = secrets.token_hex(4)
    names = {word: f"likeness-{word}-{token}" for word in ("owner", "network", "volume", "subject")}
    pair = Pair(DockerEngine(docker_client), FakeEngine(), names, busybox_image, test_labels)
    pair.fake.load_image(pair.real.save_image(busybox_image))
    subnet = {"IPAM": {"Config": [{"Subnet": "198.18.77.0/24"}]}}
    for engine in (pair.real, pair.fake):
        engine.create_network({"Name": names["network"], "Labels": test_labels, **subnet})
        engine.create_volume({"Name": names["volume"], "Labels": test_labels})
        owner = {"Image": busybox_image, "Cmd": ["sleep", "600"], "Volumes": {"/own": {}}, "StopSignal": "SIGKILL"}
        engine.create_container(names["owner"], owner)
        engine.start_container(names["owner"])
    yield pair
    for name in ("subject", "owner"):
        pair.real.remove_container(names[name], force=True, volumes=True)


def story(pair: Pair, engine: Engine, request: Mapping[str, Any]) -> list[str]:
    """Return all that is to be seen of a container from its creation to its second start, a line for each fact."""
    name = pair.names["subject"]
    seen: list[str] = []
    steps: dict[str, Callable[[], object]] = {
        "create": lambda: engine.create_container(name, request),
        "start": lambda: engine.start_container(name),
        "pause": lambda: engine.pause_container(name),
        "kill": lambda: engine.kill_container(name),
        "start again": lambda: engine.start_container(name),
    }
    for step, work in steps.items():
        try:
            work()
        except EngineError as error:
            seen.append(f"{step}: refused with {error.status}")
            break
        seen += [f"{step}: {fact}" for fact in facts(engine.inspect_container(name))]
        seen += [f"{step}: {change.kind} {change.path}" for change in sorted(engine.container_changes(name), key=str)]
    return seen


def facts(value: Any, path: str = "", key: str = "") -> list[str]:
    """Return what two engines have to say alike: a line for each value, with the path to it."""
    if key in HOSTS_OWN:
        return []
    if key in MADE_UP:
        return [f"{path} {'is there' if value else 'is empty'}"]
    if isinstance(value, Mapping) and value:
        return [fact for name in sorted(value) for fact in facts(value[name], f"{path}.{_masked(name)}", name)]
    if isinstance(value, list) and value:
        ordered = sorted(value, key=lambda mount: str(mount["Destination"])) if path == ".Mounts" else value
        return [fact for number, one in enumerate(ordered) for fact in facts(one, f"{path}[{number}]")]
    return [f"{path} = {_masked(value) if isinstance(value, str) else value!r}"]


def _masked(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b", "ID", text)


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=list(REQUESTS))
def test_both_tell_the_same_story(pair: Pair, request_: dict[str, Any]) -> None:
    """From creation to a second start, inspections, changes and refusals are those of Docker."""
    wanted = {"Image": pair.image, "Cmd": ["sleep", "600"], "StopSignal": "SIGKILL", **pair.filled(request_)}
    assert story(pair, pair.fake, wanted) == story(pair, pair.real, wanted)


def test_networks_and_volumes_are_shown_alike(pair: Pair) -> None:
    """What both engines say of the network, the volume and the image is the same."""
    asked: list[Callable[[Engine], Inspection]] = [
        lambda engine: engine.inspect_network(pair.names["network"]),
        lambda engine: engine.inspect_volume(pair.names["volume"]),
        lambda engine: engine.inspect_image(pair.image),
    ]
    for ask in asked:
        assert facts(ask(pair.fake)) == facts(ask(pair.real))
