"""A pytest plugin: what a run on one engine showed goes into a file, and a skip for a reason of ours is a failure.

    pytest -p tests.engines.results --results FILE

An engine may be unable to do what a test is about. Such a test is skipped by `cannot`, whose reason names the engine
and its version. Any other reason to skip (a missing program, a right that the user lacks) would pass for an engine's
limit in the table that is made of these files, so it fails the run.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import docker
import pytest
from _pytest.terminal import TerminalReporter  # the hook's own argument; pytest does not export its type

LIMIT = re.compile(r"(docker|podman) \d[^:\s]*: ")
"""How a reason begins that names what an engine cannot."""


SAMPLED = "tests/integration/"


def cannot(client: docker.DockerClient, reason: str) -> NoReturn:
    """Skip the test: the engine itself has no such thing, for a reason that says "it ..."."""
    version = client.version()
    podman = any("Podman" in component["Name"] for component in version["Components"])
    pytest.skip(f"{'podman' if podman else 'docker'} {version['Version']}: {reason}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--results", type=Path, metavar="FILE", help="where to write what the run showed, as JSON")
    parser.addoption("--sample", type=int, metavar="N", help="of the integration tests, run N")
    parser.addoption("--seed", default="", help="by which they are drawn")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to record where a file was named."""
    if (file := config.getoption("--results")) is not None:
        config.pluginmanager.register(Recorder(file))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Draw a sample of the integration tests where one is asked for; another engine draws others."""
    size = config.getoption("--sample")
    whole = [item for item in items if SAMPLED in item.nodeid and item.get_closest_marker("engine")]
    if size is None or len(whole) <= size:
        return
    seed = f"{config.getoption('--seed')} {_engine()}"
    drawn = set(random.Random(seed).sample([item.nodeid for item in whole], size))
    print(f"a sample of {size} of the {len(whole)} integration tests, drawn by {seed!r}:", *sorted(drawn), sep="\n  ")
    left_out = {item.nodeid for item in whole} - drawn
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
    items[:] = [item for item in items if item.nodeid not in left_out]


class Recorder:
    """Writes down what came of each test.

    Args:
        file: where.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.absolute()
        self._began = time.monotonic()
        self._passed: set[str] = set()
        self._failed: set[str] = set()
        self._skipped: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's phase down."""
        if report.failed:
            self._failed.add(report.nodeid)
        elif report.skipped and isinstance(report.longrepr, tuple):
            self._skipped[report.nodeid] = str(report.longrepr[2]).removeprefix("Skipped: ")
        elif report.when == "call":
            self._passed.add(report.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Write the file; a reason of ours makes the run fail."""
        limits = {test: reason for test, reason in self._skipped.items() if LIMIT.match(reason)}
        whole = {
            "engine": _engine(),
            "seconds": round(time.monotonic() - self._began),
            "passed": sorted(self._passed - self._failed),
            "failed": sorted(self._failed),
            "limits": {test: LIMIT.sub("", reason, count=1) for test, reason in sorted(limits.items())},
            "ours": {test: reason for test, reason in sorted(self._skipped.items()) if test not in limits},
        }
        self._file.write_text(json.dumps(whole, indent=1) + "\n")
        if whole["ours"] and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Say which reasons are no engine's."""
        for line in self._ours():
            terminalreporter.write_line(line, red=True)

    def _ours(self) -> Iterator[str]:
        for test, reason in sorted(self._skipped.items()):
            if not LIMIT.match(reason):
                yield f"SKIPPED for no limit of the engine: {test}: {reason}"


def _engine() -> dict[str, Any]:
    """Return who the engine is, as it says itself."""
    client = docker.DockerClient(os.environ["DOCKER_HOST"], timeout=60)
    try:
        version, told = client.version(), client.info()
    finally:
        client.close()
    driver = str(told["Driver"])
    if "snapshotter" in str(told.get("DriverStatus")):
        driver += ", containerd's store"
    return {"version": version["Version"], "api": version["ApiVersion"], "storage": driver}
