"""Volumes that a restore has to create, or to replace, before a container is created on them."""

from __future__ import annotations

import pytest
from attrs import evolve

from docker_rollback import BackupStore, RollbackFailedError, RollbackRequested, backup, rollback
from docker_rollback._archiver import VolumeArchiver
from docker_rollback._model import Backup
from docker_rollback._volume_restorer import VolumeRestorer
from docker_rollback.errors import VolumeAccessError, VolumeNotFoundError
from docker_rollback.testing import FakeEngine
from tests.unit.shop import Shop


class Unusable(VolumeArchiver):
    """An archiver to which each volume lacks its folder, and has something mounted in it."""

    def check_device(self, volume: str) -> None:
        """Say that the folder is gone."""
        raise VolumeAccessError(volume, "it is bound to '/nowhere'")

    def refuse_mounts(self, volume: str) -> None:
        """Say that something is mounted in it."""
        raise VolumeAccessError(volume, "something is mounted in it")


def taken(shop: Shop) -> Backup:
    """Return a backup of the service."""
    return backup("shop", client=shop.engine, store=shop.store)


def test_a_volume_that_was_created_without_its_folder_goes_again(shop: Shop, store: BackupStore) -> None:
    """Its folder on the host is gone: nothing is left behind by the attempt."""
    made = taken(shop)
    shop.engine.remove_container("shop", force=True)
    shop.engine.remove_volume("orders")
    with pytest.raises(VolumeAccessError, match=r"'orders'.*'/nowhere'"):
        VolumeRestorer(shop.engine, Unusable(shop.engine, store), made, []).restore(made.volume("orders"))
    with pytest.raises(VolumeNotFoundError):
        shop.engine.inspect_volume("orders")


def test_a_volume_in_which_something_is_mounted_is_not_removed(shop: Shop, store: BackupStore) -> None:
    """Another volume of the name would have to go, and its engine would remove what is mounted in it as well."""
    made = taken(shop)
    archive = made.volume("orders")
    other = evolve(archive, inspection={**archive.inspection, "Labels": {"other": "1"}})
    with pytest.raises(VolumeAccessError, match=r"'orders'.*mounted"):
        VolumeRestorer(shop.engine, Unusable(shop.engine, store), made, []).restore(other)
    assert shop.engine.inspect_volume("orders")["Labels"] == archive.inspection["Labels"]
    assert shop.engine.inspect_container("shop")["State"]["Running"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_bound_and_gone_is_named(store: BackupStore, kind: str) -> None:
    """The engine would make a folder there: the error names container and path, and nothing is made."""
    fake = FakeEngine()
    fake.add_image("app")
    fake.host.write("/srv/app.conf" if kind == "file" else "/srv/app.conf/file", "setting=1")
    fake.run("app", image="app", volumes={"/srv/app.conf": "/etc/app.conf:ro"})
    with (
        pytest.raises(RollbackFailedError, match=r"container 'app'.*binds '/srv/app.conf'.*which is gone"),
        rollback("app", client=fake, store=store, verify=None),
    ):
        fake.remove_container("app", force=True)
        fake.host.delete("/srv/app.conf")
        raise RollbackRequested
    assert not fake.host.exists("/srv/app.conf")


def test_what_is_bound_by_a_container_at_rest_may_be_gone(store: BackupStore) -> None:
    """Nobody starts it, so that nothing is made: it is put back as it was, without what it bound."""
    fake = FakeEngine()
    fake.add_image("app")
    fake.host.write("/srv/app.conf", "setting=1")
    fake.run("app", image="app", volumes={"/srv/app.conf": "/etc/app.conf:ro"})
    fake.stop_container("app")
    with rollback("app", client=fake, store=store, verify=None):
        fake.host.delete("/srv/app.conf")
        raise RollbackRequested
    assert fake.container("app").status == "exited"
