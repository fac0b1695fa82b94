"""The whole of a rollback, over an engine in memory: what comes out of the block, and what stands afterwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from docker_rollback import (
    BackupStore,
    CheckedContainer,
    ContainerBusyError,
    ContainerNotFoundError,
    Keep,
    Progress,
    RollbackFailedError,
    RollbackRequested,
    Status,
    StoreError,
    UnsupportedContainerError,
    UpdateRejectedError,
    backup,
    compare,
    restore,
    rollback,
)
from docker_rollback.errors import RestoreError
from docker_rollback.testing import FakeEngine
from tests.unit.shop import Shop, UpdateFailedError


@pytest.mark.parametrize("raised", [UpdateFailedError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_what_the_body_raises_comes_out_untouched(shop: Shop, raised: BaseException) -> None:
    """The same object leaves the block, with a note that says what was rolled back, and everything is as it was."""
    with pytest.raises(type(raised)) as caught, shop.rollback() as tx:
        shop.break_it()
        raise raised
    assert caught.value is raised
    assert tx.status is Status.ROLLED_BACK
    assert f"shop rolled back to backup {tx.backup.id}" in raised.__notes__[0]
    shop.check_restored()


def test_a_rejected_update_is_rolled_back(shop: Shop) -> None:
    """An update that leaves its container dead raises, and everything is as it was."""
    shop.engine.on_start("shop:2", lambda container: container.exit(4))
    with pytest.raises(UpdateRejectedError, match="exit code 4") as rejected, shop.rollback() as tx:
        shop.engine.remove_container("shop", force=True)
        shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
    assert tx.status is Status.ROLLED_BACK
    assert "rolled back" in rejected.value.__notes__[0]
    shop.check_restored()


def test_whatever_a_check_raises_rejects_the_update(shop: Shop) -> None:
    """A check of one's own may raise anything; it becomes the cause."""
    calls = []

    def check(container: CheckedContainer) -> None:
        calls.append(container.name)
        if len(calls) == 2:
            raise LookupError("no such page")

    with pytest.raises(UpdateRejectedError, match="LookupError: no such page") as rejected, shop.rollback(verify=check):
        shop.break_it()
    assert isinstance(rejected.value.__cause__, LookupError)
    shop.check_restored()
    assert calls == ["shop"] * 3, "before the update, after it, and after the rollback"


def test_no_more_is_asked_after_a_rollback_than_held_before(shop: Shop) -> None:
    """A check that did not hold on entry cannot make the rollback fail."""

    def check(_: CheckedContainer) -> None:
        raise LookupError("never well")

    with pytest.raises(UpdateRejectedError), shop.rollback(verify=check) as tx:
        pass
    assert tx.status is Status.ROLLED_BACK


def test_a_rollback_on_purpose_is_silent(shop: Shop) -> None:
    """`RollbackRequested` does not leave the block."""
    with shop.rollback() as tx:
        shop.break_it()
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    shop.check_restored()


def test_a_good_update_stays(shop: Shop) -> None:
    """Nothing is put back, the backup stays, and nothing of ours is left over in the engine."""
    with shop.rollback() as tx:
        assert tx.status is Status.UPDATING
        shop.engine.volume("orders").write("/table", "more rows")
    assert tx.status is Status.COMMITTED
    assert shop.engine.volume("orders").read("/table") == b"more rows"
    assert [found.id for found in shop.store.list()] == [tx.backup.id]
    assert shop.engine.list_containers() == [shop.id]
    assert not shop.engine.has_image(tx.backup.containers[0].image.tag)


def test_nothing_happens_before_the_block_is_entered(shop: Shop) -> None:
    """A Rollback is inert: built and thrown away, it has asked nobody anything."""
    tx = shop.rollback()
    assert tx.status is Status.NOT_STARTED
    with pytest.raises(RuntimeError, match="no backup"):
        _ = tx.backup
    assert not shop.store.path.exists()


def test_a_rollback_is_good_for_one_block(shop: Shop) -> None:
    """A second one would roll back to the moment of the first."""
    tx = shop.rollback()
    with tx:
        pass
    with pytest.raises(RuntimeError, match="can be entered once"), tx:
        pytest.fail("the block was entered")


def test_at_least_one_container_is_named(store: BackupStore) -> None:
    """A rollback of nothing is a mistake."""
    with pytest.raises(ValueError, match="at least one container"):
        rollback(client=FakeEngine(), store=store)


def test_a_check_beforehand_touches_nothing(shop: Shop) -> None:
    """It says what would be covered and by which way, and what would not."""
    shop.engine.host.write("/etc/shop", "x")
    shop.engine.remove_container("shop", force=True)
    shop.engine.run("shop", image="shop:1", volumes={"orders": "/data", "/etc/shop": "/conf"}, Tmpfs={"/run": ""})
    report = shop.rollback().check()
    assert set(report.volumes) == {"orders", shop.engine.anonymous_volume("shop", "/cache")}
    assert set(report.volumes.values()) == {"helper"}
    assert sorted(gap.what for gap in report.not_covered) == ["bind /etc/shop at /conf", "tmpfs /run"]
    assert report.refused == {}
    assert shop.store.list() == []


def test_a_missing_container_is_named(shop: Shop) -> None:
    """Nothing was touched."""
    with (
        pytest.raises(ContainerNotFoundError, match="nobody"),
        rollback("nobody", client=shop.engine, store=shop.store),
    ):
        pytest.fail("the block was entered")


def test_a_container_in_a_rollback_is_busy(shop: Shop) -> None:
    """Two at once would put back each other's states."""
    with shop.rollback(), pytest.raises(ContainerBusyError, match="shop"), shop.rollback():
        pytest.fail("the block was entered")
    with shop.rollback() as again:
        pass
    assert again.status is Status.COMMITTED


@pytest.mark.parametrize("label", ["com.docker.swarm.task.id", "io.kubernetes.pod.uid"])
def test_what_others_orchestrate_is_refused(shop: Shop, label: str) -> None:
    """Whoever runs it would make it anew at once."""
    shop.engine.run("task", image="shop:1", labels={label: "x"})
    with pytest.raises(UnsupportedContainerError, match="task"), rollback("task", client=shop.engine, store=shop.store):
        pytest.fail("the block was entered")


def test_a_volume_that_others_write_is_refused(shop: Shop) -> None:
    """Its archive would be torn, and its restore would pull the ground from under them."""
    shop.engine.run("reader", image="shop:1", volumes={"orders": "/data:ro"})
    with shop.rollback():
        pass
    shop.engine.run("writer", image="shop:1", volumes={"orders": "/data"})
    with pytest.raises(UnsupportedContainerError, match="writer"), shop.rollback():
        pytest.fail("the block was entered")


def test_the_container_runs_when_the_body_starts(shop: Shop) -> None:
    """The service is down for the capture alone; `resume=False` leaves it down."""
    with shop.rollback():
        assert shop.engine.container("shop").status == "running"
    with shop.rollback(resume=False, verify=None):
        assert shop.engine.container("shop").status == "exited"
        shop.engine.start_container("shop")


@pytest.mark.parametrize("state", ["paused", "exited", "created"])
def test_the_prior_state_is_kept(shop: Shop, state: str) -> None:
    """What did not run is not started, what was paused is paused, also after a rollback."""
    shop.engine.run("other", image="shop:1", start=state != "created")
    if state == "paused":
        shop.engine.pause_container("other")
    if state == "exited":
        shop.engine.stop_container("other")
    with rollback("other", client=shop.engine, store=shop.store, verify=None):
        assert shop.engine.container("other").status == state
        raise RollbackRequested
    assert shop.engine.container("other").status == state
    with rollback("other", client=shop.engine, store=shop.store, verify=None):
        shop.engine.remove_container("other", force=True)
        raise RollbackRequested
    assert shop.engine.container("other").status == ("paused" if state == "paused" else "created")


def test_a_container_that_a_stop_would_remove_is_paused(shop: Shop) -> None:
    """A `--rm` container survives its own backup, and comes back with `--rm`."""
    shop.engine.run("job", image="shop:1", volumes={"work": "/data"}, auto_remove=True)
    identity = shop.engine.container("job").id
    with rollback("job", client=shop.engine, store=shop.store, verify=None):
        assert shop.engine.container("job").id == identity
        shop.engine.stop_container("job")
        raise RollbackRequested
    assert shop.engine.inspect_container("job")["HostConfig"]["AutoRemove"]
    assert shop.engine.container("job").status == "running"


def test_the_same_container_comes_back_where_it_can(shop: Shop) -> None:
    """Renamed, stopped, detached from its network: all of it is undone, and the id is the same."""
    with shop.rollback(verify=None):
        shop.engine.rename_container("shop", "shop-old")
        shop.engine.disconnect_network("front", "shop-old")
        shop.engine.stop_container("shop-old")
        shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
        raise RollbackRequested
    assert shop.engine.container("shop").id == shop.id
    shop.check_restored()


def test_a_changed_writable_layer_is_not_kept(shop: Shop) -> None:
    """Where the update wrote into the container itself, an equal one from the snapshot takes its place."""
    shop.engine.container("shop").write("/etc/own", "mine")
    with shop.rollback(verify=None):
        shop.engine.container("shop").write("/etc/own", "other")
        raise RollbackRequested
    assert shop.engine.container("shop").id != shop.id
    assert shop.engine.container("shop").read("/etc/own") == b"mine"
    standing = shop.engine.inspect_container("shop")
    assert standing["Config"]["Image"] == standing["Image"] != shop.before["Image"]


def test_old_backups_go(shop: Shop) -> None:
    """`keep` counts the backups of the same containers, the new one included."""
    for _ in range(4):
        with shop.rollback(keep=2, verify=None):
            pass
    assert len(shop.store.list()) == 2
    with shop.rollback(keep=None, verify=None):
        pass
    assert len(shop.store.list()) == 3


def test_backups_go_by_age_too(shop: Shop) -> None:
    """`keep` takes an age, or both by `Keep`; what is neither is refused before anything is touched."""
    store = BackupStore(shop.store.path, clock=lambda: datetime.now(UTC) + timedelta(days=9))
    shop.store = store
    for keep, left in ((timedelta(days=10), 1), (Keep(count=2, age=timedelta(days=1)), 2), (timedelta(days=1), 1)):
        with shop.rollback(keep=keep, verify=None):
            pass
        assert len(store.ids()) == left
    for wrong in (-1, timedelta(days=-1), "3", 1.5):
        with pytest.raises((ValueError, TypeError), match="keep"):
            shop.rollback(keep=wrong)


def test_another_engines_backups_are_left_alone(shop: Shop) -> None:
    """Two engines with a container of one name do not thin out each other's backups in a store that they share."""
    backup("shop", client=shop.engine, store=shop.store)
    other = Shop(shop.store, seed="other")
    for _ in range(2):
        with other.rollback(keep=1, verify=None):
            pass
    assert sorted(found.engine.identity for found in shop.store.list()) == ["fake:", "fake:other"]


def test_an_image_left_in_the_engine_is_forgotten_with_its_backup(shop: Shop) -> None:
    """With `export_image=False` the engine holds an image for each backup that is kept, and for no other."""
    tags = []
    for _ in range(3):
        with shop.rollback(keep=1, verify=None, export_image=False) as tx:
            assert not tx.backup.durable
            tags.append(tx.backup.containers[0].image.tag)
    assert [shop.engine.has_image(tag) for tag in tags] == [False, False, True]


def test_a_backup_restores_into_an_engine_that_never_saw_it(shop: Shop) -> None:
    """The store alone is enough: image, volumes, networks, container."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    other = FakeEngine()
    assert restore(taken.id, client=other, store=shop.store) == ["shop"]
    shop.engine = other
    assert [found.path for found in compare(shop.before, other.inspect_container("shop"))] == []
    assert other.volume("orders").read("/table") == b"rows"


def test_a_backup_that_is_being_restored_stays(shop: Shop) -> None:
    """Whoever prunes or deletes while a restore is at work leaves its backup alone; afterwards it may go."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    backup("shop", client=shop.engine, store=shop.store)
    spared = []

    def meddle(news: Progress) -> None:
        if news.subject.startswith("remove the container renamed away"):
            return  # that needs the backup no more
        other = BackupStore(shop.store.path)
        spared.append(dict(other.prune(keep=1).spared))
        with pytest.raises(StoreError, match="unfinished rollback needs it"):
            other.delete(taken.id)

    shop.break_it()
    restore(taken.id, client=shop.engine, store=shop.store, progress=meddle)
    shop.check_restored()
    assert len(spared) >= 8
    assert spared == [{taken.id: "an unfinished rollback needs it"}] * len(spared)
    assert shop.store.prune(keep=1).removed == (taken.id,)


def test_a_restore_does_not_pull_the_ground_from_under_others(shop: Shop) -> None:
    """A running container outside the backup that uses a volume of it stops the restore before anything is touched."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    shop.engine.volume("orders").write("/table", "later")
    shop.engine.run("other", image="shop:1", volumes={"orders": "/data"})
    with pytest.raises(RestoreError, match="other"):
        restore(taken, client=shop.engine, store=shop.store)
    assert shop.engine.volume("orders").read("/table") == b"later"


def test_an_intruder_of_the_failed_update_is_stopped(shop: Shop) -> None:
    """A second container that the update started on the same volume does not keep the rollback from working."""
    with shop.rollback(verify=None):
        shop.engine.run("shop-new", image="shop:2", volumes={"orders": "/data"}, restart="always")
        raise RollbackRequested
    assert shop.engine.container("shop-new").status == "exited"
    shop.check_restored()


def test_a_failed_rollback_loses_no_error(shop: Shop) -> None:
    """The body's exception is the cause, every failure is there, the backup stays, the message says how to go on."""
    with pytest.raises(RollbackFailedError) as failed, shop.rollback() as tx:
        digest = tx.backup.volumes[0].base.digest.removeprefix("sha256:")
        (shop.store.path / "blobs" / "sha256" / digest).unlink()
        raise UpdateFailedError("first")
    error = failed.value
    assert tx.status is Status.FAILED
    assert isinstance(error.__cause__, UpdateFailedError)
    assert [type(failure).__name__ for failure in error.failures.exceptions] == ["CorruptBackupError"]
    assert error.backup_id == tx.backup.id
    assert f"docker_rollback.restore({tx.backup.id!r}, store={str(shop.store.path)!r})" in str(error)
    assert shop.engine.container("shop").status == "running", "nothing was touched"


def test_every_container_is_tried(shop: Shop) -> None:
    """One that cannot be restored does not keep the others from it."""
    shop.engine.add_image("db:1", files={"/db": "x"})
    shop.engine.run("db", image="db:1", volumes={"tables": "/data"})
    shop.engine.volume("tables").write("/t", "1")

    with (
        pytest.raises(RollbackFailedError) as failed,
        rollback("db", "shop", client=shop.engine, store=shop.store, verify=None),
    ):
        shop.break_it()
        shop.engine.remove_container("db", force=True)
        shop.engine.on_start("db", lambda container: container.exit(1))
        raise UpdateFailedError
    assert "db" in str(failed.value.failures.exceptions[0])
    shop.check_equal()


def test_the_names_of_images_do_not_pile_up(shop: Shop) -> None:
    """A container that stands on a committed image keeps that name alone, and the next rollback takes it away."""
    tags = []
    for number in range(3):
        shop.engine.container("shop").write("/etc/own", f"{number}")
        with shop.rollback(verify=None) as tx:
            tags.append(tx.backup.containers[0].image.tag)
            shop.engine.remove_container("shop", force=True)
            raise RollbackRequested
        assert [shop.engine.has_image(tag) for tag in tags] == [False] * number + [True]
    with shop.rollback(verify=None):
        shop.engine.remove_container("shop", force=True)
        shop.engine.run("shop", image="shop:2")
    assert not any(shop.engine.has_image(tag) for tag in tags)


def test_progress_is_told_step_by_step(shop: Shop) -> None:
    """A listener hears what is done to what, in order, and how far the data is."""
    news: list[Progress] = []
    with shop.rollback(progress=news.append, verify=None):
        capture = [(one.step, one.subject) for one in news if one.step != "data"]
        assert capture == [(step, "shop") for step in ("store", "quiesce", "capture", "resume", "store")]
        assert any(one.subject == "orders" and one.done for one in news)
        raise RollbackRequested
    told = [(one.step, one.subject) for one in news]
    assert told.index(("restore", "fill volume 'orders'")) < told.index(("verify again", "shop"))


def test_a_listener_that_raises_does_no_harm(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody's display keeps a service down; the log says what became of it, once."""
    calls = []

    def listen(news: Progress) -> None:
        calls.append(news)
        raise LookupError("no terminal")

    with shop.rollback(progress=listen) as tx:
        pass
    assert tx.status is Status.COMMITTED
    assert len(calls) == 1
    assert "no terminal" in caplog.text


def test_a_container_of_an_image_without_a_tag_is_made_anew_by_that_name(store: BackupStore) -> None:
    """The name leads to the update's image by then; it is led back, and the container is created by it."""
    engine = FakeEngine()
    engine.add_image("app", files={"/app": "old"})
    engine.run("web", image="app")
    new = engine.add_image("new:1", files={"/app": "new"})
    with pytest.raises(UpdateFailedError), rollback("web", client=engine, store=store):
        engine.tag_image(new, "app:latest")
        engine.remove_container("web", force=True)
        raise UpdateFailedError("no")
    assert engine.inspect_container("web")["Config"]["Image"] == "app"
    assert engine.container("web").read("/app") == b"old"
    assert engine.inspect_image("app")["Id"] == engine.inspect_container("web")["Image"] != new
