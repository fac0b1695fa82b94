"""A group of eight containers that need each other, as compose makes them, and its update."""

from __future__ import annotations

from typing import Any, Final

import docker

from docker_rollback import Rollback
from tests.faults.world import Told, World

NETWORK: Final = "back"
ROWS: Final = "rows"
KEYS: Final = "keys"
ADDRESSES: Final = {"db": "10.217.5.77", "cache": "10.217.5.78", "web": "10.217.5.79"}
DEPENDS: Final = {"web": ("db", "cache"), "sidecar": ("web",), "reader": ("web",)}


class Group(World):
    """A database and a cache, a web server on both, two that live in it, and three idle workers (see `World`)."""

    names = ("worker-1", "db", "worker-2", "cache", "web", "sidecar", "worker-3", "reader")

    def build(self) -> None:
        """Remove everything that there is in the engine, and make everything anew."""
        self.clear()
        api = self._client.api
        pool = docker.types.IPAMPool(subnet="10.217.5.0/24")
        api.create_network(NETWORK, ipam=docker.types.IPAMConfig(pool_configs=[pool]))
        for volume in (ROWS, KEYS):
            api.create_volume(volume)
            self.write_parts(volume, "1")
            (self.folder(volume) / "index").write_text(f"of {volume}\n")
        for name in self.names:
            api.start(self._create(name, "1"))
        (self.anonymous("cache") / "warm").write_text("yes\n")
        if self._scene.dirty:
            for name in ("cache", "web"):
                self.write_in(name)

    def update(self, tx: Rollback, told: Told) -> None:  # noqa: ARG002  (this update is not ours)
        """Remove some and make them again, change others, and leave one alone."""
        api = self._client.api
        for name in ("reader", "sidecar", "web", "worker-2"):
            api.remove_container(name, force=True, v=True)
        for name in ("cache", "db"):
            api.stop(name)
        for volume in (ROWS, KEYS):
            with told(f"change {volume} in place"):
                self.write_parts(volume, "2")
            with told(f"move files of {volume}"):
                (self.folder(volume) / "index").rename(self.folder(volume) / "moved")
        api.rename("cache", "cache-old")
        api.disconnect_container_from_network("cache-old", NETWORK)
        # An engine that is started again would start it, too.
        held: Any = {"Name": "no"}
        api.update_container("cache-old", restart_policy=held)
        for name in ("db", "worker-3"):
            api.update_container(name, mem_limit=64 << 20, memswap_limit=128 << 20)
        api.start(self._create("cache", "2"))
        api.start("db")
        for name in ("web", "worker-2", "sidecar", "reader"):
            api.start(self._create(name, "2"))

    def _create(self, name: str, version: str) -> str:
        service, _, number = name.partition("-")
        labels = {
            "com.docker.compose.project": "group",
            "com.docker.compose.service": service,
            "com.docker.compose.container-number": number or "1",
            "com.docker.compose.oneoff": "False",
            "com.docker.compose.depends_on": ",".join(f"{one}:service_started:false" for one in DEPENDS.get(name, ())),
        }
        witness = f"{self._witness}:/witness"
        host_config: dict[str, Any] = {"Binds": [witness], "RestartPolicy": {"Name": "always"}, "Memory": 32 << 20}
        body: dict[str, Any] = {"Labels": labels, "Hostname": name, "HostConfig": host_config}
        match name:
            case "db" | "cache":
                host_config |= {"Binds": [f"{ROWS if name == 'db' else KEYS}:/data", witness], "NetworkMode": NETWORK}
                if name == "cache":
                    body["Volumes"] = {"/cache": {}}
            case "web":
                host_config |= {"Binds": [f"{ROWS}:/data", f"{KEYS}:/cache", witness], "NetworkMode": NETWORK}
            case "sidecar":
                host_config["NetworkMode"] = "container:web"
                del body["Hostname"]
            case "reader":
                host_config |= {"VolumesFrom": ["web"], "Binds": [], "NetworkMode": "none"}
            case _:
                host_config["NetworkMode"] = "none"
        if name in ADDRESSES:
            endpoint = {"Aliases": [f"the-{name}"], "IPAMConfig": {"IPv4Address": ADDRESSES[name]}}
            body["NetworkingConfig"] = {"EndpointsConfig": {NETWORK: endpoint}}
        return self.create(name, version, body)
