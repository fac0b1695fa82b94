"""Real engines for the tests: each private, with its own socket, data folder and network, and ended afterwards.

As a command::

    python -m tests.engines list
    python -m tests.engines run docker-28.5 -- python -m pytest -m engine
    python -m tests.engines run -- COMMAND      the engine that runs already, or else a private one
    python -m tests.engines run docker-20.10 --peer podman-5.8 --peer docker-28.5 -- python -m pytest -k each_other
    python -m tests.engines up NAME             and later: down NAME

From pytest: ``DOCKER_ROLLBACK_TEST_ENGINE=NAME pytest``; a URL of a running engine does as well (see `tests.conftest`).

A private engine has a network of its own, so it neither meets nor disturbs another engine of the machine, nor its
firewall and ports. Whoever wants to reach the ports that it publishes joins that network first (`join_network`); the
tests' fixture does.
Only root on a Debian system can start one. Everything lies under /run/docker-rollback-engines and, what is large, under
/var/tmp/docker-rollback-engines (or the folder that DOCKER_ROLLBACK_ENGINES names).
"""

from tests.engines.catalog import LOCAL, NAMES
from tests.engines.private import EngineStartError, PrivateEngine, join_network, running_engine, sweep

__all__ = ["LOCAL", "NAMES", "EngineStartError", "PrivateEngine", "join_network", "running_engine", "sweep"]
