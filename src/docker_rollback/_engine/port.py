"""What this library asks of a container engine: the `Engine` protocol, and the values that pass through it.

Inspections pass raw, as the engine's JSON: typed models of them drop the fields that they do not know, and a container
that is made again without those fields is not the same container.

Every method raises an `EngineError`; those that take a reference raise the matching `NotFoundError` where the engine
does not know it. `ref` is a name, a full id, or the beginning of an id of at least 12 digits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, TypeAlias

from attrs import field, frozen

from docker_rollback._model import EngineRecord

Inspection: TypeAlias = Mapping[str, Any]
"""What an engine's inspect answers, and what its create takes: JSON, untouched."""


@frozen
class EngineInfo:
    """Who the engine is.

    Attributes:
        flavour: which implementation answers.
        version: its own version, as it says it ("28.5.2").
        api_version: the version of the API that is spoken with it ("1.45").
        architecture: of its host, as the kernel names it ("x86_64", "aarch64").
        storage_driver: what keeps its layers ("overlay2", "overlayfs", "overlay").
        containerd_store: whether images live in containerd's store, where an image's id is its manifest's digest.
        default_runtime: the runtime that a container gets that names none.
        address: where it was reached ("unix:///var/run/docker.sock").
        root: the folder of its data on its own host.
        identity: what tells it from every other engine for as long as it keeps its data: its own id or, where it has
            none that lasts, its host's name and that folder.
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
        """Return what a backup keeps of it."""
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
    """One path that a container's writable layer adds, changes or deletes."""

    path: str
    kind: Literal["changed", "added", "deleted"]


_BY_SIGNAL: Final = 128
"""What a shell and an engine add to the number of a signal that killed a program."""


@frozen
class Finished:
    """How a program ended.

    Attributes:
        exit_code: as the system gave it; 127 where there is no such program, 126 where it cannot be run, 137 where it
            was killed here.
        stderr: the end of what it said, as text.
    """

    exit_code: int
    stderr: str

    @property
    def signal(self) -> int | None:
        """The number of the signal that killed it, as when memory ran out; None where it ended by itself."""
        if self.exit_code < 0:
            return -self.exit_code
        return self.exit_code - _BY_SIGNAL if self.exit_code > _BY_SIGNAL else None


class Process(Protocol):
    """A program at work next to the data: bytes in, bytes out, an exit code.

    Leaving its ``with`` block ends a program that still runs. Nothing may be concluded from the end of its output:
    only `finish` knows whether it did its work.
    """

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of its output as soon as there are any; ``b""`` once it has closed it."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Send all of `data` to its input; a program that ended early shows in `finish`, not here."""

    def close_input(self) -> None:
        """Say that no more input comes."""

    def finish(self) -> Finished:
        """Wait until it has ended and say how; closes its input, drops what it still prints."""

    def kill(self) -> None:
        """End it now and wait until it has; harmless where it has ended already.

        Raises `EngineError` where there is no way to end it but to end its container.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


@frozen
class ContainerFilter:
    """Which containers a list names: those to which every given condition applies.

    Attributes:
        name: their exact name, without the leading slash.
        name_prefix: how their name begins, without the leading slash.
        labels: labels that they bear.
        volume: a volume that they mount, by name; of several names, any one.
        network: a network that they are attached to, by name or id.
        running: only those whose processes exist (running, paused, restarting).
    """

    name: str | None = None
    name_prefix: str | None = None
    labels: Mapping[str, str] = field(factory=dict)
    volume: str | tuple[str, ...] | None = None
    network: str | None = None
    running: bool = False

    def allows_volumes(self, mounted: Collection[str]) -> bool:
        """Return True if a container that mounts these volumes meets the condition on volumes."""
        wanted = (self.volume,) if isinstance(self.volume, str) else self.volume
        return wanted is None or any(name in mounted for name in wanted)


EVERY: Final = ContainerFilter()
"""Every container, in whatever state."""


class Engine(Protocol):
    """The one door to a container engine."""

    def info(self) -> EngineInfo:
        """Ask who answers; raises `EngineUnavailableError` where nobody does."""

    def now(self) -> datetime:
        """Return the moment by the engine's own clock, the one by which it says when a container was started."""

    def forbidden(self) -> list[str]:
        """Return, in words, what of all that is asked here is refused whatever it is asked of; changes nothing."""

    # Containers

    def inspect_container(self, ref: str) -> Inspection:
        """Return the whole inspection of one container, with that of Podman's own API as "Native" on Podman."""

    def list_containers(self, where: ContainerFilter = ..., /) -> list[str]:
        """Return the full ids of the containers, in whatever state, that `where` describes."""

    def create_container(self, name: str, request: Inspection, *, platform: str | None = None) -> str:
        """Create a container from a raw request, return its full id; raises `EngineConflictError` for a taken name."""

    def start_container(self, ref: str) -> None:
        """Start it; harmless where it runs, `EngineConflictError` where it is paused."""

    def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
        """Stop it by its own signal; None is its own patience, seconds where given. Waits however long that takes.

        Harmless where it does not run. One that is paused goes on first; one that is to be removed at its end is gone.
        """

    def kill_container(self, ref: str) -> None:
        """End it at once, and wait until it is gone or stopped; harmless where it does not run."""

    def pause_container(self, ref: str) -> None:
        """Freeze its processes; harmless where they are, `EngineConflictError` where it does not run."""

    def unpause_container(self, ref: str) -> None:
        """Let its processes go on; harmless where they do, `EngineConflictError` where it does not run."""

    def rename_container(self, ref: str, name: str) -> None:
        """Give it another name; harmless where it has it already, `EngineConflictError` for a taken one."""

    def update_container(self, ref: str, changes: Inspection) -> None:
        """Change its resources or its restart policy in place, by raw `HostConfig` fields."""

    def remove_container(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it, with its anonymous volumes where asked; harmless where there is none.

        Raises `EngineConflictError` where it runs, unless forced.
        """

    def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
        """Make an image of its file system without pausing it, tag it ``repository:tag``, return the image's id.

        The `author` belongs to the image (`Author`), stays with it on its way to other engines, and is not passed on
        to containers.
        """

    def put_archive(self, ref: str, archive: bytes) -> None:
        """Unpack a tar at the root of a container's file system, whether it runs or not."""

    def container_changes(self, ref: str) -> list[Change]:
        """Return what its writable layer holds beyond its image."""

    def container_logs(self, ref: str, *, tail: int) -> str:
        """Return its last `tail` lines of output, both streams, as text."""

    def exec(self, ref: str, command: Sequence[str], *, stdin: bool = False) -> Process:
        """Run a program as root in a running container; raises `EngineConflictError` where it does not run."""

    # Images

    def inspect_image(self, ref: str) -> Inspection:
        """Return the whole inspection of one image."""

    def list_images(self, repository: str) -> list[str]:
        """Return the names, ``repository:tag``, of the images of one repository of this engine, not of a registry."""

    def tag_image(self, ref: str, tag: str) -> None:
        """Give an image one more name, ``repository:tag``, taking it from whichever image has it."""

    def remove_image(self, ref: str) -> None:
        """Remove a name, and the image where that was its last; harmless where there is none. Never forces.

        Raises `EngineConflictError` where a container was made from it, or where an id with several names is given.
        """

    def save_image(self, ref: str) -> Iterator[bytes]:
        """Stream the image as a tar, in whatever layout this engine writes."""

    def load_image(self, archive: Iterable[bytes]) -> None:
        """Load images from a tar in any layout whose ``manifest.json`` names its parts."""

    def import_image(self, archive: Iterable[bytes], tag: str) -> str:
        """Make an image of one layer from a tar of a file system, tag it, return its id."""

    def pull_image(self, ref: str, *, platform: str | None = None) -> str:
        """Fetch an image by its name, or its name and digest, from the registry that it names; return its id.

        Without a tag, "latest" is meant; `platform` ("linux/arm64") chooses among several, by default as the engine
        does. The right to do so is that of the engine's client. Raises `ImageNotFoundError` where the registry has
        none, or does not tell.
        """

    # Networks

    def inspect_network(self, ref: str) -> Inspection:
        """Return the whole inspection of one network."""

    def list_networks(self, *, labels: Mapping[str, str] = ...) -> list[str]:
        """Return the ids of the networks that bear `labels`."""

    def create_network(self, request: Inspection) -> str:
        """Create a network from a raw request, return its id; raises `EngineConflictError` for a taken name."""

    def remove_network(self, ref: str) -> None:
        """Remove it; harmless where there is none, `EngineConflictError` where a running container uses it."""

    def connect_network(self, network: str, container: str, endpoint: Inspection) -> None:
        """Attach a container with a raw endpoint configuration; raises `EngineConflictError` where it is attached."""

    def disconnect_network(self, network: str, container: str, *, force: bool = False) -> None:
        """Detach a container from a network; harmless where it is not attached."""

    # Volumes

    def inspect_volume(self, name: str) -> Inspection:
        """Return the whole inspection of one volume."""

    def list_volumes(self, *, labels: Mapping[str, str] = ...) -> list[str]:
        """Return the names of the volumes that bear `labels`."""

    def create_volume(self, request: Inspection) -> str:
        """Create a volume from a raw request and return its name; harmless where an equal one is there.

        Raises `EngineConflictError` where one of that name has another driver, other options or other labels.
        """

    def remove_volume(self, name: str) -> None:
        """Remove it; harmless where there is none, `EngineConflictError` where a container uses it."""
