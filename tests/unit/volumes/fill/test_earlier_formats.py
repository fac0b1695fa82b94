"""Backups that versions before format 3 wrote, whole stores of them exported, are read as ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.fill.filling import Filling
from tests.unit.volumes.live import reach_of

FOLDER = Path(__file__).parent


@pytest.fixture(params=[1, 2])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BackupStore:
    """Give a store with a backup in each of the formats."""
    store = BackupStore(tmp_path / "store")
    store.import_(FOLDER / f"format-{request.param}.tar")
    return store


def test_it_is_listed_and_verified(store: BackupStore) -> None:
    """And it takes as much as its blobs."""
    (backup,) = store.list()
    store.verify(backup.id)
    (archive,) = backup.volumes
    assert archive.stored == (archive.base.size, archive.increment.size if archive.increment is not None else 0)


def test_it_is_restored(store: BackupStore, tmp_path: Path) -> None:
    """Into an empty folder and into another state; what the increment of the one removed is gone."""
    (archive,) = store.list()[0].volumes
    root = tmp_path / "root"
    root.mkdir()
    for attempt in ("empty", "changed"):
        Filling(reach_of(root), archive, store, None).fill()
        found = {path.name: path.read_text() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
        assert found == {"kept": "kept\n", "changed": "after\n", "new": "new\n"}, attempt
        assert (root / "link").readlink() == Path("folder/kept")
        assert (root / "folder").stat().st_mtime == 1_700_000_000
        (root / "folder/kept").write_text("spoilt")
        (root / "removed").write_text("back")


def test_it_can_be_moved(store: BackupStore, tmp_path: Path) -> None:
    """And stays in its format."""
    (backup,) = store.list()
    store.export(backup.id, tmp_path / "again.tar")
    other = BackupStore(tmp_path / "other")
    assert other.import_(tmp_path / "again.tar") == backup
    names = [sorted(path.name for path in one.path.glob("blobs/sha256/*")) for one in (store, other)]
    assert names[0] == names[1]
