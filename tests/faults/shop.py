"""One container with a network, a named and an anonymous volume, and its update."""

from __future__ import annotations

import os
import shutil
from typing import Any, Final

import docker

from docker_rollback import Rollback
from tests.faults.world import IMAGES, Told, World
from tests.unit.volumes import awkward

NAME: Final = "shop"
NETWORK: Final = "front"
VOLUME: Final = "orders"
SUBNETS: Final = {"1": "10.217.3", "2": "10.217.4"}


class Shop(World):
    """The container and its surroundings (see `World`)."""

    names = (NAME,)

    def build(self) -> None:
        """Remove everything that there is in the engine, and make everything anew."""
        self.clear()
        self._client.api.create_volume(VOLUME, labels={"of": NAME})
        self._create_network("1")
        data = self.folder(VOLUME)
        awkward.make(data)
        self.write_parts(VOLUME, "1")
        shutil.rmtree(data / "many")
        self._client.api.start(self._create("1"))
        cache = self.anonymous(NAME)
        (cache / "warm").write_text("yes\n")
        os.setxattr(cache / "warm", "user.kept", b"1")
        (cache / "folder").mkdir(mode=0o750)
        if self._scene.dirty:
            self.write_in(NAME)

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

    def _change_data(self, told: Told) -> None:
        data = self.folder(VOLUME)
        with told("change files in place"):
            self.write_parts(VOLUME, "2")
        with told("remove a folder"):
            shutil.rmtree(data / "deep")
        with told("add and rename files"):
            (data / "stray").mkdir()
            (data / "stray" / "file").write_text("half\n")
            (data / "names").rename(data / "stray" / "names")
            (data / "deep").symlink_to("/etc")

    def _create_network(self, version: str) -> None:
        pool = docker.types.IPAMPool(subnet=f"{SUBNETS[version]}.0/24")
        self._client.api.create_network(
            NETWORK, ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels={"version": version}
        )

    def _create(self, version: str) -> str:
        subnet = SUBNETS[version if self._scene.replace else "1"]
        body: dict[str, Any] = {
            "Labels": {"role": "till"},
            "Hostname": "counter",
            "Volumes": {"/cache": {}},
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
        return self.create(NAME, version, body)
