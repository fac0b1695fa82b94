"""Fixtures for the engine's own tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.engine.scripted import VERSION, ScriptedEngine, answer, scripted


@pytest.fixture
def script(tmp_path: Path) -> Iterator[ScriptedEngine]:
    """Give an engine that answers what it is told to."""
    with scripted(tmp_path / "engine.sock") as engine:
        yield engine


@pytest.fixture
def podman(script: ScriptedEngine) -> ScriptedEngine:
    """Give an engine that says that it is Podman."""
    script.says("GET", "/version", answer({**VERSION, "Components": [{"Name": "Podman Engine"}]}))
    return script
