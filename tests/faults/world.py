"""What every world of the sweep has: containers, all that belongs to them, and an update of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import ClassVar, Final

import docker
from docker.errors import APIError, NotFound

from docker_rollback import Rollback
from tests.faults.cases import Scene

# A name with its registry means the same on every engine.
IMAGES: Final = {"1": "localhost/docker-rollback-faults:1", "2": "localhost/docker-rollback-faults:2"}

# The service looks at its data first: parts of two generations together are what no start may ever see.
SERVICE: Final = """
parts=$(cat /data/parts/* /cache/parts/* 2>/dev/null)
if [ "$(echo "$parts" | sort -u | wc -l)" -gt 1 ]; then echo "$parts" | tr '\\n' ' ' >> /witness/mixed; fi
echo "$VERSION" >> /witness/started
exec sleep 1000000
"""

Told = Callable[[str], AbstractContextManager[None]]


class UpdateFailedError(Exception):
    """What the update raises in the end."""


class World(ABC):
    """Some containers, their networks, their volumes, and their update.

    Args:
        client: a client of the engine.
        scene: which containers, and which update.
        witness: a folder of this machine that every service writes to, outside all volumes.

    Attributes:
        names: the containers that are rolled back.
    """

    names: ClassVar[tuple[str, ...]]

    def __init__(self, client: docker.DockerClient, scene: Scene, witness: Path) -> None:
        self._client = client
        self._scene = scene
        self._witness = witness

    @abstractmethod
    def build(self) -> None:
        """Remove everything that there is in the engine, and make everything anew."""

    @abstractmethod
    def update(self, tx: Rollback, told: Told) -> None:
        """Do what the update does; `told` names each change of files before it is made."""

    def clear(self) -> None:
        """Remove every container, volume and network, and every image but those of the sweep."""
        api = self._client.api
        # Those first that were made last: Podman keeps a container whose namespaces another one uses.
        for container in sorted(api.containers(all=True), key=lambda one: one["Created"], reverse=True):
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

    def folder(self, volume: str) -> Path:
        """Return where the files of a volume are."""
        return Path(str(self._client.api.inspect_volume(volume)["Mountpoint"]))

    def anonymous(self, container: str) -> Path:
        """Return where the files of the anonymous volume of a container are."""
        mounts = self._client.api.inspect_container(container)["Mounts"]
        return self.folder(next(str(mount["Name"]) for mount in mounts if mount["Destination"] == "/cache"))

    def write_parts(self, volume: str, generation: str) -> None:
        """Write the files of a volume that are all of one generation."""
        parts = self.folder(volume) / "parts"
        parts.mkdir(exist_ok=True)
        for number in range(12):
            (parts / str(number)).write_text(f"{generation}\n")

    def write_in(self, container: str) -> None:
        """Have a container write outside its volumes."""
        command = "mkdir -p /own/folder && cd /own/folder && echo mine > file && ln -s file link && rm /etc/group"
        code, said = self._client.containers.get(container).exec_run(["sh", "-c", command])
        if code != 0:
            raise RuntimeError(f"{container} could not be made dirty: {said!r}")

    def create(self, name: str, version: str, body: dict[str, object]) -> str:
        """Create a container of the update's version, and return its id."""
        whole = {
            "Image": IMAGES[version],
            "Cmd": ["sh", "-c", SERVICE],
            "Env": [f"VERSION={version}", "B=2", "EMPTY="],
            "StopSignal": "SIGKILL",
            **body,
        }
        create: Callable[..., dict[str, str]] = self._client.api.create_container_from_config
        return create(whole, name)["Id"]


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
