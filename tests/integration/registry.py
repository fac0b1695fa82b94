"""A registry on this machine alone, from Debian's package `docker-registry`."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from tests.engines import catalog
from tests.engines.results import cannot

PATIENCE = 60.0


def registry_of(client: docker.DockerClient, engine_url: str, folder: Path) -> Registry:
    """Return a registry, not yet started, from which an engine can pull."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    if "podman" not in engine_url:
        return Registry(folder)
    if not Path(engine_url.removeprefix("unix://")).with_name("registries.conf").exists():
        cannot(client, "it asks this machine's registries by HTTPS alone")
    return Registry(folder, address=catalog.REGISTRY)


def digest_of(repository: str, tag: str) -> str:
    """Return the digest that a registry of this machine has for a tag; the repository begins with its address."""
    address, _, path = repository.partition("/")
    wanted = urllib.request.Request(f"http://{address}/v2/{path}/manifests/{tag}", method="HEAD")
    kinds = ("docker.distribution.manifest.v2", "oci.image.manifest.v1", "oci.image.index.v1")
    wanted.add_header("Accept", ", ".join(f"application/vnd.{kind}+json" for kind in kinds))
    with urllib.request.urlopen(wanted, timeout=10.0) as answer:
        return str(answer.headers["Docker-Content-Digest"])


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Registry:
    """Debian's registry, on this machine alone.

    Args:
        folder: what is its own.
        address: where it answers; by default at a free port.
    """

    def __init__(self, folder: Path, *, address: str | None = None) -> None:
        self.address = address or _free_address()
        self._config = folder / "registry.yml"
        storage = {"filesystem": {"rootdirectory": str(folder / "registry")}, "delete": {"enabled": True}}
        self._config.write_text(
            json.dumps({"version": "0.1", "storage": storage, "http": {"addr": self.address}, "log": {"level": "warn"}})
        )

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve; give the address."""
        command = ["docker-registry", "serve", str(self._config)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + PATIENCE
            while not self._answers():
                assert process.poll() is None, "the registry ended"
                assert time.monotonic() < end, "the registry does not answer"
                time.sleep(0.05)
            yield self.address
        finally:
            process.kill()
            process.wait()

    def collect_garbage(self) -> str:
        """Remove what the registry takes for garbage, manifests without a tag included; return what it says."""
        command = ["docker-registry", "garbage-collect", "--delete-untagged", str(self._config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/v2/", timeout=5.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
