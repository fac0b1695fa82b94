"""Fixtures for the tests on a real engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from docker_rollback import DockerEngine


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the list of the images that are exported."""
    found: list[str] = []
    save = DockerEngine.save_image

    def counted(engine: DockerEngine, ref: str) -> Iterator[bytes]:
        found.append(ref)
        return save(engine, ref)

    monkeypatch.setattr(DockerEngine, "save_image", counted)
    return found
