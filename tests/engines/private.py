"""A private engine's life: start it, wait for its answer, end it and all that it left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import docker

from tests.engines import catalog, debian, namespaces

RUN = Path("/run/docker-rollback-engines")
PATIENCE = 60.0
"""Seconds that an engine gets to answer, and to end."""

DEFAULT_SOCKETS = ("/var/run/docker.sock",)

# Programs that an engine starts and that outlive it when it is killed.
PROGRAMS = ("dockerd", "containerd", "containerd-shim", "docker-proxy", "podman", "conmon", "aardvark-dns")


class EngineStartError(Exception):
    """A private engine could not be started."""


def running_engine() -> str | None:
    """Return the address of the engine that people on this machine use: DOCKER_HOST, or the default socket."""
    given = os.environ.get("DOCKER_HOST")
    addresses = [given] if given else [f"unix://{socket}" for socket in DEFAULT_SOCKETS]
    return next((address for address in addresses if answers(address)), None)


def answers(address: str) -> bool:
    """Say whether an engine answers at an address."""
    kind, _, place = address.partition("://")
    if kind == "unix":
        return _socket_answers(place)
    try:
        client = docker.from_env(timeout=10, environment={**os.environ, "DOCKER_HOST": address})
    except docker.errors.DockerException:
        return False
    client.close()
    return True


def join_network(address: str) -> None:
    """Move this thread, and all that it starts from now on, to where the ports are that an engine publishes.

    From the network of a private engine nothing else can be reached; `tests.engines.debian` fetches from the one that
    was left. For any other engine this changes nothing.
    """
    folder = Path(address.removeprefix("unix://")).parent
    if folder.parent == RUN:
        namespaces.join_network(catalog.Places(folder, folder).network)


class PrivateEngine:
    """An engine of our own; a context manager that starts it, and ends it without a trace.

    Args:
        name: which, one of `catalog.NAMES`.
        instance: what tells it from others of the same name; empty for the one that `up` starts.
        with_parent: whether it ends when the process that started it does, however that ends.
    """

    def __init__(self, name: str, *, instance: str = "", with_parent: bool = True) -> None:
        self.name = name
        self._recipe = catalog.recipe(name)
        label = f"{name}-{instance}" if instance else name
        self.places = catalog.Places(RUN / label, debian.data_folder() / "data" / label)
        self._with_parent = with_parent
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"unix://{self.places.socket}"

    @property
    def pid(self) -> int | None:
        """The process id of the engine, None where it does not run."""
        try:
            pid = int((self.places.run / "leader").read_text())
            told = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        # The number may be another process's by now; its words are not.
        return pid if _named_by(self.places.run) in told else None

    def fetch(self) -> None:
        """Get its programs, so that it starts at once; raises `DistributionError` where they cannot be had."""
        self._root()

    def start(self) -> None:
        """Start it and wait until it answers; harmless where it does.

        Raises:
            EngineStartError: it did not, with the end of its log.
            DistributionError: its packages cannot be had.
        """
        if self.pid is not None and answers(self.address):
            return
        if os.geteuid() != 0:
            raise EngineStartError("only root can start a private engine")
        sweep()
        command = self._prepare()
        with self.places.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "CONTAINERS_REGISTRIES_CONF": str(self.places.registries)},
            )
        (self.places.run / "leader").write_text(str(self._process.pid))
        if not _within(PATIENCE, lambda: self._ended() or answers(self.address)) or self._ended():
            said = self.last_words()
            self.stop()
            raise EngineStartError(f"{self.name} did not answer; the end of its log:\n{said}")

    def last_words(self) -> str:
        """Return the end of its log, until it is ended."""
        return self.places.log.read_text(errors="replace")[-3000:]

    def admit(self, group: int) -> None:
        """Let the members of a group use its socket, as those of `docker` may by default."""
        os.chown(self.places.socket, 0, group)
        self.places.socket.chmod(0o660)

    def stop(self) -> None:
        """End it, whatever of it still runs, and remove its data."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            _within(PATIENCE, self._ended)
        for left in list(_left_over(self.places.run)):
            _kill(left)
        if self._process is not None:
            self._process.wait(PATIENCE)
        for place in (self.places.run, self.places.data):
            debian.remove_tree(place)

    def kill(self) -> None:
        """End the engine's own process at once, as the kernel does when memory runs out.

        What it has stays, its containers run on, and `start` starts it again where they are.
        """
        pid = self.pid
        if pid is None:
            return
        children = [child for child, parent in _processes() if parent == pid]
        for dying in (pid, *children):
            _kill(dying)
        if self._process is not None:
            self._process.wait(PATIENCE)
        # Until whoever buries the dead has come to its containerd, the next engine would take that for a living one.
        (self.places.run / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare(self) -> list[str]:
        """Make its folders and its configuration, get its programs, and return the words that start it."""
        where = self._root()
        for folder in (self.places.run, self.places.data):
            folder.mkdir(parents=True, exist_ok=True)
        overlay = _bears_overlay(self.places.data)
        self.places.config.write_text(json.dumps(catalog.configuration(self._recipe, overlay=overlay)))
        self.places.registries.write_text(f'[[registry]]\nlocation = "{catalog.REGISTRY}"\ninsecure = true\n')
        # One that was killed finds its containers where it left them: in the network that it had.
        join = "--join" if os.path.ismount(self.places.network) else "--network-handle"
        words = [sys.executable, "-I", namespaces.__file__, join, str(self.places.network)]
        if self._with_parent:
            words.append("--end-with-parent")
        if where is not None:
            binds = (self.places.run, self.places.data, Path(tempfile.gettempdir()))
            words += ["--root", str(where), *(word for folder in binds for word in ("--bind", str(folder)))]
        return [*words, "--", *catalog.command(self._recipe, self.places, overlay=overlay)]

    def _root(self) -> Path | None:
        """Return the root file system that has its programs; None where this machine's own has them."""
        if self._recipe.suite in (None, debian.suite()) and self._recipe.kind == "docker":
            if shutil.which("dockerd", path=namespaces.PATH) is None:
                debian.need(*catalog.PACKAGES)
            return None
        return debian.root_of(str(self._recipe.suite), catalog.root_packages(str(self._recipe.suite)))

    def _ended(self) -> bool:
        return self._process.poll() is not None if self._process is not None else self.pid is None


def sweep() -> None:
    """End and remove what was left by a test run that was killed: its private engines bear its process id."""
    for folder in RUN.glob("*-*"):
        owner = folder.name.rpartition("-")[2]
        name = next((name for name in catalog.NAMES if folder.name.startswith(f"{name}-")), None)
        # The version of a Docker is no number of a process.
        if name is not None and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            PrivateEngine(name, instance=folder.name.removeprefix(f"{name}-")).stop()


def _socket_answers(path: str) -> bool:
    """Ask by hand: the SDK leaves a socket open where nobody answers, and here that is the usual case."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(10)
        try:
            asked.connect(path)
            asked.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            with asked.makefile("rb") as answer:
                return b" 200 " in answer.readline()
        except OSError:
            return False


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Wait until something holds; say whether it did in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _bears_overlay(folder: Path) -> bool:
    """Say whether an overlay can be mounted on folders in `folder`: not where it is an overlay itself."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        parts = {name: Path(scratch, name) for name in ("lower", "upper", "work", "merged")}
        for part in parts.values():
            part.mkdir()
        options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
        command = ["mount", "-t", "overlay", "overlay", "-o", options, str(parts["merged"])]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return False
        subprocess.run(["umount", parts["merged"]], check=True)
        return True


def _named_by(folder: Path) -> bytes:
    """Return what the words of an engine's programs have in them; not those of one whose name goes on after ours."""
    return os.fsencode(folder) + b"/"


def _left_over(folder: Path) -> Iterator[int]:
    """Find the processes of a dead engine: its programs that name its own folder, and what they started."""
    parents = dict(_processes())
    mine = {pid for pid in parents if _program(pid) in PROGRAMS and _named_by(folder) in _words(pid)}
    for pid in parents:
        line = [pid]
        while line[-1] in parents and line[-1] not in mine:
            line.append(parents[line[-1]])
        if line[-1] in mine:
            yield pid


def _processes() -> Iterator[tuple[int, int]]:
    """List all processes, each with its parent."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # After the name, which may hold anything in its parentheses: the state, then the parent.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        yield int(folder.name), int(fields[1])


def _program(pid: int) -> str:
    name = Path(os.fsdecode(_words(pid).split(b"\0")[0])).name
    return "containerd-shim" if name.startswith("containerd-shim") else name


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # ended meanwhile
        return b""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    _within(PATIENCE, lambda: _words(pid) == b"")
