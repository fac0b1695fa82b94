"""What most unit tests begin with: an empty store, and a service or a project that runs on an engine in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker_rollback import BackupStore
from tests.unit.shop import Shop
from tests.unit.town import Town


@pytest.fixture
def store(tmp_path: Path) -> BackupStore:
    """Give an empty store."""
    return BackupStore(tmp_path / "store")


@pytest.fixture
def shop(store: BackupStore) -> Shop:
    """Give a running service whose backups go into the empty store."""
    return Shop(store)


@pytest.fixture
def town(store: BackupStore) -> Town:
    """Give a compose project and its neighbours, whose backups go into the empty store."""
    return Town(store)
