"""A backup that was read a moment ago is checked again without reading it again, and no change to it is missed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from attrs import evolve

from docker_rollback._store.blobs import Blobs
from docker_rollback._store.store import BackupStore
from docker_rollback.errors import CorruptBackupError
from tests.unit.store import making
from tests.unit.store.test_damage import DAMAGES

SIZE = 3 << 20


def bytes_read() -> int:
    """Return how many bytes this process has read so far, from the disk or its cache."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def settle(store: BackupStore) -> None:
    """Wait until the times of every blob's file lie behind: what changes now, shows."""
    newest = max(path.stat().st_ctime_ns for path in making.blob_files(store))
    while time.time_ns() < newest + 30_000_000:
        time.sleep(0.001)


def cost(store: BackupStore, *, deep: bool) -> int:
    """Return how many bytes it takes to verify a backup."""
    before = bytes_read()
    store.verify("b1", deep=deep)
    return bytes_read() - before


def test_what_was_verified_is_not_read_again(store: BackupStore) -> None:
    """After a verification, the quick one reads the small files alone; another object knows nothing of it."""
    making.save(store, "b1", volume=os.urandom(SIZE))
    settle(store)
    store = BackupStore(store.path)
    assert cost(store, deep=False) > SIZE
    assert cost(store, deep=False) < SIZE / 20
    assert cost(store, deep=True) > SIZE
    assert cost(BackupStore(store.path), deep=False) > SIZE


def test_a_blob_of_another_size_is_not_what_was_read(store: BackupStore) -> None:
    """Whoever names what was verified, with another size than it has, has it read, and is told."""
    backup = making.save(store, "b1")
    settle(store)
    base = backup.volumes[0].base
    blobs = Blobs(store.path)
    blobs.prove(base)
    assert blobs.is_proven(base)
    assert not blobs.is_proven(evolve(base, size=base.size + 1))
    assert not Blobs(store.path).is_proven(base)
    blobs.path(base.digest).touch()
    assert not blobs.is_proven(base)


def test_what_was_just_taken_is_not_read_again(store: BackupStore) -> None:
    """A backup is read back before it is listed, and that counts."""
    with store.draft("b1") as draft:
        volume = making.add_volume(draft, "data", os.urandom(SIZE))
        settle(store)
        draft.commit(making.backup_of("b1", [], [volume]))
    assert cost(store, deep=False) < SIZE / 20


@pytest.mark.parametrize("read_back", [True, False])
def test_what_its_maker_read_back_is_not_read_again(store: BackupStore, *, read_back: bool) -> None:
    """Listing a backup reads what nobody has read since it was written, and that alone."""
    with store.draft("b1") as draft:
        volume = making.add_volume(draft, "data", os.urandom(SIZE))
        settle(store)
        if read_back:
            for _ in store.open_blob(volume.base):
                pass
        before = bytes_read()
        draft.commit(making.backup_of("b1", [], [volume]))
        assert (bytes_read() - before < SIZE) is read_back


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_since_is_found(store: BackupStore, damage: str) -> None:
    """Whatever befalls a blob after it was verified, the quick verification finds it, and names the blob."""
    making.save(store, "b1", img=making.image(os.urandom(3000), b"top"))
    settle(store)
    store.verify("b1")
    blobs = sorted(making.blobs_of(store.path, "b1"))
    for blob in blobs:
        path = store.path / "blobs" / "sha256" / blob[7:]
        sound = path.read_bytes()
        DAMAGES[damage](path)
        with pytest.raises(CorruptBackupError) as caught:
            store.verify("b1", deep=False)
        assert caught.value.blob == blob
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(sound)
        store.verify("b1", deep=False)


def test_a_change_within_the_same_moment_is_found(store: BackupStore) -> None:
    """A file that changes right after it was read is found out, though its size and its times may be what they were."""
    for _ in range(30):
        backup = making.save(store, "b1", volume=os.urandom(5000))
        path = store.path / "blobs" / "sha256" / backup.volumes[0].base.digest[7:]
        store.verify("b1", deep=False)
        found = path.stat()
        with path.open("r+b") as file:
            file.write(b"other")
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        with pytest.raises(CorruptBackupError):
            store.verify("b1", deep=False)
        store.delete("b1")
