"""Several processes in one store at once, some of which are killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from docker_rollback._model.backup import Descriptor
from docker_rollback._store.files import Disk
from docker_rollback._store.store import BackupStore
from docker_rollback.errors import StoreError
from tests.unit.store import making
from tests.unit.store.making import image

ROOT = Path(__file__).parent.parent.parent.parent

WRITER = """
import sys
from docker_rollback._store import BackupStore
from tests.unit.store import making
store, name, count = BackupStore(sys.argv[1]), sys.argv[2], int(sys.argv[3])
base = b"shared" * 20000
print("begun", flush=True)
for number in range(count):
    img = making.image(base, f"{name} {number}".encode() * 200)
    making.save(store, f"{name}-{number}", img=img, volume=f"{name} {number}".encode() * 300, names=[name])
    print(number, flush=True)
"""

PRUNER = """
import sys
from docker_rollback._store import BackupStore
store = BackupStore(sys.argv[1])
print("begun", flush=True)
while True:
    report = store.prune(keep=2)
    assert report.not_swept is None, report
    print(len(report.removed), report.blobs, flush=True)
"""


def run(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program in a process of its own, from the root of the source tree."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def assert_exact(store: BackupStore) -> None:
    """Hold a store to this: all that it lists verifies, and after a prune it holds that and nothing else."""
    for backup_id in store.ids():
        store.verify(backup_id)
    store.prune()
    needed = set[str]().union(*(making.blobs_of(store.path, backup_id) for backup_id in store.ids()))
    assert {"sha256:" + path.name for path in making.blob_files(store)} == needed
    assert list((store.path / "drafts").iterdir()) == []


def test_two_back_up_while_one_prunes(store: BackupStore) -> None:
    """Two processes that back up into one store while a third prunes it lose nothing, and leave nothing over."""
    writers = [run(WRITER, store.path, name, 6) for name in ("a", "b")]
    pruner = run(PRUNER, store.path)
    try:
        for writer in writers:
            _, errors = writer.communicate()
            assert writer.returncode == 0, errors
        assert pruner.poll() is None, pruner.communicate()[1]
    finally:
        for process in (pruner, *writers):
            process.kill()
            process.communicate()
    store.prune(keep=2)
    assert store.ids() == ["a-4", "a-5", "b-4", "b-5"]
    assert_exact(store)


@pytest.mark.parametrize("seed", range(2))
def test_kills_while_ten_back_up(store: BackupStore, seed: int) -> None:
    """Ten processes back up and are killed one by one: every backup that one finished is there, and all are whole."""
    chance = random.Random(seed)
    writers = {f"w{number}": run(WRITER, store.path, f"w{number}", 1000) for number in range(10)}
    finished = {}
    try:
        for writer in writers.values():
            assert writer.stdout is not None
            assert writer.stdout.readline() == "begun\n"
        for name, writer in writers.items():
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(chance.randrange(2))]
            threading.Event().wait(chance.random() * 0.05)
            writer.send_signal(signal.SIGKILL)
            output, _ = writer.communicate()
            words = "".join([*lines, output]).split()
            finished[name] = int(words[-1]) if words else -1
    finally:
        for writer in writers.values():
            writer.kill()
    assert max(finished.values()) >= 0, "a backup was finished before its writer was killed"
    ids = set(store.ids())
    for name, last in finished.items():
        assert {f"{name}-{number}" for number in range(last + 1)} <= ids
    assert_exact(store)


def test_a_blob_is_not_swept_between_its_making_and_its_listing(store: BackupStore) -> None:
    """A prune in the middle of a draft takes none of its blobs, nor a blob of another backup that it came to need."""
    img = image(b"base" * 500, b"top")
    making.save(store, "old", img=img)
    with store.draft("new") as draft:
        manifest = draft.add_image(making.pieces(making.legacy(img)), layers=img.diff_ids)
        volume = making.add_volume(draft, "data", b"x" * 999)
        other = BackupStore(store.path)
        other.delete("old")
        other.prune()
        draft.commit(making.backup_of("new", [making.snapshot("web", img, manifest)], [volume]))
    store.verify("new")
    assert_exact(store)


def test_a_volume_of_an_earlier_backup_is_referred_to_again(store: BackupStore) -> None:
    """A backup may name the archive of an earlier one for a volume that did not change; it costs no second copy."""
    old = making.save(
        store, "old", volume=b"".join(making.digest(bytes([n % 256, n // 256])).encode() for n in range(999))
    )
    before = sum(path.stat().st_size for path in making.blob_files(store))
    with store.draft("new") as draft:
        draft.commit(making.backup_of("new", old.containers, old.volumes))
    assert sum(path.stat().st_size for path in making.blob_files(store)) < before + 5000
    store.delete("old")
    store.verify("new")


def test_a_reused_blob_that_went_meanwhile_is_noticed(store: BackupStore) -> None:
    """A backup whose borrowed parts were deleted before its commit is refused, not listed with holes."""
    old = making.save(store, "old")
    with store.draft("new") as draft:
        store.delete("old")
        with pytest.raises(StoreError):
            draft.commit(making.backup_of("new", old.containers, old.volumes))
    assert store.ids() == []
    assert_exact(store)


def test_a_reused_blob_that_is_to_go_while_it_is_listed_stays(store: BackupStore) -> None:
    """Once a backup is being listed, the parts that it borrows outlive the backup that they were of."""

    class Meddling(Disk):
        """Somebody else deletes the other backup, and prunes, when the parts have been found and are not listed yet."""

        def sync_folder(self, path: Path) -> None:
            if path.name == "sha256" and "old" in store.ids():
                other = BackupStore(store.path)
                other.delete("old")
                other.prune()

    old = making.save(store, "old")
    with BackupStore(store.path, disk=Meddling()).draft("new") as draft:
        draft.commit(making.backup_of("new", old.containers, old.volumes))
    assert store.ids() == ["new"]
    store.verify("new")
    assert_exact(store)


def test_what_the_dead_left_is_cleared_by_the_next(store: BackupStore) -> None:
    """Temporary files of a process that was killed go with the next backup, its finished blobs with the next prune."""
    program = """
import os, signal, sys
from docker_rollback._store import BackupStore
store = BackupStore(sys.argv[1])
draft = store.draft("dead").__enter__()
with draft.blob("x/y") as writer:
    writer.write(b"finished" * 1000)
    writer.close()
with draft.blob("x/y") as writer:
    writer.write(b"half" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run(program, store.path)
    process.communicate()
    (left,) = (store.path / "drafts").iterdir()
    assert {path.name for path in left.iterdir()} == {"lock", "pins", "2.blob"}
    making.save(store, "b1")
    assert list((store.path / "drafts").iterdir()) == []
    assert_exact(store)


def test_threads_write_into_one_draft(store: BackupStore) -> None:
    """Several writers of one draft may be at work at once, each in its own thread."""
    blobs: dict[int, Descriptor] = {}

    def write(number: int) -> None:
        with draft.blob("x/y") as writer:
            for _ in range(50):
                writer.write(bytes([number]) * 1000)
            blobs[number] = writer.close()

    with store.draft("b1") as draft:
        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert blobs.keys() == set(range(8))
        for number, blob in blobs.items():
            assert blob.digest == making.digest(bytes([number]) * 50_000)
            assert b"".join(store.open_blob(blob)) == bytes([number]) * 50_000


def test_index_json_keeps_what_it_does_not_know(store: BackupStore) -> None:
    """Fields of index.json that other tools wrote are there after the next backup."""
    making.save(store, "b1")
    path = store.path / "index.json"
    index = json.loads(path.read_bytes())
    index["theirs"] = {"a": 1}
    index["annotations"]["theirs"] = "too"
    path.write_text(json.dumps(index))
    making.save(store, "b2")
    index = json.loads(path.read_bytes())
    assert index["theirs"] == {"a": 1}
    assert index["annotations"]["theirs"] == "too"


def test_a_link_among_the_drafts_is_not_followed(store: BackupStore, tmp_path: Path) -> None:
    """Nothing outside the store is removed, though the link has no lock, as the draft of a dead process."""
    making.save(store, "b1")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (store.path / "drafts" / "link").symlink_to(outside)
    making.save(store, "b2")
    store.delete("b2")
    assert (outside / "precious").read_text() == "x"
