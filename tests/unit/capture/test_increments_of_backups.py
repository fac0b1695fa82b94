"""Backups that share a base, in the store: each is whole for as long as it is there, whatever becomes of the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docker_rollback import VolumeArchiver
from docker_rollback._model.backup import VolumeArchive
from docker_rollback._store.codec import dump_backup, load_backup
from docker_rollback._store.retention import Keep
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.capture import earlier_base
from docker_rollback.testing import FakeEngine


@pytest.fixture
def fake() -> FakeEngine:
    """Give an engine with a volume that is large enough."""
    engine = FakeEngine()
    files = engine.volume("data")
    for number in range(40):
        files.write(f"/d{number % 4}/{number}", bytes([number]) * 100_000)
    return engine


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the base used again, though all files are as young as it is, and so in each increment."""
    monkeypatch.setattr(earlier_base, "TOGETHER", 100.0)


def take(fake: FakeEngine, store: BackupStore, number: int, volume: str = "data") -> VolumeArchive:
    """Change a file, as the service would some time later, and archive the volume."""
    fake.volume(volume).write("/changed", f"generation {number}")
    return VolumeArchiver(fake, store, live_from=0).archive(volume)


def blobs(store: BackupStore) -> set[str]:
    """Return the digests of all blobs of a store."""
    return {f"sha256:{path.name}" for path in (store.path / "blobs/sha256").iterdir()}


def check(fake: FakeEngine, store: BackupStore, archive: VolumeArchive, number: int) -> None:
    """Restore an archive, and see that it is of that generation."""
    VolumeArchiver(fake, store).extract(archive)
    files = fake.volume("data")
    assert files.read("/changed") == f"generation {number}".encode()
    assert files.read("/d3/39") == bytes([39]) * 100_000


def test_a_base_stays_for_as_long_as_a_backup_needs_it(fake: FakeEngine, store: BackupStore) -> None:
    """The backup that took it may be pruned or deleted; with the last one that builds on it, it goes."""
    archives = [take(fake, store, number) for number in range(4)]
    (base,) = {archive.base.digest for archive in archives}
    assert len({archive.listing.digest for archive in archives if archive.listing is not None}) == 1
    store.prune(keep=Keep(count=2))
    assert base in blobs(store)
    assert archives[1].increment is not None
    assert archives[1].increment.digest not in blobs(store)
    first, last = (backup.id for backup in store.list())
    store.delete(first)
    store.verify(last)
    check(fake, store, archives[3], 3)
    store.delete(last)
    assert blobs(store) == set()


def test_a_backup_on_a_base_of_another_goes_elsewhere_whole(
    fake: FakeEngine, store: BackupStore, tmp_path: Path
) -> None:
    """An export has the base too, and the store that takes it in can build on it in its turn."""
    take(fake, store, 0)
    archive = take(fake, store, 1)
    store.export(store.list()[-1].id, tmp_path / "backup.tar")
    other = BackupStore(tmp_path / "other")
    assert other.import_(tmp_path / "backup.tar").volumes == (archive,)
    check(fake, other, archive, 1)
    take(fake, store, 1)
    assert take(fake, other, 2).increment is not None


def test_what_a_second_backup_stores_is_what_changed(fake: FakeEngine, store: BackupStore) -> None:
    """Beside the increment there is a record and a few manifests."""
    take(fake, store, 0)
    before = blobs(store)
    archive = take(fake, store, 1)
    assert archive.increment is not None
    added = blobs(store) - before
    sizes = [(store.path / "blobs/sha256" / digest.removeprefix("sha256:")).stat().st_size for digest in added]
    assert archive.increment.digest in added
    assert sum(sizes) < 10_000


def test_another_volume_or_engine_has_bases_of_its_own(fake: FakeEngine, store: BackupStore) -> None:
    """Only the same volume of the same engine is built upon."""
    first = take(fake, store, 0)
    other = FakeEngine(seed="other")
    for path in ("/d0/0", "/d1/1"):
        other.volume("data").write(path, b"x" * 200_000)
    fake.volume("more").write("/file", b"y" * 200_000)
    assert take(other, store, 1).base != first.base
    assert take(fake, store, 2, "more").base != first.base
    assert take(fake, store, 3).base == first.base


def test_a_backup_with_a_listing_says_the_format_that_has_it(fake: FakeEngine, store: BackupStore) -> None:
    """One without says the first format, as ever."""
    VolumeArchiver(fake, store, live_from=1 << 40).archive("data")
    take(fake, store, 1)
    formats = [b'{"format":1', b'{"format":2']
    texts = [path.read_bytes() for path in (store.path / "blobs/sha256").iterdir()]
    assert [sum(text.startswith(head) for text in texts) for head in formats] == [1, 1]
    for backup in store.ids():
        store.verify(backup)


def test_a_record_of_the_first_format_is_read(fake: FakeEngine, store: BackupStore) -> None:
    """What came with the second has a value that stands for nothing; the backup restores as ever."""
    archive = VolumeArchiver(fake, store, live_from=1 << 40).archive("data")
    (backup,) = store.list()
    record = json.loads(dump_backup(backup))
    del record["backup"]["excluded"]
    for volume in record["backup"]["volumes"]:
        del volume["listing"], volume["excluded"]
    assert record["format"] == 1
    assert load_backup(json.dumps(record).encode()) == backup
    assert (archive.listing, archive.excluded, backup.excluded) == (None, (), ())
