"""The contract of `Engine`, as tests that a subclass runs against an engine.

Each rule in the docstrings of `Engine` is a test here. The docker-py engine and the in-memory engine both pass them. To
hold another engine, or a wrapper around one, to the same rules, copy this folder into your tests.

The tests make an image from a tar of a file system (`file_system`) and run only these programs in its containers:
``sleep SECONDS``, ``cat [PATH...]``, ``touch PATH``, ``true``, ``false``, ``tar -c -f - -C FOLDER NAME`` and
``tar -x -f - -C FOLDER``. An engine that simulates programs needs no others. A real engine needs them in the tar:
override the fixture `archive`, or `image` for an existing image that has ``/lines``.

Example:
    >>> class TestMyEngine(EngineContract):
    ...     @pytest.fixture
    ...     def engine(self):
    ...         return MyEngine()
    ...
    ...     @pytest.fixture
    ...     def eyes(self, engine):
    ...         return MyEyes(engine)

To have failed assertions show their values, call ``pytest.register_assert_rewrite`` with the names of these modules
before the first import.
"""

from __future__ import annotations

from tests.contract.suite.containers import ContainerContract
from tests.contract.suite.exec import ExecContract
from tests.contract.suite.images import ImageContract
from tests.contract.suite.lab import LINES, Eyes, Lab, file_system
from tests.contract.suite.networks import NetworkContract, VolumeContract

__all__ = ["LINES", "EngineContract", "Eyes", "Lab", "file_system"]


class EngineContract(ContainerContract, ExecContract, ImageContract, NetworkContract, VolumeContract):
    """All rules; a subclass supplies the fixtures `engine` and `eyes`."""
