"""Folders of the host that containers bind: left alone, or part of a backup where they are asked for by path."""

from __future__ import annotations

from typing import Any

import pytest

from docker_rollback import (
    BackupStore,
    Rollback,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    backup,
    restore,
    rollback,
)
from docker_rollback.errors import RestoreError, VolumeAccessError
from docker_rollback.parts import Engine
from docker_rollback.testing import CHANGING, FailingEngine, FakeEngine

DATA = "/srv/data"


@pytest.fixture
def fake() -> FakeEngine:
    """An engine with a service that binds two folders of its host."""
    engine = FakeEngine()
    engine.add_image("app")
    engine.host.write(f"{DATA}/deep/table", "rows", mode=0o600, uid=70)
    engine.host.set(DATA, mode=0o2750, uid=1234)
    engine.host.write("/etc/app/conf", "port=80")
    engine.run("app", image="app", volumes={DATA: "/data", "/etc/app": "/etc/app:ro"})
    return engine


def rolled(fake: Engine, store: BackupStore, **options: Any) -> Rollback:
    """Return a rollback of the service with its data."""
    chosen: dict[str, Any] = {"include_binds": [DATA], "verify": None, **options}
    return rollback("app", client=fake, store=store, **chosen)


def changing(engine: FailingEngine) -> list[str]:
    """Return what changed something in the engine, but for what our helpers take."""
    return [call.verb for call in engine.calls if call.verb in CHANGING and "helper" not in str(call.arguments)]


def test_a_folder_that_is_asked_for_comes_back(fake: FakeEngine, store: BackupStore) -> None:
    """What the update changed in it, and added to it, is undone, byte for byte and attribute for attribute."""
    before, other = fake.host.facts(DATA), fake.host.facts("/etc/app")
    with rolled(fake, store) as tx:
        fake.host.write(f"{DATA}/deep/table", "half migrated", mode=0o666, uid=0)
        fake.host.write(f"{DATA}/new", "x")
        fake.host.write("/etc/app/conf2", "not ours")
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert fake.host.facts(DATA) == before
    assert fake.host.facts("/etc/app") != other, "what was not asked for is left alone"
    assert fake.container("app").read("/data/deep/table") == b"rows"
    assert fake.list_containers() == [fake.container("app").id]


@pytest.mark.parametrize("mount", ["-v", "--mount"])
def test_a_folder_that_the_update_removed_is_made_again(store: BackupStore, mount: str) -> None:
    """It stands again before its container is created, with its attributes; however the container asks for it."""
    fake = FakeEngine()
    fake.add_image("app")
    fake.host.write(f"{DATA}/table", "rows")
    fake.host.set(DATA, mode=0o2750, uid=1234)
    mounts = [{"Type": "bind", "Source": DATA, "Target": "/data"}]
    if mount == "-v":
        fake.run("app", image="app", volumes={DATA: "/data"})
    else:
        fake.run("app", image="app", Mounts=mounts)
    before = fake.host.facts(DATA)
    with rolled(fake, store) as tx:
        fake.remove_container("app", force=True)
        fake.host.delete("/srv")
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert fake.host.facts(DATA) == before
    assert fake.container("app").status == "running"


def test_a_backup_says_what_it_holds(fake: FakeEngine, store: BackupStore) -> None:
    """A folder that is asked for is listed with its way, and is no gap; the other one is, as without."""
    report = rolled(fake, store).check()
    assert dict(report.volumes) == {DATA: "helper"}
    gaps = ["bind /etc/app at /etc/app"]
    assert [gap.what for gap in report.not_covered] == gaps
    taken = backup("app", client=fake, store=store, include_binds=[f"{DATA}/"])
    assert [gap.what for gap in taken.not_covered] == gaps
    assert store.get(taken.id).volume(DATA).way == "helper"
    without = backup("app", client=fake, store=store)
    assert [gap.what for gap in without.not_covered] == [*gaps, f"bind {DATA} at /data"][::-1]
    assert without.volumes == ()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/srv", "include_binds names '/srv', which no container of the rollback binds; they bind '/etc/app', "),
        ("/srv/data/deep", "no container of the rollback binds"),
        ("/nowhere", "no container of the rollback binds"),
    ],
)
def test_a_path_that_nobody_binds_is_refused(fake: FakeEngine, store: BackupStore, path: str, words: str) -> None:
    """Only what a container binds, by its own path, can be asked for; nothing is touched otherwise."""
    watching = FailingEngine(fake)
    with (
        pytest.raises(UnsupportedContainerError, match=words) as refused,
        rolled(watching, store, include_binds=[path]),
    ):
        pytest.fail("it began")
    assert refused.value.container == "app"
    assert changing(watching) == []
    assert store.list() == []


@pytest.mark.parametrize(
    "path", ["/", "/proc", "/sys/fs", "/dev", "/var/run/docker", "/var/lib", "/var/lib/fake-engine/x", "/etc"]
)
def test_what_is_never_archived_is_refused(fake: FakeEngine, store: BackupStore, path: str) -> None:
    """The error names the container, the path and the reason, and nothing was touched."""
    fake.host.mkdir(path)
    fake.run("odd", image="app", volumes={path: "/odd:ro"})
    watching = FailingEngine(fake)
    with pytest.raises(UnsupportedContainerError, match=f"container 'odd' .* folder '{path}': it is never") as refused:
        backup("odd", client=watching, store=store, include_binds=[path])
    assert refused.value.container == "odd"
    assert changing(watching) == []


@pytest.mark.parametrize("kind", ["socket", "link"])
def test_what_is_no_folder_of_ours_is_refused(fake: FakeEngine, store: BackupStore, kind: str) -> None:
    """A socket, and a link to what is never archived: refused by what is really there."""
    path = "/srv/odd"
    if kind == "socket":
        fake.host.special(path, "socket")
    else:
        fake.host.mkdir("/proc")
        fake.host.symlink(path, "/proc")
    fake.run("odd", image="app", volumes={path: "/odd"})
    words = {"socket": "is a socket", "link": "file system of the kernel's"}
    with pytest.raises(UnsupportedContainerError, match=f"'odd' .*folder '{path}': .*{words[kind]}"):
        backup("odd", client=fake, store=store, include_binds=[path])
    assert fake.container("odd").status == "running"


CONF = "/srv/app.conf"


@pytest.fixture
def single() -> FakeEngine:
    """An engine with a service that binds a single file of its host."""
    engine = FakeEngine()
    engine.add_image("app")
    engine.host.write(CONF, "port=80", mode=0o640, uid=70, xattrs={"user.kept": b"1"})
    engine.host.write("/srv/other", "not ours")
    engine.run("app", image="app", volumes={CONF: "/app.conf:ro"})
    return engine


@pytest.mark.parametrize("update", ["written", "touched", "removed", "with the folder", "made a folder"])
def test_a_single_file_comes_back(single: FakeEngine, store: BackupStore, update: str) -> None:
    """What the update did to it is undone; it stays the same file if it is there, and is a file again if it is not."""
    before, other = single.host.facts(CONF), single.host.facts("/srv/other")
    node = single.host.node(CONF)
    with rolled(single, store, include_binds=[CONF]) as tx:
        assert [gap.what for gap in tx.backup.not_covered] == []
        if update == "written":
            single.host.write(CONF, "port=81", mode=0o666, uid=0, xattrs={"user.stray": b"1"})
        elif update == "touched":
            single.host.touch(CONF)
        else:
            single.remove_container("app", force=True)
            single.host.delete("/srv" if update == "with the folder" else CONF)
        if update == "made a folder":
            single.host.mkdir(CONF)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert single.host.facts(CONF) == before
    assert single.container("app").read("/app.conf") == b"port=80"
    if update in ("written", "touched"):
        assert single.host.node(CONF) is node
    if update != "with the folder":
        assert single.host.facts("/srv/other") == other
    assert single.list_containers() == [single.container("app").id]


def test_nothing_is_written_to_a_single_file_that_is_as_it_was(single: FakeEngine, store: BackupStore) -> None:
    """A rollback leaves it alone, its time of change included."""
    changed = single.host.node(CONF).ctime
    with rolled(single, store, include_binds=[CONF]):
        raise RollbackRequested
    assert single.host.node(CONF).ctime == changed


def test_a_folder_in_the_place_of_a_single_file_is_not_removed(single: FakeEngine, store: BackupStore) -> None:
    """If somebody has put something in it, the rollback fails, and the error says what to do."""
    told = f"'{CONF}'.*a folder with something in it is in its place; move that away"
    with pytest.raises(RollbackFailedError, match=told), rolled(single, store, include_binds=[CONF]) as tx:
        single.remove_container("app", force=True)
        single.host.delete(CONF)
        single.host.write(f"{CONF}/theirs", "x")
        raise RollbackRequested
    assert single.host.read(f"{CONF}/theirs") == b"x"
    single.host.delete(CONF)
    assert restore(tx.backup.id, client=single, store=store) == ["app"]
    assert single.host.read(CONF) == b"port=80"


def test_a_single_file_is_reached_by_a_helper_alone(single: FakeEngine, store: BackupStore) -> None:
    """Asked to go directly, a backup is refused before anything is touched."""
    with pytest.raises(UnsupportedContainerError, match=f"container 'app' .*'{CONF}'"):
        backup("app", client=single, store=store, include_binds=[CONF], way="direct")


@pytest.mark.parametrize("arguments", [{"include_binds": "/srv/data"}, {"include_binds": ["data"]}])
def test_what_is_no_list_of_paths_is_an_error(fake: FakeEngine, store: BackupStore, arguments: Any) -> None:
    """A lone string and a relative path are mistakes of the caller."""
    with pytest.raises((TypeError, ValueError), match=r"include_binds|begins with a slash"):
        rollback("app", client=fake, store=store, **arguments)


@pytest.mark.parametrize("container", ["kept", "made anew"])
def test_a_folder_that_is_gone_and_not_in_the_backup_is_named(store: BackupStore, container: str) -> None:
    """Where the container cannot start without it, the error says which it is, and the backup does once it is there."""
    fake = FakeEngine()
    fake.add_image("app")
    fake.host.mkdir(DATA)
    fake.run("app", image="app", Mounts=[{"Type": "bind", "Source": DATA, "Target": "/data"}])
    words = "it binds '/srv/data' of the engine's host, which is gone, and which the backup does not hold"
    with pytest.raises(RollbackFailedError, match=words) as failed, rolled(fake, store, include_binds=[]):
        fake.host.delete(DATA)
        if container == "made anew":
            fake.remove_container("app", force=True)
        else:
            fake.stop_container("app")
        raise RollbackRequested
    assert isinstance(failed.value.failures.exceptions[0], RestoreError)
    fake.host.mkdir(DATA)
    restore(failed.value.backup_id, client=fake, store=store)
    assert fake.container("app").status == "running"


def test_who_writes_to_a_folder_stands_against_it(fake: FakeEngine, store: BackupStore) -> None:
    """A running container outside that binds the folder, or a part, to write counts as with a volume."""
    fake.run("writer", image="app", volumes={f"{DATA}/deep": "/x"})
    fake.run("watcher", image="app", volumes={"/": "/host:ro"})
    refused = rolled(fake, store).check().refused
    assert refused.keys() == {"app"}
    assert "'writer' writes to its folder '/srv/data' too; add it to the rollback" in refused["app"][0]
    assert len(refused["app"]) == 1
    assert rolled(fake, store, include_binds=[]).check().refused == {}
    stopping = rolled(fake, store, shared="stop")
    assert [guest.name for guest in stopping.check().guests] == ["writer"]
    before = fake.host.facts(DATA)
    with stopping as tx:
        fake.host.write(f"{DATA}/new", "x")
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert fake.host.facts(DATA) == before
    assert fake.container("writer").status == fake.container("watcher").status == "running"


def test_who_came_later_is_in_the_way(fake: FakeEngine, store: BackupStore) -> None:
    """What the update started on the folder is stopped by a rollback, and stands against a later restore."""
    with rolled(fake, store) as tx:
        fake.run("stray", image="app", volumes={DATA: "/x"})
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    assert fake.container("stray").status == "exited"
    fake.start_container("stray")
    with pytest.raises(RestoreError, match=r"'stray', .* binds folder '/srv/data', or a part of it; stop it first"):
        restore(tx.backup, client=fake, store=store)


def test_a_link_in_the_place_of_a_folder_is_not_followed(fake: FakeEngine, store: BackupStore) -> None:
    """Where the update made the path lead elsewhere, nothing there is touched, and the error says what to do."""
    fake.host.write("/home/precious", "precious")
    with pytest.raises(RollbackFailedError, match="leads to /home") as failed, rolled(fake, store):
        fake.host.rename(DATA, f"{DATA}.old")
        fake.host.symlink(DATA, "/home")
        raise RollbackRequested
    assert isinstance(failed.value.failures.exceptions[0], VolumeAccessError)
    assert fake.host.read("/home/precious") == b"precious"
    fake.host.delete(DATA)
    restore(failed.value.backup_id, client=fake, store=store)
    assert fake.container("app").read("/data/deep/table") == b"rows"
