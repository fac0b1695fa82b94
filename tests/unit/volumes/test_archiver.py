"""VolumeArchiver over the in-memory engine: what is stored, what is refused, and that nothing is left."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from attrs import evolve

from docker_rollback._model.backup import Descriptor, VolumeArchive
from docker_rollback._store.locks import FileLock
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.access.helper_image import pack_kit
from docker_rollback._volumes.archiver import VolumeArchiver
from docker_rollback._volumes.tar.members import END
from docker_rollback._zstd import frame
from docker_rollback.errors import (
    ArchiveError,
    CorruptBackupError,
    DockerRollbackError,
    EngineError,
    StoreNotWritableError,
    VolumeAccessError,
    VolumeNotFoundError,
)
from docker_rollback.testing import FEEDING, READING, FailingEngine, FakeEngine, Files, Killed, Run
from docker_rollback.testing._fake.gnu_tar import tar


@pytest.fixture
def fake() -> FakeEngine:
    """Give an engine with a container that does not run, and its volume."""
    engine = FakeEngine()
    engine.add_image("app")
    engine.run("app", image="app", volumes={"data": "/data"}, start=False)
    fill(engine.volume("data"))
    return engine


def fill(files: Files) -> None:
    """Put a few files of every kind into a volume."""
    files.write("/deep/er/file", "content", mode=0o4640, uid=5_000_000, xattrs={"trusted.x": b"\0"})
    files.link("/deep/er/file", "/again")
    files.symlink("/out", "../../etc")
    files.special("/deep/socket", "socket")
    files.write("/big", b"0123456789" * 300_000)


def without_sockets(files: Files) -> dict[str, tuple[object, ...]]:
    """Return all that there is to be seen of a volume, but its sockets."""
    return {path: facts for path, facts in files.facts().items() if "socket" not in facts}


def nothing_left(fake: FakeEngine) -> bool:
    """Say whether an engine has neither a helper nor a helper's image."""
    return len(fake.list_containers()) == 1 and not fake.has_image(pack_kit().tag)


def running_tar(fake: FakeEngine, behaviour: Callable[[Run], int | None]) -> None:
    """Have tar do something else in every container; its version stays what it is."""
    fake.program("tar", behaviour)


# There and back


def test_a_volume_comes_back_as_it_was(fake: FakeEngine, store: BackupStore) -> None:
    """What was archived comes back over whatever is there then; strays go."""
    archiver = VolumeArchiver(fake, store)
    before = without_sockets(fake.volume("data"))
    archive = archiver.archive("data")
    files = fake.volume("data")
    files.delete("/deep")
    files.write("/deep", "a file now")
    files.write("/stray/file", "stray")
    files.write("/big", "small")
    archiver.extract(archive)
    assert without_sockets(fake.volume("data")) == before
    assert nothing_left(fake)


def test_an_archive_taken_alone_is_a_backup_of_the_store(fake: FakeEngine, store: BackupStore) -> None:
    """The store lists it, keeps it through a prune that keeps one, and proves it."""
    archive = VolumeArchiver(fake, store).archive("data")
    (backup,) = store.list()
    assert (backup.volumes, backup.containers) == ((archive,), ())
    assert backup.not_covered == archive.not_covered
    store.verify(backup.id)
    assert (archive.way, archive.name, archive.inspection) == ("helper", "data", fake.inspect_volume("data"))
    assert archive.size > 3_000_000
    assert archive.base.size < 100_000


def test_what_no_archive_holds_is_listed(fake: FakeEngine, store: BackupStore) -> None:
    """A socket that tar leaves out is named, with the reason."""
    (gap,) = VolumeArchiver(fake, store).archive("data").not_covered
    assert gap.what == "socket ./deep/socket in volume data"
    assert "no archive holds sockets" in gap.reason


def test_another_volume_can_be_filled(fake: FakeEngine, store: BackupStore) -> None:
    """An archive fills the volume that is named, and leaves its own alone."""
    archiver = VolumeArchiver(fake, store)
    archive = archiver.archive("data")
    fake.volume("other").write("/old", "old")
    fake.volume("data").write("/new", "new")
    archiver.extract(archive, "other")
    assert fake.volume("data").exists("/new")
    assert not fake.volume("other").exists("/old")
    assert fake.volume("other").read("/deep/er/file") == b"content"


def test_an_increment_follows_its_base(fake: FakeEngine, store: BackupStore) -> None:
    """Of an archive with an increment, the base is filled in first, then what changed after it."""
    archiver = VolumeArchiver(fake, store)
    first = archiver.archive("data")
    fake.volume("data").delete("/deep")
    fake.volume("data").write("/later", "later")
    later = without_sockets(fake.volume("data"))
    second = archiver.archive("data")
    fake.volume("data").delete("/later")
    archiver.extract(evolve(first, increment=second.base))
    assert without_sockets(fake.volume("data")) == later


def test_progress_tells_each_volume_and_the_bytes(fake: FakeEngine, store: BackupStore) -> None:
    """The hook hears of every volume, never backwards, up to the size of its archive."""
    told: list[tuple[str, int]] = []
    archiver = VolumeArchiver(fake, store, progress=lambda volume, done: told.append((volume, done)))
    archive = archiver.archive("data")
    assert told[-1] == ("data", archive.size)
    told.clear()
    archiver.extract(archive)
    assert told[-1] == ("data", archive.size)
    assert told == sorted(told)


# Several at once


def test_several_volumes_are_captured_together(fake: FakeEngine, store: BackupStore) -> None:
    """Each goes into its own blob, in the order asked for, by one helper, which is gone after it."""
    for name in ("one", "two", "three"):
        fake.volume(name).write("/name", name)
    counting = FailingEngine(fake)
    archiver = VolumeArchiver(counting, store)
    with store.draft("together") as draft:
        with archiver.begin(["two", "one", "three"], draft, operation="op", anonymous={"one"}) as capture:
            capture.capture()
            archives = capture.seal()
        assert nothing_left(fake)
    assert [(archive.name, archive.anonymous) for archive in archives] == [
        ("two", False),
        ("one", True),
        ("three", False),
    ]
    assert len({archive.base.digest for archive in archives}) == 3
    assert [call.verb for call in counting.calls].count("create_container") == 1


def test_no_volumes_take_no_helper(fake: FakeEngine, store: BackupStore) -> None:
    """A capture of nothing asks nothing of the engine that changes anything."""
    counting = FailingEngine(fake)
    archiver = VolumeArchiver(counting, store)
    with store.draft("nothing") as draft, archiver.begin([], draft, operation="op") as capture:
        capture.capture()
        assert capture.seal() == ()
    assert counting.calls == []


def test_one_failure_gives_up_all(fake: FakeEngine, store: BackupStore) -> None:
    """Where one volume fails, the others' programs are ended, and the error is that one's."""
    began = threading.Event()

    def tar(run: Run) -> int | None:
        if "volumes/0" in run.arguments[-2]:
            began.set()
            return None  # at work until it is ended
        began.wait(10)
        run.stderr.append("tar: ./x: Cannot read: Input/output error\n")
        return 2

    fake.volume("endless")
    running_tar(fake, tar)
    archiver = VolumeArchiver(fake, store)
    with (
        store.draft("failing") as draft,
        pytest.raises(ArchiveError, match=r"volume 'data': .*Input/output error"),
        archiver.begin(["endless", "data"], draft, operation="op") as capture,
    ):
        capture.capture()
    assert nothing_left(fake)
    assert store.list() == []


def test_what_changes_at_rest_is_an_error_and_else_is_not(fake: FakeEngine, store: BackupStore) -> None:
    """Tar's note that a file changed fails a capture at rest, and passes one of a volume in use."""

    def tar(run: Run) -> int:
        run.stderr.append("tar: ./log: file changed as we read it\n")
        run.stdout += END
        return 1

    running_tar(fake, tar)
    archiver = VolumeArchiver(fake, store)
    with pytest.raises(ArchiveError, match=r"changed while they were read: tar: \./log"):
        archiver.archive("data")
    assert archiver.archive("data", in_use=True).size == len(END)


def test_a_capture_is_taken_once_and_sealed_after_it(fake: FakeEngine, store: BackupStore) -> None:
    """Sealing before it, and a second capture, are mistakes of the caller's."""
    archiver = VolumeArchiver(fake, store)
    with store.draft("order") as draft, archiver.begin(["data"], draft, operation="op") as capture:
        with pytest.raises(ValueError, match="nothing to seal"):
            capture.seal()
        capture.capture()
        with pytest.raises(ValueError, match="taken once"):
            capture.capture()
        assert len(capture.seal()) == 1


def test_holding_mounts_what_would_go_and_nothing_else(fake: FakeEngine, store: BackupStore) -> None:
    """A volume in memory is held for the time of the block, while it is filled too; a plain one takes no helper."""
    fake.create_volume({"Name": "memory", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}})
    archiver = VolumeArchiver(fake, store)
    archive = archiver.archive("data")
    with archiver.holding(["data"]):
        assert len(fake.list_containers()) == 1
    with archiver.holding(["memory", "data"]):
        (holder, _) = fake.list_containers()
        assert [mount["Name"] for mount in fake.inspect_container(holder)["Mounts"]] == ["memory"]
        archiver.extract(archive, "memory")
        assert fake.volume("memory").exists("/big")
    assert nothing_left(fake)


def test_a_volume_is_read_without_a_lock_where_the_store_takes_none_any_more(
    fake: FakeEngine, store: BackupStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that was held for an earlier call is not taken for one that is held now."""
    locks: list[str] = []
    create = fake.create_container

    def note(name: str, request: Mapping[str, Any]) -> str:
        locks.append(request["Labels"].get("docker-rollback.lock", ""))
        return create(name, request)

    monkeypatch.setattr(fake, "create_container", note)
    archiver = VolumeArchiver(fake, store, way="helper")
    archiver.probe(["data"])

    def refuse(*_: object, **__: object) -> NoReturn:
        raise StoreNotWritableError(str(store.path), "its disk is read-only")

    monkeypatch.setattr(store, "lock", refuse)
    archiver.probe(["data"])
    assert [bool(lock) for lock in locks] == [True, False]


def test_a_helper_that_somebody_else_left_over_stands_against_a_filling(fake: FakeEngine, store: BackupStore) -> None:
    """Another process may still be writing to the volume through it."""
    fake.add_image("tools")
    archive = VolumeArchiver(fake, store).archive("data")
    lock = store.path / "locks" / "volume.of-another"
    labels = {"docker-rollback.role": "helper", "docker-rollback.lock": str(lock)}
    other = fake.run("docker-rollback-helper-left-over", image="tools", volumes={"data": "/x"}, labels=labels)
    archiver = VolumeArchiver(fake, store)
    with pytest.raises(VolumeAccessError, match="left-over"):
        archiver.extract(archive)
    with FileLock(lock) as held:
        held.acquire()
        assert archiver.remove_left_over() == []
    assert archiver.remove_left_over() == [other]
    archiver.extract(archive)


def test_an_orphan_at_work_is_waited_for(fake: FakeEngine, store: BackupStore) -> None:
    """A child that outlives its dead parent keeps the volume's lock, and nothing is done before it has ended."""
    fake.add_image("tools")
    archiver = VolumeArchiver(fake, store)
    locks: set[Path] = set()

    def watched(run: Run) -> int | None:
        # The file of a lock goes with its last holder.
        locks.update((store.path / "locks").glob("container-volume.*"))
        return tar(run)

    running_tar(fake, watched)
    archive = archiver.archive("data")
    (lock,) = locks
    let_go = threading.Event()

    def end() -> None:
        let_go.set()
        orphan.communicate()

    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdout.readline() == b"held\n"
        timer = threading.Timer(0.5, end)
        timer.start()
        archiver.extract(archive)
        assert let_go.is_set()
        timer.join()


HOLDING = """
import sys
from pathlib import Path
from docker_rollback._store import FileLock
with FileLock(Path(sys.argv[1])) as lock:
    lock.acquire()
    print("held", flush=True)
    sys.stdin.read()
"""


# What is refused


def test_a_path_that_cannot_be_put_back_is_refused(fake: FakeEngine, store: BackupStore) -> None:
    """A path that tar archives and cannot set attributes by is found out by the backup, not once all is emptied."""
    longest = "/" + "/".join(["d" * 100] * 40)
    fake.volume("data").write(longest + "/" + "f" * 20, "deep")
    archiver = VolumeArchiver(fake, store)
    archiver.archive("data")
    fake.volume("data").write(longest + "/" + "f" * 30, "deeper")
    with pytest.raises(VolumeAccessError, match="volume 'data': it has a path of more than 4064 bytes"):
        archiver.archive("data")
    with pytest.raises(ArchiveError, match="volume 'data': a path of 4072 bytes is too long to be restored"):
        archiver.archive("data", in_use=True)
    assert len(store.list()) == 1


def test_a_volume_in_use_is_not_filled(fake: FakeEngine, store: BackupStore) -> None:
    """A running container that mounts it, a paused one too, is named, and nothing is touched."""
    archiver = VolumeArchiver(fake, store)
    archive = archiver.archive("data")
    before = fake.volume("data").facts()
    fake.start_container("app")
    fake.run("reader", image="app", volumes={"data": "/data:ro"})
    fake.pause_container("reader")
    with pytest.raises(
        VolumeAccessError, match="running containers use it: 'reader', 'app'; stop them first"
    ) as caught:
        archiver.extract(archive)
    assert caught.value.volume == "data"
    assert fake.volume("data").facts() == before


def test_a_volume_is_archived_alone_only_at_rest(fake: FakeEngine, store: BackupStore) -> None:
    """A container that may write stands against it, unless asked for; one that only reads, or is paused, does not."""
    archiver = VolumeArchiver(fake, store)
    fake.run("reader", image="app", volumes={"data": "/data:ro"})
    assert archiver.archive("data").name == "data"
    fake.start_container("app")
    with pytest.raises(VolumeAccessError, match="'app'; stop"):
        archiver.archive("data")
    assert archiver.archive("data", in_use=True).name == "data"
    fake.pause_container("app")
    assert archiver.archive("data").name == "data"


def test_a_missing_volume_is_not_made(fake: FakeEngine, store: BackupStore) -> None:
    """Neither a look, nor an archive, nor a filling makes a volume that is not there."""
    archiver = VolumeArchiver(fake, store)
    archive = archiver.archive("data")
    for ask in (
        lambda: archiver.probe(["nowhere"]),
        lambda: archiver.archive("nowhere"),
        lambda: archiver.extract(archive, "nowhere"),
    ):
        with pytest.raises(VolumeNotFoundError):
            ask()
    assert fake.list_volumes() == ["data"]


def test_a_way_that_is_asked_for_and_cannot_be_gone_is_an_error(fake: FakeEngine, store: BackupStore) -> None:
    """Directly to a volume whose folder is not here there is no way, and the error says why."""
    archiver = VolumeArchiver(fake, store, way="direct")
    with pytest.raises(VolumeAccessError, match="volume 'data': "):
        archiver.probe(["data"])
    archive = VolumeArchiver(fake, store).archive("data")
    before = fake.volume("data").facts()
    with pytest.raises(VolumeAccessError, match="volume 'data': "):
        archiver.extract(archive)
    assert fake.volume("data").facts() == before


def test_looking_touches_nothing(fake: FakeEngine, store: BackupStore) -> None:
    """A probe says which way each volume goes, and leaves volumes and engine as they were."""
    fake.volume("more").write("/x", "x")
    before = fake.volume("data").facts()
    assert VolumeArchiver(fake, store).probe(["more", "data"]) == {"more": "helper", "data": "helper"}
    assert fake.volume("data").facts() == before
    assert nothing_left(fake)


# What goes wrong


def spoil(store: BackupStore, blob: Descriptor, change: Callable[[bytes], bytes]) -> None:
    """Change what a store holds of a blob."""
    path = store.path / "blobs" / "sha256" / blob.digest.removeprefix("sha256:")
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(change(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data[:50] + b"\xff" + data[51:],
        lambda data: data[:-3] + b"abc",
        lambda _: b"",
    ],
    ids=["cut-short", "changed", "changed-end", "empty"],
)
def test_a_damaged_archive_touches_nothing(
    fake: FakeEngine, store: BackupStore, change: Callable[[bytes], bytes]
) -> None:
    """Damage is found before the first file of the volume is touched."""
    archiver = VolumeArchiver(fake, store)
    archive = archiver.archive("data")
    spoil(store, archive.base, change)
    before = fake.volume("data").facts()
    with pytest.raises(CorruptBackupError) as caught:
        archiver.extract(archive)
    assert caught.value.blob == archive.base.digest
    assert fake.volume("data").facts() == before


def test_without_a_first_look_damage_is_still_an_error(fake: FakeEngine, store: BackupStore) -> None:
    """Who has verified already saves the first look, and still hears of damage when it is read."""
    archiver = VolumeArchiver(fake, store)
    archive = archiver.archive("data")
    spoil(store, archive.base, lambda data: data[:50] + b"\xff" + data[51:])
    with pytest.raises(CorruptBackupError):
        archiver.extract(archive, verify=False)
    assert nothing_left(fake)


def test_a_blob_that_is_no_archive_is_damage(fake: FakeEngine, store: BackupStore) -> None:
    """Whole bytes that are no zstd stream are named as damage, not as some error of a library."""
    archiver = VolumeArchiver(fake, store)
    archive = archiver.archive("data")
    with store.draft("other") as draft:
        with draft.blob("text/plain") as writer:
            writer.write(b"no archive")
            plain = writer.close()
        with pytest.raises(CorruptBackupError, match="its zstd stream is broken"):
            archiver.extract(evolve(archive, base=plain))


def test_a_tar_that_is_none_is_damage(fake: FakeEngine, store: BackupStore) -> None:
    """Where excluded paths stay, the tar is looked into before it is extracted; the error is one of ours."""
    archiver = VolumeArchiver(fake, store)
    archive = archiver.archive("data", exclude=["data:big"])
    with store.draft("other") as draft:
        with draft.blob(archive.base.media_type) as writer:
            for data in frame([b"no tar" * 1000], level=1):
                writer.write(data)
            forged = writer.close()
        with pytest.raises(CorruptBackupError, match="number is broken") as caught:
            archiver.extract(evolve(archive, base=forged))
    assert caught.value.blob == forged.digest
    assert nothing_left(fake)


def test_a_filling_that_fails_says_so(fake: FakeEngine, store: BackupStore) -> None:
    """Tar's failure to put something back is an error with its words."""
    archiver = VolumeArchiver(fake, store)
    archive = archiver.archive("data")

    def tar(run: Run) -> int:
        run.stderr.append("tar: ./x: Cannot unlink: Operation not permitted\n")
        return 2

    running_tar(fake, tar)
    with pytest.raises(ArchiveError, match=r"filling it failed: tar ended with 2: .*Operation not permitted"):
        archiver.extract(archive)


def test_data_that_cannot_be_flushed_is_not_called_filled(fake: FakeEngine, store: BackupStore) -> None:
    """A volume counts as filled only once its files are on its disk."""
    archiver = VolumeArchiver(fake, store)
    archive = archiver.archive("data")

    def sync(run: Run) -> int:
        run.stderr.append("sync: error syncing: Input/output error\n")
        return 1

    fake.program("sync", sync)
    with pytest.raises(ArchiveError, match=r"flushing its file system failed: .*Input/output error"):
        archiver.extract(archive)


@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer-lost"])
def test_wherever_the_engine_fails_nothing_half_is_kept(fake: FakeEngine, store: BackupStore, *, after: bool) -> None:
    """At whichever call it fails, an archive is whole or an error, and never listed half."""
    at = 0
    while True:
        at += 1
        failing = FailingEngine(fake, at=at, after=after, verbs=READING | FEEDING | {"create_container", "exec"})
        try:
            archive = VolumeArchiver(failing, store).archive("data")
        except DockerRollbackError:
            assert store.list() == []
            continue
        backups = store.list()
        assert [backup.volumes for backup in backups] == [(archive,)]
        store.verify(backups[0].id)
        if failing.struck is None:
            break
        store.delete(backups[0].id)
    assert at > 5


def test_a_filling_whose_input_was_cut_off_once_is_done_again(
    fake: FakeEngine, store: BackupStore, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine that loses what a helper's tar was to read, once, does no harm, and the log says so."""
    archive = VolumeArchiver(fake, store, way="helper").archive("data")
    before = without_sockets(fake.volume("data"))
    at = again = 0
    while True:
        at += 1
        fake.volume("data").write("/stray", "stray")
        caplog.clear()
        failing = FailingEngine(fake, at=at, after=True, verbs={"process.close_input", "process.finish"})
        VolumeArchiver(failing, store, way="helper").extract(archive)
        assert without_sockets(fake.volume("data")) == before, failing.story()
        if failing.struck is None:
            break
        again += "filling it again from the start" in caplog.text
    assert again >= 4


def test_a_filling_that_an_engine_broke_off_can_be_done_again(fake: FakeEngine, store: BackupStore) -> None:
    """Whichever call fails, filling once more from the start puts everything right."""
    archive = VolumeArchiver(fake, store).archive("data")
    before = without_sockets(fake.volume("data"))
    at = 0
    while True:
        at += 1
        fake.volume("data").write("/stray", "stray")
        failing = FailingEngine(fake, at=at, verbs=READING | FEEDING | {"create_container", "exec"})
        try:
            VolumeArchiver(failing, store).extract(archive)
        except (EngineError, VolumeAccessError, ArchiveError):
            VolumeArchiver(fake, store).extract(archive)
        assert without_sockets(fake.volume("data")) == before, failing.story()
        if failing.struck is None:
            break
    assert at > 5


def test_an_archive_of_another_kind_of_value_is_whole(fake: FakeEngine, store: BackupStore) -> None:
    """What the store gives back of an archive fills a volume as the one that was returned."""
    archiver = VolumeArchiver(fake, store)
    archive = archiver.archive("data")
    (kept,) = store.list()[0].volumes
    assert isinstance(kept, VolumeArchive)
    fake.volume("data").delete("/big")
    archiver.extract(kept)
    assert kept == archive
    assert fake.volume("data").exists("/big")


class Watched(FakeEngine):
    """An engine that calls somebody when it has created a container, before that is started."""

    def __init__(self) -> None:
        super().__init__()
        self.created: Callable[[], object] = lambda: None

    def create_container(self, name: str, request: Mapping[str, Any], *, platform: str | None = None) -> str:
        """Create a container."""
        container = super().create_container(name, request, platform=platform)
        self.created()
        return container


def test_a_helper_that_only_looks_for_paths_is_left_to_its_process_and_removed_after_its_death(
    store: BackupStore,
) -> None:
    """One that was created, and never started, does not end by itself: whether its maker lives is told by a lock."""
    engine, swept = Watched(), list[list[str]]()
    engine.created = lambda: swept.append(VolumeArchiver(engine, store).remove_left_over())
    VolumeArchiver(engine, store).missing(["/srv/gone"])
    assert swept == [[]]
    engine.created = lambda: None
    with pytest.raises(Killed):
        dying = FailingEngine(engine, at=1, after=True, kill=True, verbs=["create_container"])
        VolumeArchiver(dying, store).missing(["/srv/gone"])
    left = engine.list_containers()
    assert VolumeArchiver(engine, store).remove_left_over() == left != []
    assert engine.list_containers() == []
