"""A registry on this machine alone, from Debian's package `docker-registry`."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 60.0


class Registry:
    """Debian's registry, on this machine alone.

    Args:
        folder: what is its own.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
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
