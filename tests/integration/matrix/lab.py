"""What a row of the matrix works with: an engine, names of its own, other containers, and eyes past what is tested."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import secrets
import socket
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal, NoReturn, TypeAlias

import docker
import pytest
from attrs import field, frozen

from docker_rollback import DockerEngine, EngineError, ImageNotFoundError
from docker_rollback._inspection.recreate import observe
from docker_rollback.parts import EngineInfo
from tests.engines.images import busybox_tar
from tests.engines.results import cannot
from tests.programs import run_in

Body: TypeAlias = Mapping[str, Any]
Target: TypeAlias = Literal["created", "running", "paused", "exited"]
Fate: TypeAlias = Literal["moved tag", "image rm", "image prune -a"]
"""What becomes of the image of a container that is removed."""

PORT = 8000
"""Where the service of a case answers; it serves /etc, and so the container's own host name."""

SERVICE = ["sh", "-c", f"trap 'exit 0' TERM; httpd -f -p {PORT} -h /etc & wait"]
"""A service that ends at once when it is asked to."""


@frozen(kw_only=True)
class Case:
    """One weird container, and how to see that it is what it should be.

    Attributes:
        body: the create's raw body.
        networks: further endpoints, connected before the start.
        state: what the container does when it is captured.
        data: files to write into volumes while it runs, by path; they must be there again.
        shows: what the engine's inspection must say of it, by dotted path, so that a row tests what it says.
        limit: why Podman may show or do otherwise, in words that name its limit; None where it may not, as Docker.
        refused: what an engine says that cannot make such a container, as a pattern.
        written: why Podman itself writes into its file system, so that the id of its image changes; None where not.
        works: sees that the container does its work; raises `AssertionError` where not.
    """

    body: Body
    networks: Mapping[str, Body] = field(factory=dict)
    state: Target = "running"
    data: Mapping[str, str] = field(factory=dict)
    shows: Mapping[str, object] = field(factory=dict)
    limit: str | None = None
    refused: str | None = None
    written: str | None = None
    works: Callable[[], None] = lambda: None


Row: TypeAlias = Callable[["Lab"], Case]


def table() -> tuple[list[Row], Callable[[Row], Row]]:
    """Return an empty table, and the decorator that adds a row to it."""
    rows: list[Row] = []

    def row(found: Row) -> Row:
        rows.append(found)
        return found

    return rows, row


class Lab:
    """An engine with one container under test, and whatever that needs.

    Attributes:
        engine: the engine under test, as the library reaches it.
        client: the docker SDK's client of the same engine: what it sees and does is not under test.
        info: who the engine is.
        image: an image of busybox, with a tag that belongs to this lab alone.
        labels: of everything that is made, so that it is found and removed.
        name: of the container under test.
    """

    def __init__(self, client: docker.DockerClient, image: str, labels: Mapping[str, str]) -> None:
        self.client = client
        self.engine = DockerEngine(client)
        self.info: EngineInfo = self.engine.info()
        self.labels = dict(labels)
        self.token = secrets.token_hex(3)
        self.name = f"matrix-{self.token}"
        self.image = f"docker-rollback-test-matrix:{self.token}"
        self.base = image
        self._own_label = {"docker-rollback-matrix": self.token}
        self._others: list[str] = []
        self._networks: list[str] = []
        self._volumes: list[str] = []
        client.api.tag(image, "docker-rollback-test-matrix", self.token)

    def clear(self) -> None:
        """Remove the containers, those first that need another one: Podman does not let that one go before."""
        for name in (self.name, *reversed(self._others)):
            self.engine.remove_container(name, force=True, volumes=True)
        for network in self._networks:
            self.engine.remove_network(network)
        self.engine.remove_image(f"{self.image}-moved")

    def own_image(self) -> None:
        """Give the lab an image that nobody else has: removed, it is gone."""
        # What is made of it has the label too, so that rows find it among the labels that they expect.
        self.labels |= self._own_label
        whole = _with_files(busybox_tar(), {"etc/lab": self.token})
        changes = [f"LABEL {key}={value}" for key, value in self.labels.items()]
        self.client.api.import_image_from_data(
            whole, repository="docker-rollback-test-matrix", tag=self.token, changes=[*changes, 'CMD ["sh"]']
        )

    def forget(self, fate: Fate = "moved tag") -> None:
        """Do what a careless update does: remove the container, what else nobody uses, and its image or that's tag."""
        self.engine.remove_container(self.name, force=True, volumes=True)
        for name in self._others:
            # A backup is not put back under the hands of whoever works on the same volume.
            if observe(self.engine.inspect_container(name)).volumes:
                self.engine.stop_container(name)
        for volume in self._volumes:
            with suppress(EngineError):
                self.engine.remove_volume(volume)
        for network in self._networks:
            with suppress(EngineError):
                self.engine.remove_network(network)
        if fate == "moved tag":
            self._move_tag()
            return
        if fate == "image rm":
            self.client.api.remove_image(self.image, force=True)
        else:
            # All that nobody uses, of this lab: an engine may be somebody's.
            labels = [f"{key}={value}" for key, value in self._own_label.items()]
            prune: Any = self.client.api.prune_images
            prune(filters={"dangling": False, "label": labels})
        with pytest.raises(ImageNotFoundError):
            self.engine.inspect_image(self.image)

    def _move_tag(self) -> None:
        other = self.engine.import_image([_with_files(busybox_tar(), {"other": self.token})], f"{self.image}-moved")
        self.engine.tag_image(other, self.image)

    # What the engine is

    @property
    def podman(self) -> bool:
        """Whether the engine is Podman."""
        return self.info.flavour == "podman"

    @property
    def default_network(self) -> str:
        """What the engine calls its default network."""
        return "podman" if self.podman else "bridge"

    @property
    def api(self) -> tuple[int, ...]:
        """The version of the API that is spoken, in numbers."""
        return tuple(int(part) for part in self.info.api_version.split("."))

    def needs_api(self, *version: int, what: str) -> None:
        """Skip the row where the engine's API is older than what it is about."""
        if self.api < version:
            self.cannot(
                f"its API {self.info.api_version} is older than {'.'.join(map(str, version))}, where {what} begins"
            )

    def cannot(self, reason: str) -> NoReturn:
        """Skip the row: the engine itself has no such thing."""
        cannot(self.client, reason)

    # What a row makes

    def own(self, name: str) -> str:
        """Return a name that belongs to this lab."""
        return f"{self.name}-{name}"

    def body(self, *, host: Body | None = None, **config: Any) -> dict[str, Any]:
        """Return a create's body: the service, changed by `config`, with `host` as its host configuration."""
        return {"Image": self.image, "Cmd": list(SERVICE), "HostConfig": dict(host or {}), **config}

    def on(self, network: str, endpoint: Body | None = None) -> dict[str, Any]:
        """Return the part of a create's body that attaches its container to a network first."""
        return {"NetworkingConfig": {"EndpointsConfig": {network: dict(endpoint or {})}}}

    def network(self, name: str, *subnets: str, **options: Any) -> str:
        """Make a network, and return its name."""
        pools = [docker.types.IPAMPool(subnet=subnet) for subnet in subnets]
        ipam = docker.types.IPAMConfig(pool_configs=pools) if pools else None
        six = any(":" in subnet for subnet in subnets)
        options = {"enable_ipv6": six, **options}
        self.client.api.create_network(self.own(name), ipam=ipam, labels=self.labels, **options)
        self._networks.append(self.own(name))
        return self.own(name)

    def network_by(self, name: str, **request: Any) -> str:
        """Make a network of a raw request, and return its name; one that others are made from goes after them."""
        try:
            self.engine.create_network({"Name": self.own(name), **request})
        except EngineError as error:
            self.cannot(str(error.reason))
        self._networks.insert(0, self.own(name))
        return self.own(name)

    def networks(self) -> dict[str, Mapping[str, Any]]:
        """Return the inspections of the networks of this lab, by name."""
        return {name: self.engine.inspect_network(name) for name in self._networks}

    def volume(self, name: str, *, stays: bool = False, **options: Any) -> str:
        """Make a volume that goes with the container, or stays, and return its name."""
        self.client.api.create_volume(self.own(name), labels=self.labels, **options)
        if not stays:
            self._volumes.append(self.own(name))
        return self.own(name)

    def subnet(self, number: int = 0) -> str:
        """Return the first three numbers of a subnet that belongs to this lab."""
        return f"10.{210 + number}.{int(self.token[:2], 16)}"

    def free_port(self, *, family: socket.AddressFamily = socket.AF_INET) -> int:
        """Return a port of this machine that nobody uses right now."""
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    def image_with(self, files: Mapping[str, str] | None = None, **config: Any) -> str:
        """Give the lab's image other settings, named as in an image, and further files; return its name."""
        config = {"Cmd": ["sh"], **config, "Labels": {**self.labels, **self._own_label, **config.get("Labels", {})}}
        self.engine.load_image([_archive(_with_files(busybox_tar(), files or {}), config, self.image)])
        return self.image

    def other(self, name: str, *, host: Body | None = None, **config: Any) -> str:
        """Make and start a further container, and return its name."""
        body = {"Image": self.base, "Cmd": list(SERVICE), "StopTimeout": 0, "HostConfig": dict(host or {}), **config}
        self.engine.start_container(self.engine.create_container(self.own(name), body))
        self._others.append(self.own(name))
        return self.own(name)

    def dismiss(self, name: str) -> None:
        """Remove a further container."""
        self.engine.remove_container(name, force=True, volumes=True)
        self._others.remove(name)

    def make(self, name: str, body: Body, networks: Mapping[str, Body], state: Target) -> str:
        """Make the container under test and bring it to a state; return its id."""
        created = self.engine.create_container(name, body)
        for network, endpoint in networks.items():
            self.engine.connect_network(network, created, endpoint)
        if state != "created":
            self.engine.start_container(created)
        if state == "paused":
            self.engine.pause_container(created)
        if state == "exited":
            self.engine.kill_container(created)
        return created

    def stand(self, case: Case) -> None:
        """Make the container of a case for the first time, see that it works; skip where the engine itself cannot."""
        try:
            self.make(self.name, case.body, case.networks, "running" if case.data else case.state)
        except EngineError as error:
            if case.refused is None or not re.search(case.refused, str(error)):
                raise
            self.cannot(str(error.reason))
        for path, content in case.data.items():
            self.run(f"mkdir -p $(dirname {path}) && printf %s '{content}' > {path}", user="root")
        found = self.inspect()
        try:
            for path, value in case.shows.items():
                assert at(found, path) == value, f"{path} is {at(found, path)!r}, not {value!r}"
            case.works()
        except (AssertionError, OSError):
            if not self.podman or case.limit is None:
                raise
            self.cannot(case.limit)

    # What the tests see

    def inspect(self) -> Mapping[str, Any]:
        """Return the inspection of the container under test, as the library reads it."""
        return self.engine.inspect_container(self.name)

    def shown(self, path: str) -> Any:
        """Return what the inspection of the container under test says at a dotted path."""
        return at(self.inspect(), path)

    def run(self, script: str, *, name: str | None = None, user: str = "") -> str:
        """Run a shell script in a container, the one under test by default, as its own user; return what it prints."""
        code, said = run_in(self.client, name or self.name, ["sh", "-c", script], user=user)
        assert code == 0, f"{script!r} ended with {code}: {said!r}"
        return said.strip()

    def address_of(self, host: str, *, seen_from: str | None = None, kind: str = "a") -> str:
        """Return the address that a name has in the DNS that another container asks."""
        said = self.run(f"nslookup -type={kind} {host} || true", name=seen_from)
        _, _, answer = said.partition("answer:")
        found: set[str] = set(re.findall(r"Address: (\S+)", answer))
        assert len(found) == 1, f"{host} resolves to {found}: {said}"
        return found.pop()

    def fetch(self, address: str, *, seen_from: str | None = None) -> str:
        """Return the host name that the service at an address tells another container."""
        # This busybox's wget looks names up in a way that a static program cannot; nc does not.
        said = self.run(f"printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {PORT}", name=seen_from)
        assert "200 OK" in said, said
        return said.splitlines()[-1]

    def answers(self, host: str, port: int) -> str:
        """Return what the service says at a port of this machine."""
        with socket.create_connection((host, port), timeout=5) as connection:
            connection.sendall(b"GET /hostname HTTP/1.0\r\n\r\n")
            said = b"".join(iter(lambda: connection.recv(4096), b""))
        assert b"200 OK" in said, said
        return said.rpartition(b"\r\n\r\n")[2].decode().strip()

    def published(self, port: str) -> int:
        """Return the port of this machine that leads to a port of the container."""
        bound = self.shown("NetworkSettings.Ports")[port]
        assert bound, f"{port} is not published"
        return int(bound[0]["HostPort"])

    def hostname(self) -> str:
        """Return the host name that programs in the container see."""
        return self.run("hostname")


def eventually(look: Callable[[], None], *, timeout: float = 20) -> None:
    """Look again and again until it holds; raises what it raised last when the time is over."""
    end = time.monotonic() + timeout
    while True:
        try:
            look()
        except (AssertionError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def at(inspection: Body, path: str) -> Any:
    """Return what stands at a dotted path; None where there is nothing."""
    place: Any = inspection
    for key in path.split("."):
        place = place.get(key) if isinstance(place, Mapping) else None
    return place


def is_subset(wanted: Iterable[object], found: Iterable[object]) -> None:
    """Hold that everything wanted is there."""
    wanted, found = set(wanted), set(found)
    assert wanted <= found, f"{wanted - found} is missing"


def _archive(layer: bytes, config: Body, tag: str) -> bytes:
    """Return an image as `docker save` would give it; an import could not set all that an image can."""
    digest = hashlib.sha256(layer).hexdigest()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    image = {
        "architecture": machine,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    # Podman would put a bare name elsewhere than Docker does.
    manifest = [{"Config": "config.json", "RepoTags": [f"docker.io/library/{tag}"], "Layers": ["layer.tar"]}]
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for name, content in (
            ("layer.tar", layer),
            ("config.json", json.dumps(image).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


def _with_files(whole: bytes, files: Mapping[str, str]) -> bytes:
    if not files:
        return whole
    changed = io.BytesIO(whole)
    with tarfile.open(fileobj=changed, mode="a") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.strip("/"))
            entry.size, entry.mode = len(content.encode()), 0o644
            archive.addfile(entry, io.BytesIO(content.encode()))
    return changed.getvalue()
