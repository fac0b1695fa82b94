"""What a test does to the in-memory engine beyond what an engine's clients can."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from docker_rollback.testing._fake_containers import Container
from docker_rollback.testing._fake_exec import Program, Run
from docker_rollback.testing._fake_files import Files
from docker_rollback.testing._fake_handle import FakeContainer, handle
from docker_rollback.testing._fake_images import Image, reference
from docker_rollback.testing._fake_layers import Layer, pack
from docker_rollback.testing._fake_life import Life
from docker_rollback.testing._fake_programs import PROGRAMS, find_program, missing, reads
from docker_rollback.testing._fake_tree import View, copy, directory
from docker_rollback.testing._fake_volumes import ANONYMOUS

_MADE = "2026-01-01T00:00:00.000000000Z"
_MADE_NANOSECONDS = 1_767_225_600_000_000_000

Behaviour: TypeAlias = Callable[[FakeContainer], object]
"""What the program of a container does."""


class Setup:
    """The handles of a `FakeEngine` for tests."""

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
        """Make an image and return its id; of equal contents comes an equal id.

        Args:
            name: its name; without a tag, "latest" is meant.
            base: the image whose layers and files it stands on.
            files: its files by path; directories come by themselves.
            command: its CMD.
            entrypoint: its ENTRYPOINT.
            env: its ENV ("NAME=value").
            labels: its LABELs.
            volumes: its VOLUMEs.
            ports: its EXPOSEd ports ("80/tcp").
            healthcheck: its HEALTHCHECK, as JSON has it ({"Test": ["CMD", "true"]}).
            user: its USER.
            workdir: its WORKDIR.
            config: more of its configuration, raw ({"StopSignal": "SIGINT"}).
            fill: is given a handle on its files for what `files` cannot say: modes, owners, links.
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
        """Create a container, start it, and return its full id; networks that are missing are made.

        Args:
            name: its name.
            image: what it runs.
            volumes: where each named volume, or path of the host, goes ({"data": "/data:ro"}).
            anonymous: where it wants volumes without a name, as ``-v /path`` does.
            ports: the port of the host for each of its ports ({"80/tcp": "8080"}); "" lets the engine choose.
            networks: the networks to attach it to, the first as its own, with an endpoint's configuration where given.
            env: its environment ("NAME=value").
            labels: its labels.
            command: instead of its image's.
            healthcheck: as JSON has it ({"Test": ["CMD", "true"]}).
            restart: its restart policy ("always", "on-failure:3").
            auto_remove: whether it goes when it ends, as ``--rm`` has it.
            start: whether to start it.
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
        """Return a handle on the files of a volume, which is made where there is none."""
        with self._guard:
            if name not in self._maker.volumes.known:
                self._maker.volumes.create({"Name": name}, self._maker.moments.written())
            found = self._maker.volumes.get(name)
        return Files(lambda: View(found.root), self._maker.moments.nanoseconds, self._guard)

    def anonymous_volume(self, container: str, path: str) -> str:
        """Return the name of the volume that a container has at `path`; raises `KeyError` where it has none."""
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
        """Remove an image with all of its names although stopped containers stand on it, as ``docker rmi --force``."""
        with self._guard:
            self._maker.images.drop(name)

    def prune_images(self, *, everything: bool = False) -> list[str]:
        """Remove every image that has no name and no container, as ``docker image prune`` does; return their ids.

        Args:
            everything: remove named images too unless a container uses them, as ``--all`` does. Of several names of an
                image in use, one stays.
        """
        with self._guard:
            return self._maker.images.prune(everything=everything)

    def prune_containers(self) -> list[str]:
        """Remove every container that does not run, as ``docker container prune`` does; return their ids."""
        with self._guard:
            self._life.settle()
            idle = [one for one in self._maker.known.values() if not one.alive]
            for container in idle:
                self._life.remove(container, volumes=False)
            return [one.id for one in idle]

    def prune_networks(self) -> list[str]:
        """Remove every network that no running container uses, as ``docker network prune`` does; return their names."""
        with self._guard:
            unused = [one for one in self._maker.networks.known.values() if not one.predefined and not one.attached]
            for network in unused:
                self._maker.networks.remove(network.id)
            return [one.name for one in unused]

    def prune_volumes(self, *, everything: bool = False) -> list[str]:
        """Remove every anonymous volume that no container mounts, as ``docker volume prune`` does; return their names.

        Args:
            everything: remove named volumes too, as ``--all`` does.
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
        """Remove whatever is not in use, as ``docker system prune`` does.

        Args:
            everything: named images too, as ``--all`` does.
            volumes: anonymous volumes too, as ``--volumes`` does.
        """
        with self._guard:
            self.prune_containers()
            self.prune_networks()
            if volumes:
                self.prune_volumes()
            self.prune_images(everything=everything)

    def image_names(self) -> dict[str, list[str]]:
        """Return the names of every image, by its id; of one that has lost its last one, none."""
        with self._guard:
            images = self._maker.images
            return {one: sorted(name for name, named in images.names.items() if named == one) for one in images.known}

    def has_image(self, name: str) -> bool:
        """Say whether there is an image of that name or id."""
        with self._guard:
            return name in self._maker.images.known or reference(name) in self._maker.images.names

    def publish(self, image: str) -> None:
        """Push an image to the one registry that this engine pulls from; it stays here as well.

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
        """Say whether there is a network of that name."""
        with self._guard:
            return any(network.name == name for network in self._maker.networks.known.values())

    def has_volume(self, name: str) -> bool:
        """Say whether there is a volume of that name."""
        with self._guard:
            return name in self._maker.volumes.known

    # What programs do

    def on_start(self, what: str, behaviour: Behaviour) -> None:
        """Say what the program of a container does once it has begun.

        Args:
            what: the name of a container, or the name or id of an image; a container's own behaviour goes before that
                of its image.
            behaviour: is given a handle on the container, each time that it starts.

        Example:
            >>> fake.on_start("shop:2", lambda shop: shop.exit(1))
        """
        self._starts[what] = behaviour

    def on_stop(self, what: str, behaviour: Behaviour) -> None:
        """Say what the program of a container does when it is asked to end; it ends with 0 unless that ends it.

        Example:
            >>> fake.on_stop("shop", lambda shop: shop.write("/data/clean", "yes"))
        """
        self._stops[what] = behaviour

    def program(self, name: str, program: Program) -> None:
        """Give every container a program that `exec` can run, or put another in the place of one that there is.

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
        """Run a container's command where it is a program that is known here; any other runs until it is stopped."""
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
    """Return a set as Go writes it in JSON."""
    return {name: {} for name in names}
