"""A restore step by step: what fails alone, what is translated, and what holds an image meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import pytest
from attrs import evolve

from docker_rollback import (
    DockerRollbackError,
    EngineError,
    Exclude,
    Progress,
    RollbackFailedError,
    RollbackRequested,
    backup,
    compare,
    restore,
    rollback,
)
from docker_rollback._containers import ContainerSnapshotter, DisturbedError, QuiescedContainers
from docker_rollback._engine import Inspection
from docker_rollback._host import Timer
from docker_rollback._names import aside_name
from docker_rollback._restore import Restorer
from docker_rollback._restore.container_slot import ContainerSlot, ensure_all_run
from docker_rollback.errors import EngineConflictError, RestoreError
from docker_rollback.parts import ContainerFilter
from docker_rollback.testing import FailingEngine, FakeEngine, Killed
from tests.unit.recovery.test_recovery import recovered
from tests.unit.shop import Shop

T = TypeVar("T")


class Refusing(FailingEngine):
    """An engine that does not make networks of some names."""

    def __init__(self, engine: FakeEngine, *names: str) -> None:
        super().__init__(engine)
        self._names = names

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: Any) -> T:
        """Do one call, or refuse it."""
        if verb == "create_network" and arguments[0] in self._names:
            raise EngineError("create a network", f"made to refuse {arguments[0]}")
        return super().pass_on(verb, work, *arguments)


@pytest.mark.parametrize(("refused", "stands"), [(["front"], ["desk", "lamp"]), (["front", "inner"], ["lamp"])])
def test_a_network_that_cannot_be_made_fails_those_that_are_in_it(
    shop: Shop, refused: list[str], stands: list[str]
) -> None:
    """Containers on other networks are restored all the same; of several failures the error names those alone."""
    shop.engine.run("desk", image="shop:1", networks=["inner"])
    shop.engine.run("lamp", image="shop:1", networks=["outer"])
    everything = ["shop", "desk", "lamp"]
    before = {name: shop.engine.inspect_container(name) for name in everything}
    taken = backup(*everything, client=shop.engine, store=shop.store)
    for name in everything:
        shop.engine.remove_container(name, force=True, volumes=True)
    for name in ("front", "inner", "outer"):
        shop.engine.remove_network(name)
    with pytest.raises(DockerRollbackError, match="made to refuse front") as failed:
        restore(taken, client=Refusing(shop.engine, *refused), store=shop.store)
    if len(refused) > 1:
        assert isinstance(failed.value, RestoreError)
        assert failed.value.container == "desk, shop"
        assert len(failed.value.failures) == 2
    running = [shop.engine.container(one).name for one in shop.engine.list_containers(ContainerFilter(running=True))]
    assert sorted(running) == stands
    for name in stands:
        assert compare(before[name], shop.engine.inspect_container(name)) == []
    assert restore(taken, client=shop.engine, store=shop.store) == everything
    assert shop.engine.volume("orders").read("/table") == b"rows"


def test_a_failed_rollback_has_each_failure_of_its_restore(shop: Shop) -> None:
    """And not one that holds them all."""
    shop.engine.run("desk", image="shop:1", networks=["inner"])
    refusing = Refusing(shop.engine, "front", "inner")
    with (
        pytest.raises(RollbackFailedError) as failed,
        rollback("shop", "desk", client=refusing, store=shop.store, verify=None),
    ):
        for name in ("shop", "desk"):
            shop.engine.remove_container(name, force=True, volumes=True)
        for name in ("front", "inner"):
            shop.engine.remove_network(name)
        raise RollbackRequested
    said = sorted(str(failure) for failure in failed.value.failures.exceptions)
    assert [text.rpartition(" ")[2] for text in said] == ["front", "inner"]


@pytest.mark.parametrize("where", ["orders", "/cache"])
def test_what_a_failed_update_had_goes_with_its_container(shop: Shop, where: str) -> None:
    """Its anonymous volume too, unless the backup lacks a part of what the container before it had in such a one."""
    volume = where if where == "orders" else shop.engine.anonymous_volume("shop", "/cache")
    shop.engine.volume(volume).write("/tmp/x", "x")
    before = len(shop.engine.list_volumes())
    with shop.rollback(verify=None, exclude=[Exclude(volume, "tmp")]):
        shop.engine.remove_container("shop", force=True)
        shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
        raise RollbackRequested
    assert (len(shop.engine.list_volumes()) > before) == (where == "/cache")


def test_a_death_before_the_start_finds_no_difference_in_what_was_made_anew(shop: Shop) -> None:
    """A container in the network of another one names that by its id, and both, and the network, have new ids."""
    shop.engine.run("client", image="shop:1", NetworkMode=f"container:{shop.id}")
    before = {name: shop.engine.inspect_container(name) for name in ("shop", "client")}
    killed = FailingEngine(shop.engine, kill=True, verbs={"start_container"})

    def die_at_the_first_start(news: Progress) -> None:
        if news.step == "restore" and news.subject.startswith("bring container"):
            killed._at = frozenset([killed.count + 1])

    options: dict[str, Any] = {"store": shop.store, "verify": None, "progress": die_at_the_first_start}
    with pytest.raises(Killed), rollback("shop", "client", client=killed, **options):
        shop.engine.remove_container("client", force=True, volumes=True)
        shop.break_it()
        raise RollbackRequested
    assert not shop.engine.inspect_container("shop")["State"]["Running"]
    (done,) = recovered(shop)
    assert done.outcome == "rolled back"
    after = {name: shop.engine.inspect_container(name) for name in before}
    assert after["shop"]["Id"] != before["shop"]["Id"]
    assert after["client"]["HostConfig"]["NetworkMode"] == f"container:{after['shop']['Id']}"
    assert all(found["State"]["Running"] for found in after.values())
    shop.check_restored()


def test_an_image_that_is_there_is_held_by_a_name_of_ours_meanwhile(shop: Shop) -> None:
    """Somebody untagged what the backup committed: from the first step on it has its name again, and after it not."""
    shop.engine.container("shop").write("/etc/own", "mine")
    held: list[list[str]] = []

    class Watching(FailingEngine):
        def pass_on(self, verb: str, work: Callable[[], T], *arguments: Any) -> T:
            """Look at the names of images before anything is stopped or made."""
            if verb in ("create_container", "stop_container") and is_on_its_way_back:
                held.append([name for names in shop.engine.image_names().values() for name in names])
            return super().pass_on(verb, work, *arguments)

    is_on_its_way_back = False
    with shop.rollback(Watching(shop.engine), verify=None) as tx:
        (container,) = tx.backup.containers
        shop.engine.tag_image(container.image.id, "somebody:1")
        shop.engine.remove_image(container.image.tag)
        shop.engine.remove_container("shop", force=True, volumes=True)
        shop.engine.run("shop", image="shop:2")
        is_on_its_way_back = True
        raise RollbackRequested
    assert held
    assert all(container.image.tag in names for names in held)
    assert shop.engine.container("shop").read("/etc/own") == b"mine"
    names = [name for names in shop.engine.image_names().values() for name in names]
    assert container.image.tag not in names


def test_a_restorer_alone_leaves_no_name_of_ours(shop: Shop) -> None:
    """It puts an image of the store into the engine by such a name, and nobody removes that name after it."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    shop.break_it()
    shop.engine.remove_image("shop:1")
    engine = FailingEngine(shop.engine)
    assert Restorer(engine, shop.store).restore(taken) == ["shop"]
    assert len(engine.called("load_image")) == 1
    names = [name for names in shop.engine.image_names().values() for name in names]
    assert taken.containers[0].image.tag not in names
    shop.check_restored()


def test_a_name_of_ours_that_stays_does_not_fail_a_restore(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """All is restored by then, so it is only logged; and the names of the other containers go."""
    shop.engine.run("desk", image="shop:2")

    class Fails(FailingEngine):
        def inspect_container(self, ref: str) -> Any:
            if ref == "shop" and self.called("list_images"):
                raise EngineError("inspect container 'shop'", "it does not answer")
            return super().inspect_container(ref)

    taken = backup("shop", "desk", client=shop.engine, store=shop.store)
    engine = Fails(shop.engine)
    assert Restorer(engine, shop.store).restore(taken) == ["shop", "desk"]
    assert "shop: names of its images may stay: " in caplog.text
    names = [name for names in shop.engine.image_names().values() for name in names if "docker-rollback" in name]
    assert names == [taken.containers[0].image.tag]


def test_an_original_with_its_name_makes_way_if_something_cannot_be_undone_in_place(shop: Shop) -> None:
    """Another container refers to it by its name, so it has that early; the one that replaces it needs the name too."""
    shop.engine.run("tail", image="shop:1", Links=["/shop:/tail/till"])
    with rollback("shop", "tail", client=shop.engine, store=shop.store, verify=None):
        # An update takes an empty value for no change.
        shop.engine.update_container("shop", {"Memory": 1 << 30})
        raise RollbackRequested
    assert shop.engine.container("shop").id != shop.id
    assert shop.engine.inspect_container("tail")["HostConfig"]["Links"] == ["/shop:/tail/till"]
    shop.check_restored()


def test_one_that_is_created_while_the_original_stops_is_stopped_too(shop: Shop) -> None:
    """Its stop takes long, and whoever supervises it by its name finds none: nothing runs when the data is filled."""

    class Supervised(FailingEngine):
        """An engine on which somebody creates another container of the name when the original stops."""

        def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
            super().stop_container(ref, timeout=timeout)
            if ref == shop.id:
                shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})

    taken = backup("shop", client=shop.engine, store=shop.store)
    shop.engine.volume("orders").delete("/table")
    engine = Supervised(shop.engine)
    assert Restorer(engine, shop.store).restore(taken) == ["shop"]
    assert len(engine.called("stop_container")) == 2
    shop.check_restored()


def test_limits_that_an_update_changed_are_put_back_in_place(shop: Shop) -> None:
    """The very container has them again."""
    heavy = shop.engine.run("heavy", image="shop:1", Memory=1 << 30, NanoCpus=10**9)
    before = shop.engine.inspect_container("heavy")
    with rollback("heavy", client=shop.engine, store=shop.store, verify=None):
        shop.engine.update_container("heavy", {"Memory": 2 << 30, "NanoCpus": 2 * 10**9})
        raise RollbackRequested
    after = shop.engine.inspect_container("heavy")
    assert after["Id"] == heavy
    assert compare(before, after) == []


def test_what_an_engine_makes_otherwise_is_an_error_that_names_each_difference(shop: Shop) -> None:
    """It runs, but not as it was captured."""
    shop.engine.run("heavy", image="shop:1", Memory=1 << 30, env=["B=2"])
    taken = backup("heavy", client=shop.engine, store=shop.store)
    shop.engine.remove_container("heavy", force=True, volumes=True)

    class Forgetful(FailingEngine):
        def create_container(self, name: str, request: Mapping[str, Any], *, platform: str | None = None) -> str:
            """Create it without its limit."""
            request = {**request, "HostConfig": {**request["HostConfig"], "Memory": 0}}
            return super().create_container(name, request, platform=platform)

    with pytest.raises(RestoreError, match="it was restored, but differs from what was captured") as failed:
        restore(taken, client=Forgetful(shop.engine), store=shop.store)
    assert failed.value.container == "heavy"
    assert [difference.partition(":")[0] for difference in failed.value.differences] == ["HostConfig.Memory"]
    assert shop.engine.container("heavy").status == "running"


@pytest.mark.parametrize("dirty", [True, False])
def test_on_another_engine_the_name_leads_to_the_image_that_was_put_there(shop: Shop, *, dirty: bool) -> None:
    """That engine may give the same image another id; the image of a changed container does not get the name."""
    if dirty:
        shop.engine.container("shop").write("/etc/own", "mine")
    taken = backup("shop", client=shop.engine, store=shop.store)
    (container,) = taken.containers
    image = evolve(container.image, name_id="sha256:" + "0" * 64, original_id="sha256:" + "0" * 64)
    moved = evolve(taken, containers=(evolve(container, image=image),))
    snapshotter = ContainerSnapshotter(shop.engine, shop.store)
    slot = ContainerSlot(shop.engine, snapshotter, moved.containers[0], {}, has_archives=True)
    another = shop.engine.inspect_image("shop:2")["Id"]
    slot.image_id = another
    led_back = slot.restore_image_name()
    if dirty:
        assert led_back is None
        assert shop.engine.inspect_image("shop:1")["Id"] != another
    else:
        assert led_back is not None
        assert (led_back.name, led_back.image, shop.engine.inspect_image("shop:1")["Id"]) == (
            "shop:1",
            another,
            another,
        )
    assert slot.restore_image_name() is None


@pytest.mark.parametrize("has_name", ["nobody", "another"])
def test_a_name_that_is_refused_is_somebodys_only_if_another_container_has_it(shop: Shop, has_name: str) -> None:
    """Else the engine's own words are the error."""
    taken = backup("shop", client=shop.engine, store=shop.store)

    class Refusing(FailingEngine):
        def rename_container(self, ref: str, name: str) -> None:
            """Refuse."""
            raise EngineConflictError(f"rename container {ref!r} to {name!r}", "made to refuse")

    engine = Refusing(shop.engine)
    slot = ContainerSlot(engine, ContainerSnapshotter(engine, shop.store), taken.containers[0], {}, has_archives=True)
    standing = shop.engine.run("standing", image="shop:1", start=False)
    slot._standing_id = standing
    shop.engine.rename_container("shop", "elsewhere")
    if has_name == "another":
        shop.engine.run("shop", image="shop:1", start=False)
    with pytest.raises(DisturbedError if has_name == "another" else EngineConflictError) as failed:
        slot.take_name()
    assert isinstance(failed.value.__cause__ or failed.value, EngineConflictError)


@pytest.mark.parametrize("shares", [True, False])
def test_what_was_compared_is_looked_at_again_once_others_were_started(shop: Shop, *, shares: bool) -> None:
    """A start of others may take long, and an engine that dies in it takes all along."""
    shop.engine.run("reader", image="shop:1", volumes={"orders" if shares else "letters": "/data"})
    taken = backup("shop", client=shop.engine, store=shop.store, shared="ignore")
    others = QuiescedContainers(shop.engine, "hold")
    seen = Restorer(shop.engine, shop.store).put_back(taken, others=others)
    assert shop.engine.inspect_container("reader")["State"]["Running"]
    assert [one.name for one in seen] == ([] if shares else ["shop"])


def test_each_restored_container_that_does_not_run_is_named(shop: Shop) -> None:
    """All are tried; one is told by its own error, several by one that has theirs."""

    class Slot:
        def __init__(self, name: str, *, runs: bool) -> None:
            self.name, self.runs, self.tried = name, runs, False

        def ensure_running(self, seen: Inspection | None, *, timer: Timer) -> None:
            """Say that it does not run."""
            assert (seen, timer) == (None, shop.clock)
            self.tried = True
            if not self.runs:
                raise RestoreError(self.name, "it ends at once", restored=True)

    def fails(*slots: Slot) -> RestoreError:
        with pytest.raises(RestoreError) as failed:
            ensure_all_run(cast(dict[str, ContainerSlot], {slot.name: slot for slot in slots}), timer=shop.clock)
        assert all(slot.tried for slot in slots)
        return failed.value

    one = fails(Slot("a", runs=True), Slot("b", runs=False), Slot("c", runs=True))
    assert (one.container, one.reason, one.restored) == ("b", "it ends at once", True)
    several = fails(Slot("a", runs=False), Slot("b", runs=True), Slot("c", runs=False))
    assert (several.container, several.restored) == ("a, c", True)
    assert [str(failure) for failure in several.failures] == [
        "container 'a': it ends at once",
        "container 'c': it ends at once",
    ]
    ensure_all_run({}, timer=shop.clock)


def test_of_an_image_whose_name_was_gone_the_name_is_not_made(shop: Shop) -> None:
    """Who had untagged it before the backup does not find its name again after a rollback of the project."""
    shop.engine.run("untagged", image="shop:1")
    shop.engine.add_image("shop:1", files={"/app": "another"})
    shop.engine.remove_image("shop:1")
    taken = backup("untagged", client=shop.engine, store=shop.store)
    assert [(one.image.name, one.image.name_id) for one in taken.containers] == [("shop:1", None)]
    (named,) = backup("shop", client=shop.engine, store=shop.store).containers
    assert (named.image.name, named.image.name_id) == ("shop:1", None)
    shop.engine.add_image("web:1")
    shop.engine.run("web", image="web:1")
    (web,) = backup("web", client=shop.engine, store=shop.store).containers
    assert (web.image.name, web.image.name_id) == ("web:1", web.image.original_id)


@pytest.mark.parametrize(("restart", "updated"), [("no", 0), ("always", 2)])
def test_a_restart_policy_is_taken_and_given_back_where_there_is_one(shop: Shop, restart: str, updated: int) -> None:
    """A container that its engine does not start again is not updated; another is held first, and gets its own back."""
    shop.engine.run("desk", image="shop:1", restart=restart)
    watching = FailingEngine(shop.engine)
    with rollback("desk", client=watching, store=shop.store, verify=None):
        entered = len(watching.calls)
        shop.engine.container("desk").write("/cache/new", "x")
        raise RollbackRequested
    verbs = [call.verb for call in watching.calls[entered:]]
    assert verbs.count("update_container") == updated
    assert shop.engine.inspect_container("desk")["HostConfig"]["RestartPolicy"]["Name"] == restart


@pytest.mark.parametrize(
    ("said", "is_gone"),
    [
        ("error mounting /srv/data: permission denied", False),
        ("bind source path does not exist: /srv/data", True),
        ("error mounting /srv/data: No such file or directory", True),
        ("error mounting /srv/other: no such file or directory", False),
    ],
)
def test_a_folder_is_called_gone_where_the_engine_says_so(shop: Shop, said: str, *, is_gone: bool) -> None:
    """What it says of a folder otherwise, and of another folder, comes out as it is."""
    shop.engine.host.mkdir("/srv/data")
    shop.engine.run("desk", image="shop:1", volumes={"/srv/data": "/data"})
    taken = backup("desk", client=shop.engine, store=shop.store)
    shop.engine.stop_container("desk")

    class Unmounted(FailingEngine):
        def start_container(self, ref: str) -> None:
            if shop.engine.container(ref).name == "desk":
                raise EngineError("start it", said)
            super().start_container(ref)

    with pytest.raises(RestoreError if is_gone else EngineError) as failed:
        restore(taken, client=Unmounted(shop.engine), store=shop.store)
    assert ("which is gone" in str(failed.value)) == is_gone
    cause = failed.value.__cause__ if is_gone else failed.value
    assert isinstance(cause, EngineError)
    assert cause.reason == said


def test_an_anonymous_volume_with_what_was_excluded_is_named(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """The container has another volume by then, and what was excluded is in the old one alone: it stays."""
    shop.cache().write("/skipped", "nowhere else")
    cache = shop.engine.anonymous_volume("shop", "/cache")
    taken = backup("shop", client=shop.engine, store=shop.store, exclude=[Exclude(cache, "skipped")])
    shop.engine.remove_container("shop", force=True)
    restore(taken, client=shop.engine, store=shop.store)
    assert f"keeping volume {cache}" in caplog.text
    assert shop.engine.volume(cache).read("/skipped") == b"nowhere else"
    caplog.clear()
    shop.engine.remove_volume(cache)
    restore(taken, client=shop.engine, store=shop.store)
    assert "keeping volume" not in caplog.text


def test_a_death_between_a_start_and_a_pause_leaves_it_paused_in_the_end(shop: Shop) -> None:
    """What was paused runs for a moment on the way back; recovery sees that it was to be paused."""
    shop.engine.pause_container("shop")
    killed = FailingEngine(shop.engine, kill=True, verbs={"pause_container"})
    with pytest.raises(Killed), shop.rollback(killed, verify=None):
        shop.break_it()
        killed._at = frozenset([killed.count + 1])
        raise RollbackRequested
    assert shop.engine.container("shop").status == "running"
    (done,) = recovered(shop)
    assert done.outcome == "rolled back"
    assert shop.engine.container("shop").status == "paused"
    assert shop.engine.volume("orders").read("/table") == b"rows"


@pytest.mark.parametrize("refused", [0, 1])
def test_one_that_cannot_be_removed_keeps_no_other_one(
    shop: Shop, refused: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody starts one of two that were renamed away, just before it is removed."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    renamed = [shop.engine.run(aside_name("shop", str(number)), image="shop:2", start=False) for number in range(2)]

    class Late(FailingEngine):
        def remove_container(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
            """Refuse one."""
            if ref == renamed[refused]:
                raise EngineConflictError(f"remove container {ref!r}", "it runs")
            super().remove_container(ref, force=force, volumes=volumes)

    Restorer(Late(shop.engine), shop.store).clean_up(taken, back=[shop.id])
    assert sorted(shop.engine.list_containers()) == sorted([renamed[refused], shop.id])
    assert f"shop: could not remove {aside_name('shop', str(refused))}, which was renamed away: " in caplog.text


def test_what_takes_a_name_just_before_the_last_start_is_not_started(shop: Shop) -> None:
    """It is somebody else's, and ours is gone."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    shop.engine.stop_container("shop")

    class Replaced(FailingEngine):
        def update_container(self, ref: str, changes: Mapping[str, Any]) -> None:
            """Replace it first."""
            shop.engine.remove_container("shop")
            shop.engine.run("shop", image="shop:2", start=False)
            super().update_container(ref, changes)

    before = {shop.id: str(shop.engine.inspect_container("shop")["State"]["StartedAt"])}
    with pytest.raises(RestoreError, match="somebody removed it while it was restored"):
        Restorer(Replaced(shop.engine), shop.store).resume_rest(taken, before)
    assert shop.engine.container("shop").status == "created"


def test_one_that_takes_a_needed_name_just_before_the_creation_makes_way(shop: Shop) -> None:
    """The restore is tried again, and renames it away."""
    shop.engine.run("tail", image="shop:1", Links=["/shop:/tail/till"])

    class Supervised(FailingEngine):
        """An engine on which somebody is faster, once."""

        def create_container(self, name: str, request: Mapping[str, Any], *, platform: str | None = None) -> str:
            if is_on_its_way_back and not intruders:
                intruders.append(shop.engine.run(name, image="shop:2", volumes={"orders": "/data"}))
            return super().create_container(name, request, platform=platform)

    intruders: list[str] = []
    is_on_its_way_back = False
    with rollback("shop", "tail", client=Supervised(shop.engine), store=shop.store, verify=None):
        shop.engine.remove_container("shop", force=True, volumes=True)
        is_on_its_way_back = True
        raise RollbackRequested
    assert intruders
    shop.check_restored()
