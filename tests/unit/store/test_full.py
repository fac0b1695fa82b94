"""A store on a file system that is really full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from docker_rollback._store.files import Disk
from docker_rollback._store.store import BackupStore
from docker_rollback.errors import StoreFullError
from tests.unit.store import making
from tests.unit.store.making import EPOCH, days, image

SIZE = 4 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 4 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def few_files(tmp_path: Path) -> Iterator[Path]:
    """Give a file system with room for a few files, however small."""
    path = tmp_path / "few"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=40,mode=0700", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_disk_without_inodes_is_said_to_be_that(few_files: Path) -> None:
    """There are bytes left and no inodes: whoever looks for room would not find what is wrong."""
    store = BackupStore(few_files / "store")
    making.save(store, "b1")
    with suppress(OSError):
        for number in range(40):
            (few_files / str(number)).touch()
    for attempt in (store.check, lambda: making.save(store, "b2")):
        with pytest.raises(StoreFullError, match=r"no inodes left .*remove old backups") as caught:
            attempt()
        assert "MB are free" not in str(caught.value)
    assert store.ids() == ["b1"]
    (few_files / "0").unlink()
    (few_files / "1").unlink()
    store.check()


def used(path: Path) -> int:
    """Return the bytes in use on a file system."""
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.parametrize(("user", "blocks"), [(0, 70), (1000, 50)])
def test_what_is_reserved_for_root_is_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, blocks: int
) -> None:
    """A file system keeps some blocks for it, which others cannot write to; blocks have a size of their own."""
    found = os.statvfs_result((4096, 512, 100, 70, 50, 10, 9, 8, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: {tmp_path: found}[path])
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert Disk().room(tmp_path) == blocks * 512


@pytest.mark.parametrize("layout", [making.legacy, making.oci_plain, making.oci_gzip])
def test_an_image_that_does_not_fit_gives_its_room_back(small_disk: Path, layout: making.Layout) -> None:
    """An image larger than the disk is a `StoreFullError`, and the disk is as free as before."""
    store = BackupStore(small_disk / "store")
    making.save(store, "b1")
    before = used(small_disk)
    img = image(b"small", os.urandom(SIZE))
    with pytest.raises(StoreFullError):
        making.save(store, "b2", img=img, layout=layout)
    assert used(small_disk) <= before + 4096
    assert store.ids() == ["b1"]
    store.verify("b1")


def test_a_volume_that_does_not_fit_gives_its_room_back(small_disk: Path) -> None:
    """A volume larger than the disk is a `StoreFullError`, and the image that was written before it goes too."""
    store = BackupStore(small_disk / "store")
    store.check()
    before = used(small_disk)
    room = os.statvfs(small_disk)
    with pytest.raises(StoreFullError) as caught:
        making.save(store, "b1", img=image(os.urandom(1 << 20)), volume=os.urandom(SIZE))
    assert caught.value.needed is not None
    assert caught.value.free is not None
    assert 0 < caught.value.free < caught.value.needed <= SIZE + 100_000
    assert caught.value.free < room.f_bfree * room.f_frsize - (1 << 20)
    for said in (f"{caught.value.needed / 1e6:.2f} MB", f"{caught.value.free / 1e6:.2f} MB", "prune", "a part of the"):
        assert said in str(caught.value)
    assert used(small_disk) <= before + 8192
    assert store.list() == []


def test_an_import_that_does_not_fit_gives_its_room_back(small_disk: Path, tmp_path: Path) -> None:
    """An import larger than the disk is a `StoreFullError`, and the disk is as free as before."""
    source = BackupStore(tmp_path / "source")
    making.save(source, "b1", volume=os.urandom(SIZE))
    source.export("b1", tmp_path / "b1.tar")
    store = BackupStore(small_disk / "store")
    store.check()
    before = used(small_disk)
    with pytest.raises(StoreFullError):
        store.import_(tmp_path / "b1.tar")
    assert used(small_disk) <= before + 8192


def test_backups_fill_the_disk_and_pruning_frees_it(small_disk: Path) -> None:
    """On a disk filled to the last byte old backups are still read, pruned and deleted, and new ones fit again."""
    store = BackupStore(small_disk / "store", clock=lambda: EPOCH + days(99))
    taken = 0
    with pytest.raises(StoreFullError):
        for number in range(99):
            making.save(store, f"b{number:02}", volume=os.urandom(300_000), created=EPOCH + days(number))
            taken += 1
    assert taken > 5
    with pytest.raises(OSError, match="No space"), (small_disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    assert len(store.list()) == taken
    for backup_id in store.ids():
        store.verify(backup_id)
    with store.using("b00"), store.lock("c0ffee", container="web"):
        assert store.get("b00").id == "b00"
    store.delete("b00")
    assert len(store.prune(keep=2).removed) == taken - 3
    (small_disk / "ballast").unlink()
    making.save(store, "new", volume=os.urandom(300_000), created=EPOCH + days(98))
    assert len(store.ids()) == 3
    for backup_id in store.ids():
        store.verify(backup_id)


def test_every_size_of_disk_leaves_whole_backups(small_disk: Path) -> None:
    """Wherever in a backup the disk fills up, nothing half-listed stays, and the backups before it are whole."""
    full = 0
    sizes = range(4096, 150_000, 12_288)
    for spare in sizes:
        store = BackupStore(small_disk / "store")
        making.save(store, "b1")
        free = os.statvfs(small_disk)
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(free.f_bfree * free.f_frsize - spare))
        try:
            making.save(store, "b2", volume=os.urandom(60_000))
        except StoreFullError:
            full += 1
            assert store.ids() == ["b1"]
        store.verify("b1")
        ballast.unlink()
        for backup_id in store.ids():
            store.verify(backup_id)
            store.delete(backup_id)
        assert making.blob_files(store) == []
    assert 0 < full < len(sizes), "the disk was full in some of them, and in some not"
