"""The in-memory engine: `FakeEngine`."""

from __future__ import annotations

import copy
import hashlib
import itertools
import platform
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from docker_rollback._engine import EVERY, Change, ContainerFilter, EngineInfo, Inspection, Process
from docker_rollback.errors import ContainerNotFoundError
from docker_rollback.testing._fake.containers import Container, inspection
from docker_rollback.testing._fake.create import restart_policy
from docker_rollback.testing._fake.files import Files
from docker_rollback.testing._fake.images import VERSION, Image, Images
from docker_rollback.testing._fake.layers import Layer, apply, archive_of, differences, pack
from docker_rollback.testing._fake.life import Life
from docker_rollback.testing._fake.maker import Maker, Moments
from docker_rollback.testing._fake.mountinfo import with_proc
from docker_rollback.testing._fake.networks import Networks
from docker_rollback.testing._fake.processes import FakeProcess
from docker_rollback.testing._fake.programs import find_program
from docker_rollback.testing._fake.refusals import refusal
from docker_rollback.testing._fake.setup import Setup
from docker_rollback.testing._fake.tree import View, directory
from docker_rollback.testing._fake.volumes import Volumes

_ROOT = "/var/lib/fake-engine"
_REPOSITORY = re.compile(r"(?:[a-zA-Z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
_MOST_LAYERS = 125
_GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}


def _utc_now() -> datetime:
    return datetime.now(UTC)


class FakeEngine(Setup):
    """An in-memory engine that behaves as Docker does, for tests of code that uses this library.

    It keeps containers, images, networks and volumes, with their files; each call sees the changes of the calls before
    it. Whole backups, rollbacks and recoveries run on it, in milliseconds, with nothing installed. It implements
    `Engine`, so it can be passed as a `client`. It also has methods for tests: `add_image`, `run`, `container`,
    `volume`, `host`, `on_start`, `on_stop`, `program`.

    It is thread-safe.

    Example:
        >>> fake = FakeEngine()
        >>> fake.add_image("shop:1", files={"/app": "version 1"}, volumes=["/data"])
        >>> fake.run("shop", image="shop:1", volumes={"orders": "/data"})
        >>> fake.volume("orders").write("1.json", b"{}")
        >>> with pytest.raises(RuntimeError), rollback("shop", client=fake, store=tmp_path):
        ...     fake.volume("orders").delete("1.json")
        ...     raise RuntimeError("the update failed")
        >>> fake.volume("orders").read("1.json")
        b'{}'
    """

    def __init__(
        self,
        *,
        clock: Callable[[], datetime] = _utc_now,
        seed: str = "",
        architecture: str | None = None,
        volume_drivers: Sequence[str] = ("local",),
        hostname: str = "engine-host",
    ) -> None:
        """Make an engine that has nothing but its three predefined networks.

        Args:
            clock: returns the current time, in UTC; a `FakeClock` makes time-dependent tests repeatable. The engine
                never sleeps.
            seed: the seed of the ids that it generates; two engines with the same seed generate the same ids.
            architecture: its host's architecture, as the kernel names it; None for that of this machine.
            volume_drivers: the volume drivers that it has.
            hostname: the name of its host.
        """
        self._lock = threading.RLock()
        self._seed = seed
        self._numbers = itertools.count(1)
        self._architecture = architecture or platform.machine()
        moments = Moments(clock)
        host = directory()
        images = Images(self._image_users, _GO_NAMES.get(self._architecture, self._architecture))
        volumes = Volumes(self._new_id, self._volume_users, _ROOT, tuple(volume_drivers))
        networks = Networks(self._new_id)
        networks.begin(moments.written())
        maker = Maker(images, networks, volumes, host, moments, self._new_id, hostname)
        super().__init__(self._lock, Life(maker, self._began, self._asked_to_end))

    def _new_id(self) -> str:
        return hashlib.sha256(f"{self._seed}:{next(self._numbers)}".encode()).hexdigest()

    def _image_users(self, image: str) -> list[str]:
        return [one.id for one in self._maker.known.values() if one.image == image]

    def _volume_users(self, name: str) -> list[str]:
        return [one.id for one in self._maker.known.values() if any(mount.name == name for mount in one.mounts)]

    def _find(self, ref: str) -> Container:
        self._life.settle()
        return self._maker.get(ref)

    def forbidden(self) -> list[str]:
        """Return the operations that the engine refuses for every object: none."""
        return []

    def now(self) -> datetime:
        """Return the current time by the engine's own clock."""
        return self._maker.moments.now()

    def info(self) -> EngineInfo:
        """Return the engine's name, version and settings."""
        return EngineInfo(
            flavour="fake",
            version=VERSION,
            api_version="1.51",
            architecture=self._architecture,
            storage_driver="memory",
            containerd_store=False,
            default_runtime="runc",
            address="fake://",
            root=_ROOT,
            identity=f"fake:{self._seed}",
        )

    # Containers

    def inspect_container(self, ref: str) -> Inspection:
        """Return the whole inspection of one container."""
        with self._lock:
            container = self._find(ref)
            mounts = []
            for mount in container.mounts:
                if mount.name in self._maker.volumes.known:
                    volume = self._maker.volumes.get(mount.name)
                    mounts.append(mount.shown(self._maker.volumes.mountpoint(mount.name), volume.driver))
                elif not (mount.spec.kind == "tmpfs" and mount.spec.destination in (container.host.get("Tmpfs") or {})):
                    mounts.append(mount.shown("", ""))
            shown = inspection(container, self._maker.networks, mounts, _ROOT)
            # A test sets this to imitate Podman, which has an API of its own.
            native = {} if container.native is None else {"Native": container.native}
            return copy.deepcopy({**shown, **native})

    def list_containers(self, where: ContainerFilter = EVERY, /) -> list[str]:
        """Return the full ids of the containers that match `where`, newest first."""
        with self._lock:
            self._life.settle()
            network = None if where.network is None else self._maker.networks.get(where.network)
            return [
                one.id
                for one in reversed(self._maker.known.values())
                if where.allows_names([one.name])
                and (where.name_prefix is None or one.name.startswith(where.name_prefix))
                and _has_labels(one.config["Labels"], where.labels)
                and where.allows_volumes([str(mount.name) for mount in one.mounts])
                and (network is None or network.holds(one.endpoints))
                and (one.alive or not where.running)
            ]

    def create_container(self, name: str, request: Inspection, *, platform: str | None = None) -> str:  # noqa: ARG002 (there is one platform)
        """Create a container from a raw request and return its full id."""
        with self._lock:
            self._life.settle()
            return self._maker.create(name, copy.deepcopy(dict(request)))

    def start_container(self, ref: str) -> None:
        """Start a container; does nothing if it runs."""
        with self._lock:
            self._life.start(self._find(ref))

    def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
        """Stop a container with its own stop signal."""
        with self._lock:
            self._life.stop(self._find(ref), patient=timeout != 0)

    def kill_container(self, ref: str) -> None:
        """Kill a container."""
        with self._lock:
            self._life.kill(self._find(ref))

    def pause_container(self, ref: str) -> None:
        """Freeze a container's processes; does nothing if they are frozen."""
        with self._lock:
            container = self._find(ref)
            if container.status not in ("running", "paused"):
                reason = "is restarting" if container.status == "restarting" else "is not running"
                raise refusal(f"pause container {ref!r}", 409, f"container {container.id} {reason}")
            container.status = "paused"

    def unpause_container(self, ref: str) -> None:
        """Unfreeze a container's processes; does nothing if they are not frozen."""
        with self._lock:
            container = self._find(ref)
            if container.status not in ("running", "paused"):
                raise refusal(f"unpause container {ref!r}", 409, f"Container {container.id} is not paused")
            container.status = "running"

    def rename_container(self, ref: str, name: str) -> None:
        """Rename a container; does nothing if it already has the name."""
        with self._lock:
            container = self._find(ref)
            if container.name == name:
                return
            self._maker.rename(f"rename container {ref!r} to {name!r}", container, name)

    def update_container(self, ref: str, changes: Inspection) -> None:
        """Change a container's resources or restart policy in place, by raw `HostConfig` fields."""
        with self._lock:
            container = self._find(ref)
            action = f"update container {ref!r}"
            policy = (changes.get("RestartPolicy") or {}).get("Name")
            if policy:
                wanted = restart_policy(action, changes["RestartPolicy"])
                if container.host["AutoRemove"] and wanted["Name"] != "no":
                    reason = "Restart policy cannot be updated because AutoRemove is enabled for the container"
                    raise refusal(action, 409, f"Cannot update container {container.id}: {reason}")
                container.host["RestartPolicy"] = wanted
            if container.host["NanoCpus"] and changes.get("CpuQuota"):
                reason = "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"
                raise refusal(action, 409, f"Cannot update container {container.id}: {reason}")
            # To an engine, zero means "unchanged".
            container.host |= {
                key: copy.deepcopy(value)
                for key, value in changes.items()
                if value and key != "RestartPolicy" and key in container.host
            }

    def remove_container(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove a container, with its anonymous volumes if `volumes`; does nothing if it does not exist."""
        with self._lock:
            try:
                container = self._find(ref)
            except ContainerNotFoundError:
                return
            if container.alive and not force:
                raise refusal(
                    f"remove container {ref!r}",
                    409,
                    f'cannot remove container "{container.name}": container is {container.status}: '
                    "stop the container before removing or force remove",
                )
            if container.alive:
                self._life.kill(container)
            self._life.remove(container, volumes=volumes)

    def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
        """Commit a container's file system to a tagged image and return its id; no change adds no layer."""
        with self._lock:
            container = self._find(ref)
            _tag(f"commit container {ref!r}", tag)
            parent = self._maker.images.get(container.image)
            if len(parent.layers) >= _MOST_LAYERS:
                raise refusal(f"commit container {ref!r}", 500, "max depth exceeded")
            tar = pack(container.base, container.root)
            when = self._maker.moments.written()
            entry = {"created": when, "created_by": " ".join(container.config["Cmd"] or [])}
            document = parent.document
            document |= {"config": container.config, "created": when, "docker_version": VERSION, "author": author}
            document["container"] = container.id
            document["history"] = [*(document.get("history") or []), entry if tar else {**entry, "empty_layer": True}]
            layers = [*parent.layers, *([Layer.of(tar)] if tar is not None else [])]
            return self._maker.images.add(Image.of(document, layers, parent=parent.id), tag, when)

    def put_archive(self, ref: str, archive: bytes) -> None:
        """Unpack a tar at the root of a container's file system; the container may be running or stopped."""
        with self._lock:
            apply(self._find(ref).root, archive)

    def get_archive(self, ref: str, path: str) -> Generator[bytes, None, None]:
        """Stream a tar of one file of a container, or of a folder and everything in it."""
        with self._lock:
            try:
                return (piece for piece in [archive_of(self._find(ref).root, path.strip("/"))])
            except KeyError:
                raise ContainerNotFoundError(ref, action=f"read the file {path!r} of container {ref!r}") from None

    def container_changes(self, ref: str) -> list[Change]:
        """Return the changes in a container's writable layer, compared with its image."""
        with self._lock:
            container = self._find(ref)
            return differences(container.base, container.root)

    def container_logs(self, ref: str, *, tail: int) -> str:
        """Return the last `tail` lines of a container's output."""
        with self._lock:
            log = self._find(ref).log
            return "".join(f"{line}\n" for line in log[len(log) - min(tail, len(log)) :])

    def exec(self, ref: str, command: Sequence[str], *, stdin: bool = False) -> Process:
        """Run a program as root in a running container: a built-in one, or one added with `program`."""
        with self._lock:
            container = self._find(ref)
            if container.status != "running":
                reasons = {
                    "paused": f"Container {container.name} is paused, unpause the container before exec",
                    "restarting": f"Container {container.id} is restarting, wait until the container is running",
                }
                reason = reasons.get(container.status, f"container {container.id} is not running")
                raise refusal(f"run {command[0]!r} in container {ref!r}", 409, reason)
            now = self._maker.moments.nanoseconds
            files = Files(lambda: self.seen_by(container), now, self._lock)
            program, arguments = find_program(self._programs, files, command)
            process = FakeProcess(
                program, arguments, files, now, self._lock, lambda path: self._life.hang_up(container, path)
            )
            container.processes = [*(one for one in container.processes if not one.ended), process]
        if not stdin:
            process.close_input()
        return process

    def seen_by(self, container: Container) -> View:
        return with_proc(container, self._maker.host, _ROOT, self._maker.volumes.mountpoint)

    # Images

    def inspect_image(self, ref: str) -> Inspection:
        """Return the whole inspection of one image."""
        with self._lock:
            return self._maker.images.inspect(ref)

    def list_images(self, repository: str) -> list[str]:
        """Return the names of the images of one repository."""
        with self._lock:
            return sorted(name for name in self._maker.images.names if name.rpartition(":")[0] == repository)

    def tag_image(self, ref: str, tag: str) -> None:
        """Add a name to an image; another image that has the name loses it."""
        with self._lock:
            _tag(f"tag image {ref!r} as {tag!r}", tag)
            self._maker.images.add(self._maker.images.get(ref), tag, self._maker.moments.written())

    def remove_image(self, ref: str) -> None:
        """Remove a name, and the image if that was its last name; does nothing if the name does not exist."""
        with self._lock:
            self._maker.images.remove(ref)

    def save_image(self, ref: str) -> Iterator[bytes]:
        """Stream the image as a tar: an OCI layout with a `manifest.json`, as Docker 25 and later write it."""
        with self._lock:
            return self._maker.images.save(ref)

    def load_image(self, archive: Iterable[bytes]) -> None:
        """Load images from a tar in any layout whose `manifest.json` names its parts."""
        whole = b"".join(archive)
        with self._lock:
            self._maker.images.load([whole], self._maker.moments.written())

    def import_image(self, archive: Iterable[bytes], tag: str) -> str:
        """Make a tagged image of one layer from a tar of a file system and return its id."""
        _tag(f"import image {tag!r}", tag)
        whole = b"".join(archive)
        with self._lock:
            return self._maker.images.import_tar([whole], tag, self._maker.moments.written())

    def pull_image(self, ref: str, *, platform: str | None = None) -> str:
        """Pull an image that `publish` has pushed; there is no other registry."""
        with self._lock:
            return self._maker.images.pull(ref, platform, self._maker.moments.written())

    # Networks

    def inspect_network(self, ref: str) -> Inspection:
        """Return the whole inspection of one network."""
        with self._lock:
            return copy.deepcopy(self._maker.networks.get(ref).inspection())

    def list_networks(self, *, labels: Mapping[str, str] = {}) -> list[str]:
        """Return the ids of the networks that have `labels`."""
        with self._lock:
            known = self._maker.networks.known.values()
            return [one.id for one in known if _has_labels(one.request.get("Labels"), labels)]

    def create_network(self, request: Inspection) -> str:
        """Create a network from a raw request and return its id."""
        with self._lock:
            return self._maker.networks.create(copy.deepcopy(dict(request)), self._maker.moments.written())

    def remove_network(self, ref: str) -> None:
        """Remove a network; does nothing if it does not exist."""
        with self._lock:
            self._maker.networks.remove(ref)

    def connect_network(self, network: str, container: str, endpoint: Inspection) -> None:
        """Attach a container to a network with a raw endpoint configuration."""
        with self._lock:
            one, name = self._find(container), self._maker.networks.get(network).name
            self._life.connect(one, name, copy.deepcopy(dict(endpoint or {})))

    def disconnect_network(self, network: str, container: str, *, force: bool = False) -> None:  # noqa: ARG002 (there is nothing to force)
        """Detach a container from a network."""
        with self._lock:
            self._life.disconnect(self._find(container), self._maker.networks.get(network))

    # Volumes

    def inspect_volume(self, name: str) -> Inspection:
        """Return the whole inspection of one volume."""
        with self._lock:
            return copy.deepcopy(self._maker.volumes.inspect(name))

    def list_volumes(self, *, labels: Mapping[str, str] = {}) -> list[str]:
        """Return the names of the volumes that have `labels`."""
        with self._lock:
            return [one.name for one in self._maker.volumes.known.values() if _has_labels(one.labels, labels)]

    def create_volume(self, request: Inspection) -> str:
        """Create a volume from a raw request and return its name; does nothing if it exists."""
        with self._lock:
            return self._maker.volumes.create(request, self._maker.moments.written())

    def remove_volume(self, name: str) -> None:
        """Remove a volume; does nothing if it does not exist. Raises `EngineConflictError` if a container uses it."""
        with self._lock:
            self._maker.volumes.remove(name)


def _has_labels(labels: Mapping[str, Any] | None, wanted: Mapping[str, str]) -> bool:
    return all((labels or {}).get(key) == value for key, value in wanted.items())


def _tag(action: str, tag: str) -> None:
    repository, colon, version = tag.rpartition(":")
    if not colon or "/" in version or not repository or not version:
        raise refusal(action, None, f"{tag!r} is not of the form repository:tag")
    if not _REPOSITORY.fullmatch(repository):
        raise refusal(action, 400, f"invalid reference format: repository name ({repository}) must be lowercase")
