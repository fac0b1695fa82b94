"""`watch=`: an update on probation, which is rolled back if a container ends, is started again or turns unhealthy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docker_rollback import (
    BackupStore,
    ContainerBusyError,
    Progress,
    Rollback,
    Status,
    UnfinishedRollbackError,
    UpdateRejectedError,
    healthy,
    recover,
    rollback,
)
from docker_rollback._engine.port import Engine
from docker_rollback.testing import READING, FailingEngine, Killed
from tests.unit.shop import Shop, UpdateFailedError, timed
from tests.unit.town import Town

WATCH = 60.0
PROBE = {"Test": ["CMD", "true"]}
Program = Callable[[Any], None]


def watching(shop: Shop, engine: Engine | None = None, *names: str, **options: Any) -> Rollback:
    """Return a rollback with a probation, on the clock of the shop."""
    chosen: dict[str, Any] = {"verify": [healthy(stable_for=0.0)], "watch": WATCH, **options}
    names = names or ("shop",)
    return timed(*names, engine=engine or shop.engine, store=shop.store, clock=shop.clock, **chosen)


def exits(code: int) -> Program:
    """Return a program that ends half a minute after its start."""
    return lambda container: container.after(30.0, lambda: container.exit(code))


def turns_unhealthy(container: Any) -> None:
    """Fail three probes, half a minute after the start."""
    for _ in range(3):
        container.after(30.0, lambda: container.probe(1, "no route to db"))


def is_stopped_and_started(container: Any, shop: Shop) -> None:
    """Have somebody restart the container, half a minute after its first start."""

    def restart() -> None:
        shop.engine.on_start("shop:2", lambda _: None)
        shop.engine.stop_container("shop")
        shop.engine.start_container("shop")

    container.after(30.0, restart)


@pytest.mark.parametrize("policy", ["no", "always", "on-failure"])
def test_an_update_that_ends_on_probation_is_rolled_back(shop: Shop, policy: str) -> None:
    """Whoever restarts it: the very same container is back, with its data, and the outcome says when it failed."""
    shop.engine.on_start("shop:2", exits(3))
    tx = watching(shop)
    begun = shop.clock.monotonic()
    with pytest.raises(UpdateRejectedError) as rejected, tx:
        tx.replace("shop", "shop:2", host_config={"RestartPolicy": {"Name": policy}})
        shop.engine.volume("orders").write("/migrated", "half")
    assert rejected.value.container == "shop"
    assert 30.0 <= shop.clock.monotonic() - begun < 32.0
    assert tx.outcome.reason is not None
    assert (tx.status, tx.outcome.reason.step) == (Status.ROLLED_BACK, "watch")
    assert shop.engine.container("shop").id == shop.id
    shop.check_restored()


def test_an_update_that_turns_unhealthy_is_rolled_back(shop: Shop) -> None:
    """Its health check passed first."""
    shop.engine.add_image("shop:2", files={"/app": "version 2"}, volumes=["/cache"], healthcheck=PROBE)
    shop.engine.on_start("shop:2", turns_unhealthy)
    with pytest.raises(UpdateRejectedError, match="unhealthy") as rejected:
        watching(shop).update("shop", "shop:2")
    assert rejected.value.probe == "exit code 1, no route to db"
    shop.check_restored()


@pytest.mark.parametrize("verify", [[healthy(stable_for=0.0)], ()], ids=["checked", "unchecked"])
def test_an_update_that_is_started_again_or_removed_is_rolled_back(shop: Shop, verify: Any) -> None:
    """By somebody, and not by its engine."""
    shop.engine.on_start("shop:2", lambda container: is_stopped_and_started(container, shop))
    with pytest.raises(UpdateRejectedError, match="it was restarted"):
        watching(shop, verify=verify).update("shop", "shop:2")
    shop.check_restored()
    shop.engine.on_start(
        "shop:2", lambda container: container.after(30.0, lambda: shop.engine.remove_container("shop", force=True))
    )
    with pytest.raises(UpdateRejectedError, match="it is gone"):
        watching(shop, verify=verify).update("shop", "shop:2")
    shop.check_restored()


def test_an_update_that_ended_before_the_first_look_is_rolled_back(shop: Shop) -> None:
    """Without a check, nobody has seen by then that it ended."""
    shop.engine.on_start("shop:2", lambda container: container.exit(3))
    with pytest.raises(UpdateRejectedError, match="exit code 3"):
        watching(shop, verify=()).update("shop", "shop:2", host_config={"RestartPolicy": {"Name": "no"}})
    shop.check_restored()


def test_a_good_update_is_committed_after_its_probation(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Not before; log and outcome tell of it, and only then the old container goes."""
    seen: list[tuple[Status, list[str]]] = []
    tx = watching(shop)

    def look(container: Any) -> None:
        container.after(59.0, lambda: seen.append((tx.status, shop.engine.list_containers())))

    shop.engine.on_start("shop:2", look)
    begun = shop.clock.monotonic()
    with caplog.at_level(logging.INFO, "docker_rollback"):
        tx.update("shop", "shop:2")
    assert 60.0 <= shop.clock.monotonic() - begun < 61.0
    assert (tx.status, [status for status, _ in seen]) == (Status.COMMITTED, [Status.UPDATING])
    assert shop.id in seen[0][1]
    assert shop.id not in shop.engine.list_containers()
    assert "shop: on probation for 60 s" in caplog.text
    assert [step.step for step in tx.outcome.steps][-3:] == ["verify", "watch", "finish"]
    assert [step.seconds >= 60.0 for step in tx.outcome.steps if step.step == "watch"] == [True]
    shop.check_nothing_left()


def test_without_a_probation_nobody_waits(shop: Shop) -> None:
    """It is off by default."""
    shop.engine.on_start("shop:2", exits(3))
    tx = watching(shop, watch=None)
    tx.update("shop", "shop:2")
    assert tx.status is Status.COMMITTED
    assert "watch" not in [step.step for step in tx.outcome.steps]


@pytest.mark.parametrize("policy", ["no", "on-failure"])
def test_a_job_may_end_on_probation(shop: Shop, policy: str) -> None:
    """It ends with 0, and nobody starts it again; of a group, the others are watched on."""
    shop.engine.run("job", image="shop:1", restart=policy)
    tx = watching(shop, None, "job", "shop")
    begun = shop.clock.monotonic()
    with tx:
        shop.engine.container("job").after(30.0, lambda: shop.engine.container("job").exit(0))
    assert tx.status is Status.COMMITTED
    assert shop.clock.monotonic() - begun >= 60.0


def test_nothing_is_asked_of_what_did_not_run(shop: Shop) -> None:
    """A container that was stopped before may be stopped on probation."""
    shop.engine.stop_container("shop")
    with watching(shop) as tx:
        pass
    assert tx.status is Status.COMMITTED
    assert shop.engine.container("shop").status == "exited"


def test_what_was_unhealthy_at_first_does_not_turn_unhealthy(shop: Shop) -> None:
    """Whoever asks for no check has an unhealthy container accepted, on probation too."""
    shop.engine.run("sick", image="shop:1", healthcheck=PROBE)
    with watching(shop, None, "sick", verify=()) as tx:
        for _ in range(3):
            shop.engine.container("sick").probe(1)
        assert shop.engine.container("sick").health == "unhealthy"
    assert tx.status is Status.COMMITTED


def test_one_of_a_group_takes_all_back(shop: Shop) -> None:
    """Also those that are well; each is watched at the same time."""
    shop.engine.run("db", image="shop:1", volumes={"tables": "/tables"})
    db = shop.engine.container("db").id
    shop.engine.on_start("db", exits(3))
    tx = watching(shop, None, "db", "shop")
    with pytest.raises(UpdateRejectedError) as rejected, tx:
        tx.replace("shop", "shop:2")
        tx.replace("db", "shop:2")
    assert rejected.value.container == "db"
    assert (shop.engine.container("db").id, shop.engine.container("shop").id) == (db, shop.id)
    shop.check_equal()


def test_a_project_is_watched_as_the_update_left_it(town: Town) -> None:
    """What the update added is on probation as well, and goes with the rollback."""
    with pytest.raises(UpdateRejectedError) as rejected, town.rollback(watch=0.5, verify=None) as tx:
        town.engine.on_start("shop-search-1", lambda container: container.exit(3))
        town.update()
    assert rejected.value.container == "shop-search-1"
    assert tx.status is Status.ROLLED_BACK
    town.check_restored()


def test_a_limit_to_the_downtime_is_not_about_the_probation(shop: Shop) -> None:
    """The service runs meanwhile, so that it is not down."""
    tx = watching(shop, max_downtime=30.0)
    tx.update("shop", "shop:2")
    assert tx.status is Status.COMMITTED
    assert max(down.capture + down.update for down in tx.outcome.downtime.values()) < 30.0


def test_the_old_container_may_be_pruned_meanwhile(shop: Shop) -> None:
    """It is stopped for as long as the probation lasts; a rollback recreates it from the backup."""

    def prune(container: Any) -> None:
        container.after(20.0, lambda: shop.engine.remove_container(shop.id))
        container.after(30.0, lambda: container.exit(3))

    shop.engine.on_start("shop:2", prune)
    with pytest.raises(UpdateRejectedError):
        watching(shop).update("shop", "shop:2")
    assert shop.engine.container("shop").id != shop.id
    shop.check_restored()


def test_others_are_kept_out_until_it_is_over(shop: Shop) -> None:
    """The containers are busy, and a block that raises is not put on probation."""

    def disturb(container: Any) -> None:
        def enter() -> None:
            with pytest.raises(ContainerBusyError), shop.rollback():
                pass

        container.after(30.0, enter)

    shop.engine.on_start("shop:2", disturb)
    assert watching(shop).update("shop", "shop:2").status is Status.COMMITTED
    begun = shop.clock.monotonic()
    with pytest.raises(UpdateFailedError), watching(shop) as tx:
        raise UpdateFailedError
    assert tx.status is Status.ROLLED_BACK
    assert shop.clock.monotonic() - begun < 60.0


def test_an_interruption_rolls_back(shop: Shop) -> None:
    """Ctrl-C on probation is a no."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    shop.engine.on_start("shop:2", lambda container: container.after(30.0, interrupt))
    tx = watching(shop)
    with pytest.raises(KeyboardInterrupt):
        tx.update("shop", "shop:2")
    assert tx.status is Status.ROLLED_BACK
    shop.check_restored()


def test_a_death_on_probation_is_rolled_back_by_recovery(tmp_path: Path) -> None:
    """At every call: the update was good so far and was not committed. What it had is kept, and a block has to ask."""

    def begin(number: int, at: int | None) -> tuple[Shop, FailingEngine]:
        shop = Shop(BackupStore(tmp_path / str(number)))
        return shop, FailingEngine(shop.engine, at=at, kill=True, verbs=READING)

    shop, counting = begin(0, None)
    with watching(shop, counting, watch=3.0) as tx:
        tx.replace("shop", "shop:2")
        left = counting.count
    last = max(call.number or 0 for call in counting.calls if call.verb == "inspect_container")
    first = next(
        call.number for call in counting.calls if (call.number or 0) > left and call.verb == "inspect_container"
    )
    assert first is not None
    watched = 0
    for at in range(first, last + 1):
        shop, mortal = begin(at, at)
        with pytest.raises(Killed), watching(shop, mortal, watch=3.0) as tx:
            tx.replace("shop", "shop:2")
            shop.engine.volume("orders").write("/migrated", "half")
        if shop.store.journal.names() == [] or tx.status is Status.COMMITTED:
            continue
        assert tx.outcome.status is Status.ROLLING_BACK, mortal.story()
        watched += 1
        if watched == 1:
            with pytest.raises(UnfinishedRollbackError), shop.rollback():
                pass
        (recovered,) = recover(client=shop.engine, store=shop.store.path)
        assert (recovered.outcome, recovered.kept is not None) == ("rolled back", True), mortal.story()
        assert shop.engine.container("shop").id == shop.id, mortal.story()
        shop.check_restored()
    assert watched > 3


def test_a_probation_is_one_of_the_plain_arguments(shop: Shop) -> None:
    """`rollback` passes it on, and the news say that it has begun."""
    news: list[Progress] = []
    shop.engine.on_start("shop:2", lambda container: container.exit(3))
    with (
        pytest.raises(UpdateRejectedError, match="exit code 3"),
        rollback("shop", client=shop.engine, store=shop.store, verify=None, watch=0.5, progress=news.append) as tx,
    ):
        tx.replace("shop", "shop:2", host_config={"RestartPolicy": {"Name": "no"}})
    told = [(one.step, one.subject) for one in news]
    assert told.index(("verify", "shop")) < told.index(("watch", "shop")) < len(told) - 1
    shop.check_restored()


def test_a_look_at_a_paused_container_goes_on(shop: Shop) -> None:
    """It was paused before; whoever pauses one that ran has it rolled back."""
    shop.engine.pause_container("shop")
    with watching(shop) as tx:
        pass
    assert tx.status is Status.COMMITTED
    shop.engine.unpause_container("shop")
    shop.engine.on_start("shop:2", lambda one: one.after(30.0, lambda: shop.engine.pause_container("shop")))
    with pytest.raises(UpdateRejectedError, match="it is paused"):
        watching(shop).update("shop", "shop:2")
