"""Volumes that a restore has to create, or to replace, before a container is created on them."""

from __future__ import annotations

import pytest
from attrs import evolve

from docker_rollback import BackupStore, backup
from docker_rollback._archiver import VolumeArchiver
from docker_rollback._model import Backup
from docker_rollback._volume_restorer import VolumeRestorer
from docker_rollback.errors import VolumeAccessError, VolumeNotFoundError
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
