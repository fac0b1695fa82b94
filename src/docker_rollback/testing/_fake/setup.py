"""The in-memory engine's methods for tests, beyond those of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from docker_rollback.testing._fake.container_handle import FakeContainer, handle
from docker_rollback.testing._fake.containers import Container
from docker_rollback.testing._fake.files import Files
from docker_rollback.testing._fake.images import Image, reference
from docker_rollback.testing._fake.layers import Layer, pack
from docker_rollback.testing._fake.life import Life
from docker_rollback.testing._fake.processes import Program, Run
from docker_rollback.testing._fake.programs import PROGRAMS, find_program, missing, reads
from docker_rollback.testing._fake.tree import View, copy, directory
from docker_rollback.testing._fake.volumes import ANONYMOUS

_MADE = "2026-01-01T00:00:00.000000000Z"
_MADE_NANOSECONDS = 1_767_225_600_000_000_000

Behaviour: TypeAlias = Callable[[FakeContainer], object]
"""The behaviour of a container's main program."""


class Setup:
    """The methods of a `FakeEngine` for tests."""

    def __init__(self, lock: AbstractContextManager[object], life: Life) -> None:
        self._guard = lock
        self._life = life
        self._maker = life.maker
        self._programs: dict[str, Program] = dict(PROGRAMS)
        self._starts: dict[str, Behaviour] = {}
        self._stops: dict[str, Behaviour] = {}

    # Things

    def add_image(
        self,
        name: str,
        *,
        base: str | None = None,
        files: Mapping[str, bytes | str] | None = None,
        command: Sequence[str] | None = ("/app",),
        entrypoint: Sequence[str] | None = None,
        env: Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        volumes: Iterable[str] = (),
        ports: Iterable[str] = (),
        healthcheck: Mapping[str, Any] | None = None,
        user: str = "",
        workdir: str = "",
        config: Mapping[str, Any] | None = None,
        fill: Callable[[Files], object] | None = None,
    ) -> str:
        """Make an image and return its id; equal contents give an equal id.

        Args:
            name: its name; the default tag is "latest".
            base: the image whose layers and files it builds on.
            files: its files by path; missing directories are made.
            command: its CMD.
            entrypoint: its ENTRYPOINT.
            env: its ENV ("NAME=value").
            labels: its LABELs.
            volumes: its VOLUMEs.
            ports: its EXPOSEd ports ("80/tcp").
            healthcheck: its HEALTHCHECK, as in the engine's JSON ({"Test": ["CMD", "true"]}).
            user: its USER.
            workdir: its WORKDIR.
            config: more of its configuration, raw ({"StopSignal": "SIGINT"}).
            fill: called with a handle on its files, to set modes, owners and links, which `files` cannot express.
        """
        with self._guard:
            below = self._maker.images.get(base) if base is not None else None
            start = below.tree if below is not None else directory(mtime=_MADE_NANOSECONDS)
            tree = copy(start)
            handle_on = Files(lambda: View(tree), lambda: _MADE_NANOSECONDS, self._guard)
            for path, content in (files or {}).items():
                handle_on.write(path, content)
            if fill is not None:
                fill(handle_on)
            tar = pack(start, tree)
            layers = [*(below.layers if below is not None else ()), *([Layer.of(tar)] if tar is not None else [])]
            settings: dict[str, Any] = {
                "Cmd": list(command) if command is not None else None,
                "Entrypoint": list(entrypoint) if entrypoint is not None else None,
                "Env": list(env) if env is not None else None,
                "Labels": dict(labels) if labels is not None else None,
                "User": user,
                "WorkingDir": workdir,
            }
            settings |= {"Volumes": _set(volumes)} if volumes else {}
            settings |= {"ExposedPorts": _set(ports)} if ports else {}
            settings |= {"Healthcheck": dict(healthcheck)} if healthcheck else {}
            settings |= dict(config or {})
            document = {
                "architecture": self._maker.images.architecture,
                "config": settings,
                "created": _MADE,
                "history": [{"created": _MADE, "created_by": "FakeEngine.add_image"}],
                "os": "linux",
            }
            return self._maker.images.add(Image.of(document, layers), name, _MADE)

    def run(
        self,
        name: str,
        *,
        image: str,
        volumes: Mapping[str, str] | None = None,
        anonymous: Iterable[str] = (),
        ports: Mapping[str, str] | None = None,
        networks: Mapping[str, Mapping[str, Any]] | Sequence[str] = (),
        env: Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        healthcheck: Mapping[str, Any] | None = None,
        restart: str = "no",
        auto_remove: bool = False,
        start: bool = True,
        config: Mapping[str, Any] | None = None,
        **host_config: Any,
    ) -> str:
        """Create a container, start it, and return its full id; missing networks are created.

        Args:
            name: its name.
            image: its image.
            volumes: the mount point of each named volume, or path of the host ({"data": "/data:ro"}).
            anonymous: the mount points of its anonymous volumes, as ``-v /path`` makes them.
            ports: the host's port for each of its ports ({"80/tcp": "8080"}); "" lets the engine choose.
            networks: the networks to attach it to, with each endpoint's configuration if a mapping; the first one
                becomes its network mode.
            env: its environment ("NAME=value").
            labels: its labels.
            command: its command, in place of its image's.
            healthcheck: its health check, as in the engine's JSON ({"Test": ["CMD", "true"]}).
            restart: its restart policy ("always", "on-failure:3").
            auto_remove: remove it when it ends, as ``--rm`` does.
            start: start it.
            config: more of its `Config`, raw.
            host_config: more of its `HostConfig`, raw.
        """
        with self._guard:
            endpoints = dict(networks) if isinstance(networks, Mapping) else {one: {} for one in networks}
            for network in endpoints:
                if not any(one.is_meant(network) for one in self._maker.networks.known.values()):
                    self._maker.networks.create({"Name": network}, self._maker.moments.written())
            policy, _, most = restart.partition(":")
            host: dict[str, Any] = {
                "Binds": [f"{source}:{place}" for source, place in (volumes or {}).items()] or None,
                "PortBindings": {port: [{"HostPort": number}] for port, number in (ports or {}).items()} or None,
                "NetworkMode": next(iter(endpoints), "bridge"),
                "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(most or 0)},
                "AutoRemove": auto_remove,
                **host_config,
            }
            request = {
                "Image": image,
                "Cmd": list(command) if command is not None else None,
                "Env": list(env) if env is not None else None,
                "Labels": dict(labels or {}),
                "Volumes": _set(anonymous) or None,
                "Healthcheck": dict(healthcheck) if healthcheck else None,
                "ExposedPorts": _set(ports or ()) or None,
                **(config or {}),
                "HostConfig": host,
                "NetworkingConfig": {"EndpointsConfig": endpoints},
            }
            identity = self._maker.create(name, request)
            if start:
                self._life.start(self._maker.get(identity))
            return identity

    def container(self, ref: str) -> FakeContainer:
        """Return a handle on a container; raises `ContainerNotFoundError`."""
        with self._guard:
            self._life.settle()
            return handle(self._maker.get(ref), self._life, self._guard)

    def volume(self, name: str) -> Files:
        """Return a handle on the files of a volume, which is created if it does not exist."""
        with self._guard:
            if name not in self._maker.volumes.known:
                self._maker.volumes.create({"Name": name}, self._maker.moments.written())
            found = self._maker.volumes.get(name)
        return Files(lambda: View(found.root), self._maker.moments.nanoseconds, self._guard)

    def anonymous_volume(self, container: str, path: str) -> str:
        """Return the name of the volume that a container mounts at `path`; raises `KeyError` if there is none."""
        with self._guard:
            for mount in self._maker.get(container).mounts:
                if mount.name and mount.spec.destination == path:
                    return mount.name
        raise KeyError(path)

    @property
    def host(self) -> Files:
        """A handle on the files of the engine's host, for bind mounts."""
        return Files(lambda: View(self._maker.host), self._maker.moments.nanoseconds, self._guard)

    def force_remove_image(self, name: str) -> None:
        """Remove an image and all its names even if stopped containers use it, as ``docker rmi --force`` does."""
        with self._guard:
            self._maker.images.drop(name)

    def prune_images(self, *, everything: bool = False) -> list[str]:
        """Remove images that have no name and no container, as ``docker image prune`` does, and return their ids.

        Args:
            everything: also remove named images that no container uses, as ``--all`` does. An image in use that has
                several names keeps one of them.
        """
        with self._guard:
            return self._maker.images.prune(everything=everything)

    def prune_containers(self) -> list[str]:
        """Remove every container that does not run, as ``docker container prune`` does, and return their ids."""
        with self._guard:
            self._life.settle()
            idle = [one for one in self._maker.known.values() if not one.alive]
            for container in idle:
                self._life.remove(container, volumes=False)
            return [one.id for one in idle]

    def prune_networks(self) -> list[str]:
        """Remove networks that no running container uses, as ``docker network prune`` does, and return their names."""
        with self._guard:
            unused = [one for one in self._maker.networks.known.values() if not one.predefined and not one.attached]
            for network in unused:
                self._maker.networks.remove(network.id)
            return [one.name for one in unused]

    def prune_volumes(self, *, everything: bool = False) -> list[str]:
        """Remove anonymous volumes that no container mounts, as ``docker volume prune`` does, and return their names.

        Args:
            everything: also remove named volumes, as ``--all`` does.
        """
        with self._guard:
            volumes = self._maker.volumes
            unused = [
                one.name
                for one in volumes.known.values()
                if (everything or ANONYMOUS in (one.labels or {})) and not volumes.users(one.name)
            ]
            for name in unused:
                volumes.remove(name)
            return unused

    def prune_system(self, *, everything: bool = False, volumes: bool = False) -> None:
        """Remove unused containers, networks and images, as ``docker system prune`` does.

        Args:
            everything: also remove named images, as ``--all`` does.
            volumes: also remove anonymous volumes, as ``--volumes`` does.
        """
        with self._guard:
            self.prune_containers()
            self.prune_networks()
            if volumes:
                self.prune_volumes()
            self.prune_images(everything=everything)

    def image_names(self) -> dict[str, list[str]]:
        """Return the names of every image, by its id; the list is empty for an image that has lost its last name."""
        with self._guard:
            images = self._maker.images
            return {one: sorted(name for name, named in images.names.items() if named == one) for one in images.known}

    def has_image(self, name: str) -> bool:
        """Return True if an image has this name or id."""
        with self._guard:
            return name in self._maker.images.known or reference(name) in self._maker.images.names

    def publish(self, image: str) -> None:
        """Push an image to the only registry that this engine pulls from; the engine keeps it, too.

        Example:
            >>> fake.add_image("shop:2", files={"/app": "version 2"})
            >>> fake.publish("shop:2")
            >>> fake.remove_image("shop:2")
            >>> fake.pull_image("shop:2") == fake.inspect_image("shop:2")["Id"]
            True
        """
        with self._guard:
            self._maker.images.publish(image)

    def has_network(self, name: str) -> bool:
        """Return True if a network has this name."""
        with self._guard:
            return any(network.name == name for network in self._maker.networks.known.values())

    def has_volume(self, name: str) -> bool:
        """Return True if a volume has this name."""
        with self._guard:
            return name in self._maker.volumes.known

    # Programs

    def on_start(self, what: str, behaviour: Behaviour) -> None:
        """Set the behaviour of a container's main program when it starts.

        Args:
            what: a container's name, or an image's name or id; a container's own behaviour takes precedence over its
                image's.
            behaviour: called with a handle on the container each time that it starts.

        Example:
            >>> fake.on_start("shop:2", lambda shop: shop.exit(1))
        """
        self._starts[what] = behaviour

    def on_stop(self, what: str, behaviour: Behaviour) -> None:
        """Set the behaviour of a container's main program when it is asked to stop.

        The program ends with exit code 0 unless the behaviour ends it first.

        Example:
            >>> fake.on_stop("shop", lambda shop: shop.write("/data/clean", "yes"))
        """
        self._stops[what] = behaviour

    def program(self, name: str, program: Program) -> None:
        """Add a program that `exec` can run in every container, or replace one.

        Example:
            >>> def greet(run):
            ...     run.stdout += b"hello"
            ...     return 0
            >>> fake.program("greet", greet)
        """
        self._programs[name] = program

    def _began(self, container: Container) -> None:
        if not self._behave(self._starts, container):
            self._run_main(container)

    def _run_main(self, container: Container) -> None:
        """Run a container's command if it is a known program; any other runs until it is stopped."""
        now = self._maker.moments.nanoseconds
        files = Files(container.view, now, self._guard)
        program, arguments = find_program(self._programs, files, container.command)
        if program is missing or files.waits(reads(container.command)):
            return
        run = Run(arguments, files, b"", cut=False, now=now, hang_up=lambda _: None)
        code = program(run)
        container.log += bytes(run.stdout).decode("utf-8", "replace").splitlines()
        container.log += "".join(run.stderr).splitlines()
        if code is not None:
            self._life.end(container, code, asked=False)
        elif arguments[1:] and arguments[1].replace(".", "").isdigit():
            self._life.later(container, float(arguments[1]), lambda: self._life.end(container, 0, asked=False))

    def _asked_to_end(self, container: Container) -> None:
        self._behave(self._stops, container)

    def _behave(self, behaviours: Mapping[str, Behaviour], container: Container) -> bool:
        image = str(container.config["Image"])
        for what in (container.name, image, container.image, *self._maker.images.names_of(container.image)):
            if what in behaviours:
                behaviours[what](handle(container, self._life, self._guard))
                return True
        return False


def _set(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return a set in the form in which Go writes it to JSON."""
    return {name: {} for name in names}
