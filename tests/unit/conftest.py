"""What most unit tests begin with: an empty store, and a service or a project that runs on an engine in memory."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import docker_rollback
from docker_rollback import BackupStore
from docker_rollback._store.files import Disk
from docker_rollback.errors import DockerRollbackError
from tests.unit.shop import Shop
from tests.unit.town import Town


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """Have stores not wait for the disk, which took a seventh of the time; `store/test_power.py` tests that they do."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Disk, "sync", lambda *_: None)
        patched.setattr(Disk, "sync_folder", lambda *_: None)
        yield


_NAME = r"[^\s/]+"
_FIELDS = {
    "action": r"([a-z]+\b.*)?",
    "blob": r"\S*|the archive",
    "container": rf"(project )?{_NAME}(, {_NAME})*",
    "containers": _NAME,
    "path": r"/.*|the stream",
    "reason": r"(.* .+)?",
    "volume": r"/.*|\S+",
}
"""What the fields of errors look like, or each of their items: so none has another one's value."""


@pytest.fixture(scope="session", autouse=True)
def _fields_of_errors() -> Iterator[None]:
    """Have every error that the package raises in any test say in each of its fields what belongs there."""
    package = str(Path(docker_rollback.__file__).parent)

    def check(error: DockerRollbackError, *arguments: object) -> None:
        Exception.__init__(error, *arguments)
        frame = sys._getframe(1)
        while frame.f_code.co_name == "__init__" and frame.f_back is not None:
            frame = frame.f_back
        for field, value in vars(error).items() if frame.f_code.co_filename.startswith(package) else ():
            for item in value if isinstance(value, tuple) else [value]:
                told = (type(error).__name__, field, item)
                assert item is None or re.fullmatch(_FIELDS.get(field, ".*"), str(item), re.DOTALL), told

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DockerRollbackError, "__init__", check)
        yield


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is done for several containers at once done in the given order: the k-th call is always the same."""
    monkeypatch.setattr("docker_rollback._threads._started", lambda *_: False)


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
