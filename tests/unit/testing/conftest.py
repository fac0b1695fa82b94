"""An engine in memory for each test, with an image in it, and the clock that it goes by."""

from __future__ import annotations

import pytest

from docker_rollback.testing import FakeClock, FakeEngine


@pytest.fixture
def clock() -> FakeClock:
    """Give the clock of the engine."""
    return FakeClock()


@pytest.fixture
def fake(clock: FakeClock) -> FakeEngine:
    """Give an engine that has one image, ``shop:1``, with a volume at /data."""
    engine = FakeEngine(clock=clock)
    engine.add_image(
        "shop:1",
        files={"/app": "version 1", "/data/seed": "seed", "/etc/shop.conf": "a=1"},
        volumes=["/data"],
        env=["PATH=/bin", "MODE=image"],
        labels={"from": "image"},
        ports=["80/tcp"],
    )
    return engine
