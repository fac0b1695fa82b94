"""Images become no deeper by rollbacks, and what cannot be committed is refused while the service runs."""

from __future__ import annotations

import json

import pytest

from docker_rollback import (
    BackupStore,
    CorruptBackupError,
    RollbackRequested,
    Status,
    UnsupportedContainerError,
    backup,
    restore,
    rollback,
)
from docker_rollback._api import build_parts
from docker_rollback._capture import CaptureOptions
from docker_rollback._rollback import Rollback, RollbackOptions
from docker_rollback.testing import FailingEngine, FakeEngine
from tests.unit.store.making import Image, digest, oci_plain, pieces


def deep_image(engine: FakeEngine, layers: int) -> None:
    """Give the engine an image app:1 of so many layers."""
    engine.add_image("app:1", files={"/app/0": "0", "/deep/gone": "x"})
    for number in range(1, layers):
        engine.add_image("app:1", base="app:1", files={f"/app/{number}": str(number)})
    engine.prune_images()
    assert depth(engine, "app:1") == layers


def depth(engine: FakeEngine, image: str) -> int:
    """Return how many layers an image has."""
    return len(engine.inspect_image(image)["RootFS"]["Layers"])


def roll_back(engine: FakeEngine, store: BackupStore, number: int, *, export_image: bool = True) -> None:
    """Change the file system, and roll an update back that removed the container."""
    app = engine.container("app")
    app.write("/count", str(number))
    app.write(f"/new/{number}", "n")
    if number > 1:
        app.delete(f"/new/{number - 1}")
        assert app.exists("/deep") is False
    else:
        app.delete("/deep")
    parts = build_parts(engine, store, CaptureOptions(export_image=export_image))
    tx = Rollback(["app"], parts, RollbackOptions(keep=1))
    with tx:
        engine.remove_container("app", force=True)
        raise RollbackRequested
    assert tx.status is Status.ROLLED_BACK
    app = engine.container("app")
    assert (app.read("/count"), app.read(f"/new/{number}")) == (str(number).encode(), b"n")
    assert (app.exists(f"/new/{number - 1}"), app.exists("/deep")) == (False, False)


@pytest.mark.parametrize("export_image", [True, False])
@pytest.mark.parametrize("layers", [1, 3, 123, 124])
def test_a_rollback_makes_the_next_one_no_deeper(store: BackupStore, *, layers: int, export_image: bool) -> None:
    """The recreated container stands on the original image and one layer, or on as many layers as leave room."""
    engine = FakeEngine()
    deep_image(engine, layers)
    engine.run("app", image="app:1")
    for number in range(1, 5):
        roll_back(engine, store, number, export_image=export_image)
        image = engine.inspect_container("app")["Image"]
        assert depth(engine, image) == min(layers + 1, 124)
        assert all(engine.container("app").read(f"/app/{one}") == str(one).encode() for one in range(layers))
        # Only what the container stands on, and the user's own.
        left = engine.list_images("docker-rollback") + engine.list_images("docker-rollback-kept")
        assert len(left) == 1, left
        assert engine.prune_images() == []


def test_what_has_as_many_layers_as_an_engine_takes_is_refused(store: BackupStore) -> None:
    """In the report, and on entering, while the service runs; nothing is touched."""
    engine = FakeEngine()
    deep_image(engine, 125)
    engine.run("app", image="app:1")
    watching = FailingEngine(engine)
    tx = rollback("app", client=watching, store=store)
    (reason,) = tx.check().refused["app"]
    assert "125 layers" in reason
    with pytest.raises(UnsupportedContainerError, match="125 layers"), tx:
        pytest.fail("the block was entered")
    assert not {call.verb for call in watching.calls} & {"stop_container", "commit_container", "create_container"}


@pytest.mark.parametrize("running", [True, False])
def test_a_container_whose_image_was_removed_is_refused(store: BackupStore, *, running: bool) -> None:
    """Docker removes an image by force below a stopped container, which starts all the same."""
    engine = FakeEngine()
    engine.add_image("app:1", files={"/app": "1"})
    engine.run("app", image="app:1")
    engine.stop_container("app")
    engine.force_remove_image("app:1")
    if running:
        engine.start_container("app")
    watching = FailingEngine(engine)
    tx = rollback("app", client=watching, store=store)
    (reason,) = tx.check().refused["app"]
    assert "was removed" in reason
    assert "'app:1'" in reason
    with pytest.raises(UnsupportedContainerError, match="'app'"), tx:
        pytest.fail("the block was entered")
    assert not {call.verb for call in watching.calls} & {"stop_container", "commit_container", "create_container"}
    assert engine.container("app").status == ("running" if running else "exited")


def test_a_flat_image_is_stored_once_for_what_was_not_changed(store: BackupStore) -> None:
    """Where nothing was written since, the next backup takes the same image; a restore needs nothing of the engine."""
    engine = FakeEngine()
    deep_image(engine, 2)
    engine.run("app", image="app:1")
    for number in (1, 2):
        roll_back(engine, store, number)
    first, second = (backup("app", client=engine, store=store) for _ in range(2))
    assert first.containers[0].image.manifest == second.containers[0].image.manifest
    other = FakeEngine()
    restore(second.id, client=other, store=store)
    assert other.container("app").read("/count") == b"2"
    assert not other.container("app").exists("/deep")


def test_a_layer_that_is_damaged_meanwhile_is_an_error_of_the_store(store: BackupStore) -> None:
    """What is merged is read from the store again; what does not decompress, or is no tar, is told as damage."""
    engine = FakeEngine()
    deep_image(engine, 1)
    engine.run("app", image="app:1")
    with store.draft("20260102T030405Z-app-a1b2c3") as draft:
        layers = engine.inspect_image("app:1")["RootFS"]["Layers"]
        manifest = draft.add_image(engine.save_image("app:1"), layers=layers)
        for blob in (store.path / "blobs" / "sha256").iterdir():
            if blob.read_bytes()[:2] == b"\x1f\x8b":
                blob.write_bytes(blob.read_bytes()[:20] + bytes(blob.stat().st_size - 20))
        with pytest.raises(CorruptBackupError):
            draft.flatten_image(manifest, keep=0)
        layer = b"no tar" * 1000
        img = Image((layer,), json.dumps({"rootfs": {"diff_ids": [digest(layer)]}}).encode())
        manifest = draft.add_image(pieces(oci_plain(img)), layers=img.diff_ids)
        with pytest.raises(CorruptBackupError, match="a layer of it is broken") as caught:
            draft.flatten_image(manifest, keep=0)
        assert caught.value.blob == manifest.digest


def test_a_check_looks_at_the_image_of_a_container_once(store: BackupStore) -> None:
    """Its layers and the room that it takes are told by one inspection."""
    engine = FakeEngine()
    engine.add_image("app:1", files={"/app": "x" * 1000})
    engine.run("app", image="app:1")
    watching = FailingEngine(engine)
    report = build_parts(watching, store).preflight.run(["app"])
    assert (report.refused, report.room > 0) == ({}, True)
    assert len(watching.called("inspect_image")) == 1
