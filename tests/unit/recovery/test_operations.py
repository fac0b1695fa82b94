"""The record that decides whether an update stands, on a disk that fails in the midst of writing it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from docker_rollback import BackupStore, Rollback, Status, StoreError
from docker_rollback._store.files import Disk
from tests.unit.shop import Shop


class Unwritable(Disk):
    """A disk on which one effect on a journal record fails once it is armed, and then all goes well.

    Attributes:
        effect: which effect; "gone" is a rename after which neither the old record nor the new one is there.
        armed: whether the next one fails.
    """

    def __init__(self, effect: str) -> None:
        super().__init__()
        self.effect = effect
        self.armed = False

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file, or fail."""
        if target.parent.name == "journal":
            if self.effect == "gone" and self.armed:
                target.unlink()
            self._fail("rename", "gone")
        super().rename(source, target)

    def sync_folder(self, path: Path) -> None:
        """Flush a folder, or fail."""
        if path.name == "journal":
            self._fail("sync")

    def _fail(self, *effects: str) -> None:
        if self.armed and self.effect in effects:
            self.armed = False
            raise OSError(errno.EIO, "Input/output error")


def updated(tmp_path: Path, effect: str) -> tuple[Shop, Rollback]:
    """Update a service whose commit the disk fails to note; return it and the rollback of it."""
    disk = Unwritable(effect)
    shop = Shop(BackupStore(tmp_path / "store", disk=disk))
    tx = shop.rollback()
    with tx:
        shop.engine.remove_container("shop", force=True)
        shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
        disk.armed = True
    assert not disk.armed, "the disk failed"
    return shop, tx


def test_a_commit_that_has_its_name_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """To roll back then, with a death on the way, would leave a record that says otherwise: the update stands."""
    shop, tx = updated(tmp_path, "sync")
    assert tx.status is Status.COMMITTED
    assert shop.engine.inspect_container("shop")["Config"]["Image"] == "shop:2"
    assert "is committed, but a power cut may undo that" in caplog.text
    assert shop.store.journal.names() == []


@pytest.mark.parametrize("effect", ["rename", "gone"])
def test_a_commit_that_is_not_noted_does_not_count(tmp_path: Path, effect: str) -> None:
    """The update is rolled back, and the error is the disk's."""
    with pytest.raises(StoreError, match="Input/output error"):
        updated(tmp_path, effect)
    store = BackupStore(tmp_path / "store")
    assert store.journal.names() == []


def test_a_backup_cannot_be_deleted_while_its_update_is_at_work(tmp_path: Path) -> None:
    """It is needed if the update fails; afterwards nothing holds it."""
    shop = Shop(BackupStore(tmp_path / "store"))
    with shop.rollback() as tx, pytest.raises(StoreError, match="unfinished rollback needs it"):
        shop.store.delete(tx.backup.id)
    shop.store.delete(tx.backup.id)
