"""What is excluded: in no backup, listed in it, and left alone when things are put back, by recovery too."""

from __future__ import annotations

from typing import Any

import pytest

from docker_rollback import (
    BackupStore,
    Exclude,
    Rollback,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    VolumeArchiver,
    backup,
    recover,
    restore,
    rollback,
)
from docker_rollback._model.exclude import Paths, as_excludes
from docker_rollback.testing import FakeEngine, Killed
from docker_rollback.types import ExcludeArgument
from tests.unit.mortal import Life, MortalDisk, MortalEngine

EXCLUDE: list[ExcludeArgument] = ["cache", "data:tmp/*.log", Exclude("/srv/app", "media")]
BOUND = "/srv/app"


@pytest.fixture
def fake() -> FakeEngine:
    """Give an engine with a service that has two volumes and a folder of the host."""
    engine = FakeEngine()
    engine.add_image("app")
    engine.host.write(f"{BOUND}/media/film", "a film")
    engine.host.write(f"{BOUND}/page", "a page")
    engine.run("app", image="app", volumes={"data": "/data", "cache": "/cache", BOUND: "/app"})
    engine.volume("data").write("/table", "rows")
    engine.volume("data").write("/tmp/old.log", "a log")
    engine.volume("cache").write("/large", "x" * 1000)
    return engine


def update(fake: FakeEngine) -> None:
    """Change everything, what is excluded and what is not."""
    for files, path in (
        (fake.volume("data"), "/table"),
        (fake.volume("data"), "/tmp/old.log"),
        (fake.volume("data"), "/tmp/new.log"),
        (fake.volume("data"), "/tmp/stray"),
        (fake.volume("cache"), "/large"),
        (fake.host, f"{BOUND}/media/film"),
        (fake.host, f"{BOUND}/page"),
    ):
        files.write(path, "updated")


def check_put_back(fake: FakeEngine) -> None:
    """See that what was excluded is as the update left it, and all else as it was."""
    data = fake.volume("data")
    assert data.read("/table") == b"rows"
    assert fake.host.read(f"{BOUND}/page") == b"a page"
    assert not data.exists("/tmp/stray")
    assert data.read("/tmp/old.log") == data.read("/tmp/new.log") == b"updated"
    assert fake.volume("cache").read("/large") == b"updated"
    assert fake.host.read(f"{BOUND}/media/film") == b"updated"


def rolled(fake: Any, store: BackupStore, **options: Any) -> Rollback:
    """Return a rollback of the service."""
    chosen: dict[str, Any] = {"exclude": EXCLUDE, "include_binds": [BOUND], "verify": None, **options}
    return rollback("app", client=fake, store=store, **chosen)


def test_what_is_excluded_survives_a_rollback(fake: FakeEngine, store: BackupStore) -> None:
    """Whole volumes, paths in a volume and paths in a folder of the host."""
    with rolled(fake, store) as tx:
        update(fake)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    check_put_back(fake)


def test_a_backup_lists_what_it_left_out(fake: FakeEngine, store: BackupStore) -> None:
    """As a field, among what is not covered, and beforehand in the report of a check."""
    report = rolled(fake, store).check()
    taken = backup("app", client=fake, store=store, exclude=EXCLUDE, include_binds=[BOUND])
    assert report.excluded == taken.excluded == store.get(taken.id).excluded == as_excludes(EXCLUDE)
    assert sorted(report.volumes) == sorted(volume.name for volume in taken.volumes) == [BOUND, "data"]
    assert taken.volume("data").excluded == ("tmp/*.log",)
    gaps = {gap.what: gap.reason for gap in taken.not_covered}
    assert gaps == dict.fromkeys(
        ("volume cache", "tmp/*.log in volume data", f"media in folder {BOUND}"), "it is excluded"
    )
    assert gaps.keys() == {gap.what for gap in report.not_covered}


def test_a_path_of_which_there_is_nothing_is_listed_as_such(fake: FakeEngine, store: BackupStore) -> None:
    """It may come to be there with the update, and is left alone then; a slip of the pen shows in the backup."""
    taken = backup("app", client=fake, store=store, exclude=["data:spool"])
    assert [gap.reason for gap in taken.not_covered if gap.what.startswith("spool")] == [
        "it is excluded; there was nothing of the kind"
    ]


@pytest.mark.parametrize(
    ("exclude", "reason"),
    [
        ("cach", r"exclude names 'cach', which the backup would not contain; they have '/srv/app', 'cache', 'data'"),
        ("cach:x", "exclude names 'cach'"),
        ("/srv/app", "so does include_binds"),
    ],
)
def test_what_cannot_be_excluded_is_refused(fake: FakeEngine, store: BackupStore, exclude: str, reason: str) -> None:
    """Before anything is touched, with what could have been meant."""
    with pytest.raises(UnsupportedContainerError, match=reason), rolled(fake, store, exclude=[exclude]):
        pytest.fail("it began")
    assert store.ids() == []


def test_an_anonymous_volume_cannot_be_left_out_as_a_whole(store: BackupStore) -> None:
    """It goes with its container, so that nothing would be left to leave alone; paths in it can."""
    fake = FakeEngine()
    fake.add_image("app", volumes=["/anonymous"])
    fake.run("app", image="app")
    (name,) = (mount["Name"] for mount in fake.inspect_container("app")["Mounts"])
    with pytest.raises(UnsupportedContainerError, match="goes with its container"):
        backup("app", client=fake, store=store, exclude=[name])
    assert backup("app", client=fake, store=store, exclude=[f"{name}:x"]).excluded == (Exclude(name, "x"),)


@pytest.mark.parametrize("removed", [True, False])
def test_paths_of_an_anonymous_volume_outlive_their_container(store: BackupStore, *, removed: bool) -> None:
    """One that is made anew has another volume, in which they are not: so the old volume is nobody's to remove."""
    fake = FakeEngine()
    fake.add_image("app")
    fake.run("app", image="app", anonymous=["/data"])
    (mount,) = fake.inspect_container("app")["Mounts"]
    data = fake.volume(mount["Name"])
    data.write("/table", "rows")
    data.write("/media/film", "a film")
    with rollback("app", client=fake, store=store, verify=None, exclude=[f"{mount['Name']}:media"]):
        if removed:
            fake.remove_container("app", force=True)
        else:
            fake.container("app").write("/etc/motd", "hello")
        raise RollbackRequested
    (now,) = fake.inspect_container("app")["Mounts"]
    assert now["Name"] != mount["Name"]
    assert fake.volume(now["Name"]).read("/table") == b"rows"
    assert data.read("/media/film") == b"a film"
    assert fake.has_volume(mount["Name"])


def test_who_writes_to_an_excluded_volume_does_no_harm(fake: FakeEngine, store: BackupStore) -> None:
    """A container outside that shares it is neither refused nor stopped."""
    fake.run("other", image="app", volumes={"cache": "/cache"})
    started = fake.inspect_container("other")["State"]["StartedAt"]
    assert backup("app", client=fake, store=store, exclude=["cache"]).excluded == (Exclude("cache"),)
    assert fake.inspect_container("other")["State"]["StartedAt"] == started


def test_a_restore_elsewhere_in_time_leaves_it_alone_as_well(fake: FakeEngine, store: BackupStore) -> None:
    """The backup knows what it left out, whoever puts it back."""
    taken = backup("app", client=fake, store=store, exclude=EXCLUDE, include_binds=[BOUND])
    update(fake)
    restore(taken.id, client=fake, store=store)
    check_put_back(fake)


@pytest.mark.parametrize("keep_found", [False, True])
def test_recovery_leaves_it_alone(fake: FakeEngine, store: BackupStore, *, keep_found: bool) -> None:
    """It puts back what the backup has, and what it keeps of the state that it finds leaves out the same."""
    life = Life()
    dying = BackupStore(store.path, disk=MortalDisk(life))
    with pytest.raises(Killed), rolled(MortalEngine(fake, life), dying):
        update(fake)
        raise life.die()
    (outcome,) = recover(client=fake, store=store, keep_found=keep_found)
    check_put_back(fake)
    assert outcome.outcome == "rolled back"
    if keep_found:
        assert outcome.kept is not None
        assert store.get(outcome.kept).excluded == as_excludes(EXCLUDE)
        assert "cache" not in {volume.name for volume in store.get(outcome.kept).volumes}


def test_an_archive_of_a_volume_alone_leaves_paths_out(fake: FakeEngine, store: BackupStore) -> None:
    """Those of that volume, and not the volume itself."""
    archiver = VolumeArchiver(fake, store)
    archive = archiver.archive("data", in_use=True, exclude=["data:tmp/*.log"])
    update(fake)
    fake.stop_container("app")
    archiver.extract(archive)
    assert fake.volume("data").read("/tmp/new.log") == b"updated"
    assert not fake.volume("data").exists("/tmp/stray")
    for wrong in ("data", "cache:x"):
        with pytest.raises(ValueError, match="is none"):
            archiver.archive("data", in_use=True, exclude=[wrong])


@pytest.mark.parametrize("wrong", ["", ":x", "data:", "data:/x", "data:../x", "data:x//y", "data:./x", "data:x\0"])
def test_what_says_nothing_is_no_exclusion(wrong: str) -> None:
    """It is told at once, not where the backup would have been."""
    with pytest.raises(ValueError, match=r"names no|is not a path"):
        rollback("app", client=FakeEngine(), exclude=[wrong])


def test_exclude_is_a_list() -> None:
    """A text alone would be taken for a list of letters."""
    with pytest.raises(TypeError, match="a list"):
        rollback("app", client=FakeEngine(), exclude="cache")
    with pytest.raises(TypeError, match="expected"):
        as_excludes([7])  # type: ignore[list-item]


def test_patterns_match_within_one_name() -> None:
    """A star and a question mark stand for anything but a slash; all else stands for itself."""
    paths = Paths(["tmp/*.log", "a?", "[x]"])
    for path in (b"./tmp/a.log", b"./tmp/.log", b"./tmp/a.log/below", b"./ab", b"./a\n", b"./[x]"):
        assert path in paths
    for path in (b"./tmp", b"./tmp/sub/a.log", b"./tmp/a.logs", b"./a", b"./abc", b"./x", b".", b"./other/ab"):
        assert path not in paths
    assert not Paths()
    assert b"./anything" not in Paths()


def test_a_volume_of_a_project_that_no_container_has_can_be_left_out(fake: FakeEngine, store: BackupStore) -> None:
    """It is neither backed up with the project, nor taken for one that came later."""
    label = {"com.docker.compose.project": "shop"}
    fake.run("shop-web-1", image="app", volumes={"data": "/data"}, labels=label, start=False)
    for name in ("shop_spare", "shop_media"):
        fake.create_volume({"Name": name, "Labels": label})
        fake.volume(name).write("/file", "before")
    fake.stop_container("app")
    with rollback(project="shop", client=fake, store=store, verify=None, exclude=["shop_media"]) as tx:
        fake.volume("shop_spare").write("/file", "updated")
        fake.volume("shop_media").write("/file", "updated")
        raise RollbackRequested
    assert {volume.name for volume in tx.backup.volumes} == {"data", "shop_spare"}
    assert fake.volume("shop_spare").read("/file") == b"before"
    assert fake.volume("shop_media").read("/file") == b"updated"
