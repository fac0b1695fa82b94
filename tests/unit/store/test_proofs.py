"""A large blob that was found intact lately is not read again for each backup that relies on it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from docker_rollback._model import Descriptor
from docker_rollback._store import proofs
from docker_rollback._store.blobs import Blobs
from docker_rollback._store.store import BackupStore
from docker_rollback.errors import StoreError
from tests.unit.store import making
from tests.unit.store.making import Image, image
from tests.unit.store.test_verify_quickly import settle

BASE = os.urandom(100_000)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a small blob as large."""
    monkeypatch.setattr(proofs, "WORTH", 50_000)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the sizes of the large blobs that are read whole."""
    sizes: list[int] = []
    prove = Blobs.prove

    def counted(self: Blobs, blob: Descriptor) -> None:
        if blob.size >= proofs.WORTH:
            sizes.append(blob.size)
        prove(self, blob)

    monkeypatch.setattr(Blobs, "prove", counted)
    return sizes


def take(store: BackupStore, backup_id: str, img: Image) -> None:
    """Back an image up, as another process would."""
    store = BackupStore(store.path)
    with store.draft(backup_id) as draft:
        manifest = draft.add_image(making.pieces(making.oci_plain(img)), layers=img.diff_ids)
        settle(store)
        draft.commit(making.backup_of(backup_id, [making.snapshot("web", img, manifest)]))


def file_of(store: BackupStore) -> Path:
    """Return the file of proofs."""
    return store.path / "locks" / "intact.json"


def base_of(store: BackupStore) -> Path:
    """Return the large blob."""
    (found,) = [path for path in making.blob_files(store) if path.stat().st_size >= proofs.WORTH]
    return found


def test_a_layer_is_read_once(store: BackupStore, read: list[int]) -> None:
    """By the backup that brought it, and not by the next ones."""
    take(store, "b0", image(BASE))
    assert len(read) == 1
    for number in range(1, 4):
        take(store, f"b{number}", image(BASE, b"%d" % number))
    assert len(read) == 1
    store.verify("b3")
    assert len(read) > 1


@pytest.mark.parametrize("how", ["old", "of the future", "gone", "garbage", "a list", "odd", "a link", "a folder"])
def test_a_proof_that_does_not_count_costs_a_reading(store: BackupStore, read: list[int], how: str) -> None:
    """And the reading gives a new one."""
    take(store, "b0", image(BASE))
    file = file_of(store)
    (digest, (moment, *stamp)) = next(iter(json.loads(file.read_text()).items()))
    other: object = {
        "old": {digest: [moment - proofs.LIFETIME - 60, *stamp]},
        "of the future": {digest: [moment + 3600, *stamp]},
        "a list": [digest],
        "odd": {digest: "now"},
    }.get(how)
    file.write_text("[" * 100_000 if other is None else json.dumps(other))
    if how in {"gone", "a link", "a folder"}:
        file.unlink()
    if how == "a link":
        file.symlink_to("/dev/zero")
    if how == "a folder":
        file.mkdir()
    take(store, "b1", image(BASE, b"1"))
    assert len(read) == 2
    take(store, "b2", image(BASE, b"2"))
    assert len(read) == (3 if how == "a folder" else 2)


def test_a_damaged_layer_is_stored_again(store: BackupStore) -> None:
    """A changed file is read, whatever was proven before."""
    take(store, "b0", image(BASE))
    blob = base_of(store)
    whole = blob.read_bytes()
    blob.write_bytes(bytes(len(whole)))
    take(store, "b1", image(BASE, b"1"))
    assert blob.read_bytes() == whole
    store.verify("b0")


def test_a_replaced_file_gets_a_proof_of_its_own(store: BackupStore, read: list[int]) -> None:
    """Such as that of a store which was moved."""
    take(store, "b0", image(BASE))
    blob = base_of(store)
    blob.with_name("copy").write_bytes(blob.read_bytes())
    blob.with_name("copy").replace(blob)
    time.sleep(0.05)
    for number in range(1, 3):
        take(store, f"b{number}", image(BASE, b"%d" % number))
    assert len(read) == 2


def test_a_proof_that_cannot_be_kept_is_no_error(store: BackupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It only costs time later."""

    def full(*_: object, **__: object) -> None:
        raise StoreError("/store", "the disk is full")

    monkeypatch.setattr(proofs, "write_atomic", full)
    take(store, "b0", image(BASE))
    assert not file_of(store).exists()
    store.verify("b0")
