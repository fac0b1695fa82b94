"""The `Engine` protocol, which is all that this library needs of a container engine, and its values.

Inspections are the engine's raw JSON. A typed model would drop fields that it does not know, and a container that is
recreated without those fields is not the same container.

Every method may raise an `EngineError`. Methods that take a reference raise the matching `NotFoundError` if the engine
does not know it. `ref` is a name, a full id, or the first digits of an id, at least 12.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, TypeAlias

from attrs import field, frozen

from docker_rollback._model import EngineRecord

Inspection: TypeAlias = Mapping[str, Any]
"""The unchanged JSON that an engine's inspect returns, or that its create accepts."""


@frozen
class EngineInfo:
    """An engine's description of itself.

    Attributes:
        flavour: the implementation.
        version: its version ("28.5.2").
        api_version: the negotiated API version ("1.45").
        architecture: its host's architecture in the kernel's words ("x86_64", "aarch64").
        storage_driver: its storage driver ("overlay2", "overlayfs", "overlay").
        containerd_store: True if images are in containerd's store, in which an image's id is its manifest's digest.
        default_runtime: the runtime of a container that names none.
        address: the address it was reached at ("unix:///var/run/docker.sock").
        root: its data folder, on its own host.
        identity: distinguishes it from every other engine for as long as it has its data: its own id or, if it has no
            lasting one, its host's name and `root`.
    """

    flavour: Literal["docker", "podman", "fake"]
    version: str
    api_version: str
    architecture: str
    storage_driver: str
    containerd_store: bool
    default_runtime: str
    address: str
    root: str
    identity: str = ""

    def record(self) -> EngineRecord:
        """Return the part that a backup records."""
        return EngineRecord(
            flavour=self.flavour,
            version=self.version,
            api_version=self.api_version,
            architecture=self.architecture,
            containerd_store=self.containerd_store,
            default_runtime=self.default_runtime,
            identity=self.identity,
        )


@frozen
class Change:
    """A path that a container's writable layer adds, changes or deletes."""

    path: str
    kind: Literal["changed", "added", "deleted"]


_BY_SIGNAL: Final = 128  # shells and engines add this to the number of the signal that killed a program


@frozen
class Finished:
    """How a program ended.

    Attributes:
        exit_code: its exit code; 127 if there is no such program, 126 if it cannot be run, 137 if it was killed by
            `kill`.
        stderr: the end of its error output, as text.
    """

    exit_code: int
    stderr: str

    @property
    def signal(self) -> int | None:
        """The number of the signal that killed it, for example when memory ran out; None if it exited."""
        if self.exit_code < 0:
            return -self.exit_code
        return self.exit_code - _BY_SIGNAL if self.exit_code > _BY_SIGNAL else None


class Process(Protocol):
    """A running program: bytes in, bytes out, an exit code.

    Leaving its ``with`` block ends the program if it still runs. The end of its output does not mean success; only
    `finish` tells.
    """

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of its output as soon as there are any; ``b""`` at the end."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Send all of `data` to its input. If the program ended early, only `finish` reports it."""

    def close_input(self) -> None:
        """Close its input."""

    def finish(self) -> Finished:
        """Close its input, discard the rest of its output, wait until it ends, and return the result."""

    def kill(self) -> None:
        """Kill it and wait until it has ended; harmless if it has ended already.

        Raises `EngineError` if it can only be ended together with its container.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


@frozen
class ContainerFilter:
    """Conditions for listing containers; a container has to match all of them.

    Attributes:
        name: the exact name, without the leading slash; of several names, any one.
        name_prefix: a prefix of the name, without the leading slash.
        labels: labels that it has.
        volume: the name of a volume that it mounts; of several names, any one.
        network: the name or id of a network that it is connected to.
        running: True for containers whose processes exist (running, paused, restarting) only.
    """

    name: str | tuple[str, ...] | None = None
    name_prefix: str | None = None
    labels: Mapping[str, str] = field(factory=dict)
    volume: str | tuple[str, ...] | None = None
    network: str | None = None
    running: bool = False

    def allows_names(self, names: Collection[str]) -> bool:
        """Return True if a container with these names meets the condition on the exact name."""
        return _has_one(names, self.name)

    def allows_volumes(self, mounted: Collection[str]) -> bool:
        """Return True if a container that mounts these volumes meets the condition on volumes."""
        return _has_one(mounted, self.volume)


def _has_one(there: Collection[str], wanted: str | tuple[str, ...] | None) -> bool:
    return wanted is None or any(name in there for name in ((wanted,) if isinstance(wanted, str) else wanted))


EVERY: Final = ContainerFilter()  # every container, in any state


class Engine(Protocol):
    """A container engine."""

    def info(self) -> EngineInfo:
        """Return the engine's description; raises `EngineUnavailableError` if nothing answers."""

    def now(self) -> datetime:
        """Return the time of the engine's own clock, which container start times refer to."""

    def forbidden(self) -> list[str]:
        """Return, in words, the kinds of requests that are always refused. Changes nothing."""

    # Containers

    def inspect_container(self, ref: str) -> Inspection:
        """Return a container's whole inspection; on Podman, "Native" has the inspection of Podman's own API."""

    def list_containers(self, where: ContainerFilter = ..., /) -> list[str]:
        """Return the full ids of the containers that match, in any state."""

    def create_container(self, name: str, request: Inspection, *, platform: str | None = None) -> str:
        """Create a container from a raw request, return its full id; `EngineConflictError` if the name is taken."""

    def start_container(self, ref: str) -> None:
        """Start it; harmless if it runs, `EngineConflictError` if it is paused."""

    def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
        """Stop it with its own stop signal, and wait until it has stopped; `timeout` replaces its own stop timeout.

        Harmless if it does not run. A paused container is resumed first; one with auto-remove is removed.
        """

    def kill_container(self, ref: str) -> None:
        """Kill it, and wait until it is stopped or removed; harmless if it does not run."""

    def pause_container(self, ref: str) -> None:
        """Pause its processes; harmless if it is paused, `EngineConflictError` if it does not run."""

    def unpause_container(self, ref: str) -> None:
        """Resume its processes; harmless if it is not paused, `EngineConflictError` if it does not run."""

    def rename_container(self, ref: str, name: str) -> None:
        """Rename it; harmless if it has the name already, `EngineConflictError` if another container has it."""

    def update_container(self, ref: str, changes: Inspection) -> None:
        """Change its resources or its restart policy in place, by raw `HostConfig` fields."""

    def remove_container(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it, and with `volumes` its anonymous volumes; harmless if it does not exist.

        Raises `EngineConflictError` if it runs, unless `force` is set.
        """

    def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
        """Commit its file system without pausing it, tag the image ``repository:tag``, return the image's id.

        The `author` is stored in the image (`Author`), stays with it on other engines, and is not passed on to
        containers.
        """

    def put_archive(self, ref: str, archive: bytes) -> None:
        """Extract a tar at the root of a container's file system; the container may run or not."""

    def get_archive(self, ref: str, path: str) -> Generator[bytes, None, None]:
        """Stream a tar of one file of a container, without following it, or of a folder and everything in it.

        The names in it begin with the last part of `path`. A caller may close the stream at any time. Raises
        `ContainerNotFoundError` also if there is no such file.
        """

    def container_changes(self, ref: str) -> list[Change]:
        """Return the changes of its writable layer against its image."""

    def container_logs(self, ref: str, *, tail: int) -> str:
        """Return the last `tail` lines of its output, both streams, as text."""

    def exec(self, ref: str, command: Sequence[str], *, stdin: bool = False) -> Process:
        """Run a program as root in a running container; raises `EngineConflictError` if it does not run."""

    # Images

    def inspect_image(self, ref: str) -> Inspection:
        """Return an image's whole inspection."""

    def list_images(self, repository: str) -> list[str]:
        """Return the names (``repository:tag``) of this engine's images in a repository."""

    def tag_image(self, ref: str, tag: str) -> None:
        """Tag an image ``repository:tag``; an image that has the tag loses it."""

    def remove_image(self, ref: str) -> None:
        """Remove a name, and the image with its last name; harmless if it does not exist. Never forces.

        Raises `EngineConflictError` if a container was created from it, or for the id of an image with several names.
        """

    def save_image(self, ref: str) -> Iterator[bytes]:
        """Stream the image as a tar, in the layout that this engine writes."""

    def load_image(self, archive: Iterable[bytes]) -> None:
        """Load images from a tar, in any layout whose ``manifest.json`` names its parts."""

    def import_image(self, archive: Iterable[bytes], tag: str) -> str:
        """Create an image with one layer from a tar of a file system, tag it, return its id."""

    def pull_image(self, ref: str, *, platform: str | None = None) -> str:
        """Pull an image by its name, or its name and digest, and return its id.

        The default tag is "latest". `platform` ("linux/arm64") selects one of several; the default is the engine's. The
        credentials are those of the engine's client. Raises `ImageNotFoundError` if the registry does not have it, or
        does not say.
        """

    # Networks

    def inspect_network(self, ref: str) -> Inspection:
        """Return a network's whole inspection."""

    def list_networks(self, *, labels: Mapping[str, str] = ...) -> list[str]:
        """Return the ids of the networks that have all `labels`."""

    def create_network(self, request: Inspection) -> str:
        """Create a network from a raw request, return its id; raises `EngineConflictError` if the name is taken."""

    def remove_network(self, ref: str) -> None:
        """Remove it; harmless if it does not exist, `EngineConflictError` if a running container uses it."""

    def connect_network(self, network: str, container: str, endpoint: Inspection) -> None:
        """Connect a container with a raw endpoint configuration; `EngineConflictError` if it is connected already."""

    def disconnect_network(self, network: str, container: str, *, force: bool = False) -> None:
        """Disconnect a container from a network; harmless if it is not connected."""

    # Volumes

    def inspect_volume(self, name: str) -> Inspection:
        """Return a volume's whole inspection."""

    def list_volumes(self, *, labels: Mapping[str, str] = ...) -> list[str]:
        """Return the names of the volumes that have all `labels`."""

    def create_volume(self, request: Inspection) -> str:
        """Create a volume from a raw request and return its name; harmless if an equal one exists.

        Raises `EngineConflictError` if the name is taken by a volume with another driver, options or labels.
        """

    def remove_volume(self, name: str) -> None:
        """Remove it; harmless if it does not exist, `EngineConflictError` if a container uses it."""
