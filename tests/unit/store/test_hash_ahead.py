"""The layers that a store has are hashed while the service still runs or stops, and adding the image waits less."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import pytest

from docker_rollback import BackupStore, rollback
from docker_rollback._model import Descriptor
from docker_rollback._store.blobs import _TICK, Blobs
from docker_rollback.testing import FakeEngine
from tests.unit.store import making
from tests.unit.store.test_damage import Damage, flip, truncate
from tests.unit.store.test_verify_quickly import settle

SIZE = 300_000
BASE = making.image(os.urandom(SIZE), os.urandom(SIZE))
WAIT = 10.0


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the large blobs that were read whole, by their sizes."""
    sizes: list[int] = []
    opened = Blobs.open

    def noted(self: Blobs, blob: Descriptor) -> Iterator[bytes]:
        yield from opened(self, blob)
        if blob.size >= SIZE:
            sizes.append(blob.size)

    monkeypatch.setattr(Blobs, "open", noted)
    return sizes


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what the thread does."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def large(store: BackupStore) -> list[Path]:
    """Return the layers' blobs."""
    return [path for path in making.blob_files(store) if path.stat().st_size >= SIZE]


def age(store: BackupStore) -> None:
    """Wait until the layers' blobs are older than a tick: their times prove nothing before, so they are read again."""
    wait_until(lambda: all(time.time_ns() - path.stat().st_ctime_ns > 2 * _TICK for path in large(store)))


def take(store: BackupStore, backup_id: str) -> None:
    """Back the image up, as one that is expected."""
    with BackupStore(store.path).draft(backup_id) as draft:
        draft.expect_image(BASE.diff_ids)
        manifest = draft.add_image(making.pieces(making.oci_plain(BASE)), layers=BASE.diff_ids)
        draft.commit(making.backup_of(backup_id, [making.snapshot("web", BASE, manifest)]))


def test_each_layer_is_read_once(store: BackupStore, read: list[int]) -> None:
    """By the thread, or by the import if the thread has not begun with it."""
    making.save(store, "b0", img=BASE)
    age(store)
    read.clear()
    take(store, "b1")
    assert sorted(read) == sorted(path.stat().st_size for path in large(store))


@pytest.mark.parametrize("number", range(len(BASE.layers)))
def test_a_damaged_layer_is_stored_again(store: BackupStore, number: int) -> None:
    """Which repairs the earlier backup as well."""
    making.save(store, "b0", img=BASE)
    path = large(store)[number]
    path.write_bytes(bytes(path.stat().st_size))
    take(store, "b1")
    for backup_id in ("b0", "b1"):
        BackupStore(store.path).verify(backup_id)


@pytest.mark.parametrize("damage", [flip(0.5), truncate, Path.unlink])
def test_a_layer_that_is_damaged_once_it_was_read_is_stored_again(
    store: BackupStore, read: list[int], damage: Damage
) -> None:
    """Its file shows the change."""
    making.save(store, "b0", img=BASE)
    settle(store)
    read.clear()
    with store.draft("b1") as draft:
        draft.expect_image(BASE.diff_ids)
        draft.expect_image(BASE.diff_ids)
        path = large(store)[0]
        wait_until(lambda: len(read) == len(BASE.layers))
        damage(path)
        manifest = draft.add_image(making.pieces(making.oci_plain(BASE)), layers=BASE.diff_ids)
        draft.commit(making.backup_of("b1", [making.snapshot("web", BASE, manifest)]))
    store.verify("b1")


def test_a_layer_that_is_expected_is_not_pruned(store: BackupStore) -> None:
    """It is pinned before it is read."""
    making.save(store, "b0", img=BASE)
    with store.draft("b1") as draft:
        draft.expect_image(BASE.diff_ids)
        store.delete("b0")
        assert len(large(store)) == len(BASE.layers)


def test_a_draft_that_ends_reads_no_further(store: BackupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error does not wait until gigabytes are hashed."""
    making.save(store, "b0", img=BASE)
    opened, began = Blobs.open, threading.Event()

    def endless(self: Blobs, blob: Descriptor) -> Iterator[bytes]:
        if blob.size < SIZE:
            return opened(self, blob)
        began.set()
        return repeat(b"x")

    monkeypatch.setattr(Blobs, "open", endless)
    with store.draft("b1") as draft:
        draft.expect_image(BASE.diff_ids)
        assert began.wait(WAIT)


def test_a_container_s_layers_are_read_before_it_is_stopped(
    store: BackupStore, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second backup of the same image."""
    engine = FakeEngine()
    engine.add_image("app:1", files={"/app": os.urandom(SIZE)})
    engine.run("web", image="app:1")
    with rollback("web", client=engine, store=store):
        pass
    stop, stops = FakeEngine.stop_container, []

    def stopped(self: FakeEngine, ref: str, *, timeout: float | None = None) -> None:
        wait_until(lambda: bool(read))
        stops.append(len(read))
        stop(self, ref, timeout=timeout)

    age(store)
    read.clear()
    monkeypatch.setattr(FakeEngine, "stop_container", stopped)
    with rollback("web", client=engine, store=store):
        pass
    assert stops == [1]
    assert len(read) == 1
