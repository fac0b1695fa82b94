"""What most unit tests begin with: an empty store, and a service that runs on an engine in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker_rollback import BackupStore
from tests.unit.shop import Shop


@pytest.fixture
def store(tmp_path: Path) -> BackupStore:
    """Give an empty store."""
    return BackupStore(tmp_path / "store")


@pytest.fixture
def shop(store: BackupStore) -> Shop:
    """Give a running service whose backups go into the empty store."""
    return Shop(store)
