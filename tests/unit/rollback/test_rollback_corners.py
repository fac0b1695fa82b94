"""Corners of a rollback: failures of every part of it, and states that an update may leave behind."""

from __future__ import annotations

from typing import Any

import pytest

from docker_rollback import (
    CheckedContainer,
    ContainerBusyError,
    ContainerSnapshotter,
    EngineError,
    Restorer,
    Rollback,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UpdateRejectedError,
    backup,
    healthy,
    recover,
    restore,
    rollback,
)
from docker_rollback._engine.port import ContainerFilter
from docker_rollback.reports import ContainerState
from docker_rollback.testing import FailingEngine, FakeClock
from tests.unit.shop import Shop, parts


def test_nobody_starts_on_a_volume_that_could_not_be_filled(shop: Shop) -> None:
    """Two containers share the volume; where its fill fails, neither is started on the failed update's data."""
    shop.engine.run("reader", image="shop:1", volumes={"orders": "/data"})
    counting = FailingEngine(shop.engine, error=EngineError("exec", "no"), verbs={"exec"})
    with pytest.raises(RollbackFailedError), rollback("shop", "reader", client=counting, store=shop.store, verify=None):
        shop.engine.volume("orders").write("/table", "migrated")
        shop.engine.program("tar", lambda _: 2)
        raise LookupError
    assert shop.engine.list_containers(ContainerFilter(running=True)) == []


@pytest.mark.parametrize("status", ["dead", "removing"])
def test_a_container_whose_removal_was_cut_off_is_recreated(shop: Shop, status: str) -> None:
    """An engine that died while an update removed the container leaves something that can only be removed."""
    with shop.rollback(verify=None):
        shop.engine.stop_container("shop")
        shop.engine.container("shop")._container.status = status
        raise RollbackRequested
    assert shop.engine.container("shop").id != shop.id
    shop.check_restored()


def test_whoever_was_there_before_goes_on_afterwards(shop: Shop) -> None:
    """A reader that shares the volume rests while it is filled; its restart policy and its state are its own."""
    reader = shop.engine.run("reader", image="shop:1", volumes={"orders": "/data:ro"}, restart="always")
    with shop.rollback(verify=None):
        shop.break_it()
        raise RollbackRequested
    assert shop.engine.container("reader").id == reader
    assert shop.engine.container("reader").status == "running"
    assert shop.engine.inspect_container("reader")["HostConfig"]["RestartPolicy"]["Name"] == "always"
    shop.check_restored()


def test_data_that_no_backup_holds_is_not_removed(shop: Shop) -> None:
    """A snapshot of the container alone says that its volumes are missing, and its restore leaves them there."""
    snapshot = ContainerSnapshotter(shop.engine, shop.store).snapshot("shop")
    cache = shop.engine.anonymous_volume("shop", "/cache")
    assert {gap.what for gap in snapshot.not_covered} == {f"volume {cache} of shop", "volume orders of shop"}
    shop.engine.container("shop").write("/etc/own", "changed")
    Restorer(shop.engine, shop.store).restore(shop.store.list()[0])
    assert shop.engine.container("shop").id != shop.id
    assert shop.engine.volume(cache).read("/warm") == b"yes"
    assert cache in shop.engine.list_volumes()


def test_a_recreated_container_is_still_busy(shop: Shop) -> None:
    """The update gives the name another id; whoever comes now, by name, has to wait all the same."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    with shop.rollback(verify=None):
        shop.engine.remove_container("shop", force=True)
        shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
        with pytest.raises(ContainerBusyError), shop.rollback():
            pytest.fail("the block was entered")
        with pytest.raises(ContainerBusyError):
            restore(taken, client=shop.engine, store=shop.store)


def test_a_backup_that_cannot_be_sealed_leaves_the_service_running(shop: Shop) -> None:
    """Also where the service was to stay at rest for the update."""
    for number in range(100):
        shop.engine.container("shop").write(f"/layer-{number}", "of its own")
    # The first export is that of the original image, before the stop. The second one is that of many changes.
    failing = FailingEngine(shop.engine, at=2, verbs={"save_image"})
    with pytest.raises(EngineError), shop.rollback(failing, resume=False):
        pytest.fail("the block was entered")
    assert shop.engine.container("shop").status == "running"


def test_a_container_that_was_paused_by_the_update_is_rejected(shop: Shop) -> None:
    """It does not run, and nobody waits for ever."""
    clock = FakeClock()
    container = CheckedContainer(shop.engine, "shop", ContainerState("running"), timer=clock)
    shop.engine.pause_container("shop")
    with pytest.raises(UpdateRejectedError, match="paused"):
        healthy()(container)


def test_a_failure_to_put_the_original_back_is_no_failure(shop: Shop) -> None:
    """There is another way: an equal container from the snapshot."""
    for verb in ("commit_container", "rename_container", "update_container", "connect_network"):
        taken = backup("shop", client=shop.engine, store=shop.store)
        shop.engine.rename_container("shop", "shop-old")
        shop.engine.disconnect_network("front", "shop-old")
        failing = FailingEngine(shop.engine, at=1, verbs={verb})
        try:
            restore(taken, client=failing, store=shop.store)
        except EngineError:
            assert verb in ("rename_container", "update_container"), "what is needed for the other way, too"
            restore(taken, client=shop.engine, store=shop.store)
        shop.check_equal()


def test_what_cannot_be_tidied_up_does_not_undo_a_backup(shop: Shop) -> None:
    """The backup is there; the name of an image that is left over in the engine is a line in the log."""
    failing = FailingEngine(shop.engine, verbs={"remove_image"}, at=2)
    taken = backup("shop", client=failing, store=shop.store)
    assert [found.id for found in shop.store.list()] == [taken.id]


def test_nothing_shows_secrets_by_accident(shop: Shop) -> None:
    """The inspections in a backup hold passwords, and a value is easily printed."""
    shop.engine.run("secret", image="shop:1", env=["PASSWORD=hunter2"])
    assert "hunter2" not in repr(backup("secret", client=shop.engine, store=shop.store))


class Interrupting(FailingEngine):
    """An engine during whose first starts of a container somebody presses Ctrl-C."""

    presses = 1

    def start_container(self, ref: str) -> None:
        """Be interrupted, or start it."""
        if self.presses:
            self.presses -= 1
            raise KeyboardInterrupt
        super().start_container(ref)


def test_an_interruption_does_not_keep_a_service_down(shop: Shop) -> None:
    """Ctrl-C while the service is being started again comes out after it was."""
    engine = Interrupting(shop.engine)
    engine.presses = 3
    with pytest.raises(KeyboardInterrupt):
        backup("shop", client=engine, store=shop.store)
    assert shop.engine.container("shop").status == "running"


def test_an_interrupted_rollback_says_how_to_go_on(shop: Shop) -> None:
    """A second Ctrl-C comes out at once, with the call that finishes the job; and that call does."""
    engine = Interrupting(shop.engine)
    engine.presses = 0
    with pytest.raises(KeyboardInterrupt) as interrupted, shop.rollback(engine, verify=None) as tx:
        shop.break_it()
        engine.presses = 1
        raise KeyboardInterrupt
    assert f"docker_rollback.recover(store='{shop.store.path}')" in interrupted.value.__notes__[-1]
    (recovered,) = recover(client=shop.engine, store=shop.store)
    assert (recovered.operation, recovered.outcome) == (tx.backup.id, "rolled back")
    shop.check_restored()


def test_an_exception_that_refuses_notes_comes_out(shop: Shop) -> None:
    """Whatever the body raises is the caller's."""

    class Stubborn(Exception):  # noqa: N818  (what it is called is the point of it)
        def add_note(self, note: str) -> None:
            raise TypeError(note)

    with pytest.raises(Stubborn), shop.rollback() as tx:
        shop.break_it()
        raise Stubborn
    assert tx.status is Status.ROLLED_BACK
    shop.check_restored()


def test_a_volume_without_a_container_does_not_stay(shop: Shop) -> None:
    """An update that removes the container and leaves its anonymous volume: its data is in the new one."""
    old = shop.engine.anonymous_volume("shop", "/cache")
    with shop.rollback(verify=None):
        shop.engine.remove_container("shop", force=True)
        raise RollbackRequested
    assert shop.engine.anonymous_volume("shop", "/cache") != old
    assert old not in shop.engine.list_volumes()
    shop.check_restored()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"quiesce": "stopp"}, "quiesce is one of 'stop', 'pause', 'none', not 'stopp'"),
        ({"shared": "Refuse"}, "shared is one of"),
        ({"way": "helpr"}, "way is one of"),
        ({"verify": healthy}, "returns a check; call it"),
        ({"verify": "healthy"}, "check"),
        ({"keep": -1}, "keep is not negative"),
        ({"store": ""}, "empty path"),
    ],
)
def test_a_wrong_argument_is_found_at_once(shop: Shop, arguments: dict[str, Any], words: str) -> None:
    """Nothing is entered, nothing is stopped."""
    with pytest.raises((ValueError, TypeError), match=words):
        rollback("shop", **{"client": shop.engine, "store": shop.store, **arguments})


def test_a_rollback_is_of_something(shop: Shop) -> None:
    """The parts of one can be put together by hand; then too it names a container or a project."""
    built = parts(shop.engine, shop.store, shop.clock)
    with pytest.raises(ValueError, match="at least one container"):
        Rollback((), built)
    Rollback((), built, project="shop")


@pytest.mark.parametrize("container", [None, b"web", ["web"]])
def test_a_container_is_named_by_a_name(shop: Shop, container: Any) -> None:
    """The error says what was given."""
    with pytest.raises(TypeError, match=r"a name, an id or an object|several containers as arguments of their own"):
        rollback(container, client=shop.engine, store=shop.store)
