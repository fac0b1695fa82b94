"""An engine that asks again holds the contract of the one that it asks."""

from __future__ import annotations

import pytest

from docker_rollback._engine.port import Engine
from docker_rollback._engine.retry import RetryingEngine
from docker_rollback.testing import FakeClock, FakeEngine
from tests.contract.suite import EngineContract
from tests.contract.test_fake import TestFakeEngine as _FakeContract


@pytest.fixture
def fake() -> FakeEngine:
    """Give an engine in memory."""
    return FakeEngine(clock=FakeClock())


class TestRetryingEngine(_FakeContract):
    """`RetryingEngine` passes all on, and so holds the contract of what it wraps."""

    @pytest.fixture
    def engine(self, fake: FakeEngine) -> Engine:
        """Give the wrapped engine."""
        return RetryingEngine(fake)


def test_no_rule_hides_another() -> None:
    """The contract is put together from parts, none of which has a test of the same name as another."""
    names = [name for part in EngineContract.__bases__ for name in vars(part) if name.startswith("test_")]
    assert len(names) == len(set(names)) > 80
