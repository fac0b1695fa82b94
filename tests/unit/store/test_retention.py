"""Which backups go, and which never do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._model.backup import Backup, Project, VolumeArchive
from docker_rollback._store.retention import Keep, KeepArgument, Scope, choose
from docker_rollback._store.store import BackupStore
from docker_rollback.errors import BackupNotFoundError, StoreError
from tests.unit.store import making
from tests.unit.store.making import EPOCH, FailingDisk, days, image

IMAGE = image(b"base" * 300, b"top")


def record(number: int, names: tuple[str, ...] = ("web",), *, durable: bool = True) -> Backup:
    """Return the record of a backup taken on a day of that number."""
    manifest = making.add_nothing() if durable else None
    snapshots = [making.snapshot(name, IMAGE, manifest) for name in names]
    return making.backup_of(f"b{number:03}", snapshots, created=EPOCH + days(number))


def series(length: int) -> list[Backup]:
    """Return the records of so many backups, a day apart."""
    return [record(number) for number in range(length)]


def of_shop(number: int, *names: str) -> Backup:
    """Return the record of a backup of a project, whose containers are `web` and `new`."""
    found = record(number, names)
    containers = tuple(evolve(one, id=one.name) for one in found.containers)
    return evolve(found, containers=containers, project=Project("shop", ("web", "new")))


def chosen(
    backups: list[Backup],
    *,
    keep: KeepArgument = None,
    engine: str | None = None,
    sound: set[str] | None = None,
    needed: dict[str, str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Choose on the day of the newest backup; every backup is sound unless `sound` names those that are."""
    choice = choose(
        backups,
        keep=Keep.of(keep),
        now=max(backup.created for backup in backups),
        scope=Scope(engine=engine),
        needed=needed or {},
        is_sound=lambda backup: sound is None or backup.id in sound,
    )
    return list(choice.removed), dict(choice.spared)


def test_keep_counts() -> None:
    """The newest so many of a series stay."""
    assert chosen(series(5), keep=2) == (["b000", "b001", "b002"], {})


def test_a_project_is_a_series_of_its_own() -> None:
    """Its containers may change; the ones outside it, and the project itself, distinguish series."""
    grown = [of_shop(2, "web"), of_shop(3, "web", "new")]
    beside = of_shop(0, "web", "alone")
    assert beside.outside_project == ("alone",)
    assert chosen([beside, *series(2)[1:], *grown], keep=1) == (["b002"], {})


@pytest.mark.parametrize(
    ("project", "containers", "removed"),
    [
        ("shop", None, ["b002"]),
        ("shop", (), ["b002"]),
        ("shop", ("alone",), []),
        (None, ("web",), ["b000"]),
        ("other", None, []),
        (None, None, ["b000", "b002"]),
    ],
)
def test_one_series_can_be_meant(project: str | None, containers: tuple[str, ...] | None, removed: list[str]) -> None:
    """That of some containers, that of a project, or all."""
    choice = choose(
        [*series(2), of_shop(2, "web"), of_shop(3, "web")],
        keep=Keep.of(1),
        now=EPOCH + days(3),
        scope=Scope(containers, project),
        needed={},
        is_sound=lambda _: True,
    )
    assert sorted(choice.removed) == removed


def test_age_counts() -> None:
    """Those younger than the age stay."""
    assert chosen(series(5), keep=days(2)) == (["b000", "b001"], {})


def test_with_both_rules_one_that_either_wants_stays() -> None:
    """Count and age together remove only what neither keeps."""
    assert chosen(series(5), keep=Keep(count=1, age=days(2))) == (["b000", "b001"], {})
    assert chosen(series(5), keep=Keep(count=4, age=days(2))) == (["b000"], {})


def test_without_a_rule_every_backup_stays() -> None:
    """No count and no age keeps all."""
    assert chosen(series(5)) == chosen(series(5), keep=Keep()) == ([], {})


def test_an_engine_has_series_of_its_own() -> None:
    """Containers of one name on two engines do not thin each other out, nor those taken before engines were told."""

    def taken(number: int, identity: str) -> Backup:
        backup = record(number)
        return evolve(backup, engine=evolve(backup.engine, identity=identity))

    backups = [taken(number, identity) for number, identity in enumerate(("here", "there", "", "here", "there", ""))]
    assert chosen(backups[:3], keep=1)[0] == []
    assert sorted(chosen(backups, keep=1)[0]) == ["b000", "b001", "b002"]
    assert chosen(backups, keep=1, engine="there")[0] == ["b001"]


def test_the_newest_stays_even_where_nothing_is_to_be_kept() -> None:
    """`keep=0` leaves the newest backup that verifies, and says so."""
    removed, spared = chosen(series(3), keep=0)
    assert removed == ["b000", "b001"]
    assert list(spared) == ["b002"]


def test_a_backup_that_does_not_verify_takes_no_place() -> None:
    """Where the newest ones are rotten, the newest sound one stays although its time is over."""
    removed, spared = chosen(series(5), keep=2, sound={"b000", "b001"})
    assert removed == ["b000", "b002"]
    assert list(spared) == ["b001"]


def test_one_that_needs_its_engine_takes_no_place_of_one_that_does_not() -> None:
    """The newest backup that the store alone can restore stays behind newer ones that it cannot."""
    backups = [record(0), record(1), record(2, durable=False), record(3, durable=False)]
    removed, spared = chosen(backups, keep=1)
    assert removed == ["b000", "b002"]
    assert list(spared) == ["b001"]


def test_a_group_is_a_series_of_its_own() -> None:
    """Backups of a group and of one of its members do not thin each other out."""
    backups = [record(0, ("web", "db")), record(1), record(2), record(3, ("db", "web"))]
    assert chosen(backups, keep=1)[0] == ["b000", "b001"]


def test_parts_alone_are_series_of_their_own() -> None:
    """Snapshots without volumes, and archives of one volume, thin out neither whole backups nor each other."""

    def archive(name: str) -> VolumeArchive:
        return VolumeArchive(name, {}, False, "direct", making.add_nothing())

    def taken(number: int, containers: tuple[str, ...], volumes: tuple[str, ...]) -> Backup:
        snapshots = [making.snapshot(name, IMAGE, making.add_nothing()) for name in containers]
        archives = [archive(name) for name in volumes]
        return making.backup_of(f"b{number}", snapshots, archives, created=EPOCH + days(number))

    things = [(("web",), ("data",)), (("web",), ()), ((), ("data",)), ((), ("logs",))]
    first = [taken(number, *thing) for number, thing in enumerate(things)]
    assert chosen(first, keep=1)[0] == []
    second = [taken(number + 4, *thing) for number, thing in enumerate(things)]
    assert sorted(chosen(first + second, keep=1)[0]) == ["b0", "b1", "b2", "b3"]
    # A container that got another volume is the same container.
    assert chosen([first[0], taken(9, ("web",), ("data", "logs"))], keep=1)[0] == ["b0"]


def test_states_kept_before_a_rollback_are_series_of_their_own() -> None:
    """They push out no good one, whatever containers a failed update left, and are thinned out among themselves."""

    def kept(number: int, *names: str) -> Backup:
        return evolve(record(number, names), kept_for=("web",))

    backups = [record(1), kept(2, "web"), kept(3, "web", "migrator"), kept(4)]
    assert chosen(backups, keep=1) == (["b002", "b003"], {})


def test_what_is_needed_stays() -> None:
    """A backup that a rollback needs stays, with the reason."""
    removed, spared = chosen(series(4), keep=1, needed={"b001": "a rollback needs it", "b003": "it is kept anyway"})
    assert removed == ["b000", "b002"]
    assert spared == {"b001": "a rollback needs it"}


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([("a",), ("b",), ("a", "b")]), st.booleans(), st.booleans())
    ),
    st.none() | st.integers(0, 5),
    st.none() | st.timedeltas(timedelta(), timedelta(days=20)),
)
def test_no_series_ever_loses_its_last_sound_backup(
    rows: list[tuple[int, tuple[str, ...], bool, bool]], count: int | None, age: timedelta | None
) -> None:
    """Whatever the rules, a series that had a sound backup has one left, as new and as durable as the best it had."""
    backups, sound = [], set()
    for number, (day, names, durable, is_sound) in enumerate(rows):
        manifest = making.add_nothing() if durable else None
        snapshots = [making.snapshot(name, IMAGE, manifest) for name in names]
        backups.append(making.backup_of(f"n{number}", snapshots, created=EPOCH + days(day)))
        if is_sound:
            sound.add(f"n{number}")
    if not backups:
        return
    removed, _ = chosen(backups, keep=Keep(count=count, age=age), sound=sound)
    for names in {names for _, names, _, _ in rows}:
        before = [b for b in backups if b.id in sound and tuple(c.name for c in b.containers) == names]
        best = max(((b.durable, b.created) for b in before), default=None)
        after = max(((b.durable, b.created) for b in before if b.id not in removed), default=None)
        assert after == best


@pytest.fixture
def aging(store: BackupStore) -> BackupStore:
    """Give a store of four daily backups, asked a day after the last."""
    for number in range(4):
        making.save(store, f"b{number}", img=IMAGE, volume=bytes([number]) * 500, created=EPOCH + days(number))
    return BackupStore(store.path, clock=lambda: EPOCH + days(4))


def test_prune_removes_reports_and_frees(aging: BackupStore) -> None:
    """A prune says what went and how much that freed, and leaves exactly what the rest needs."""
    before = sum(path.stat().st_size for path in making.blob_files(aging))
    report = aging.prune(keep=2)
    assert report.removed == ("b0", "b1")
    assert report.kept == ("b2", "b3")
    assert report.freed == before - sum(path.stat().st_size for path in making.blob_files(aging)) > 0
    assert {"sha256:" + path.name for path in making.blob_files(aging)} == {
        *making.blobs_of(aging.path, "b2"),
        *making.blobs_of(aging.path, "b3"),
    }
    for backup_id in ("b2", "b3"):
        aging.verify(backup_id)
    assert aging.prune(keep=2).removed == ()


def test_a_dry_run_touches_nothing_and_tells_the_truth(aging: BackupStore) -> None:
    """A dry run's report equals that of the prune after it, and no file differs until then."""
    before = making.tree(aging.path / "blobs"), (aging.path / "index.json").read_bytes()
    told = aging.prune(keep=days(2), dry_run=True)
    assert (making.tree(aging.path / "blobs"), (aging.path / "index.json").read_bytes()) == before
    done = aging.prune(keep=days(2))
    assert told.dry_run
    assert not done.dry_run
    assert (told.removed, told.kept, told.blobs, told.freed) == (done.removed, done.kept, done.blobs, done.freed)
    assert done.removed == ("b0", "b1")


def test_prune_keeps_to_the_containers_that_it_is_given(aging: BackupStore) -> None:
    """A prune for some containers leaves the series of others as they are."""
    making.save(aging, "g0", img=IMAGE, names=("web", "db"), created=EPOCH)
    making.save(aging, "g1", img=IMAGE, names=("web", "db"), created=EPOCH + days(1))
    assert aging.prune(keep=1, containers=["db", "web"]).removed == ("g0",)
    assert aging.ids() == ["b0", "b1", "b2", "b3", "g1"]


def test_without_a_rule_only_leftovers_go(aging: BackupStore) -> None:
    """A prune without rules removes no backup, and frees what belongs to none."""
    (aging.path / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"of nobody")
    report = aging.prune()
    assert (report.removed, report.blobs, report.freed) == ((), 1, 9)


def test_a_rotten_newest_backup_does_not_cost_the_sound_one(aging: BackupStore) -> None:
    """A prune verifies before it removes: with the newest backup rotten, the one before it stays."""
    base = aging.get("b3").volumes[0].base
    path = aging.path / "blobs" / "sha256" / base.digest[7:]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    report = aging.prune(keep=1)
    assert report.removed == ("b0", "b1")
    assert list(report.spared) == ["b2"]


def test_rules_that_are_none_are_refused(aging: BackupStore) -> None:
    """A negative count or age is a mistake of the caller's, and so is one of another type; nothing goes."""
    for negative in (-1, days(-1)):
        with pytest.raises(ValueError, match="negative"):
            aging.prune(keep=negative)
    wrong: list[Any] = ["3", 1.5, True, Keep]
    for keep in wrong:
        with pytest.raises(TypeError, match="not"):
            aging.prune(keep=keep)
    age: Any = 30
    with pytest.raises(TypeError, match="timedelta"):
        Keep(age=age)
    assert len(aging.ids()) == 4


def test_pruning_a_store_that_is_not_there_makes_none(store: BackupStore) -> None:
    """Pruning where nothing was ever written removes nothing and writes nothing."""
    assert store.prune(keep=1).removed == ()
    assert not store.path.exists()


def test_a_held_backup_stays_until_it_is_released(aging: BackupStore) -> None:
    """A durable hold outlives the process: prune spares the backup and delete refuses it, until its release."""
    aging.hold("b0", "rollback-1", "the rollback of web has not ended")
    aging.hold("b0", "rollback-2", "nor this")
    again = BackupStore(aging.path, clock=lambda: EPOCH + days(4))
    assert again.prune(keep=1).removed == ("b1", "b2")
    with pytest.raises(StoreError, match="an unfinished rollback"):
        again.delete("b0")
    again.release("b0", "rollback-1")
    with pytest.raises(StoreError, match="an unfinished rollback"):
        again.delete("b0")
    again.release("b0", "rollback-2")
    again.release("b0", "rollback-2")
    again.delete("b0")
    assert again.ids() == ["b3"]
    with pytest.raises(BackupNotFoundError):
        again.hold("b0", "rollback-1", "too late")
    with pytest.raises(ValueError, match="holder"):
        again.hold("b3", "../x", "no name")


def test_a_backup_in_use_stays_for_that_time(aging: BackupStore) -> None:
    """What is being read is neither pruned nor deleted, and is afterwards."""
    with aging.using("b0"):
        report = aging.prune(keep=1)
        assert report.removed == ("b1", "b2")
        assert report.spared == {"b0": "it is being read"}
        with pytest.raises(StoreError, match="being read"):
            aging.delete("b0")
    assert list((aging.path / "holds").iterdir()) == []
    assert aging.prune(keep=1).removed == ("b0",)


def test_the_caller_can_protect_a_backup(aging: BackupStore) -> None:
    """Ids that the caller names stay."""
    assert aging.prune(keep=1, protect=["b1"]).removed == ("b0", "b2")


def test_delete_frees_what_only_that_backup_had(store: BackupStore) -> None:
    """Deleting one of two backups leaves the other whole, and no blob that is not its own."""
    making.save(store, "b1", img=IMAGE)
    making.save(store, "b2", img=IMAGE, volume=b"other" * 50)
    store.delete("b1")
    assert {"sha256:" + path.name for path in making.blob_files(store)} == making.blobs_of(store.path, "b2")
    store.verify("b2")
    with pytest.raises(BackupNotFoundError):
        store.delete("b1")


def test_what_other_tools_put_into_the_layout_is_left_alone(store: BackupStore) -> None:
    """An image that another tool named in the layout survives pruning with its blobs, and is no backup."""
    making.save(store, "b1", img=IMAGE)
    making.save(store, "b2", img=image(b"else"), volume=b"x", created=EPOCH + days(1))
    index = store.path / "index.json"
    child = making.children_of(store.path, "b1")[2]
    text = index.read_text().replace('"b1.2"', '"theirs"')
    index.write_text(text)
    store.delete("b1")
    assert store.ids() == ["b2"]
    assert (store.path / "blobs" / "sha256" / child[7:]).exists()
    assert "theirs" in index.read_text()


def test_ten_backups_cost_little_more_than_one(store: BackupStore) -> None:
    """Ten backups on one image with small changes take at most 1.1 times one image, plus the changes."""
    base = b"".join(making.digest(str(number).encode()).encode() for number in range(40_000))
    quick = BackupStore(store.path, disk=FailingDisk())
    changes = 0
    sizes = []
    for number in range(10):
        change = making.digest(bytes([number])).encode() * 50
        changes += 2 * len(change)
        making.save(quick, f"b{number}", img=image(base, change), layout=making.legacy, volume=change)
        sizes.append(sum(path.stat().st_size for path in making.blob_files(quick)))
    assert sizes[-1] <= 1.1 * sizes[0] + changes
