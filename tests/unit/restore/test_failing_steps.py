"""Steps of a restore: what they hold, and what a failing one touches."""

from __future__ import annotations

import pytest

from docker_rollback import EngineError, Exclude, RollbackRequested, backup, restore
from docker_rollback._restore import Restorer
from docker_rollback.errors import RestoreError
from docker_rollback.parts import ContainerFilter
from docker_rollback.testing import FailingEngine
from docker_rollback.testing._failing.calls import CHANGING
from tests.unit.shop import Shop


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
    changed = {call.verb for call in failing.calls if call.verb in CHANGING}
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
