"""Test doubles for code that uses this library: an in-memory engine, a failing engine and a clock.

Example:
    >>> from docker_rollback.testing import FakeEngine
    >>> fake = FakeEngine()
    >>> fake.add_image("shop:1", files={"/app": "version 1"})
    >>> fake.run("shop", image="shop:1", volumes={"orders": "/data"})
"""

from docker_rollback.testing._failing.calls import CHANGING, FEEDING, READING, EngineCall, Killed
from docker_rollback.testing._failing.failing_engine import FailingEngine
from docker_rollback.testing._fake.clock import FakeClock
from docker_rollback.testing._fake.container_handle import FakeContainer
from docker_rollback.testing._fake.engine import FakeEngine
from docker_rollback.testing._fake.files import Files
from docker_rollback.testing._fake.processes import FakeProcess, Program, Run

__all__ = [
    "CHANGING",
    "FEEDING",
    "READING",
    "EngineCall",
    "FailingEngine",
    "FakeClock",
    "FakeContainer",
    "FakeEngine",
    "FakeProcess",
    "Files",
    "Killed",
    "Program",
    "Run",
]
