"""What every `Engine` does, as tests: a subclass runs them for an engine of its own.

Every rule that the docstrings of `Engine` state is a test here. The engine of docker-py and the one in memory both
pass them; whoever writes another engine, or wraps one, holds it by the same means.

The tests make an image from a tar of a file system (`file_system`) and run only these programs in its containers:
``sleep SECONDS``, ``cat [PATH...]``, ``touch PATH``, ``true``, ``false``, ``tar -c -f - -C FOLDER NAME`` and
``tar -x -f - -C FOLDER``. Where programs are simulated, these are enough. A real engine needs them in the tar: override
the fixture `archive`, or `image` for an image that is there already and has ``/lines``.

Example:
    >>> class TestMyEngine(EngineContract):
    ...     @pytest.fixture
    ...     def engine(self):
    ...         return MyEngine()
    ...
    ...     @pytest.fixture
    ...     def eyes(self, engine):
    ...         return MyEyes(engine)

For assertions that show their values, call ``pytest.register_assert_rewrite("docker_rollback.testing")`` before the
first import of this module.
"""

from __future__ import annotations

from docker_rollback.testing._contract_containers import ContainerContract
from docker_rollback.testing._contract_exec import ExecContract
from docker_rollback.testing._contract_images import ImageContract
from docker_rollback.testing._contract_lab import LINES, Eyes, Lab, file_system
from docker_rollback.testing._contract_networks import NetworkContract, VolumeContract

__all__ = ["LINES", "EngineContract", "Eyes", "Lab", "file_system"]


class EngineContract(ContainerContract, ExecContract, ImageContract, NetworkContract, VolumeContract):
    """All rules; a subclass supplies the fixtures `engine` and `eyes`."""
