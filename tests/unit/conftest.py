"""What most unit tests begin with: an empty store, and a service or a project that runs on an engine in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_rollback import BackupStore
from docker_rollback._store.files import Disk
from tests.unit.shop import Shop
from tests.unit.town import Town


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """Have stores not wait for the disk, which took a seventh of the time; `store/test_power.py` tests that they do."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Disk, "sync", lambda *_: None)
        patched.setattr(Disk, "sync_folder", lambda *_: None)
        yield


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
