"""Marks in the engine: who is believed, who is asked about, and who is dead."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from docker_rollback import (
    BackupStore,
    ContainerBusyError,
    Status,
    UnfinishedElsewhereError,
    UnfinishedRollbackError,
    recover,
)
from docker_rollback.testing import FailingEngine, Killed
from tests.unit.shop import Shop

MARK = "docker-rollback-busy-shop"


def mark(shop: Shop, **labels: str) -> None:
    """Have the mark of somebody else's operation in the engine."""
    own = {
        "role": "marker",
        "operation": "20260102T030405Z-shop-a1b2c3",
        "container": shop.id,
        "host": "elsewhere",
        "boot": "0000",
        "store": "/var/backups/elsewhere",
        "since": "2026-01-02T03:04:05+00:00",
    }
    named = {f"docker-rollback.{key}": value for key, value in {**own, **labels}.items()}
    shop.engine.create_volume({"Name": MARK, "Labels": named})


def test_another_host_is_believed(shop: Shop) -> None:
    """Nobody here can tell whether its process lives; the error says where it is, since when, and what to do."""
    mark(shop)
    with pytest.raises(ContainerBusyError, match=f"on host elsewhere .* since 2026-01-02.*{MARK}"), shop.rollback():
        pytest.fail("the block was entered")
    assert shop.engine.has_volume(MARK)
    assert shop.store.journal.names() == []
    shop.check_restored()


def test_this_machine_before_its_last_boot_is_dead(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its store has the note from which to finish, and the error names it."""
    monkeypatch.setattr("docker_rollback._containers.store_identity.machine_id", lambda: "/etc/machine-id")
    monkeypatch.setattr("docker_rollback._containers.store_identity.boot_id", lambda: "boot")
    mark(shop, machine="/etc/machine-id", host=socket.gethostname())
    with pytest.raises(UnfinishedRollbackError, match="another store") as refused, shop.rollback():
        pytest.fail("the block was entered")
    assert refused.value.store == "/var/backups/elsewhere"


def test_a_mark_of_our_own_store_is_taken_over(shop: Shop) -> None:
    """Whoever made it would hold the locks that we hold; it is what a death before the first note leaves."""
    with shop.rollback():
        labels = dict(shop.engine.inspect_volume(MARK)["Labels"])
    shop.engine.create_volume({"Name": MARK, "Labels": {**labels, "docker-rollback.operation": "another"}})
    with shop.rollback() as tx:
        assert tx.status is Status.UPDATING
    assert not shop.engine.has_volume(MARK)


def test_a_mark_whose_answer_was_lost_is_of_the_same_operation(shop: Shop) -> None:
    """The volume is there already with the operation's own label: it is left as it is, and goes with the operation."""

    class Doubting(FailingEngine):
        def create_volume(self, request: Mapping[str, Any]) -> str:
            """Create it twice: the first answer did not come."""
            super().create_volume(request)
            return super().create_volume({**request, "Labels": {**request["Labels"], "second": "yes"}})

    with shop.rollback(Doubting(shop.engine)):
        assert "second" not in shop.engine.inspect_volume(MARK)["Labels"]
    assert not shop.engine.has_volume(MARK)


def test_another_machine_of_our_name_is_believed(shop: Shop) -> None:
    """Neither the host's name nor the path of the store tells two machines apart."""
    mark(shop, host=socket.gethostname(), store=str(shop.store.path))
    with pytest.raises(ContainerBusyError), shop.rollback():
        pytest.fail("the block was entered")


def test_a_living_clone_of_this_machine_is_believed(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Virtual machines of one template have one machine id, and stores with the same path and inode."""
    monkeypatch.setattr("docker_rollback._containers.store_identity.machine_id", lambda: "/etc/machine-id")
    monkeypatch.setattr("docker_rollback._containers.store_identity.boot_id", lambda: "boot")
    for store in (shop.store, BackupStore(tmp_path / "other")):
        store.check()
        found = store.path.stat()
        same = {"machine": "/etc/machine-id", "store": str(store.path), "folder": f"{found.st_dev}:{found.st_ino}"}
        mark(shop, **same, host="clone")
        with pytest.raises(ContainerBusyError, match="on host clone"), shop.rollback():
            pytest.fail("the block was entered")
        with pytest.raises(UnfinishedElsewhereError) as raised:
            recover(client=shop.engine, store=shop.store)
        assert [one.owner for one in raised.value.operations] == ["unknown"]
        assert shop.engine.has_volume(MARK)
        shop.engine.remove_volume(MARK)
    shop.check_restored()


def test_a_mark_that_a_reboot_left_over_is_no_dead_end(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its store is there and has no note of it, there is nothing to finish."""
    monkeypatch.setattr("docker_rollback._containers.store_identity.machine_id", lambda: "/etc/machine-id")
    monkeypatch.setattr("docker_rollback._containers.store_identity.boot_id", lambda: "boot")
    other = BackupStore(tmp_path / "other")
    other.check()
    found = other.path.stat()
    # The device has another number after a boot.
    named = {"machine": "/etc/machine-id", "host": socket.gethostname()}
    mark(shop, **named, store=str(other.path), folder=f"{found.st_dev + 1}:{found.st_ino}")
    with shop.rollback() as tx:
        assert tx.status is Status.UPDATING


def test_a_mark_that_an_update_pruned_is_no_loss(shop: Shop) -> None:
    """``docker volume prune`` takes it along; the rollback ends as it would have."""
    with shop.rollback() as tx:
        shop.engine.remove_volume(MARK)
    assert tx.status is Status.COMMITTED


def test_nothing_starts_on_half_of_its_data(tmp_path: Path) -> None:
    """Wherever a rollback dies with data half back, nothing that uses it runs or is started by the engine."""
    shop = Shop(BackupStore(tmp_path / "count"))
    counting = FailingEngine(shop.engine)
    with pytest.raises(KeyError), shop.rollback(counting):
        entered = counting.count
        shop.break_it()
        raise KeyError
    half = 0
    for k in range(entered + 1, counting.count + 1):
        shop = Shop(BackupStore(tmp_path / str(k)))
        failing = FailingEngine(shop.engine, at=k, kill=True)
        with pytest.raises(Killed), shop.rollback(failing):
            shop.break_it()
            raise KeyError
        if "rolling back" in noted(shop) and not shop.engine.volume("orders").exists("/migrated"):
            half += 1
            for container in map(shop.engine.inspect_container, shop.engine.list_containers()):
                assert not container["State"]["Running"] or "helper" in container["Name"], failing.story()
                assert container["HostConfig"]["RestartPolicy"]["Name"] in ("", "no"), failing.story()
        recover(client=shop.engine, store=shop.store)
        shop.check_restored()
    assert half >= 1, "data was seen half back"


def noted(shop: Shop) -> str:
    """Return what is noted of operations, as text."""
    return "".join(path.read_text(encoding="utf-8") for path in (shop.store.path / "journal").iterdir())
