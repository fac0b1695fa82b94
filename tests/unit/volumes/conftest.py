"""Fixtures for the tests of volumes that need no engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.volumes import awkward


@pytest.fixture
def field() -> Iterator[Path]:
    """Give a folder where every kind of file can be made, which takes root and a file system with attributes."""
    # Not below /tmp, which may be a tmpfs, where users' attributes are young.
    with tempfile.TemporaryDirectory(prefix="docker-rollback-test-", dir="/var/tmp") as folder:
        if not awkward.supported(Path(folder)):
            pytest.skip("making files of every kind takes root, and a file system with attributes and ACLs")
        yield Path(folder)
