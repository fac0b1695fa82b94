"""Recovery where somebody went on working, where it fails itself, and beside others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from docker_rollback import (
    BackupStore,
    ContainerBusyError,
    Progress,
    RecoveryFailedError,
    RollbackFailedError,
    RollbackRequested,
    UnfinishedRollbackError,
    recover,
    restore,
    rollback,
)
from docker_rollback._restore.container_slot import ContainerSlot
from docker_rollback.errors import ArchiveError, RestoreError
from docker_rollback.testing import FEEDING, FailingEngine, FakeEngine, Killed
from docker_rollback.testing._fake.gnu_tar import tar
from tests.unit.recovery.test_recovery import die_in_the_body, recovered
from tests.unit.shop import Shop


def elsewhere(shop: Shop, path: Path) -> Shop:
    """Return the same service, seen by a process with another store."""
    other = Shop.__new__(Shop)
    other.__dict__.update(shop.__dict__, store=BackupStore(path))
    return other


def damaging(shop: Shop) -> Callable[[], None]:
    """Damage the archive of the only backup, and return what mends it."""
    (taken,) = shop.store.list()
    blob = shop.store.path / "blobs" / "sha256" / taken.volume("orders").base.digest.partition(":")[2]
    good = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :])

    def mend() -> None:
        blob.write_bytes(good)

    return mend


def test_work_of_a_service_that_was_stopped_since_is_kept(shop: Shop) -> None:
    """It ran on for days and was stopped before the next update: what it wrote is a backup before it is undone."""
    die_in_the_body(shop, lambda: shop.engine.volume("orders").write("/late", "order"))
    shop.engine.stop_container("shop")
    with shop.rollback() as tx:
        (done,) = tx.recovered
    assert done.kept is not None
    restore(done.kept, client=shop.engine, store=shop.store)
    assert shop.engine.volume("orders").exists("/late")


def test_a_volume_whose_container_was_back_is_nobodys_to_remove(store: BackupStore) -> None:
    """All was back but for a last step; then its container was made anew by hand, and its data is in the old volume."""
    fake = FakeEngine()
    fake.add_image("app")
    fake.run("app", image="app", anonymous=["/data"])
    (mount,) = fake.inspect_container("app")["Mounts"]

    def end() -> None:
        raise SystemExit

    with pytest.raises(SystemExit), rollback("app", client=fake, store=store, verify=None, after_rollback=end):
        raise RollbackRequested
    fake.volume(mount["Name"]).write("/late", "order")
    fake.remove_container("app", force=True)
    fake.run("app", image="app", anonymous=["/data"])
    (done,) = recover(client=fake, store=store)
    assert done.outcome == "rolled back"
    assert fake.volume(mount["Name"]).read("/late") == b"order"
    assert fake.has_volume(mount["Name"])


def test_what_stood_aside_and_was_started_by_somebody_stays(shop: Shop) -> None:
    """All was back but for a last step, and somebody goes on with what the update had made."""

    def end() -> None:
        raise SystemExit

    with pytest.raises(SystemExit), shop.rollback(after_rollback=end):
        shop.engine.remove_container("shop", force=True)
        updated = shop.engine.run("shop", image="shop:1")
        raise RollbackRequested
    shop.engine.start_container(updated)
    (done,) = recover(client=shop.engine, store=shop.store)
    assert done.outcome == "rolled back"
    assert shop.engine.inspect_container(updated)["State"]["Status"] == "running"


def test_what_stood_aside_and_was_started_on_the_same_data_goes(shop: Shop) -> None:
    """Two containers that write to one volume spoil it."""

    def end() -> None:
        raise SystemExit

    with pytest.raises(SystemExit), shop.rollback(after_rollback=end):
        shop.engine.remove_container("shop", force=True)
        updated = shop.engine.run("shop", image="shop:1", volumes={"orders": "/data"})
        raise RollbackRequested
    shop.engine.start_container(updated)
    (done,) = recover(client=shop.engine, store=shop.store)
    assert done.outcome == "rolled back"
    assert updated not in shop.engine.list_containers()
    shop.check_equal()


def test_a_backup_that_cannot_be_read_stops_nothing(shop: Shop) -> None:
    """Recovery finds that out before it brings to rest what runs; once it is mended, recovery does its work."""
    die_in_the_body(shop, lambda: shop.engine.volume("orders").write("/table", "newer"))
    mend = damaging(shop)
    with pytest.raises(RecoveryFailedError, match="CorruptBackupError") as failed:
        recovered(shop)
    assert failed.value.finished == ()
    assert shop.engine.inspect_container("shop")["State"]["Running"]
    mend()
    assert recovered(shop)[0].outcome == "rolled back"
    shop.check_restored()


def test_what_ran_after_it_was_kept_is_kept_again(shop: Shop) -> None:
    """A recovery that failed half way has kept what it found; work that was done since is not in that."""
    die_in_the_body(shop, lambda: shop.engine.volume("orders").write("/table", "newer"))
    failing = FailingEngine(shop.engine, at=1, lasting=True, verbs={"rename_container", "update_container"})
    with pytest.raises(RecoveryFailedError):
        recovered(shop, failing)
    shop.clock.advance(86400)
    shop.engine.start_container("shop")
    shop.engine.volume("orders").write("/late", "order of the next day")
    (done,) = recovered(shop)
    assert done.kept is not None
    shop.check_restored()
    restore(done.kept, client=shop.engine, store=shop.store)
    assert shop.engine.volume("orders").exists("/late")


def test_no_guest_runs_on_half_of_its_data(tmp_path: Path) -> None:
    """Wherever a filling fails, who shares the volume rests until it is whole; recovery sets it going again."""

    def scene(name: str) -> Shop:
        shop = Shop(BackupStore(tmp_path / name))
        shop.engine.run("reporter", image="shop:1", volumes={"orders": "/data"}, restart="always")
        return shop

    def update(shop: Shop, failing: FailingEngine) -> None:
        with shop.rollback(failing, shared="stop"):
            begun.append(failing.count)
            shop.engine.volume("orders").write("/migrated", "half")
            raise RollbackRequested

    begun: list[int] = []
    counting = FailingEngine((shop := scene("count")).engine, verbs=FEEDING)
    update(shop, counting)
    failures = 0
    for k in range(begun[0] + 1, counting.count + 1, 2):
        shop = scene(str(k))
        try:
            update(shop, FailingEngine(shop.engine, at=k, verbs=FEEDING))
        except RollbackFailedError:
            failures += 1
            reporter = shop.engine.inspect_container("reporter")
            assert not reporter["State"]["Running"]
            assert reporter["HostConfig"]["RestartPolicy"]["Name"] == "no"
            recovered(shop)
        reporter = shop.engine.inspect_container("reporter")
        assert reporter["State"]["Running"]
        assert reporter["HostConfig"]["RestartPolicy"]["Name"] == "always"
        shop.check_equal()
    assert failures > 3, "fillings were seen to fail"


def test_a_guest_that_sleeps_is_not_woken_by_its_engine(shop: Shop) -> None:
    """One that does not run keeps its state, and has no restart policy while the data that it shares is half back."""
    shop.engine.run("reporter", image="shop:1", volumes={"orders": "/data"}, restart="always")
    shop.engine.stop_container("reporter")
    killed = FailingEngine(shop.engine, at=1, kill=True, verbs={"create_network"})
    with pytest.raises(Killed), shop.rollback(killed):
        shop.break_it()
        raise RollbackRequested
    assert shop.engine.inspect_container("reporter")["HostConfig"]["RestartPolicy"]["Name"] == "no"
    recovered(shop)
    reporter = shop.engine.inspect_container("reporter")
    assert reporter["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert not reporter["State"]["Running"]
    shop.check_restored()


def test_an_emergency_service_is_not_stopped_unasked(tmp_path: Path) -> None:
    """What somebody put in the place of a dead update has its port: that is later work."""
    engine = FakeEngine()
    engine.add_image("web:1")
    request = {"Image": "web:1", "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}}
    engine.create_container("web", request)
    engine.start_container("web")
    killed = FailingEngine(engine, at=1, kill=True, verbs={"kill_container"})
    with pytest.raises(Killed), rollback("web", client=killed, store=tmp_path / "store", verify=None):
        engine.remove_container("web", force=True)
        killed.kill_container("web")
    engine.create_container("emergency", request)
    engine.start_container("emergency")
    with (
        pytest.raises(UnfinishedRollbackError, match="'emergency'"),
        rollback("web", client=engine, store=tmp_path / "store", verify=None),
    ):
        pytest.fail("the block was entered")
    assert engine.inspect_container("emergency")["State"]["Running"]


def test_busy_is_seen_after_the_container_was_made_anew(shop: Shop, tmp_path: Path) -> None:
    """The mark knows the container by the id that it had, and so does the lock."""
    with shop.rollback():
        shop.engine.remove_container("shop", force=True)
        shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
        with pytest.raises(ContainerBusyError), elsewhere(shop, tmp_path / "other").rollback():
            pytest.fail("the block was entered")


def test_a_restore_on_another_engine_leaves_the_note_of_the_first(shop: Shop) -> None:
    """One backup can be at work on two engines; each has a note of its own."""
    die_in_the_body(shop, shop.break_it)
    (taken,) = shop.store.list()
    other = FakeEngine(seed="another")
    other.add_image("shop:1", files={"/app": "version 1"}, volumes=["/cache"])
    restore(taken.id, client=other, store=shop.store)
    assert len(shop.store.journal.names()) == 1
    assert recovered(shop)[0].outcome == "rolled back"
    shop.check_restored()


def test_a_damaged_note_keeps_nothing_else_from_recovery(shop: Shop) -> None:
    """It is named among the failures; everything else is finished, and that is named too."""
    die_in_the_body(shop, shop.break_it)
    (taken,) = shop.store.list()
    (shop.store.path / "journal" / "20260101T000000Z-other-000000.01234567.json").write_text("{", encoding="utf-8")
    with pytest.raises(RecoveryFailedError, match="20260101T000000Z-other-000000") as failed:
        recovered(shop)
    assert failed.value.finished == (taken.id,)
    shop.check_restored()


def test_what_recovery_starts_is_compared(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rollback died before its comparison, recovery makes it, and a difference is no good end."""
    killed = FailingEngine(shop.engine, kill=True, verbs={"start_container"})
    with pytest.raises(Killed), shop.rollback(killed, progress=lambda news: dying(killed, news)):
        shop.break_it()
        raise RollbackRequested
    before = shop.engine.inspect_container("shop")
    assert not before["State"]["Running"]

    def differs(*_: object) -> None:
        raise RestoreError("shop", "it was restored, but differs from what was captured:", ["HostConfig.Memory"])

    with monkeypatch.context() as patched:
        patched.setattr(ContainerSlot, "compare", differs)
        with pytest.raises(RecoveryFailedError, match=r"HostConfig\.Memory"):
            recovered(shop)
    assert recovered(shop)[0].outcome == "rolled back"
    shop.check_restored()


def dying(engine: FailingEngine, news: Progress) -> None:
    """Have the next start be the death of the process, once a container is to be resumed."""
    if news.step == "restore" and news.subject.startswith("bring container"):
        engine._at = frozenset([engine.count + 1])


def test_a_rollback_that_left_a_difference_is_not_called_done(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It failed because what stands differs; recovery does not take the note of that for a good end."""

    def differs(*_: object) -> None:
        raise RestoreError("shop", "it was restored, but differs from what was captured:", ["HostConfig.Memory"])

    with monkeypatch.context() as patched:
        patched.setattr(ContainerSlot, "compare", differs)
        with pytest.raises(RollbackFailedError), shop.rollback():
            shop.break_it()
            raise RollbackRequested
        with pytest.raises(RecoveryFailedError, match=r"HostConfig\.Memory"):
            recovered(shop)
    assert recovered(shop)[0].outcome == "rolled back"
    shop.check_restored()


@pytest.mark.parametrize("verb", ["list_containers", "list_volumes"])
def test_a_list_that_cannot_be_had_is_told_and_stops_no_work(tmp_path: Path, verb: str) -> None:
    """Whichever of its lists the engine refuses, recovery fails with that refusal, or has finished without it."""
    at = 0
    failures: list[Exception] = []
    while True:
        at += 1
        shop = Shop(BackupStore(tmp_path / str(at)))
        die_in_the_body(shop, partial(shop.engine.volume("orders").write, "/late", "order"))
        failing = FailingEngine(shop.engine, at=at, verbs={verb})
        try:
            recovered(shop, failing)
        except RecoveryFailedError as error:
            failures += error.failures.exceptions
        if failing.struck is None:
            break
        recovered(shop)
        assert shop.engine.container("shop").status == "running", failing.story()
        assert not shop.engine.volume("orders").exists("/late"), failing.story()
        shop.check_nothing_left()
    assert failures
    assert all("made to fail" in str(failure) for failure in failures)
    notes = {note for failure in failures for note in getattr(failure, "__notes__", ())}
    assert verb == "list_containers" or any("lock volumes" in note for note in notes)


def test_what_is_found_and_cannot_be_kept_is_not_discarded_unasked(shop: Shop) -> None:
    """The error says why it cannot be kept, and what would discard it; the service runs on as it was found."""
    die_in_the_body(shop, lambda: shop.engine.volume("orders").write("/late", "order"))
    shop.engine.program("tar", lambda run: tar(run) if "--create" not in run.arguments else 2)
    with pytest.raises(RecoveryFailedError) as failed:
        recovered(shop)
    (failure,) = failed.value.failures.exceptions
    assert isinstance(failure, UnfinishedRollbackError)
    assert "its present state cannot be kept" in failure.reasons[0]
    assert "keep_found=False would discard it" in failure.reasons[0]
    assert failure.store == str(shop.store.path)
    assert isinstance(failure.__cause__, ArchiveError)
    assert shop.engine.container("shop").status == "running"
    assert shop.engine.volume("orders").exists("/late")
    (done,) = recover(client=shop.engine, store=shop.store.path, keep_found=False)
    assert done.kept is None
    shop.check_restored()


def test_what_joins_a_group_brings_its_unfinished_work_along(shop: Shop) -> None:
    """It is known only once the group is; then its operation is looked at as if it had been named."""
    shop.engine.run("desk", image="shop:1")
    with (
        pytest.raises(Killed),
        rollback(
            "desk", client=FailingEngine(shop.engine, at=1, verbs={"kill_container"}, kill=True), store=shop.store
        ) as tx,
    ):
        tx._engine.kill_container("desk")
    shop.engine.remove_container("desk", force=True)
    shop.engine.run("desk", image="shop:1", NetworkMode=f"container:{shop.id}")
    with pytest.raises(UnfinishedRollbackError) as refused, shop.rollback():
        pytest.fail("the block was entered")
    assert refused.value.containers == ("desk",)
    assert "'desk'" in refused.value.reasons[0]


def test_a_container_that_the_update_renamed_is_kept(shop: Shop) -> None:
    """It is known by its id; that is not somebody else's container."""
    die_in_the_body(shop, lambda: shop.engine.rename_container("shop", "shop-old"))
    (done,) = recovered(shop)
    assert done.kept is not None
    assert [one.name for one in shop.store.get(done.kept).containers] == ["shop-old"]
    shop.check_restored()
