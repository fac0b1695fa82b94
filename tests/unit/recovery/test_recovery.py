"""Cut off anywhere: what a dead process left is finished, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from docker_rollback import (
    BackupStore,
    ContainerBusyError,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UnfinishedRollbackError,
    backup,
    compare,
    recover,
    restore,
    rollback,
)
from docker_rollback._recovery.operation_record import Record
from docker_rollback._recovery.operations import Operations
from docker_rollback._store.files import Disk
from docker_rollback.reports import Recovered
from docker_rollback.testing import FailingEngine, FakeEngine, Killed
from tests.unit.shop import Shop


class MortalDisk(Disk):
    """A disk whose process dies at one of its effects: before it, and from then on at every one."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.count = 0

    def _pass(self) -> None:
        self.count += 1
        if self.at is not None and self.count >= self.at:
            raise Killed

    def write(self, fd: int, data: bytes | memoryview) -> None:
        """Write, or die."""
        self._pass()
        super().write(fd, data)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, or die."""
        self._pass()
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        """Remove, or die."""
        self._pass()
        super().remove(path)


def recovered(shop: Shop, engine: FailingEngine | None = None) -> tuple[Recovered, ...]:
    """Recover as a new process would: with nothing but the engine and the path of the store."""
    return recover(client=engine or shop.engine, store=shop.store.path)


def check_clean(shop: Shop) -> None:
    """Assert that nothing of ours is in the engine or noted in the store."""
    shop.check_nothing_left()
    assert shop.store.journal.names() == []
    assert [name for name in shop.engine.list_volumes() if "docker-rollback" in name] == []
    standing = shop.engine.inspect_container("shop")["Image"]
    for image, names in shop.engine.image_names().items():
        # A container that was made anew stands on the image of its backup.
        ours = [name for name in names if name.startswith("docker-rollback:") and image != standing]
        assert names, f"image {image} has lost its names"
        assert ours == []


def die_in_the_body(shop: Shop, update: Callable[[], None]) -> None:
    """Let a process die in the body of a rollback, after an update."""
    killed = FailingEngine(shop.engine, at=1, kill=True, verbs={"kill_container"})
    with pytest.raises(Killed), shop.rollback(killed):
        update()
        killed.kill_container("shop")


@pytest.mark.parametrize("after", [False, True])
def test_a_death_on_the_way_in_brings_the_service_back(tmp_path: Path, *, after: bool) -> None:
    """For every call that changes something: after the next entry the service is as it was, and nothing is left."""
    k = 0
    while True:
        k += 1
        shop = Shop(BackupStore(tmp_path / str(k)))
        failing = FailingEngine(shop.engine, at=k, after=after, kill=True)
        try:
            with shop.rollback(failing):
                break
        except Killed:
            pass
        done = recovered(shop)
        outcomes = [one.outcome for one in done]
        assert outcomes in ([], ["discarded"], ["tidied up"]), failing.story()
        assert shop.engine.inspect_container("shop")["Id"] == shop.id
        shop.check_restored()
        check_clean(shop)
        assert len(shop.store.list()) == outcomes.count("tidied up")
        assert recovered(shop) == ()
    assert failing.struck is None, "no death went unnoticed"
    assert k > 8, "the backup was seen to make calls"


@pytest.mark.parametrize("after", [False, True])
def test_a_death_on_the_way_back_is_finished(tmp_path: Path, *, after: bool) -> None:
    """For every call that changes something in a rollback: recovery finishes it, and once more changes nothing."""
    shop = Shop(BackupStore(tmp_path / "count"))
    counting = FailingEngine(shop.engine)
    with shop.rollback(counting):
        entered = counting.count
        shop.break_it()
        raise RollbackRequested
    assert counting.count > entered + 8, "the rollback was seen to make calls"
    for k in range(entered + 1, counting.count + 1):
        shop = Shop(BackupStore(tmp_path / str(k)))
        failing = FailingEngine(shop.engine, at=k, after=after, kill=True)
        with pytest.raises(Killed), shop.rollback(failing):
            shop.break_it()
            raise RollbackRequested
        (done,) = recovered(shop)
        assert done.outcome == "rolled back", failing.story()
        shop.check_restored()
        check_clean(shop)
        assert recovered(shop) == ()


@pytest.mark.parametrize(
    ("verb", "by"),
    [
        ("import_image", "recover"),
        ("create_container", "recover"),
        ("create_container", "rollback"),
        ("exec", "recover"),
    ],
)
def test_the_image_of_helpers_does_not_outlive_their_maker(shop: Shop, verb: str, by: str) -> None:
    """A process that dies with a helper, or just before it stands, leaves neither helper nor image for good."""
    killed = FailingEngine(shop.engine, at=1, after=True, kill=True, verbs={verb})
    with pytest.raises(Killed), shop.rollback(killed, way="helper"):
        pytest.fail("the block was entered")
    if by == "recover":
        recovered(shop)
    else:
        # Of a container that has no volume, and so needs no helper of its own.
        shop.engine.add_image("bare:1")
        shop.engine.run("bare", image="bare:1")
        with rollback("bare", client=shop.engine, store=shop.store, verify=None):
            pass
    shop.check_restored()
    names = [name for names in shop.engine.image_names().values() for name in names]
    assert [name for name in names if name.startswith("docker-rollback")] == []


@pytest.mark.parametrize("shared", ["ignore", "stop"])
def test_who_shares_a_volume_does_not_keep_recovery_from_its_work(shop: Shop, shared: str) -> None:
    """What stands is kept and rolled back also where a container outside, which was allowed, writes to a volume."""
    shop.engine.run("guest", image="shop:1", volumes={"orders": "/data"})
    killed = FailingEngine(shop.engine, at=1, kill=True, verbs={"kill_container"})
    with pytest.raises(Killed), shop.rollback(killed, shared=shared):
        shop.break_it()
        killed.kill_container("shop")
    (done,) = recovered(shop)
    assert done.outcome == "rolled back"
    assert done.kept is not None
    shop.check_restored()
    assert shop.engine.container("guest").status == "running"


def test_a_death_at_the_disk_is_finished(tmp_path: Path) -> None:
    """For every write, rename and removal in the store: the service is as it was, and nothing is left."""
    k = 0
    while True:
        k += 3
        disk = MortalDisk()
        shop = Shop(BackupStore(tmp_path / str(k), disk=disk))
        disk.at = disk.count + k
        try:
            with shop.rollback():
                shop.break_it()
                raise RollbackRequested
            break
        except Killed:
            pass
        recovered(shop)
        shop.check_restored()
        check_clean(shop)
        for found in BackupStore(shop.store.path).list():
            BackupStore(shop.store.path).verify(found.id)
    assert disk.count < disk.at, "no death went unnoticed"
    assert k > 60, "the store was seen to work"


def test_a_recovery_that_dies_is_finished(tmp_path: Path) -> None:
    """For every call of a recovery: another one finishes it."""
    k = 0
    while True:
        k += 1
        shop = Shop(BackupStore(tmp_path / str(k)))
        die_in_the_body(shop, shop.break_it)
        failing = FailingEngine(shop.engine, at=k, kill=True)
        try:
            recovered(shop, failing)
            break
        except Killed:
            pass
        recovered(shop)
        shop.check_restored()
        check_clean(shop)
    assert failing.struck is None, "no death went unnoticed"
    assert k > 20, "the recovery was seen to make calls"


def test_what_recovery_finds_is_kept(shop: Shop) -> None:
    """The state that a dead update left is a backup of its own, which can be put back."""
    die_in_the_body(shop, shop.break_it)
    (done,) = recovered(shop)
    shop.check_restored()
    assert done.kept is not None
    restore(done.kept, client=shop.engine, store=shop.store)
    assert shop.engine.volume("orders").read("/migrated") == b"half"
    assert not shop.engine.volume("orders").exists("/table")
    assert shop.engine.inspect_container("shop")["Config"]["Image"] == "shop:2"


def test_a_container_without_volumes_is_kept(shop: Shop) -> None:
    """What an update wrote into its writable layer is nowhere else; where nothing stands, there is nothing to keep."""
    shop.engine.add_image("plain:1")
    for update, words in (("write", b"dear"), ("remove", None)):
        shop.engine.run("plain", image="plain:1")
        killed = FailingEngine(shop.engine, at=1, kill=True, verbs={"kill_container"})
        with pytest.raises(Killed), rollback("plain", client=killed, store=shop.store, verify=None):
            if update == "write":
                shop.engine.container("plain").write("/words", "dear")
            else:
                shop.engine.remove_container("plain", force=True)
            killed.kill_container("plain")
        (done,) = recovered(shop)
        assert done.outcome == "rolled back"
        assert not shop.engine.container("plain").exists("/words")
        assert (done.kept is None) == (words is None)
        if done.kept is not None:
            restore(done.kept, client=shop.engine, store=shop.store)
            assert shop.engine.container("plain").read("/words") == words
        shop.engine.remove_container("plain", force=True)


def test_volumes_without_a_container_are_kept(shop: Shop) -> None:
    """Where the update removed the container, what is in its volumes is kept all the same."""

    def update() -> None:
        shop.engine.remove_container("shop", force=True, volumes=True)
        shop.engine.volume("orders").write("/migrated", "half")

    die_in_the_body(shop, update)
    (done,) = recovered(shop)
    shop.check_restored()
    assert done.kept is not None
    assert [volume.name for volume in shop.store.get(done.kept).volumes] == ["orders"]


def test_what_is_found_can_be_given_up(shop: Shop) -> None:
    """With keep_found=False nothing is kept."""
    die_in_the_body(shop, shop.break_it)
    (done,) = recover(client=shop.engine, store=shop.store, keep_found=False)
    assert done.kept is None
    shop.check_restored()
    assert [found.id for found in shop.store.list()] == [done.operation]


def test_the_next_rollback_finishes_the_last_one(shop: Shop) -> None:
    """Entering says what it finished; what the dead one changed is undone before the new backup is taken."""

    def update() -> None:
        shop.engine.remove_container("shop", force=True)
        shop.engine.volume("orders").write("/migrated", "half")

    die_in_the_body(shop, update)
    with shop.rollback() as tx:
        (done,) = tx.recovered
        assert done.outcome == "rolled back"
        shop.check_equal()
    assert tx.status is Status.COMMITTED
    check_clean(shop)


def test_later_work_is_not_rolled_back_unasked(shop: Shop) -> None:
    """Where something was started since, entering refuses and touches nothing; recovery keeps it and rolls back."""
    die_in_the_body(shop, shop.break_it)
    before = shop.engine.inspect_container("shop")
    with pytest.raises(UnfinishedRollbackError, match="was created and started since") as refused, shop.rollback():
        pytest.fail("the block was entered")
    assert refused.value.containers == ("shop",)
    assert shop.engine.inspect_container("shop") == before
    assert recovered(shop)[0].outcome == "rolled back"
    shop.check_restored()


def test_a_change_of_configuration_is_later_work(shop: Shop) -> None:
    """A person who changed the container since is not overruled unasked."""
    die_in_the_body(shop, lambda: None)
    shop.engine.update_container("shop", {"Memory": 1 << 28})
    with pytest.raises(UnfinishedRollbackError, match="changed since"), shop.rollback():
        pytest.fail("the block was entered")


def test_a_network_in_the_place_of_another_is_later_work(shop: Shop) -> None:
    """It has the addresses of one that is gone: it is not removed unasked, and makes room when asked."""
    (pool,) = shop.engine.inspect_network("front")["IPAM"]["Config"]

    def renumber() -> None:
        shop.engine.disconnect_network("front", "shop", force=True)
        shop.engine.remove_network("front")
        shop.engine.create_network({"Name": "anybody's", "IPAM": {"Config": [{"Subnet": pool["Subnet"]}]}})

    die_in_the_body(shop, renumber)
    with pytest.raises(UnfinishedRollbackError, match="has addresses of network 'front'"), shop.rollback():
        pytest.fail("the block was entered")
    assert shop.engine.has_network("anybody's")
    assert recovered(shop)[0].outcome == "rolled back"
    assert not shop.engine.has_network("anybody's")
    shop.check_restored()


def test_a_service_that_ran_on_is_kept_before_it_is_rolled_back(shop: Shop) -> None:
    """Nobody touched the container, but it may have written for days: that is a backup before it is undone."""
    die_in_the_body(shop, lambda: shop.engine.volume("orders").write("/late", "order"))
    with shop.rollback() as tx:
        (done,) = tx.recovered
        assert not shop.engine.volume("orders").exists("/late")
    assert done.kept is not None
    restore(done.kept, client=shop.engine, store=shop.store)
    assert shop.engine.volume("orders").read("/late") == b"order"


def test_a_committed_update_stays(shop: Shop) -> None:
    """A death after the commit was noted loses nothing of the update; recovery only tidies up."""
    failing = FailingEngine(shop.engine, at=1, kill=True, verbs={"remove_volume"})
    with pytest.raises(Killed), shop.rollback(failing):
        shop.engine.volume("orders").write("/table", "more rows")
    (key,) = shop.store.journal.names()
    record = shop.store.journal.get(key, Record)
    assert record is not None
    # Nothing is compared any more, so the engine is not asked for it.
    assert (record.phase, record.standing) == ("committed", ())
    (done,) = recovered(shop)
    assert done.outcome == "tidied up"
    assert shop.engine.volume("orders").read("/table") == b"more rows"
    assert len(shop.store.list()) == 1
    check_clean(shop)


def test_a_backup_that_dies_brings_the_service_back(shop: Shop) -> None:
    """A backup without an update stops the service too."""
    failing = FailingEngine(shop.engine, at=1, after=True, kill=True, verbs={"stop_container"})
    with pytest.raises(Killed):
        backup("shop", client=failing, store=shop.store)
    assert not shop.engine.inspect_container("shop")["State"]["Running"]
    assert [one.outcome for one in recovered(shop)] == ["discarded"]
    shop.check_restored()
    check_clean(shop)


@pytest.mark.parametrize("state", ["paused", "running"])
def test_what_was_paused_is_unpaused_once(shop: Shop, state: str) -> None:
    """A death leaves it paused; where somebody has unpaused it since, recovery leaves it as it is."""
    shop.engine.run("job", image="shop:1", auto_remove=True)
    killed = FailingEngine(shop.engine, at=1, after=True, kill=True, verbs={"pause_container"})
    with pytest.raises(Killed):
        backup("job", client=killed, store=shop.store)
    assert shop.engine.container("job").status == "paused"
    if state == "running":
        shop.engine.unpause_container("job")
    watching = FailingEngine(shop.engine)
    assert [one.outcome for one in recovered(shop, watching)] == ["discarded"]
    assert shop.engine.container("job").status == "running"
    assert len(watching.called("unpause_container")) == (state == "paused")


def test_a_restore_that_dies_is_finished_by_the_same_call(shop: Shop) -> None:
    """And by recovery; no container is started on half of its data before that."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    shop.break_it()
    failing = FailingEngine(shop.engine, at=1, kill=True, verbs={"exec"})
    with pytest.raises(Killed):
        restore(taken.id, client=failing, store=shop.store)
    for found in map(shop.engine.inspect_container, shop.engine.list_containers()):
        assert "docker-rollback" in found["Name"], "nobody starts it by its name"
        assert found["HostConfig"]["RestartPolicy"]["Name"] in ("no", "")
        assert not found["State"]["Running"] or found["Name"].startswith("/docker-rollback-helper")
    assert restore(taken.id, client=shop.engine, store=shop.store) == ["shop"]
    shop.check_restored()
    check_clean(shop)


def test_a_failed_rollback_is_finished_by_recovery(shop: Shop) -> None:
    """Its note stays, and so does its backup, also against a prune, until recovery has put everything back."""
    failing = FailingEngine(shop.engine, verbs={"create_network"}, at=1, lasting=True)
    with pytest.raises(RollbackFailedError) as failed, shop.rollback(failing):
        shop.break_it()
        raise RollbackRequested
    assert [name.partition(".")[0] for name in shop.store.journal.names()] == [failed.value.backup_id]
    spared = shop.store.prune(keep=0).spared
    assert spared == {failed.value.backup_id: "an unfinished rollback needs it"}
    (done,) = recovered(shop)
    assert done.outcome == "rolled back"
    shop.check_restored()
    check_clean(shop)


def test_an_owner_that_lives_is_left_alone(shop: Shop) -> None:
    """Neither recovery nor another rollback touches what a living process is at."""
    with shop.rollback() as tx:
        assert recovered(shop) == ()
        with pytest.raises(ContainerBusyError), shop.rollback():
            pytest.fail("the block was entered")
    assert tx.status is Status.COMMITTED


def test_another_store_sees_that_a_container_is_busy(shop: Shop, tmp_path: Path) -> None:
    """Two stores and one engine: the mark in the engine keeps the second one out while the first one's owner lives."""
    other = Shop.__new__(Shop)
    other.__dict__.update(shop.__dict__, store=BackupStore(tmp_path / "other"))
    with shop.rollback():
        with pytest.raises(ContainerBusyError, match="has held it since"), other.rollback():
            pytest.fail("the block was entered")
        assert other.store.journal.names() == []
    with other.rollback() as tx:
        assert tx.status is Status.UPDATING


def test_another_store_is_told_where_to_recover(shop: Shop, tmp_path: Path) -> None:
    """Where the owner of a mark is dead, the error names the store that has its note."""
    die_in_the_body(shop, lambda: None)
    other = Shop.__new__(Shop)
    other.__dict__.update(shop.__dict__, store=BackupStore(tmp_path / "other"))
    with pytest.raises(UnfinishedRollbackError, match="another store") as refused, other.rollback():
        pytest.fail("the block was entered")
    assert refused.value.store == str(shop.store.path)
    recovered(shop)
    with other.rollback() as tx:
        assert tx.status is Status.UPDATING


def test_another_engine_is_not_touched(shop: Shop) -> None:
    """A note is about one engine; recovery on another one leaves it alone."""
    die_in_the_body(shop, lambda: None)
    assert recover(client=FakeEngine(seed="another"), store=shop.store) == ()
    assert len(shop.store.journal.names()) == 1


NETWORK_VERBS = frozenset({"disconnect_network", "remove_network", "create_network", "connect_network"})


@pytest.mark.parametrize("after", [False, True])
def test_who_was_taken_off_a_network_is_put_back_after_a_death(tmp_path: Path, *, after: bool) -> None:
    """For every call that makes a changed network again: who was in it before is in it after recovery, as before."""
    died = 0
    while True:
        shop = Shop(BackupStore(tmp_path / str(died)))
        shop.engine.run("watcher", image="shop:1", networks={"front": {"Aliases": ["eyes"]}, "back": {}})
        before = shop.engine.inspect_container("watcher")
        failing = FailingEngine(shop.engine, at=died + 1, after=after, kill=True, verbs=NETWORK_VERBS)
        with suppress(Killed), shop.rollback(failing):
            shop.engine.remove_container("shop", force=True, volumes=True)
            shop.engine.disconnect_network("front", "watcher", force=True)
            shop.engine.remove_network("front")
            shop.engine.create_network({"Name": "front", "Driver": "bridge", "Internal": True})
            shop.engine.connect_network("front", "watcher", {"Aliases": ["eyes"]})
            raise RollbackRequested
        if failing.struck is None:
            break
        died += 1
        for at in (1, 2):
            # The recovery dies as well, and the next one a step further.
            with suppress(Killed):
                recovered(shop, FailingEngine(shop.engine, at=at, after=after, kill=True, verbs=NETWORK_VERBS))
        recovered(shop)
        assert compare(before, shop.engine.inspect_container("watcher")) == [], failing.story()
        shop.check_restored()
        check_clean(shop)
    assert died >= 4, "a network was seen to be made again"


def test_an_operation_that_another_recovery_has_finished_is_no_work(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed, and has ended by the time its locks are free."""
    die_in_the_body(shop, shop.break_it)
    assert len(shop.store.journal.names()) == 1
    with monkeypatch.context() as patched:
        patched.setattr(Operations, "resume", lambda *_: None)
        assert recovered(shop) == ()
    (done,) = recovered(shop)
    assert done.containers == ("shop",)
