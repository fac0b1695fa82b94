"""Steps of a restore: what they hold, and what a failing one touches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from docker_rollback import EngineError, Exclude, RollbackRequested, Status, backup, restore
from docker_rollback._engine.port import Inspection
from docker_rollback._restore import Restorer
from docker_rollback.errors import RestoreError
from docker_rollback.parts import ContainerFilter
from docker_rollback.testing import FailingEngine
from docker_rollback.testing._failing.calls import CHANGING
from tests.unit.shop import Shop
from tests.unit.town import Town

T = TypeVar("T")


def test_an_image_that_cannot_be_loaded_is_known_before_anything_is_touched(shop: Shop) -> None:
    """The updated container runs on."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    shop.break_it()
    shop.engine.remove_image("shop:1")
    before = shop.engine.inspect_container("shop")
    failing = FailingEngine(shop.engine, at=1, verbs={"load_image"}, lasting=True)
    with pytest.raises(EngineError, match="made to fail") as failed:
        Restorer(failing, shop.store).restore(taken)
    assert failed.value.__notes__ == ["while trying to provide the image of container 'shop'"]
    changed = {call.verb for call in failing.calls if call.verb in CHANGING and call.outcome != "refused"}
    assert changed <= {"load_image"}
    assert shop.engine.inspect_container("shop") == before


def test_a_container_that_does_not_start_is_one_failure(shop: Shop) -> None:
    """It is not compared as well, and the others run."""
    shop.engine.run("desk", image="shop:1")
    taken = backup("shop", "desk", client=shop.engine, store=shop.store)
    shop.break_it()

    class Jammed(FailingEngine):
        def start_container(self, ref: str) -> None:
            """Start it, unless it is the service."""
            if shop.engine.container(ref).name == "shop":
                raise EngineError("start it", "made to fail")
            super().start_container(ref)

    with pytest.raises(EngineError, match="made to fail") as failed:
        restore(taken, client=Jammed(shop.engine), store=shop.store)
    assert not isinstance(failed.value, RestoreError)
    assert shop.engine.container("desk").status == "running"
    assert shop.engine.container("shop").status != "running"


@pytest.mark.parametrize("excluded", [False, True])
def test_an_anonymous_volume_goes_with_a_replaced_container_if_all_of_it_is_back(shop: Shop, *, excluded: bool) -> None:
    """What was excluded from its backup is nowhere else."""
    cache = shop.engine.anonymous_volume("shop", "/cache")
    shop.cache().write("/skipped", "x")
    exclude = [Exclude(cache, "skipped")] if excluded else []
    taken = backup("shop", client=shop.engine, store=shop.store, exclude=exclude)
    shop.engine.update_container("shop", {"Memory": 1 << 30})
    assert Restorer(shop.engine, shop.store).restore(taken) == ["shop"]
    assert shop.engine.container("shop").id != shop.id
    assert shop.engine.has_volume(cache) == excluded


def test_a_volume_in_memory_is_mounted_until_its_container_runs(shop: Shop) -> None:
    """It would lose what was restored to it."""
    shop.engine.create_volume({"Name": "ram", "Driver": "local", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}})
    shop.engine.run("fast", image="shop:1", volumes={"ram": "/ram"})
    shop.engine.volume("ram").write("/index", "1")
    taken = backup("fast", client=shop.engine, store=shop.store, quiesce="pause")
    mounted: list[list[str]] = []

    class Watching(FailingEngine):
        def start_container(self, ref: str) -> None:
            """Note what mounts the volume by then, if it is its container that starts."""
            if shop.engine.container(ref).name == "fast":
                running = shop.engine.list_containers(ContainerFilter(running=True, volume="ram"))
                mounted.append([shop.engine.container(one).name for one in running])
            super().start_container(ref)

    restore(taken, client=Watching(shop.engine), store=shop.store)
    ((holder,),) = mounted
    assert holder.startswith("docker-rollback")
    assert shop.engine.volume("ram").read("/index") == b"1"
    shop.check_nothing_left()


def test_a_stopped_updated_container_is_held_and_stays_so(shop: Shop) -> None:
    """It is in the way under the service's name; that of somebody else on the same volume has its policy back."""
    shop.engine.run("reader", image="shop:1", volumes={"orders": "/data"}, restart="always", start=False)
    watching = FailingEngine(shop.engine)
    with shop.rollback(watching, verify=None):
        shop.engine.remove_container("shop", force=True)
        volumes = {"orders": "/data"}
        updated = shop.engine.run("shop", image="shop:2", volumes=volumes, restart="always", start=False)
        raise RollbackRequested
    updates = [call.arguments[0] for call in watching.called("update_container")]
    reader = shop.engine.inspect_container("reader")
    assert updates.count(updated) == 1
    assert reader["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert not reader["State"]["Running"]
    shop.check_restored()


STUCK = [
    ("remove_container", "containers", "shop-database-1"),
    ("remove_network", "networks", "shop_back"),
    ("remove_volume", "volumes", "shop_index"),
]


@pytest.mark.parametrize(("verb", "kind", "name"), STUCK)
def test_an_addition_that_cannot_be_removed_is_told_and_stops_nothing(
    town: Town, caplog: pytest.LogCaptureFixture, verb: str, kind: str, name: str
) -> None:
    """All else that came with the update goes, and the project is back."""

    class Stuck(FailingEngine):
        def pass_on(self, called: str, work: Callable[[], T], *arguments: Any) -> T:
            """Do one call, unless it would remove that one."""
            shown = town.engine.container(arguments[0]).name if called == "remove_container" else arguments[:1]
            if called == verb and name in (shown if isinstance(shown, tuple) else (shown,)):
                raise EngineError("remove it", "made to fail")
            return super().pass_on(called, work, *arguments)

    with town.rollback(engine=Stuck(town.engine)) as tx:
        town.update()
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    left = town.stock()
    assert left.pop(kind) == sorted([*town.before[kind], name])
    assert left == {key: value for key, value in town.before.items() if key != kind}
    assert f"could not remove {kind[:-1]} {name}, which was added to the project: " in caplog.text


@pytest.mark.parametrize("committed", [False, True])
def test_a_renamed_container_that_cannot_be_removed_is_told_and_stops_nothing(
    shop: Shop, caplog: pytest.LogCaptureFixture, *, committed: bool
) -> None:
    """It is stopped and held; the outcome is what it is."""

    class Stuck(FailingEngine):
        def remove_container(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
            """Refuse what was renamed away."""
            if "aside" in shop.engine.container(ref).name:
                raise EngineError("remove it", "made to fail")
            super().remove_container(ref, force=force, volumes=volumes)

    with shop.rollback(Stuck(shop.engine), verify=None) as tx:
        if committed:
            tx.replace("shop", image="shop:2")
        else:
            shop.engine.remove_container("shop", force=True)
            shop.engine.run("shop", image="shop:2")
            raise RollbackRequested
    assert tx.status is (Status.COMMITTED if committed else Status.ROLLED_BACK)
    which = "the container from before the update: " if committed else "shop-docker-rollback-aside-"
    assert f"shop: could not remove {which}" in caplog.text
    assert len(shop.engine.list_containers()) == 2


@pytest.mark.parametrize(("endpoint", "refused"), [("lb-front", False), ("1" * 64, True)])
def test_the_load_balancer_of_a_swarm_keeps_no_network_from_being_restored(
    shop: Shop, endpoint: str, *, refused: bool
) -> None:
    """An overlay network lists its endpoint like a container's."""

    class Swarm(FailingEngine):
        def inspect_network(self, ref: str) -> Inspection:
            """Show a changed network with one more endpoint."""
            found = super().inspect_network(ref)
            if found["Name"] != "front":
                return found
            return {**found, "Id": "f" * 64, "Internal": True, "Containers": {endpoint: {"Name": "front-endpoint"}}}

    taken = backup("shop", client=shop.engine, store=shop.store)
    restorer = Restorer(Swarm(shop.engine), shop.store)
    if refused:
        with pytest.raises(RestoreError, match="network 'front' was changed, and front-endpoint uses it"):
            restorer.check(taken)
    else:
        restorer.check(taken)
