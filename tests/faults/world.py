"""The container of the sweep, all that belongs to it, and its update."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Final

import docker
from docker.errors import APIError, NotFound

from docker_rollback import Rollback
from tests.faults.cases import Scene
from tests.unit.volumes import awkward

NAME: Final = "shop"
# A name with its registry means the same on every engine.
IMAGES: Final = {"1": "localhost/docker-rollback-faults:1", "2": "localhost/docker-rollback-faults:2"}
NETWORK: Final = "front"
VOLUME: Final = "orders"
SUBNETS: Final = {"1": "10.217.3", "2": "10.217.4"}

# The service looks at its data first: parts of two generations together are what no start may ever see.
SERVICE: Final = """
if [ "$(cat /data/parts/* | sort -u | wc -l)" -gt 1 ]; then cat /data/parts/* | tr '\\n' ' ' >> /witness/mixed; fi
echo "$VERSION" >> /witness/started
exec sleep 1000000
"""

Told = Callable[[str], AbstractContextManager[None]]


class UpdateFailedError(Exception):
    """What the update raises in the end."""


class World:
    """The container, its network, its volumes, and its update.

    Args:
        client: a client of the engine.
        scene: which container, and which update.
        witness: a folder of this machine that every service writes to, outside all volumes.
    """

    def __init__(self, client: docker.DockerClient, scene: Scene, witness: Path) -> None:
        self._client = client
        self._scene = scene
        self._witness = witness

    def build(self) -> None:
        """Remove whatever there is in the engine, and make everything anew."""
        self.clear()
        self._client.api.create_volume(VOLUME, labels={"of": NAME})
        self._create_network("1")
        data = self.folder(VOLUME)
        awkward.make(data)
        self._write_parts("1")
        shutil.rmtree(data / "many")
        self._client.api.start(self._create("1"))
        cache = self.folder(self.anonymous())
        (cache / "warm").write_text("yes\n")
        os.setxattr(cache / "warm", "user.kept", b"1")
        (cache / "folder").mkdir(mode=0o750)
        if self._scene.dirty:
            command = "mkdir -p /own/folder && cd /own/folder && echo mine > file && ln -s file link && rm /etc/group"
            code, said = self._client.containers.get(NAME).exec_run(["sh", "-c", command])
            if code != 0:
                raise RuntimeError(f"the container could not be made dirty: {said!r}")

    def clear(self) -> None:
        """Remove every container, volume and network, and every image but those of the sweep."""
        api = self._client.api
        for container in api.containers(all=True):
            _removed(api.remove_container, container["Id"], force=True, v=True)
        for volume in api.volumes()["Volumes"] or ():
            _removed(api.remove_volume, volume["Name"], force=True)
        for network in api.networks():
            if network["Name"] not in ("bridge", "host", "none", "podman"):
                _removed(api.remove_network, network["Id"])
        kept = set(IMAGES.values())
        for _ in range(3):  # children before parents, however they are listed
            for image in api.images(all=True):
                if not kept.intersection(image["RepoTags"] or ()):
                    with suppress(APIError):
                        api.remove_image(image["Id"], force=True)

    def update(self, tx: Rollback, told: Told) -> None:
        """Do what the update of this scene does: it changes container, volume and network."""
        api = self._client.api
        if self._scene.library:
            tx.replace(NAME, image=IMAGES["2"], pull="never", environment={"VERSION": "2"})
            self._change_data(told)
            return
        api.stop(NAME)
        if self._scene.replace:
            api.remove_container(NAME, v=True)
            api.remove_network(NETWORK)
            self._create_network("2")
            self._change_data(told)
            api.start(self._create("2"))
            return
        self._change_data(told)
        api.rename(NAME, f"{NAME}-old")
        api.disconnect_container_from_network(f"{NAME}-old", NETWORK)
        # An engine that is started again would start it, too.
        held: Any = {"Name": "no"}
        api.update_container(f"{NAME}-old", mem_limit=64 << 20, memswap_limit=128 << 20, restart_policy=held)
        api.start(self._create("2"))

    def folder(self, volume: str) -> Path:
        """Return where the files of a volume are."""
        return Path(str(self._client.api.inspect_volume(volume)["Mountpoint"]))

    def anonymous(self) -> str:
        """Return the name of the anonymous volume of the container."""
        mounts = self._client.api.inspect_container(NAME)["Mounts"]
        return next(str(mount["Name"]) for mount in mounts if mount["Destination"] == "/cache")

    def _change_data(self, told: Told) -> None:
        data = self.folder(VOLUME)
        with told("change files in place"):
            self._write_parts("2")
        with told("remove a folder"):
            shutil.rmtree(data / "deep")
        with told("add and rename files"):
            (data / "stray").mkdir()
            (data / "stray" / "file").write_text("half\n")
            (data / "names").rename(data / "stray" / "names")
            (data / "deep").symlink_to("/etc")

    def _write_parts(self, generation: str) -> None:
        parts = self.folder(VOLUME) / "parts"
        parts.mkdir(exist_ok=True)
        for number in range(12):
            (parts / str(number)).write_text(f"{generation}\n")

    def _create_network(self, version: str) -> None:
        pool = docker.types.IPAMPool(subnet=f"{SUBNETS[version]}.0/24")
        self._client.api.create_network(
            NETWORK, ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels={"version": version}
        )

    def _create(self, version: str) -> str:
        subnet = SUBNETS[version if self._scene.replace else "1"]
        body: dict[str, Any] = {
            "Image": IMAGES[version],
            "Cmd": ["sh", "-c", SERVICE],
            "Env": [f"VERSION={version}", "B=2", "EMPTY="],
            "Labels": {"role": "till"},
            "Hostname": "counter",
            "Volumes": {"/cache": {}},
            "StopSignal": "SIGKILL",
            "HostConfig": {
                "Binds": [f"{VOLUME}:/data", f"{self._witness}:/witness"],
                "NetworkMode": NETWORK,
                "RestartPolicy": {"Name": "always"},
                "Memory": 32 << 20,
                "CapAdd": ["NET_ADMIN"],
            },
            "NetworkingConfig": {
                "EndpointsConfig": {
                    NETWORK: {
                        "Aliases": ["till", "desk"],
                        "IPAMConfig": {"IPv4Address": f"{subnet}.{77 + int(version)}"},
                    }
                }
            },
        }
        create: Any = self._client.api.create_container_from_config
        return str(create(body, NAME)["Id"])


def _removed(remove: Callable[..., None], name: str, **options: bool) -> None:
    """Remove something; Podman gives up where a program takes its time to die, or where it was killed in a removal."""
    for last in (False, False, True):
        try:
            remove(name, **options)
        except NotFound:
            return
        except APIError:
            if last:
                raise
        else:
            return
