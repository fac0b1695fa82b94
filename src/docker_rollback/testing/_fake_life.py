"""The life of containers in the in-memory engine: how they are made, begin, end, and come back."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import define, field

from docker_rollback.errors import ContainerNotFoundError, EngineError, VolumeNotFoundError
from docker_rollback.testing._fake_containers import Container, Mounted
from docker_rollback.testing._fake_create import MountSpec, check_name, merged_config, merged_host, mount_specs
from docker_rollback.testing._fake_errors import refusal
from docker_rollback.testing._fake_exec import KILLED
from docker_rollback.testing._fake_files import Node, View, copy, directory
from docker_rollback.testing._fake_images import Images
from docker_rollback.testing._fake_network import Network, Networks
from docker_rollback.testing._fake_volumes import Volumes

_SHORTEST_ID = 12
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 60.0
_NETWORKS_OF_OTHERS = "container:"

Hook = Callable[[Container], object]


@define
class Moments:
    """The engine's time: a clock that never stands still, for no two things happen at once.

    Attributes:
        clock: tells the moment, in UTC.
    """

    clock: Callable[[], datetime]
    _last: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        """Return the moment; later than every one before."""
        self._last = max(self.clock(), self._last + timedelta(microseconds=1))
        return self._last

    def written(self) -> str:
        """Return the moment as engines write it."""
        return self.now().strftime("%Y-%m-%dT%H:%M:%S.%f000Z")

    def nanoseconds(self) -> int:
        """Return the moment in nanoseconds since 1970."""
        past = self.now() - datetime(1970, 1, 1, tzinfo=UTC)
        return (past.days * 86_400 + past.seconds) * 1_000_000_000 + past.microseconds * 1_000


@define
class Life:
    """All containers of an engine, and what becomes of them.

    Attributes:
        images: where their file systems come from.
        networks: what they are attached to.
        volumes: what they mount.
        host: the file system of the engine's host, for bind mounts.
        moments: the time.
        new_id: gives out ids.
        hostname: of the engine's host.
        on_start: what the program of a container does once it has begun.
        on_stop: what it does when it is asked to end; sets another exit code by ending first.
    """

    images: Images
    networks: Networks
    volumes: Volumes
    host: Node
    moments: Moments
    new_id: Callable[[], str]
    hostname: str
    on_start: Hook
    on_stop: Hook
    known: dict[str, Container] = field(factory=dict)
    _due: list[tuple[datetime, int, str, int, Callable[[], object]]] = field(factory=list)
    _order: Iterator[int] = field(factory=itertools.count)

    def get(self, ref: str) -> Container:
        """Return the container of a name, an id or the beginning of an id; raises `ContainerNotFoundError`."""
        if ref in self.known:
            return self.known[ref]
        plain = ref.removeprefix("/")
        for container in self.known.values():
            if container.name == plain:
                return container
        found = [one for one in self.known.values() if len(plain) >= _SHORTEST_ID and one.id.startswith(plain)]
        if len(found) != 1:
            raise ContainerNotFoundError(ref)
        return found[0]

    def named(self, name: str) -> Container | None:
        """Return the container that has a name."""
        return next((one for one in self.known.values() if one.name == name), None)

    def take_name(self, action: str, name: str) -> None:
        """Refuse a name that is none, or taken."""
        check_name(action, name)
        holder = self.named(name)
        if holder is not None:
            raise refusal(
                action,
                409,
                f'Conflict. The container name "/{name}" is already in use by container "{holder.id}". '
                "You have to remove (or rename) that container to be able to reuse that name.",
            )

    # Creation

    def create(self, name: str, request: Mapping[str, Any]) -> str:
        """Make a container and return its id."""
        action = f"create container {name!r}"
        self.take_name(action, name)
        image = self.images.get(str(request.get("Image") or ""))
        config = merged_config(action, request, image.settings)
        host = merged_host(action, request)
        specs = mount_specs(action, config, host)
        self._resolve(action, name, host)
        endpoints = self._endpoints(action, request, host)
        for spec in specs:
            self._check_mount(action, spec)
        identity = self.new_id()
        config["Image"] = str(request["Image"])
        config["Hostname"] = config["Hostname"] or (self.hostname if host["NetworkMode"] == "host" else identity[:12])
        container = Container(
            identity,
            name,
            self.moments.written(),
            image.id,
            image.tree,
            copy(image.tree),
            config,
            host,
            endpoints,
        )
        if config["WorkingDir"]:
            container.make_place(config["WorkingDir"], self.moments.nanoseconds())
        container.mounts = self._mounts(action, container, specs)
        self.known[identity] = container
        return identity

    def _resolve(self, action: str, name: str, host: dict[str, Any]) -> None:
        """Put ids and full names in place of what a request may say more loosely, as the engine does."""
        if host["NetworkMode"].startswith(_NETWORKS_OF_OTHERS):
            other = self._known(host["NetworkMode"].removeprefix(_NETWORKS_OF_OTHERS))
            if other is not None:
                host["NetworkMode"] = f"{_NETWORKS_OF_OTHERS}{other.id}"
        links = []
        for link in host["Links"] or []:
            target, _, alias = link.partition(":")
            found = self._known(target)
            if found is None:
                raise refusal(action, 400, f"could not get container for {target.removeprefix('/')}")
            links.append(f"/{found.name}:/{name}/{(alias or found.name).rpartition('/')[2]}")
        host["Links"] = links or host["Links"]

    def _known(self, ref: str) -> Container | None:
        try:
            return self.get(ref)
        except ContainerNotFoundError:
            return None

    def _endpoints(self, action: str, request: Mapping[str, Any], host: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return what is asked of each network, by its name; the container's own mode first."""
        mode = host["NetworkMode"]
        given = {
            self._network_name(name): dict(endpoint or {})
            for name, endpoint in ((request.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}).items()
        }
        if mode.startswith(_NETWORKS_OF_OTHERS):
            return {}
        first = self._network_name(mode)
        endpoints = {first: given.pop(first, {}), **given}
        if request.get("MacAddress") and not endpoints[first].get("MacAddress"):
            endpoints[first]["MacAddress"] = request["MacAddress"]
        for name, endpoint in endpoints.items():
            self.networks.check(action, name, endpoint)
        return endpoints

    def _network_name(self, ref: str) -> str:
        if ref in ("", "default"):
            return "bridge"
        return next((one.name for one in self.networks.known.values() if ref in (one.id, one.name)), ref)

    def _check_mount(self, action: str, spec: MountSpec) -> None:
        if spec.kind == "bind" and spec.must_exist and View(self.host).find(spec.source).node is None:
            raise refusal(
                action, 400, f'invalid mount config for type "bind": bind source path does not exist: {spec.source}'
            )

    def _mounts(self, action: str, container: Container, specs: list[MountSpec]) -> list[Mounted]:
        """Find or make what a container mounts, and fill empty volumes from its image."""
        mounts = {mount.spec.destination: mount for mount in self._from_others(action, container)}
        for spec in specs:
            if spec.from_image and spec.destination in mounts:
                continue
            mounts[spec.destination] = self._mount(container, spec)
        for mount in mounts.values():
            if mount.spec.kind == "volume" and mount.spec.copy_up and mount.node is not None:
                source = View(container.root).find(mount.spec.destination).node if not mount.spec.subpath else None
                _fill(mount.node, source, self.moments.nanoseconds())
        return list(mounts.values())

    def _mount(self, container: Container, spec: MountSpec) -> Mounted:
        if spec.kind == "volume":
            request = {"Driver": container.host["VolumeDriver"] or "local", **spec.options, "Name": spec.source}
            name = self.volumes.create(request, self.moments.written())
            return Mounted(spec, name, anonymous=not spec.source, node=self._volume_node(name, spec))
        if spec.kind == "bind":
            return Mounted(spec, node=self._host_node(spec.source))
        return Mounted(spec, node=directory(mode=0o1777, mtime=self.moments.nanoseconds()))

    def _volume_node(self, name: str, spec: MountSpec) -> Node | None:
        volume = self.volumes.get(name)
        root = self._host_node(volume.device) if volume.device else volume.root
        return View(root).find(spec.subpath).node if spec.subpath else root

    def _host_node(self, path: str) -> Node:
        """Return what is at a path of the host; a directory that is missing is made, with those above it."""
        found = View(self.host).find(path).node if path.strip("/") else self.host
        if found is not None:
            return found
        parent = self._host_node(path.rstrip("/").rpartition("/")[0])
        made = parent.children[path.rstrip("/").rpartition("/")[2]] = directory(mtime=self.moments.nanoseconds())
        return made

    def _from_others(self, action: str, container: Container) -> list[Mounted]:
        mounts = []
        for text in container.host["VolumesFrom"] or []:
            ref, _, mode = text.partition(":")
            other = self._known(ref)
            if other is None:
                raise refusal(action, 404, f"No such container: {ref}")
            for mount in other.mounts:
                read_only = mount.spec.read_only or mode == "ro"
                spec = MountSpec(
                    mount.spec.kind,
                    mount.spec.source,
                    mount.spec.destination,
                    mode=mode,
                    read_only=read_only,
                    copy_up=False,
                    subpath=mount.spec.subpath,
                )
                mounts.append(Mounted(spec, mount.name, mount.anonymous, mount.node))
        return mounts

    # Networks

    def connect(self, container: Container, name: str, endpoint: dict[str, Any]) -> None:
        """Attach a container to a network, at once where it runs."""
        action = f"connect container {container.name!r} to network {name!r}"
        if container.host["NetworkMode"].startswith(_NETWORKS_OF_OTHERS):
            raise refusal(action, 409, "container sharing network namespace with another container or host")
        self.networks.check(action, name, endpoint)
        if container.alive:
            if name in container.endpoints:
                reason = f"endpoint with name {container.name} already exists in network {name}"
                raise refusal(action, 409, reason)
            self.networks.attach(action, name, container.id, container.name, endpoint)
            endpoint["NetworkID"] = self.networks.get(name).id
        container.endpoints[name] = endpoint

    def disconnect(self, container: Container, network: Network) -> None:
        """Detach a container from a network."""
        if network.name not in container.endpoints:
            raise refusal(
                f"disconnect container {container.name!r} from network {network.name!r}",
                500,
                f"container {container.id} is not connected to network {network.name}",
            )
        del container.endpoints[network.name]
        self.networks.detach(container.id, network)

    # Beginning and end

    def start(self, container: Container) -> None:
        """Start a container; harmless where it runs."""
        action = f"start container {container.name!r}"
        if container.status == "paused":
            raise refusal(action, 409, "cannot start a paused container, try unpause instead")
        if container.alive:
            return
        container.restarts = 0
        self._begin(action, container)

    def _begin(self, action: str, container: Container) -> None:
        try:
            self._join(action, container)
            for mount in container.mounts:
                if mount.spec.kind == "volume":
                    mount.node = self._volume_node(mount.name, mount.spec)
                container.make_place(mount.spec.destination, self.moments.nanoseconds())
        except (EngineError, OSError, VolumeNotFoundError) as error:
            self.networks.detach(container.id)
            reason = error.reason if isinstance(error, EngineError) else str(error)
            container.exit_code, container.error = 128, reason
            if isinstance(error, EngineError):
                raise
            raise refusal(action, 500, reason) from error
        container.run += 1
        container.status, container.exit_code, container.error = "running", 0, ""
        container.started = self.moments.written()
        container.pid = 1000 + container.run
        container.health = "starting" if container.checked else None
        container.probes, container.undecided = [], False
        self.on_start(container)
        if container.health == "starting" and container.status == "running" and not container.undecided:
            self.probe(container, 0, "")

    def _join(self, action: str, container: Container) -> None:
        """Bring up the network of a container that starts."""
        mode = container.host["NetworkMode"]
        if mode.startswith(_NETWORKS_OF_OTHERS):
            other = self._known(mode.removeprefix(_NETWORKS_OF_OTHERS))
            if other is None:
                raise refusal(action, 409, f"No such container: {mode.removeprefix(_NETWORKS_OF_OTHERS)}")
            if other.status not in ("running", "paused"):
                raise refusal(
                    action,
                    409,
                    "cannot join network namespace of a non running container: "
                    f"container {other.name} is {other.status}",
                )
            return
        container.sandbox = self.new_id()
        for name, endpoint in container.endpoints.items():
            self.networks.attach(action, name, container.id, container.name, endpoint)
            endpoint["NetworkID"] = self.networks.get(name).id
        if mode not in ("host", "none"):
            container.ports = self.networks.publish(action, container.id, _published(container))

    def end(self, container: Container, code: int, *, asked: bool) -> None:
        """End a container's program: `asked` where somebody wanted it to, so that no policy starts it again."""
        container.run += 1
        container.status, container.exit_code, container.pid = "exited", code, 0
        container.finished = self.moments.written()
        container.ports, container.sandbox = {}, ""
        if container.health is not None:
            container.health = "unhealthy"
        self.networks.detach(container.id)
        for process in container.processes:
            process.kill()
        container.processes.clear()
        self._forget_memory(container)
        if container.host["AutoRemove"]:
            self.remove(container, volumes=True)
        elif not asked and self._comes_back(container, code):
            container.status = "restarting"
            delay = min(_FIRST_DELAY * 2**container.restarts, _LONGEST_DELAY)
            container.restarts += 1
            self.later(container, delay, lambda: self._begin(f"restart container {container.name!r}", container))

    def _comes_back(self, container: Container, code: int) -> bool:
        policy = container.host["RestartPolicy"]
        if policy["Name"] == "on-failure":
            most = policy["MaximumRetryCount"]
            return code != 0 and (not most or container.restarts < most)
        return policy["Name"] in ("always", "unless-stopped")

    def _forget_memory(self, container: Container) -> None:
        """Empty what was in memory only: a tmpfs, and a volume in memory that nothing that runs mounts any more."""
        for mount in container.mounts:
            if mount.spec.kind == "tmpfs":
                mount.node = directory(mode=0o1777, mtime=self.moments.nanoseconds())
            elif mount.name and mount.name in self.volumes.known:
                volume = self.volumes.get(mount.name)
                held = any(one.alive for one in self.known.values() for own in one.mounts if own.name == mount.name)
                if volume.fleeting and not held:
                    volume.root = directory(mtime=self.moments.nanoseconds())

    def stop(self, container: Container) -> None:
        """Stop a container; harmless where it does not run."""
        if not container.alive:
            return
        run = container.run
        if container.status == "restarting":
            self.end(container, container.exit_code, asked=True)
            return
        self.on_stop(container)
        if container.run == run:
            self.end(container, 0, asked=True)

    def kill(self, container: Container) -> None:
        """End a container at once; harmless where it does not run."""
        if container.alive:
            self.end(container, KILLED, asked=True)

    def remove(self, container: Container, *, volumes: bool) -> None:
        """Drop a container that does not run, with the volumes that are its own where asked."""
        self.known.pop(container.id, None)
        if not volumes:
            return
        for mount in container.mounts:
            if mount.anonymous and mount.name in self.volumes.known and not self.volumes.users(mount.name):
                self.volumes.remove(mount.name)

    def probe(self, container: Container, code: int, output: str) -> None:
        """Note the result of a container's health check, and what it means."""
        if not container.checked:
            return
        moment = self.moments.written()
        container.probes.append({"Start": moment, "End": moment, "ExitCode": code, "Output": output})
        container.health = "healthy" if code == 0 else "unhealthy"

    def later(self, container: Container, seconds: float, action: Callable[[], object]) -> None:
        """Let something happen to this run of a container once the clock has moved on by `seconds`."""
        due = self.moments.now() + timedelta(seconds=seconds)
        heapq.heappush(self._due, (due, next(self._order), container.id, container.run, action))

    def settle(self) -> None:
        """Let happen what was due by now, in order."""
        while self._due and self._due[0][0] <= self.moments.now():
            _, _, identity, run, action = heapq.heappop(self._due)
            container = self.known.get(identity)
            if container is not None and container.run == run:
                action()


def _fill(target: Node, source: Node | None, now: int) -> None:
    """Copy what an image has at a mount point into an empty volume, the directory's own attributes included."""
    if target.kind != "directory" or target.children or source is None or source.kind != "directory":
        return
    twin = copy(source, now=now)
    target.children = twin.children
    target.mode, target.uid, target.gid = twin.mode, twin.uid, twin.gid
    target.mtime, target.ctime, target.xattrs = twin.mtime, now, twin.xattrs


def _published(container: Container) -> dict[str, Any]:
    """Return each exposed port with the places on the host that it is to have."""
    bindings: dict[str, Any] = dict.fromkeys(container.config.get("ExposedPorts") or {})
    bindings |= container.host["PortBindings"] or {}
    if container.host["PublishAllPorts"]:
        bindings = {port: wishes or [{"HostIp": "", "HostPort": ""}] for port, wishes in bindings.items()}
    return bindings
