"""What somebody did since an operation was interrupted, and what of it recovery leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from docker_rollback import BackupStore, RollbackRequested, backup, recover, rollback
from docker_rollback._engine.port import Inspection
from docker_rollback._inspection.recreate import observe
from docker_rollback._model.backup import Resting
from docker_rollback._recovery.operation_record import Phase, Record, interference, standing_of
from docker_rollback.errors import CaptureError
from docker_rollback.parts import Operations
from docker_rollback.testing import FailingEngine, Killed
from tests.unit.pruning import PRUNES, Pruned, shop_with_a_layer
from tests.unit.recovery.test_leftovers import put_aside, there
from tests.unit.recovery.test_recovery import die_in_the_body, recovered
from tests.unit.shop import Shop


def nothing(_: Shop) -> None:
    """Do nothing."""


def stop(shop: Shop) -> None:
    """Stop the service."""
    shop.engine.stop_container("shop")


def restart(shop: Shop) -> None:
    """Stop the service and start it again."""
    shop.engine.stop_container("shop")
    shop.clock.advance(1.0)
    shop.engine.start_container("shop")


def limit(shop: Shop) -> None:
    """Change a setting of the service."""
    shop.engine.update_container("shop", {"Memory": 1 << 30})


def rename(shop: Shop) -> None:
    """Rename the service."""
    shop.engine.rename_container("shop", "shop-old")


def create(shop: Shop) -> None:
    """Create another container."""
    shop.engine.run("desk", image="shop:1", start=False)


def run(shop: Shop) -> None:
    """Create and start another container."""
    shop.engine.run("desk", image="shop:1")


DONE: list[tuple[Callable[[Shop], None], list[str], list[str]]] = [
    (nothing, [], []),
    (stop, [], []),
    (restart, ["container 'shop' was started since"], ["container 'shop' was started since"]),
    (limit, ["container 'shop' was changed since"], []),
    (rename, ["container 'shop-old' was changed since"], []),
    (create, ["container 'desk' was created since"], []),
    (run, ["container 'desk' was created and started since"], ["container 'desk' was created and started since"]),
]


@pytest.mark.parametrize("phase", ["updating", "rolling back"])
@pytest.mark.parametrize(("work", "updating", "rolling_back"), DONE, ids=lambda one: getattr(one, "__name__", ""))
def test_what_a_rollback_could_destroy_is_said(
    shop: Shop, work: Callable[[Shop], None], updating: list[str], rolling_back: list[str], phase: Phase
) -> None:
    """A rollback itself renames, changes and creates containers, and starts none before all data is back."""
    standing = standing_of(observe(shop.engine.inspect_container("shop")))
    service = Resting(shop.id, "shop", "stop", "then")
    record = Record("b1", phase, shop.clock.now, "host", 1, "engine", (service,), standing=(standing,))
    work(shop)
    found = [observe(shop.engine.inspect_container(one)) for one in shop.engine.list_containers()]
    assert interference(record, found) == (updating if phase == "updating" else rolling_back)


def test_the_order_of_settings_is_no_change(shop: Shop) -> None:
    """An engine may show them in another one after its restart."""
    found = observe(shop.engine.inspect_container("shop"))
    turned = {key: dict(reversed(value.items())) for key, value in found.inspection.items() if isinstance(value, dict)}
    assert standing_of(evolve(found, inspection={**found.inspection, **turned})) == standing_of(found)


@pytest.mark.parametrize("what", ["start", "rename", "remove"])
def test_a_container_that_somebody_takes_up_meanwhile_is_not_removed(
    shop: Shop, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was renamed away, and would have gone, as its backup is there and its successor runs."""
    backup("shop", client=shop.engine, store=shop.store)
    name = put_aside(shop)
    shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})

    class Meanwhile(FailingEngine):
        def inspect_container(self, ref: str) -> Inspection:
            """Inspect it; before the second time, somebody acts."""
            seen.append(ref)
            if ref == shop.id and seen.count(ref) == 2:
                if what == "start":
                    shop.engine.start_container(name)
                elif what == "rename":
                    shop.engine.rename_container(name, "mine")
                else:
                    shop.engine.remove_container(name)
            return super().inspect_container(ref)

    seen: list[str] = []
    recover(client=Meanwhile(shop.engine), store=shop.store)
    assert there(shop) == {"start": ["shop", name], "rename": ["mine", "shop"], "remove": ["shop"]}[what]
    assert f"keeping container {name}" in caplog.text
    assert "could not remove" not in caplog.text


def test_a_container_that_somebody_started_has_its_restart_policy_back(shop: Shop) -> None:
    """All data was back when the process died, so it is not started again."""
    killed = FailingEngine(shop.engine, at=1, kill=True, verbs={"update_container"})
    with pytest.raises(Killed), shop.rollback(killed, verify=None):
        shop.break_it()
        raise RollbackRequested
    assert shop.engine.inspect_container("shop")["HostConfig"]["RestartPolicy"]["Name"] == "no"
    shop.engine.start_container("shop")
    started = shop.engine.inspect_container("shop")["State"]["StartedAt"]
    shop.clock.advance(60.0)
    (done,) = recovered(shop)
    assert done.outcome == "rolled back"
    after = shop.engine.inspect_container("shop")
    assert (after["State"]["StartedAt"], after["HostConfig"]["RestartPolicy"]["Name"]) == (started, "always")


def test_a_group_is_at_work_while_any_of_its_locks_is_held(shop: Shop, tmp_path: Path) -> None:
    """Its operation died, and another process has one of its containers: nobody has to finish anything just now."""
    shop.engine.run("desk", image="shop:1")
    other = BackupStore(tmp_path / "other")
    killed = FailingEngine(shop.engine, at=1, kill=True, verbs={"kill_container"})
    with pytest.raises(Killed), rollback("shop", "desk", client=killed, store=shop.store, verify=None):
        killed.kill_container("shop")
    operations = Operations(shop.engine, other)
    with shop.store.lock(shop.id, container="shop"):
        (one,) = operations.in_flight()
        assert (one.containers, one.owner, one.record) == (("desk", "shop"), "alive", "elsewhere")
        assert operations.unfinished_elsewhere() == []
    (one,) = operations.unfinished_elsewhere()
    assert (one.containers, one.owner, one.record) == (("desk", "shop"), "dead", "elsewhere")


def test_a_helper_that_appears_while_operations_are_finished_goes(shop: Shop) -> None:
    """An engine may do only now what the dead process asked of it."""
    die_in_the_body(shop, shop.break_it)

    class Late(FailingEngine):
        def remove_volume(self, name: str) -> None:
            """Remove a volume; the first is a lock volume, at the end of the operation."""
            if not late:
                request = {"Image": "shop:1", "Labels": {"docker-rollback.role": "helper", "docker-rollback.lock": ""}}
                late.append(shop.engine.create_container("docker-rollback-helper-late", request))
                shop.engine.start_container(late[0])
                shop.engine.kill_container(late[0])
            super().remove_volume(name)

    late: list[str] = []
    (done,) = recover(client=Late(shop.engine), store=shop.store)
    assert done.outcome == "rolled back"
    assert late
    assert there(shop) == ["shop"]


def test_who_shares_a_volume_stands_while_a_removed_container_is_recreated(tmp_path: Path) -> None:
    """And runs again afterwards."""
    shop = shop_with_a_layer(tmp_path)
    shop.engine.run("reader", image="shop:1", volumes={"orders": "/data"})
    found: list[str] = []

    class Removed(Pruned):
        def create_container(self, name: str, request: Mapping[str, Any], *, platform: str | None = None) -> str:
            """Note how the other one stands when the removed one is created."""
            if name.startswith("shop") and "docker-rollback.role" not in request.get("Labels", {}):
                found.append(shop.engine.container("reader").status)
            return super().create_container(name, request, platform=platform)

    engine = Removed(shop.engine, PRUNES["rm"], 3)
    with pytest.raises(CaptureError, match="somebody removed it"), shop.rollback(engine, shared="ignore"):
        pytest.fail("the block was entered")
    assert set(found) == {"exited"}
    assert shop.engine.container("reader").status == shop.engine.container("shop").status == "running"
