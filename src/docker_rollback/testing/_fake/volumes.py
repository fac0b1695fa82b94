"""The volumes of the in-memory engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field

from docker_rollback.errors import EngineConflictError, VolumeNotFoundError
from docker_rollback.testing._fake.refusals import refusal
from docker_rollback.testing._fake.tree import Node, directory

ANONYMOUS = "com.docker.volume.anonymous"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


@define(eq=False)
class Volume:
    """One volume.

    Attributes:
        name: its name.
        created: the time of its creation, as the engine writes it.
        driver: the name of its driver.
        options: its driver's options.
        labels: its labels; None if it was created without any.
        root: its files.
    """

    name: str
    created: str
    driver: str
    options: dict[str, str] | None
    labels: dict[str, str] | None
    root: Node

    @property
    def fleeting(self) -> bool:
        """True if its files are in memory and are lost once no running container mounts it."""
        return (self.options or {}).get("type") == "tmpfs"

    @property
    def device(self) -> str:
        """The path of the host that it shows; empty if it has its own files."""
        options = self.options or {}
        return options.get("device", "") if "bind" in options.get("o", "").split(",") else ""


@define
class Volumes:
    """Keeps an engine's volumes, by name.

    Attributes:
        new_id: returns a new id, used to name anonymous volumes.
        users: returns the ids of the containers that mount a volume, which prevent its removal.
        folder: the folder of the engine's host under which mountpoints are shown.
        drivers: the volume drivers that the engine has.
    """

    new_id: Callable[[], str]
    users: Callable[[str], list[str]]
    folder: str
    drivers: tuple[str, ...]
    known: dict[str, Volume] = field(factory=dict)

    def get(self, name: str) -> Volume:
        """Return a volume; raises `VolumeNotFoundError`."""
        if name not in self.known:
            raise VolumeNotFoundError(name)
        return self.known[name]

    def create(self, request: Mapping[str, Any], when: str) -> str:
        """Make a volume and return its name; raises `EngineConflictError` if a different one has the name."""
        name = str(request.get("Name") or "")
        if name in self.known:
            there = self.known[name]
            differing = [
                word
                for word, has, asked in (
                    ("driver", there.driver, request.get("Driver") or "local"),
                    ("options", there.options or {}, dict(request.get("DriverOpts") or {})),
                    ("labels", there.labels or {}, dict(request.get("Labels") or {})),
                )
                if has != asked
            ]
            if differing:
                reason = f"there is one of that name with another {' and '.join(differing)}"
                raise EngineConflictError(f"create volume {name!r}", reason)
        return self.provide(request, when)

    def provide(self, request: Mapping[str, Any], when: str) -> str:
        """Make a volume unless it exists, as a container's mount does, and return its name."""
        name = str(request.get("Name") or "")
        driver = str(request.get("Driver") or "local")
        if name and not _NAME.fullmatch(name):
            raise refusal(
                f"create volume {name!r}",
                400,
                f'create {name}: "{name}" includes invalid characters for a local volume name, '
                'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed',
            )
        if driver not in self.drivers:
            raise refusal(
                f"create volume {name!r}",
                404,
                f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found',
            )
        if name in self.known:
            return name
        labels = dict(request["Labels"]) if request.get("Labels") else None
        if not name:
            name, labels = self.new_id(), {ANONYMOUS: "", **(labels or {})}
        options = dict(request["DriverOpts"]) if request.get("DriverOpts") else None
        self.known[name] = Volume(name, when, driver, options, labels, directory())
        return name

    def remove(self, name: str) -> None:
        """Remove a volume; raises `EngineConflictError` if a container uses it, in any state."""
        if name not in self.known:
            return
        users = self.users(name)
        if users:
            raise refusal(f"remove volume {name!r}", 409, f"remove {name}: volume is in use - [{', '.join(users)}]")
        del self.known[name]

    def inspect(self, name: str) -> dict[str, Any]:
        """Return a volume's inspection."""
        volume = self.get(name)
        return {
            "CreatedAt": volume.created[:19] + "Z",
            "Driver": volume.driver,
            "Labels": volume.labels,
            "Mountpoint": self.mountpoint(name),
            "Name": name,
            "Options": volume.options,
            "Scope": "local",
        }

    def mountpoint(self, name: str) -> str:
        """Return a volume's path on the engine's host, for show: no such folder exists."""
        return f"{self.folder}/volumes/{name}/_data"
