"""Test doubles for code that uses this library: an in-memory engine, a failing engine and a clock.

Example:
    >>> from docker_rollback.testing import FakeEngine
    >>> fake = FakeEngine()
    >>> fake.add_image("shop:1", files={"/app": "version 1"})
    >>> fake.run("shop", image="shop:1", volumes={"orders": "/data"})
"""

from docker_rollback.testing._calls import CHANGING, FEEDING, READING, EngineCall, Killed
from docker_rollback.testing._failing import FailingEngine
from docker_rollback.testing._fake import FakeEngine
from docker_rollback.testing._fake_clock import FakeClock
from docker_rollback.testing._fake_exec import FakeProcess, Program, Run
from docker_rollback.testing._fake_files import Files
from docker_rollback.testing._fake_handle import FakeContainer

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
