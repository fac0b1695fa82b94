"""The engine in memory holds the same contract as the real ones, also behind an engine that only counts."""

from __future__ import annotations

import pytest
from attrs import frozen

from docker_rollback._engine.port import Engine
from docker_rollback.errors import ContainerNotFoundError
from docker_rollback.testing import CHANGING, FEEDING, READING, FailingEngine, FakeClock, FakeEngine
from tests.contract.suite import EngineContract, Eyes


@frozen
class Handles:
    """Sees by the handles that the engine in memory has for tests."""

    fake: FakeEngine

    def container(self, full_id: str) -> str | None:
        """Return the state of a container; None where there is none."""
        try:
            return self.fake.container(full_id).status
        except ContainerNotFoundError:
            return None

    def image(self, tag: str) -> bool:
        """Tell whether an image bears this name."""
        return self.fake.has_image(tag)

    def network(self, name: str) -> bool:
        """Tell whether there is a network of this name."""
        return self.fake.has_network(name)

    def volume(self, name: str) -> bool:
        """Tell whether there is a volume of this name."""
        return self.fake.has_volume(name)


@pytest.fixture
def fake() -> FakeEngine:
    """Give an engine in memory; whatever a test made in it goes with it."""
    return FakeEngine(clock=FakeClock())


class TestFakeEngine(EngineContract):
    """`FakeEngine` holds the contract."""

    @pytest.fixture
    def engine(self, fake: FakeEngine) -> Engine:
        """Give the engine under test."""
        return fake

    @pytest.fixture
    def eyes(self, fake: FakeEngine) -> Eyes:
        """Give the handles for eyes."""
        return Handles(fake)


class TestFailingEngine(TestFakeEngine):
    """`FailingEngine` that fails at nothing passes all on, and so holds the contract of what it wraps."""

    @pytest.fixture
    def engine(self, fake: FakeEngine) -> Engine:
        """Give the wrapped engine."""
        return FailingEngine(fake, verbs=CHANGING | READING | FEEDING)
