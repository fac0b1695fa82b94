"""Makes the containers of the in-memory engine: names, file systems, mounts, endpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import define, field

from docker_rollback.errors import ContainerNotFoundError, ImageNotFoundError
from docker_rollback.testing._fake.containers import Container, FakeMount
from docker_rollback.testing._fake.create import MountSpec, check_name, merged_config, merged_host, mount_specs
from docker_rollback.testing._fake.images import Images
from docker_rollback.testing._fake.networks import Networks
from docker_rollback.testing._fake.refusals import refusal
from docker_rollback.testing._fake.tree import Node, View, copy, directory
from docker_rollback.testing._fake.volumes import Volumes

SHARED_NETWORK = "container:"
"""The prefix of a network mode that shares another container's network."""

_SHORTEST_ID = 12


@define
class Moments:
    """The engine's time: each reading is later than the one before, so that no two events have the same time.

    Attributes:
        clock: returns the current time, in UTC.
    """

    clock: Callable[[], datetime]
    _last: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        """Return the current time, later than every earlier reading."""
        self._last = max(self.clock(), self._last + timedelta(microseconds=1))
        return self._last

    def written(self) -> str:
        """Return the current time as engines write it."""
        return self.now().strftime("%Y-%m-%dT%H:%M:%S.%f000Z")

    def nanoseconds(self) -> int:
        """Return the current time in nanoseconds since 1970."""
        past = self.now() - datetime(1970, 1, 1, tzinfo=UTC)
        return (past.days * 86_400 + past.seconds) * 1_000_000_000 + past.microseconds * 1_000


@define
class Maker:
    """Makes an engine's containers, and keeps them.

    Attributes:
        images: the engine's images.
        networks: the engine's networks.
        volumes: the engine's volumes.
        host: the file system of the engine's host, for bind mounts.
        moments: the engine's time.
        new_id: returns a new id.
        hostname: the name of the engine's host.
        known: the containers by id.
    """

    images: Images
    networks: Networks
    volumes: Volumes
    host: Node
    moments: Moments
    new_id: Callable[[], str]
    hostname: str
    known: dict[str, Container] = field(factory=dict)

    def get(self, ref: str) -> Container:
        """Return the container with a name, id or id prefix; raises `ContainerNotFoundError`."""
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
        """Return the container with this name, or None."""
        return next((one for one in self.known.values() if one.name == name), None)

    def take_name(self, action: str, name: str) -> None:
        """Refuse a name that is invalid or taken."""
        check_name(action, name)
        holder = self.named(name)
        if holder is not None:
            raise refusal(
                action,
                409,
                f'Conflict. The container name "/{name}" is already in use by container "{holder.id}". '
                "You have to remove (or rename) that container to be able to reuse that name.",
            )

    def rename(self, action: str, container: Container, name: str) -> None:
        """Rename a container; its links, the links to it and its networks' inspections follow."""
        self.take_name(action, name)
        self.networks.rename(action, container.id, name)
        before, container.name = container.name, name
        for one in self.known.values():
            links = [str(link).split(":") for link in one.host["Links"] or ()]
            renamed = {f"/{before}": f"/{name}"}
            one.host["Links"] = [
                f"{renamed.get(target, target)}:/{one.name}/{alias.rpartition('/')[2]}" for target, alias in links
            ] or one.host["Links"]

    def create(self, name: str, request: Mapping[str, Any]) -> str:
        """Make a container and return its id."""
        action = f"create container {name!r}"
        self.take_name(action, name)
        try:
            image = self.images.get(str(request.get("Image") or ""))
        except ImageNotFoundError as error:
            raise ImageNotFoundError(error.name, action=action) from None
        config = merged_config(action, request, image.settings)
        host = merged_host(action, request)
        specs = mount_specs(action, config, host)
        self._resolve(action, name, host)
        endpoints = self._endpoints(action, request, host)
        for spec in specs:
            if spec.kind == "bind":
                self.bound(action, spec)
        identity = self.new_id()
        config["Image"] = str(request["Image"])
        own_address = endpoints.get(self._network_name(host["NetworkMode"]), {}).get("MacAddress")
        config.pop("MacAddress", None)
        if own_address:
            config["MacAddress"] = own_address
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
        """Replace references to other containers by their ids, and complete the links, as the engine does."""
        for key in ("NetworkMode", "PidMode", "IpcMode"):
            other = self.find(host[key].removeprefix(SHARED_NETWORK)) if host[key].startswith(SHARED_NETWORK) else None
            if other is not None:
                host[key] = f"{SHARED_NETWORK}{other.id}"
        links = []
        for link in host["Links"] or []:
            target, _, alias = link.partition(":")
            found = self.find(target)
            if found is None:
                raise refusal(action, 400, f"could not get container for {target}: No such container: {target}")
            links.append(f"/{found.name}:/{name}/{(alias or found.name).rpartition('/')[2]}")
        host["Links"] = links or host["Links"]

    def find(self, ref: str) -> Container | None:
        """Return the container with a name, id or id prefix, or None."""
        try:
            return self.get(ref)
        except ContainerNotFoundError:
            return None

    def _endpoints(self, action: str, request: Mapping[str, Any], host: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the requested endpoints by the names of their networks, the network mode's first."""
        mode = host["NetworkMode"]
        given = {
            self._network_name(name): dict(endpoint or {})
            for name, endpoint in ((request.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}).items()
        }
        if mode.startswith(SHARED_NETWORK):
            return {}
        first = self._network_name(mode)
        # A request that names only other networks does not attach the container to the network mode's.
        own = (
            {first: {"MacAddress": request.get("MacAddress"), **given.pop(first, {})}}
            if first in given or not given
            else {}
        )
        endpoints = {**own, **given}
        for name, endpoint in endpoints.items():
            self.networks.check(action, name, endpoint)
        return endpoints

    def _network_name(self, ref: str) -> str:
        if ref in ("", "default"):
            return "bridge"
        return next((one.name for one in self.networks.known.values() if one.is_meant(ref)), ref)

    def bound(self, action: str, spec: MountSpec) -> Node:
        """Return a bind mount's source; a missing one is made, or refused if the mount requires it to exist."""
        if spec.must_exist and View(self.host).look(spec.source) is None:
            raise refusal(
                action, 400, f'invalid mount config for type "bind": bind source path does not exist: {spec.source}'
            )
        return self._host_node(spec.source)

    def _mounts(self, action: str, container: Container, specs: list[MountSpec]) -> list[FakeMount]:
        """Return a container's mounts; missing volumes and folders are made, empty volumes filled from its image."""
        mounts = {mount.spec.destination: mount for mount in self._from_others(action, container)}
        for spec in specs:
            if spec.from_image and spec.destination in mounts:
                continue
            mounts[spec.destination] = self._mount(container, spec)
        for mount in mounts.values():
            if mount.spec.kind == "volume" and mount.spec.copy_up and mount.node is not None:
                source = View(container.root).look(mount.spec.destination) if not mount.spec.subpath else None
                _fill(mount.node, source, self.moments.nanoseconds())
        return list(mounts.values())

    def _mount(self, container: Container, spec: MountSpec) -> FakeMount:
        if spec.kind == "volume":
            request = {"Driver": container.host["VolumeDriver"] or "local", **spec.options, "Name": spec.source}
            name = self.volumes.provide(request, self.moments.written())
            return FakeMount(spec, name, anonymous=not spec.source, node=self.volume_node(name, spec))
        if spec.kind == "bind":
            return FakeMount(spec, node=self._host_node(spec.source))
        return FakeMount(spec, node=directory(mode=0o1777, mtime=self.moments.nanoseconds()))

    def volume_node(self, name: str, spec: MountSpec) -> Node | None:
        """Return the file or directory of a volume that a mount shows; None if its subpath does not exist."""
        volume = self.volumes.get(name)
        root = self._host_node(volume.device) if volume.device else volume.root
        return View(root).look(spec.subpath) if spec.subpath else root

    def _host_node(self, path: str) -> Node:
        """Return the node at a path of the host; missing directories are made."""
        found = View(self.host).look(path)
        if found is not None:
            return found
        parent = self._host_node(path.rstrip("/").rpartition("/")[0])
        made = parent.children[path.rstrip("/").rpartition("/")[2]] = directory(mtime=self.moments.nanoseconds())
        return made

    def _from_others(self, action: str, container: Container) -> list[FakeMount]:
        mounts = []
        for text in container.host["VolumesFrom"] or []:
            ref, _, mode = text.partition(":")
            other = self.find(ref)
            if other is None:
                raise refusal(action, 400, f"No such container: {ref}")
            for mount in (one for one in other.mounts if one.spec.kind != "tmpfs"):
                read_only = mount.spec.read_only or mode == "ro"
                spec = MountSpec(
                    mount.spec.kind,
                    mount.spec.source,
                    mount.spec.destination,
                    read_only=read_only,
                    copy_up=False,
                    subpath=mount.spec.subpath,
                    propagation=mount.spec.propagation,
                )
                mounts.append(FakeMount(spec, mount.name, mount.anonymous, mount.node))
        return mounts


def _fill(target: Node, source: Node | None, now: int) -> None:
    """Copy an image's directory at a mount point into an empty volume, with the directory's own attributes."""
    if target.kind != "directory" or target.children or source is None or source.kind != "directory":
        return
    twin = copy(source, now=now)
    target.children = twin.children
    target.mode, target.uid, target.gid = twin.mode, twin.uid, twin.gid
    target.mtime, target.ctime, target.xattrs = twin.mtime, now, twin.xattrs
