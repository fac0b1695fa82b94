"""An engine in memory whose writable layers are folders of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import evolve

from docker_rollback._engine import EngineInfo
from docker_rollback.testing import FakeClock, FakeEngine


class Local(FakeEngine):
    """An engine of this machine, with the writable layer of its containers in a folder."""

    def __init__(self, layers: Path, *, clock: FakeClock | None = None) -> None:
        """Keep the layers in a folder, which is made."""
        super().__init__(clock=clock or FakeClock())
        self._layers = layers
        layers.mkdir()

    def info(self) -> EngineInfo:
        """Return where it is."""
        return evolve(super().info(), address="unix:///run/docker.sock")

    def inspect_container(self, ref: str) -> dict[str, Any]:
        """Return the inspection with the writable layer."""
        found = super().inspect_container(ref)
        layer = self._layers / found["Id"]
        layer.mkdir(exist_ok=True)
        return {**found, "GraphDriver": {"Data": {"UpperDir": str(layer), "LowerDir": str(self._layers)}}}

    def write(self, name: str) -> None:
        """Have a container write a file."""
        self.container(name).write("/new", "x")
        (self._layers / self.inspect_container(name)["Id"] / "new").write_text("x")

    def unwrite(self, name: str) -> None:
        """Have it remove that file."""
        self.container(name).delete("/new")
        (self._layers / self.inspect_container(name)["Id"] / "new").unlink()
