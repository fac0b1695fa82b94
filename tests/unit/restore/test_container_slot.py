"""The steps of one container's restore, each by itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pytest
from attrs import evolve

from docker_rollback import RollbackRequested, backup, restore, rollback
from docker_rollback._containers import ContainerSnapshotter, DisturbedError, find_container
from docker_rollback._engine.port import Inspection
from docker_rollback._model.backup import Backup, EngineRecord
from docker_rollback._restore.container_slot import ContainerSlot
from docker_rollback.errors import ContainerNotFoundError, EngineConflictError, EngineError, RestoreError
from docker_rollback.parts import Engine, EngineInfo
from docker_rollback.testing import FailingEngine
from tests.unit.shop import Shop

NO, ALWAYS = ({"Name": name, "MaximumRetryCount": 0} for name in ("no", "always"))


def taken(shop: Shop, name: str = "shop") -> Backup:
    """Take a backup of one container."""
    return backup(name, client=shop.engine, store=shop.store)


def slot_of(shop: Shop, found: Backup, engine: Engine | None = None, **options: Any) -> ContainerSlot:
    """Return the slot of the container of a backup."""
    snapshotter = ContainerSnapshotter(engine or shop.engine, shop.store)
    return ContainerSlot(
        engine or shop.engine, snapshotter, found.containers[0], {}, **{"has_archives": True, **options}
    )


def restart(shop: Shop) -> None:
    """Start the service, and stop it again."""
    shop.clock.advance(1.0)
    shop.engine.start_container(shop.id)
    shop.engine.stop_container(shop.id)


@pytest.mark.parametrize("work", [lambda shop: shop.engine.start_container(shop.id), restart], ids=["runs", "ran"])
def test_a_container_that_somebody_started_too_early_does_not_get_its_name(
    shop: Shop, work: Callable[[Shop], None]
) -> None:
    """It has seen half of its data, whether it still runs or not."""
    slot = slot_of(shop, taken(shop))
    shop.engine.add_image("shop:3")
    slot.rename_away([shop.id])
    slot.restore()
    aside = shop.engine.container(shop.id).name
    assert aside != "shop"
    shop.clock.advance(1.0)
    work(shop)
    with pytest.raises(DisturbedError, match="started it before all of its data was back"):
        slot.take_name()
    assert shop.engine.container(shop.id).name == aside


def test_a_container_that_nobody_started_gets_its_name(shop: Shop) -> None:
    """It is the very one that the backup is of."""
    slot = slot_of(shop, taken(shop))
    slot.rename_away([shop.id])
    slot.restore()
    slot.take_name()
    assert shop.engine.container("shop").id == shop.id == slot.standing_id


def test_a_container_that_has_its_name_is_not_renamed(shop: Shop) -> None:
    """It needed the name before its data was back."""
    slot = slot_of(shop, taken(shop), engine := FailingEngine(shop.engine), needs_name=True)
    slot.rename_away([shop.id])
    slot.restore()
    engine.calls.clear()
    assert slot.take_name().name == "shop"
    assert engine.called("rename_container") == []


def test_what_is_mounted_at_a_path_is_a_volume_or_an_error(shop: Shop) -> None:
    """The data of a volume is put into nothing else."""
    shop.engine.host.mkdir("/srv/data")
    shop.engine.run("desk", image="shop:1", volumes={"/srv/data": "/data"})
    slot = slot_of(shop, taken(shop, "desk"))
    assert slot.volume_at("/cache") == shop.engine.anonymous_volume("desk", "/cache")
    for path in ("/data", "/elsewhere"):
        with pytest.raises(RestoreError, match=f"it has no volume at {path}"):
            slot.volume_at(path)


@pytest.mark.parametrize("policy", [None, NO, ALWAYS])
def test_only_a_policy_that_a_held_container_has_lost_is_put_back(shop: Shop, policy: Mapping[str, Any] | None) -> None:
    """And nothing that an engine did not show."""
    found = taken(shop)
    (container,) = found.containers
    host = {key: value for key, value in container.inspection["HostConfig"].items() if key != "RestartPolicy"}
    host |= {} if policy is None else {"RestartPolicy": policy}
    changed = evolve(found, containers=(evolve(container, inspection={**container.inspection, "HostConfig": host}),))
    engine = FailingEngine(shop.engine)
    slot_of(shop, changed, engine).restore_policy()
    assert len(engine.called("update_container")) == (policy == ALWAYS)


@pytest.mark.parametrize("case", ["renamed away", "started since", "has its name", "gone"])
def test_an_original_goes_once_its_successor_stays(shop: Shop, case: str) -> None:
    """Unless somebody uses it; its anonymous volume is its successor's."""
    found = taken(shop)
    engine = FailingEngine(shop.engine)
    slot = slot_of(shop, found, engine)
    cache = shop.engine.anonymous_volume("shop", "/cache")
    if case == "has its name":
        shop.engine.stop_container("shop")
    else:
        slot.rename_away([shop.id])
    if case == "started since":
        shop.engine.start_container(shop.id)
    if case == "gone":
        shop.engine.remove_container(shop.id)
    slot.remove_original()
    assert len(engine.called("remove_container")) == (case == "renamed away")
    assert shop.engine.has_volume(cache)


@pytest.mark.parametrize("shares", [True, False])
def test_one_that_was_renamed_away_and_starts_just_now_goes_only_if_it_does_harm(shop: Shop, *, shares: bool) -> None:
    """Somebody starts it after it was seen to be stopped: its work is lost only for the sake of the data."""

    class Late(FailingEngine):
        def remove_container(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
            """Start it first."""
            shop.engine.start_container(ref)
            super().remove_container(ref, force=force, volumes=volumes)

    slot = slot_of(shop, taken(shop), engine := Late(shop.engine))
    mounts = {"orders": "/data"} if shares else {}
    other = shop.engine.run("other", image="shop:2", volumes=mounts, start=False)
    renamed = find_container(engine, other)
    assert renamed is not None
    with nullcontext() if shares else pytest.raises(EngineConflictError):
        slot.remove_renamed(renamed)
    assert (other in shop.engine.list_containers()) is not shares


SAME: dict[str, Any] = {}
ELSEWHERE: list[tuple[dict[str, Any] | None, bool]] = [
    (None, False),
    (SAME, False),
    ({"identity": ""}, False),
    ({"identity": "another"}, True),
    ({"version": "1.2.3"}, True),
    ({"version": "1.2.3", "identity": ""}, True),
]


@pytest.mark.parametrize(("changes", "moved"), ELSEWHERE)
def test_a_backup_of_another_engine_is_compared_by_what_both_show(
    shop: Shop, changes: dict[str, Any] | None, *, moved: bool
) -> None:
    """Older backups do not say which engine it was, only its kind and version."""
    found = taken(shop)
    here: EngineRecord = shop.engine.info().record()
    captured_on = None if changes is None else evolve(here, **changes)
    (container,) = found.containers
    # What the first engine did not show may have any value on another one.
    host = {key: value for key, value in container.inspection["HostConfig"].items() if key != "Memory"}
    changed = evolve(found, containers=(evolve(container, inspection={**container.inspection, "HostConfig": host}),))
    shop.engine.update_container("shop", {"Memory": 1 << 30})
    slot = slot_of(shop, changed, captured_on=captured_on)
    if moved:
        assert slot.compare(slot.look()) == ()
    else:
        with pytest.raises(RestoreError, match=r"HostConfig\.Memory"):
            slot.compare(slot.look())


class Podman(FailingEngine):
    """An engine that shows the memory limit of a stopped container as it was before an update of it."""

    flavour: Any = "podman"
    shown: int | None = None

    def info(self) -> EngineInfo:
        """Return the description of another kind of engine."""
        return evolve(super().info(), flavour=self.flavour)

    def inspect_container(self, ref: str) -> Inspection:
        """Show the earlier limit while it is stopped."""
        found = super().inspect_container(ref)
        if self.shown is None or found["State"]["Running"]:
            return found
        return {**found, "HostConfig": {**found["HostConfig"], "Memory": self.shown}}


@pytest.mark.parametrize(
    ("flavour", "before", "reused"), [("podman", 1 << 30, True), ("podman", 0, False), ("fake", 1 << 30, False)]
)
def test_a_limit_that_podman_shows_only_once_it_runs_is_put_back_in_place(
    shop: Shop, flavour: str, before: int, *, reused: bool
) -> None:
    """An update cannot take a limit away, and other engines show at once what they have done."""
    shop.engine.update_container("shop", {"Memory": before})
    slot = slot_of(shop, taken(shop), engine := Podman(shop.engine))
    engine.flavour = flavour
    shop.engine.update_container("shop", {"Memory": 2 << 30})
    slot.rename_away([shop.id])
    engine.shown = 2 << 30
    slot.restore()
    assert (slot.standing_id == shop.id) == reused


def test_a_limit_that_podman_hides_until_the_original_runs_is_put_back_then(shop: Shop) -> None:
    """The update has stopped the container and changed its limit, and never started it again."""
    shop.engine.update_container("shop", {"Memory": 1 << 30})
    slot = slot_of(shop, taken(shop), engine := Podman(shop.engine))
    shop.engine.stop_container("shop")
    shop.engine.update_container("shop", {"Memory": 2 << 30})
    engine.shown = 1 << 30
    slot.rename_away([shop.id])
    slot.restore()
    slot.take_name()
    slot.resume()
    assert slot.standing_id == shop.id
    assert slot.compare(slot.look()) == ()
    assert shop.engine.inspect_container("shop")["HostConfig"]["Memory"] == 1 << 30


def test_of_several_folders_that_are_gone_the_innermost_is_named(shop: Shop) -> None:
    """An engine says the path of one, which others may begin."""
    for path in ("/srv", "/srv/data"):
        shop.engine.host.mkdir(path)
    shop.engine.run("desk", image="shop:1", volumes={"/srv": "/a", "/srv/data": "/b"})
    found = taken(shop, "desk")
    shop.engine.stop_container("desk")

    class Unmounted(FailingEngine):
        def start_container(self, ref: str) -> None:
            """Refuse the one."""
            if shop.engine.container(ref).name == "desk":
                raise EngineError("start it", "/srv/data: no such file or directory")
            super().start_container(ref)

    with pytest.raises(RestoreError, match="it binds '/srv/data' of the engine's host, which is gone"):
        restore(found, client=Unmounted(shop.engine), store=shop.store)


def test_a_container_half_removed_is_removed_wholly(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """An engine that died while it removed one allows nothing else."""

    class Half(FailingEngine):
        def inspect_container(self, ref: str) -> Inspection:
            """Show the updated container as half removed."""
            found = super().inspect_container(ref)
            if found["Id"] != updated or not is_on_its_way_back:
                return found
            return {**found, "State": {**found["State"], "Status": "removing", "Running": False}}

    updated, is_on_its_way_back = "", False
    caplog.set_level(logging.INFO)
    with shop.rollback(engine := Half(shop.engine), verify=None):
        shop.engine.remove_container("shop", force=True)
        updated = shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
        is_on_its_way_back = True
        raise RollbackRequested
    assert updated not in shop.engine.list_containers()
    assert [call.arguments[0] for call in engine.called("rename_container") if call.arguments[0] == updated] == []
    shop.check_restored()


def test_an_original_is_attached_to_the_network_that_has_the_name_now(shop: Shop) -> None:
    """Its endpoint is of one that is gone, and it could not start with that."""
    shop.engine.create_network({"Name": "side"})
    shop.engine.run("desk", image="shop:1", networks=["side"])
    with rollback("desk", client=shop.engine, store=shop.store, verify=None):
        desk = shop.engine.container("desk").id
        shop.engine.stop_container("desk")
        shop.engine.remove_network("side")
        shop.engine.create_network({"Name": "side"})
        raise RollbackRequested
    after = shop.engine.inspect_container("desk")
    assert after["Id"] == desk
    assert after["NetworkSettings"]["Networks"]["side"]["NetworkID"] == shop.engine.inspect_network("side")["Id"]
    assert after["State"]["Running"]


def test_an_image_without_a_configuration_is_enough_to_recreate_a_container(shop: Shop) -> None:
    """An engine shows none for one that was imported from a tar."""

    class Bare(FailingEngine):
        def inspect_image(self, ref: str) -> Inspection:
            """Show no configuration."""
            return {**super().inspect_image(ref), "Config": None}

    slot = slot_of(shop, taken(shop), Bare(shop.engine))
    shop.engine.remove_container("shop", force=True)
    slot.restore()
    slot.take_name()
    after = shop.engine.inspect_container("shop")
    assert after["Id"] == slot.standing_id != shop.id
    assert "A=1" in after["Config"]["Env"]


class Hasty(FailingEngine):
    """An engine on which somebody starts each new container, which has ended before anybody looks at it."""

    def create_container(self, name: str, request: Mapping[str, Any], *, platform: str | None = None) -> str:
        """Create it, and start and stop it."""
        created = super().create_container(name, request, platform=platform)
        self._engine.start_container(created)
        self._engine.stop_container(created)
        return created


@pytest.mark.parametrize("named", [True, False])
def test_a_run_between_the_creation_and_the_first_look_is_noticed(shop: Shop, *, named: bool) -> None:
    """It may have written files into the new container."""
    slot = slot_of(shop, taken(shop), Hasty(shop.engine))
    shop.engine.remove_container("shop", force=True)
    if not named:
        shop.engine.tag_image(shop.engine.inspect_image("shop:2")["Id"], "shop:1")
    slot.restore()
    with pytest.raises(DisturbedError, match="started it before all of its data was back"):
        slot.take_name()


def test_an_original_that_runs_when_it_is_looked_at_is_noticed_once_it_has_ended(shop: Shop) -> None:
    """It may have written files after the commit that shows that it is untouched."""
    slot = slot_of(shop, taken(shop))
    slot.rename_away([shop.id])
    shop.clock.advance(1.0)
    shop.engine.start_container(shop.id)
    with pytest.raises(DisturbedError, match="started it before all of its data was back"):
        slot.restore()


def test_a_name_that_somebody_takes_before_the_creation_is_a_disturbance(shop: Shop) -> None:
    """The container needs its name early, and another attempt renames the other one away."""
    slot = slot_of(shop, taken(shop), needs_name=True)
    slot.rename_away([shop.id])
    shop.engine.run("shop", image="shop:2", start=False)
    shop.engine.container(shop.id).write("/app", "version 2")
    with pytest.raises(DisturbedError, match="created it while another container of its name was restored") as failed:
        slot.restore()
    assert isinstance(failed.value.__cause__, EngineConflictError)


def test_a_start_that_lacks_something_else_does_not_say_that_the_container_is_gone(shop: Shop) -> None:
    """An engine answers with the same status if the container is missing whose network it uses."""

    class Lacking(FailingEngine):
        def start_container(self, ref: str) -> None:
            """Refuse."""
            raise ContainerNotFoundError("another", action=f"start container {ref!r}")

    slot = slot_of(shop, taken(shop), Lacking(shop.engine))
    slot.rename_away([shop.id])
    slot.restore()
    with pytest.raises(ContainerNotFoundError, match="another"):
        slot.resume()
