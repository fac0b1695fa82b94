"""What the contract's tests share: containers to work on, names of their own, an end for everything made."""

from __future__ import annotations

import io
import secrets
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

import pytest

from docker_rollback._engine import Engine
from docker_rollback.errors import EngineError

Host: TypeAlias = Mapping[str, Any] | None

LINES = "".join(f"line {number}\n" for number in range(1, 6))
"""What `/lines` holds in the contract's image."""


class Eyes(Protocol):
    """Sees what is in an engine without the engine under test, so that a fault of it cannot hide another."""

    def container(self, full_id: str) -> str | None:
        """Return the state of a container; None where there is none."""

    def image(self, tag: str) -> bool:
        """Tell whether an image bears this name."""

    def network(self, name: str) -> bool:
        """Tell whether there is a network of this name."""

    def volume(self, name: str) -> bool:
        """Tell whether there is a volume of this name."""


class Lab:
    """Makes what a test needs, under names that nothing else has, and removes it in the end."""

    def __init__(self, engine: Engine, image: str, labels: Mapping[str, str]) -> None:
        """Work in `engine` with containers of `image`; everything bears `labels`."""
        self.engine = engine
        self.image = image
        self.labels = dict(labels)
        self._token = secrets.token_hex(4)
        self._count = 0
        self._containers: list[str] = []
        self._tags: list[str] = []

    def name(self) -> str:
        """Return a name for a container, a network or a volume."""
        self._count += 1
        return f"contract-{self._token}-{self._count}"

    def tag(self) -> str:
        """Return a name for an image."""
        self._count += 1
        self._tags.append(f"contract-{self._token}:{self._count}")
        return self._tags[-1]

    def request(self, *command: str, host: Host = None, **config: Any) -> dict[str, Any]:
        """Return a request for a container that ends at once when it is asked to."""
        return {
            "Image": self.image,
            "Cmd": list(command) or ["sleep", "600"],
            "StopSignal": "SIGKILL",
            "Labels": self.labels,
            "HostConfig": dict(host or {}),
            **config,
        }

    def created(self, *command: str, name: str | None = None, host: Host = None, **config: Any) -> str:
        """Create a container and return its id."""
        made = self.engine.create_container(name or self.name(), self.request(*command, host=host, **config))
        self._containers.append(made)
        return made

    def running(self, *command: str, name: str | None = None, host: Host = None, **config: Any) -> str:
        """Create a container, start it and return its id."""
        made = self.created(*command, name=name, host=host, **config)
        self.engine.start_container(made)
        return made

    def stopped(self, **config: Any) -> str:
        """Create a container, start and stop it and return its id."""
        made = self.running(**config)
        self.engine.stop_container(made)
        return made

    def network(self, name: str | None = None, **request: Any) -> str:
        """Create a network and return its id."""
        return self.engine.create_network({"Name": name or self.name(), "Labels": self.labels, **request})

    def volume(self, name: str | None = None, **request: Any) -> str:
        """Create a volume and return its name."""
        return self.engine.create_volume({"Name": name or self.name(), "Labels": self.labels, **request})

    def run(self, container: str, *command: str, stdin: bytes | None = None) -> tuple[bytes, int]:
        """Run a program in a container and return its output and its exit code."""
        with self.engine.exec(container, command, stdin=stdin is not None) as process:
            if stdin is not None:
                process.write(stdin)
                process.close_input()
            output = b"".join(iter(lambda: process.read(1 << 20), b""))
            return output, process.finish().exit_code

    def layers(self, image: str) -> list[str]:
        """Return the digests of an image's layers, uncompressed."""
        return list(self.engine.inspect_image(image)["RootFS"]["Layers"])

    def clean(self) -> None:
        """Remove everything that was made here."""
        for container in self._containers:
            with suppress(EngineError):
                self.engine.remove_container(container, force=True, volumes=True)
        for network in self.engine.list_networks(labels=self.labels):
            with suppress(EngineError):
                self.engine.remove_network(network)
        for volume in self.engine.list_volumes(labels=self.labels):
            with suppress(EngineError):
                self.engine.remove_volume(volume)
        for tag in self._tags:
            with suppress(EngineError):
                self.engine.remove_image(tag)


class Contract:
    """The fixtures; a subclass for an engine supplies `engine` and `eyes`, and may supply the others."""

    @pytest.fixture
    def engine(self) -> Engine:
        """Give the engine under test."""
        raise NotImplementedError("a contract needs the engine that it is to hold: override the fixture `engine`")

    @pytest.fixture
    def eyes(self) -> Eyes:
        """Give other eyes for the same engine."""
        raise NotImplementedError("a contract needs eyes that see past the engine: override the fixture `eyes`")

    @pytest.fixture
    def archive(self) -> bytes:
        """Give the tar of a file system with the contract's programs in ``/bin``; here they are names only."""
        return file_system(dict.fromkeys(("cat", "false", "sleep", "tar", "touch", "true"), b""))

    @pytest.fixture
    def labels(self) -> dict[str, str]:
        """Give the labels of everything that a test makes."""
        return {"docker-rollback.contract": secrets.token_hex(4)}

    @pytest.fixture
    def image(self, engine: Engine, archive: bytes) -> Iterator[str]:
        """Give an image of that file system."""
        tag = f"contract-{secrets.token_hex(4)}:base"
        engine.import_image([archive], tag)
        yield tag
        with suppress(EngineError):
            engine.remove_image(tag)

    @pytest.fixture
    def lab(self, engine: Engine, image: str, labels: dict[str, str]) -> Iterator[Lab]:
        """Give what a test works with."""
        lab = Lab(engine, image, labels)
        yield lab
        lab.clean()


def file_system(programs: Mapping[str, bytes | str]) -> bytes:
    """Return the tar of a small file system with `/lines`, and in ``/bin`` these programs.

    Args:
        programs: by name, their content, or the name of another one of which they are an alias.
    """
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for folder in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for name, body in {"lines": LINES.encode(), **{f"bin/{name}": body for name, body in programs.items()}}.items():
            entry = tarfile.TarInfo(name)
            if isinstance(body, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, body
                archive.addfile(entry)
            else:
                entry.size, entry.mode = len(body), 0o755
                archive.addfile(entry, io.BytesIO(body))
    return whole.getvalue()


def tar_of(path: str, content: bytes) -> bytes:
    """Return a tar with one file, and the folders on the way to it."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        folders = path.split("/")[:-1]
        for depth in range(len(folders)):
            entry = tarfile.TarInfo("/".join(folders[: depth + 1]))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode = len(content), 0o644
        archive.addfile(entry, io.BytesIO(content))
    return whole.getvalue()
