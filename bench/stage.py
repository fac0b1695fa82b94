"""Where the measurements are made: a private engine, its folder, and the programs that are measured."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import docker
from attrs import frozen

from demo.database import image
from tests.engines import PrivateEngine, debian, join_network
from tests.engines.images import busybox_tar

BUSYBOX: Final = "docker-rollback-bench:busybox"
LABEL: Final = "docker-rollback.bench"


_XFS_BYTES: Final = 64 << 30
"""The size of the disk with XFS; what is not written takes no room."""


class CommandError(Exception):
    """A program that is measured failed."""


@frozen
class Stage:
    """A private engine and what is around it.

    Attributes:
        address: where the engine answers.
        client: of the docker SDK.
        folder: on the file system of the engine's data, seen by the engine under the same path.
        postgresql: the name of an image of PostgreSQL.
        compose: the path of docker compose; empty if nothing needs it.
    """

    address: str
    client: docker.DockerClient
    folder: Path
    postgresql: str
    compose: str = ""

    def run(self, *words: str, **settings: str) -> str:
        """Run a program and return what it prints; raises `CommandError`."""
        environment = {**os.environ, "DOCKER_HOST": self.address, **settings}
        environment.pop("DOCKER_CONTEXT", None)  # it would win over DOCKER_HOST
        done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-1000:]
            raise CommandError(f"{' '.join(words[:3])} ended with {done.returncode}: {said}")
        return done.stdout.decode(errors="replace").strip()

    def docker(self, *words: str) -> str:
        """Run the docker CLI."""
        return self.run("docker", *words)


@contextmanager
def staged(name: str, *, with_postgresql: bool, with_compose: bool, xfs: bool = False) -> Iterator[Stage]:
    """Have an engine for the time of a block, on XFS if asked for; nothing of it stays, however the block ends."""
    debian.need("restic")
    if shutil.which("docker") is None:
        debian.need("docker-cli")
    compose = str(debian.compose()) if with_compose else ""
    private = PrivateEngine(name, instance=f"{os.getpid()}-xfs" if xfs else str(os.getpid()))
    with _on_xfs(private.places.data) if xfs else nullcontext(), private as engine:
        join_network(engine.address)
        client = docker.DockerClient(engine.address, timeout=600)
        folder = engine.places.data / "bench"
        folder.mkdir(mode=0o700)
        repository, tag = BUSYBOX.split(":")
        client.api.import_image_from_data(busybox_tar(), repository=repository, tag=tag)
        try:
            if not with_postgresql:
                yield Stage(engine.address, client, folder, "", compose)
                return
            with image(client) as made:
                yield Stage(engine.address, client, folder, made, compose)
                _remove_containers(client)
        finally:
            client.close()


@contextmanager
def _on_xfs(folder: Path) -> Iterator[None]:
    """Have XFS mounted on a folder, from a file on this machine's file system, for the time of a block."""
    debian.need("xfsprogs")
    folder.mkdir(parents=True)
    with tempfile.NamedTemporaryFile(dir=debian.data_folder()) as disk:
        disk.truncate(_XFS_BYTES)
        subprocess.run(["mkfs.xfs", "-q", disk.name], check=True)
        subprocess.run(["mount", "-o", "loop", disk.name, str(folder)], check=True)
        try:
            yield
        finally:
            debian.remove_tree(folder)


def _remove_containers(client: docker.DockerClient) -> None:
    for container in client.containers.list(all=True, filters={"label": LABEL}):
        container.remove(force=True, v=True)


def machine(stage: Stage) -> dict[str, str]:
    """Return what the figures depend on: the machine's shape, what else it has to do, and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    version = stage.client.version()
    found = stage.run("findmnt", "-n", "-o", "FSTYPE", "--target", str(stage.folder))
    engine = next(part for part in version["Components"] if part["Name"] in ("Engine", "Podman Engine"))
    return {
        "processors": str(len(os.sched_getaffinity(0))),
        "load before": f"{os.getloadavg()[1]:.1f}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "file system": found,
        "kernel": os.uname().release.split("-")[0],
        "engine": f"{engine['Name'].removesuffix(' Engine').replace('Engine', 'Docker')} {version['Version']}",
        "storage driver": str(stage.client.info()["Driver"]),
        "docker CLI": stage.run("docker", "--version").split()[2].rstrip(","),
        **({"docker compose": stage.run(stage.compose, "version", "--short")} if stage.compose else {}),
        "restic": stage.run("restic", "version").split()[1],
        "GNU tar": stage.run("tar", "--version").split("\n")[0].split()[-1],
        "Python": platform.python_version(),
    }


def room(folder: Path) -> int:
    """Return the bytes that the files below a folder take on the disk; one of several names counts once."""
    seen = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            found = Path(parent, name).lstat()
            seen[found.st_dev, found.st_ino] = found.st_size
    return sum(seen.values())


def peak() -> float:
    """Return the most memory that this process has had in use so far, in bytes."""
    # What getrusage says counts the process that this one came from as well: the kernel takes it over at exec.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
