"""What a killed process leaves in a store and in an engine is gone after a recovery; what a living one has stays."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from docker_rollback import (
    BackupStore,
    CorruptBackupError,
    EngineError,
    RecoveryFailedError,
    RollbackRequested,
    UnfinishedElsewhereError,
    UnsupportedContainerError,
    backup,
    healthy,
    recover,
    restore,
    rollback,
)
from docker_rollback._containers import StoreIdentity
from docker_rollback._engine.port import Engine
from docker_rollback._names import aside_name
from docker_rollback.testing import FailingEngine, Killed
from tests.unit.mortal import Fault, Life, MortalDisk, MortalEngine
from tests.unit.recovery.test_recovery import check_clean, die_in_the_body
from tests.unit.shop import Shop

T = TypeVar("T")

DEATHS: tuple[Fault, ...] = ("die before", "die after")


def tree(path: Path) -> dict[str, bytes | None]:
    """Return every file of a folder with its bytes, and every folder; of locks there are the temporary files alone."""
    found = {str(one.relative_to(path)): one.read_bytes() if one.is_file() else None for one in path.rglob("*")}
    return {name: data for name, data in found.items() if not name.startswith("locks/") or ".tmp" in name}


def check_pristine(shop: Shop, before: dict[str, bytes | None], images: dict[str, list[str]]) -> None:
    """Assert that the service, the engine and the store's folder are as they were."""
    shop.check_restored()
    check_clean(shop)
    assert tree(shop.store.path) == before
    assert shop.engine.image_names() == images


def at_every_effect(
    shop: Shop,
    fault: Fault,
    work: Callable[[Engine, BackupStore], object],
    check: Callable[[], None],
    *,
    stride: int = 1,
) -> int:
    """Kill some work at every one of its effects, or every so many, and check after each recovery.

    Returns how many effects there were. The work is done on one store again and again: what one death leaves, the next
    would find.
    """
    at = 0
    while True:
        at += stride
        life = Life(fault, at)
        with suppress(Killed):
            work(MortalEngine(shop.engine, life), BackupStore(shop.store.path, disk=MortalDisk(life)))
        if not life.struck:
            return at - stride
        recover(client=shop.engine, store=shop.store.path)
        check()


@pytest.mark.parametrize("fault", DEATHS)
def test_a_capture_that_is_killed_leaves_nothing(shop: Shop, fault: Fault) -> None:
    """At every effect on the engine and on the disk: the store has the files that it had, byte for byte."""
    backup("shop", client=shop.engine, store=shop.store)
    shop.engine.volume("orders").write("/more", b"rows" * 50_000)
    before, images = tree(shop.store.path), shop.engine.image_names()
    shop.before = shop.engine.inspect_container("shop")
    known = set(shop.store.ids())

    def check() -> None:
        for taken in set(shop.store.ids()) - known:
            # Killed once it was whole: it counts.
            shop.store.verify(taken)
            shop.store.delete(taken)
        check_pristine(shop, before, images)

    def work(engine: Engine, store: BackupStore) -> None:
        backup("shop", client=engine, store=store)

    assert at_every_effect(shop, fault, work, check) > 60


@pytest.mark.parametrize("fault", DEATHS)
def test_the_first_capture_that_is_killed_leaves_an_empty_store(tmp_path: Path, fault: Fault) -> None:
    """By the helper's way, with its image and its container: the store holds what an empty one does."""
    shop = Shop(BackupStore(tmp_path / "store"))
    BackupStore(tmp_path / "empty").check()
    empty = tree(tmp_path / "empty")
    shop.store.check()
    images = shop.engine.image_names()

    def work(engine: Engine, store: BackupStore) -> None:
        backup("shop", client=engine, store=store, way="helper")

    def check() -> None:
        for taken in shop.store.ids():
            shop.store.delete(taken)
        check_pristine(shop, empty, images)

    assert at_every_effect(shop, fault, work, check) > 60
    shop.store.delete(*shop.store.ids())


@pytest.mark.parametrize("fault", DEATHS)
def test_an_export_that_is_killed_leaves_nothing_next_to_its_target(shop: Shop, tmp_path: Path, fault: Fault) -> None:
    """Its temporary file is known to the store, and goes with the next recovery; a target that is there is whole."""
    taken = backup("shop", client=shop.engine, store=shop.store).id
    out = io.BytesIO()
    shop.store.export(taken, out)
    before, folder = tree(shop.store.path), tmp_path / "exports"
    folder.mkdir()

    def check() -> None:
        assert tree(shop.store.path) == before
        assert {path.name for path in folder.iterdir()} <= {"shop.tar"}
        for path in folder.iterdir():
            assert path.read_bytes() == out.getvalue()

    def work(_: Engine, store: BackupStore) -> None:
        (folder / "shop.tar").unlink(missing_ok=True)
        store.export(taken, folder / "shop.tar")

    assert at_every_effect(shop, fault, work, check) > 8


def test_an_export_at_work_keeps_its_file(shop: Shop, tmp_path: Path) -> None:
    """Neither recovery nor a prune takes the temporary file of a process that lives."""
    taken = backup("shop", client=shop.engine, store=shop.store).id
    seen: list[int] = []

    class Looking(MortalDisk):
        def rename(self, source: Path, target: Path) -> None:
            """Have somebody recover and prune while the file is whole and has no name yet."""
            if target.name == "shop.tar":
                recover(client=shop.engine, store=shop.store.path)
                shop.store.prune()
                seen.append(source.stat().st_size)
            super().rename(source, target)

    BackupStore(shop.store.path, disk=Looking(Life())).export(taken, tmp_path / "shop.tar")
    assert seen == [(tmp_path / "shop.tar").stat().st_size]


@pytest.mark.parametrize("fault", DEATHS)
def test_an_import_that_is_killed_leaves_nothing(shop: Shop, tmp_path: Path, fault: Fault) -> None:
    """Half of a backup from elsewhere is nobody's."""
    taken = backup("shop", client=shop.engine, store=shop.store).id
    shop.store.export(taken, tmp_path / "shop.tar")
    other = Shop(BackupStore(tmp_path / "other"))
    other.store.check()
    before = tree(other.store.path)

    def work(_: Engine, store: BackupStore) -> None:
        store.import_(tmp_path / "shop.tar")

    def check() -> None:
        for found in other.store.ids():
            other.store.verify(found)
            other.store.delete(found)
        assert tree(other.store.path) == before

    assert at_every_effect(other, fault, work, check) > 20


@pytest.mark.parametrize("fault", DEATHS)
def test_a_removal_that_is_killed_leaves_no_blob(shop: Shop, fault: Fault) -> None:
    """Once ``index.json`` does not name a backup any more, recovery frees what only that referred to."""
    keep = backup("shop", client=shop.engine, store=shop.store).id
    before = tree(shop.store.path)
    shop.engine.volume("orders").write("/more", b"rows" * 5_000)

    def work(_: Engine, store: BackupStore) -> None:
        for taken in set(shop.store.ids()) - {keep}:
            shop.store.delete(taken)
        taken = backup("shop", client=shop.engine, store=shop.store).id
        store.delete(taken)

    def check() -> None:
        if shop.store.ids() == [keep]:
            assert tree(shop.store.path) == before

    assert at_every_effect(shop, fault, work, check) > 5


def test_a_restore_that_dies_before_its_record_lets_its_backup_go(shop: Shop) -> None:
    """The hold of a restore that noted nothing would keep its backup for ever."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    held = 0
    at = 0
    while True:
        at += 1
        life = Life("die after", at)
        with suppress(Killed):
            restore(taken.id, client=shop.engine, store=BackupStore(shop.store.path, disk=MortalDisk(life)))
        if not life.struck:
            break
        held += shop.store.journal.names() == [] and bool(shop.store.held_by("operation"))
        recover(client=shop.engine, store=shop.store.path)
        assert shop.store.held_by("operation") == ()
        shop.check_restored()
    assert held >= 1, "a death between the hold and the record was seen"


def test_a_hold_of_a_living_restore_stays(shop: Shop) -> None:
    """It has the locks of the backup's containers."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    shop.store.hold(taken.id, "operation", "it is needed")
    with shop.store.lock(shop.id, container="shop"):
        recover(client=shop.engine, store=shop.store.path)
        assert shop.store.held_by("operation") == (taken.id,)
    recover(client=shop.engine, store=shop.store.path)
    assert shop.store.held_by("operation") == ()


def test_a_hold_of_an_unfinished_operation_on_another_engine_stays(shop: Shop) -> None:
    """Its record is in this store, for another engine than the one that is recovered."""
    die_in_the_body(shop, shop.break_it)
    (taken,) = shop.store.ids()
    recover(client=Shop(shop.store, seed="another").engine, store=shop.store.path)
    assert shop.store.held_by("operation") == (taken,)


def test_a_capture_at_work_keeps_its_draft(shop: Shop) -> None:
    """Recovery by another process while one captures takes nothing from it."""
    found: list[Path] = []

    class Looking(MortalDisk):
        def create(self, path: Path) -> int:
            """Have somebody recover whenever a file of the draft is begun."""
            if path.suffix in (".blob", ".spool"):
                recover(client=shop.engine, store=shop.store.path)
                found.append(path)
            return super().create(path)

    taken = backup("shop", client=shop.engine, store=BackupStore(shop.store.path, disk=Looking(Life())))
    shop.store.verify(taken.id)
    assert len(found) > 5


@pytest.mark.parametrize("fault", DEATHS)
def test_a_rollback_that_is_killed_leaves_its_backup_and_nothing_else(shop: Shop, fault: Fault) -> None:
    """All along an update that fails: the store has the backup, what was found, and what they refer to."""
    shop.store.check()

    def work(engine: Engine, store: BackupStore) -> None:
        with rollback("shop", client=engine, store=store, verify=healthy(stable_for=0.0)):
            shop.break_it()
            raise RollbackRequested

    def check() -> None:
        shop.check_equal()
        check_clean(shop)
        assert shop.store.held_by("operation") == ()
        names = {name for name, data in tree(shop.store.path).items() if data is not None}
        whole = {name for name in names if name.startswith("blobs/")}
        for taken in shop.store.ids():
            shop.store.verify(taken, deep=False)
        assert names - whole == {"index.json", "oci-layout"}
        assert shop.store.prune().blobs == 0
        shop.before = shop.engine.inspect_container("shop")

    assert at_every_effect(shop, fault, work, check, stride=7) > 100


def put_aside(shop: Shop) -> str:
    """Rename the service's container away, as an operation does, and return the name that it has now."""
    shop.engine.stop_container("shop")
    shop.engine.update_container("shop", {"RestartPolicy": {"Name": "no"}})
    name = aside_name("shop", shop.id)
    shop.engine.rename_container("shop", name)
    return name


def there(shop: Shop) -> list[str]:
    """Return the names of all containers."""
    return sorted(shop.engine.inspect_container(one)["Name"].lstrip("/") for one in shop.engine.list_containers())


def test_a_container_that_was_renamed_away_goes_where_its_backup_and_its_successor_are(shop: Shop) -> None:
    """No record names it any more; its volumes stay."""
    backup("shop", client=shop.engine, store=shop.store)
    put_aside(shop)
    shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
    volumes = shop.engine.list_volumes()
    recover(client=shop.engine, store=shop.store)
    assert there(shop) == ["shop"]
    assert set(volumes) <= set(shop.engine.list_volumes())


@pytest.mark.parametrize("case", ["no backup", "no successor", "successor stopped", "damaged", "without image", "runs"])
def test_a_container_that_was_renamed_away_may_be_the_only_copy(
    shop: Shop, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays as it is, is not started, and the log says what to do with it."""
    if case != "no backup":
        backup("shop", client=shop.engine, store=shop.store, export_image=case != "without image")
    else:
        shop.store.check()
    name = put_aside(shop)
    if case != "no successor":
        shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
    if case == "successor stopped":
        shop.engine.stop_container("shop")
    if case == "runs":
        shop.engine.start_container(name)
    if case == "damaged":
        for blob in (shop.store.path / "blobs" / "sha256").iterdir():
            blob.write_bytes(b"rotten" + blob.read_bytes()[6:])
    before = shop.engine.inspect_container(name)
    assert recover(client=shop.engine, store=BackupStore(shop.store.path)) == ()
    assert shop.engine.inspect_container(name) == before
    assert f"docker rename {name} shop" in caplog.text
    assert f"docker rm {name}" in caplog.text


def test_a_container_that_was_renamed_away_is_left_to_an_operation_of_another_store(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lock volume tells of it, also where this store has a backup of it and its successor runs."""
    backup("shop", client=shop.engine, store=shop.store)
    other = BackupStore(tmp_path / "other")
    killed = FailingEngine(shop.engine, at=1, kill=True, verbs={"kill_container"})
    with suppress(Killed), rollback("shop", client=killed, store=other, verify=healthy(stable_for=0.0)):
        name = put_aside(shop)
        shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
        killed.kill_container("shop")
    with pytest.raises(UnfinishedElsewhereError):
        recover(client=shop.engine, store=shop.store)
    assert name in there(shop)
    assert "docker rm" not in caplog.text
    recover(client=shop.engine, store=other)
    shop.check_restored()


def test_a_damaged_record_may_be_of_anything(shop: Shop) -> None:
    """Nothing that was renamed away goes, and no image, while nobody knows what the record names."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    name = put_aside(shop)
    shop.engine.run("shop", image="shop:2")
    shop.engine.tag_image("shop:1", f"docker-rollback:{taken.id}.0.shop")
    note = shop.store.path / "journal" / "20260102T030405Z-shop-a1b2c3.0123abcd.json"
    note.write_bytes(b"{")
    with pytest.raises(RecoveryFailedError):
        recover(client=shop.engine, store=shop.store)
    assert name in there(shop)
    assert shop.engine.has_image(f"docker-rollback:{taken.id}.0.shop")
    note.unlink()
    recover(client=shop.engine, store=shop.store)
    assert name not in there(shop)
    assert not shop.engine.has_image(f"docker-rollback:{taken.id}.0.shop")


def test_names_of_images_that_nobody_needs_go(shop: Shop) -> None:
    """Those of backups that this store holds, and helpers' of whatever content; those it cannot know of stay."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    (shop.store.path / "journal").mkdir(exist_ok=True)
    ours = f"docker-rollback:{taken.id}.0.shop"
    for name in (ours, f"{ours}-again", "docker-rollback-helper:0123456789abcdef"):
        shop.engine.import_image([], name)
    unknown = "docker-rollback:20260102T030405Z-shop-a1b2c3.0.shop"
    kept = f"docker-rollback-kept:{taken.id}.0.shop"
    # As somebody has it who loaded an export by hand.
    loaded = f"docker-rollback:{taken.id}.1"
    for name in (unknown, kept, loaded):
        shop.engine.import_image([], name)
    users = shop.engine.inspect_image("shop:1")["Id"]
    shop.engine.tag_image(users, ours)
    shop.engine.import_image([], "shop:1")
    recover(client=shop.engine, store=shop.store)
    names = {name for names in shop.engine.image_names().values() for name in names}
    assert {name for name in names if name.startswith("docker-rollback")} >= {unknown, kept, loaded}
    assert shop.engine.has_image(users)
    shop.engine.remove_container("shop", force=True)
    recover(client=shop.engine, store=shop.store)
    names = {name for names in shop.engine.image_names().values() for name in names}
    assert {name for name in names if name.startswith("docker-rollback")} == {unknown, kept, loaded}
    assert shop.engine.has_image(users), "a user's image stays, though its name was moved"


def test_a_name_on_which_a_container_stands_stays(shop: Shop) -> None:
    """It is the only name of its image, and the engine would be asked in vain."""
    taken = backup("shop", client=shop.engine, store=shop.store)
    name = f"docker-rollback:{taken.id}.0.shop"
    shop.engine.commit_container("shop", name)
    shop.engine.run("other", image=name)
    recover(client=shop.engine, store=shop.store)
    assert shop.engine.has_image(name)


def test_an_engine_that_refuses_to_list_fails_no_recovery(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """What is left over is in nobody's way; what was cut off is finished all the same."""
    die_in_the_body(shop, shop.break_it)
    failing = FailingEngine(shop.engine, verbs={"list_images"}, at=1, lasting=True)
    assert [one.outcome for one in recover(client=failing, store=shop.store)] == ["rolled back"]
    assert "could not remove leftovers from the engine" in caplog.text


def test_a_helper_that_has_ended_goes_whoever_made_it(shop: Shop) -> None:
    """It ends with its maker and is never started again; one that runs for a maker elsewhere stays."""
    shop.store.check()
    labels = {"docker-rollback.role": "helper", "docker-rollback.lock": ""}
    ended, running, other = "docker-rollback-helper-ended", "docker-rollback-helper-running", "with-our-label"
    for name in (ended, running, other):
        made = shop.engine.create_container(name, {"Image": "shop:1", "Labels": labels})
        shop.engine.start_container(made)
    shop.engine.kill_container(ended)
    # An image can give a label to a container that is none of ours, but no name.
    shop.engine.kill_container(other)
    recover(client=shop.engine, store=shop.store)
    assert there(shop) == [running, "shop", other]


def test_a_helper_that_cannot_be_removed_stops_no_rollback(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has ended can do no harm: it is left over, and the service comes back."""
    name = "docker-rollback-helper-stuck"
    remove = shop.engine.remove_container

    def refuse(ref: str, *, force: bool = False, volumes: bool = False) -> None:
        if shop.engine.inspect_container(ref)["Name"] == f"/{name}":
            raise EngineError("remove container", "device or resource busy")
        remove(ref, force=force, volumes=volumes)

    monkeypatch.setattr(shop.engine, "remove_container", refuse)
    with shop.rollback(verify=None):
        labels = {"docker-rollback.role": "helper", "docker-rollback.lock": "/nowhere"}
        shop.engine.run(name, image="shop:1", labels=labels)
        shop.engine.container(name).exit(0)
        shop.break_it()
        raise RollbackRequested
    shop.check_equal()
    assert recover(client=shop.engine, store=shop.store) == ()


def test_a_lock_that_this_user_may_not_see_is_held(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper of another user's store stays, and no entry fails for it."""
    exists = Path.exists

    def refuse(path: Path, **options: bool) -> bool:
        if path.name == "of-root.lock":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", refuse)
    labels = {"docker-rollback.role": "helper", "docker-rollback.lock": "/root/store/locks/of-root.lock"}
    shop.engine.run("docker-rollback-helper-of-root", image="shop:1", labels=labels)
    with shop.rollback():
        pass
    assert there(shop) == ["docker-rollback-helper-of-root", "shop"]


def test_a_writer_with_a_label_of_ours_is_seen(shop: Shop) -> None:
    """An image can bear the label of a guard; its container shares the volume like any other."""
    shop.engine.run("writer", image="shop:1", labels={"docker-rollback.role": "guard"}, volumes={"orders": "/data"})
    with pytest.raises(UnsupportedContainerError, match="'writer' writes to its volume"), shop.rollback():
        pytest.fail("the block was entered")


@pytest.mark.parametrize("swept", [True, False])
def test_a_helper_of_the_dead_goes_also_once_the_file_of_its_lock_is_gone(shop: Shop, *, swept: bool) -> None:
    """A prune removes the files of locks that nobody holds; the helper runs on, because it was killed half made."""
    killed = FailingEngine(shop.engine, at=1, after=True, kill=True, verbs={"start_container"})
    with pytest.raises(Killed):
        backup("shop", client=killed, store=shop.store, way="helper")
    assert len(there(shop)) == 2
    if swept:
        shop.store.prune()
        assert list((shop.store.path / "locks").glob("container-*")) == []
    recover(client=shop.engine, store=shop.store)
    assert there(shop) == ["shop"]


def test_a_helper_of_another_folder_of_that_path_stays(shop: Shop) -> None:
    """On another machine, or in a container, the same path leads to another folder, whose locks tell nothing of it."""
    shop.store.check()
    lock = shop.store.path / "locks" / "container-volume.0123.lock"
    labels = {"docker-rollback.role": "helper", "docker-rollback.lock": str(lock), "docker-rollback.locks": "0000:1:2"}
    shop.engine.start_container(shop.engine.create_container("foreign", {"Image": "shop:1", "Labels": labels}))
    recover(client=shop.engine, store=shop.store)
    assert there(shop) == ["foreign", "shop"]


def test_a_guard_whose_operation_is_over_goes(shop: Shop) -> None:
    """Nothing needs what it holds any more; one of another store is not ours to judge."""
    backup("shop", client=shop.engine, store=shop.store)
    labels = {"docker-rollback.role": "guard", "docker-rollback.operation": "over"}
    ours = {**labels, **StoreIdentity(shop.store).labels()}
    other = {**ours, "docker-rollback.store": "/var/backups/elsewhere", "docker-rollback.folder": "1.2"}
    shop.engine.run("docker-rollback-guard-ours", image="shop:1", labels=ours)
    shop.engine.run("docker-rollback-guard-other", image="shop:1", labels=other)
    recover(client=shop.engine, store=shop.store)
    assert there(shop) == ["docker-rollback-guard-other", "shop"]


class Overtaken(FailingEngine):
    """An engine on which another process enters a rollback, and dies once the shop is stopped, before some call."""

    def __init__(self, shop: Shop, *, at: int) -> None:
        super().__init__(shop.engine)
        self.shop, self.at, self.asked = shop, at, 0

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
        """Do one call."""
        self.asked += 1
        if self.asked == self.at:
            with suppress(Killed), self.shop.timed(DiesStopped(self.shop.engine)):
                pass
        return super().pass_on(verb, work, *arguments)


class DiesStopped(FailingEngine):
    """An engine whose user dies once a container is stopped."""

    def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
        """Stop it."""
        super().stop_container(ref, timeout=timeout)
        self._dead = True


def test_an_operation_that_begins_while_what_is_left_over_is_cleared_keeps_its_guards(tmp_path: Path) -> None:
    """Before each call of a recovery in turn: a prune takes nothing from it, and the next recovery brings all back."""
    at = begun = 0
    while True:
        at += 1
        shop = Shop(BackupStore(tmp_path / str(at)))
        shop.store.check()
        shop.engine.container("shop").write("/layer", "only copy")
        engine = Overtaken(shop, at=at)
        with suppress(RecoveryFailedError, UnfinishedElsewhereError):
            shop.recover(engine)
        if engine.asked < at:
            break
        if shop.store.journal.names():
            begun += 1
            guards = [one for one in shop.engine.list_containers() if one != shop.id]
            assert guards, engine.story()
            shop.engine.prune_system(everything=True, volumes=True)
            shop.recover()
        assert shop.engine.container("shop").read("/layer") == b"only copy", engine.story()
        assert shop.engine.container("shop").status == "running"
        shop.check_nothing_left()
    assert begun > 3


def test_an_index_that_is_damaged_is_told_with_what_to_do(shop: Shop) -> None:
    """What dead operations left in the engine stays, and everything else was tried."""
    backup("shop", client=shop.engine, store=shop.store)
    name = aside_name("shop", "0" * 12)
    shop.engine.run(name, image="shop:1")
    shop.engine.stop_container(name)
    (shop.store.path / "index.json").write_text("{")
    with pytest.raises(RecoveryFailedError, match="restore it from a copy of the store") as failed:
        recover(client=shop.engine, store=shop.store.path)
    (failure,) = failed.value.failures.exceptions
    assert isinstance(failure, CorruptBackupError)
    assert failure.blob == "index.json"
    assert shop.engine.container(name).status == "exited"
