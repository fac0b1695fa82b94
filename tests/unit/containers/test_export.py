"""An image is exported where something of it is new, and then once; and what needs no rest is not done at rest."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from docker_rollback import BackupStore, restore, rollback
from docker_rollback.testing import FakeEngine


class Watched(FakeEngine):
    """An engine in memory that notes the calls that matter here."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def save_image(self, ref: str) -> Iterator[bytes]:
        """Note that an image is exported."""
        self.calls.append("save")
        return super().save_image(ref)

    def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
        """Note when the container is brought to rest."""
        self.calls.append("stop")
        super().stop_container(ref, timeout=timeout)

    def commit_container(self, ref: str, tag: str, *, author: str = "") -> str:
        """Note when it is committed."""
        self.calls.append("commit")
        return super().commit_container(ref, tag, author=author)

    def tag_image(self, ref: str, tag: str) -> None:
        """Note when an image is named."""
        self.calls.append("tag")
        super().tag_image(ref, tag)

    def remove_image(self, ref: str) -> None:
        """Note when one is removed."""
        self.calls.append("remove")
        super().remove_image(ref)

    def start_container(self, ref: str) -> None:
        """Note when the container runs again."""
        self.calls.append("start")
        super().start_container(ref)


@pytest.fixture
def engine() -> Watched:
    """Give an engine on which one container runs."""
    made = Watched()
    made.add_image("app:1", files={"/app": "the program"})
    made.run("web", image="app:1")
    made.calls.clear()
    return made


def update(engine: Watched, store: BackupStore) -> str:
    """Enter and leave a rollback; return the id of its backup."""
    with rollback("web", client=engine, store=store) as tx:
        pass
    return tx.backup.id


def test_an_image_that_the_store_holds_is_not_exported_again(engine: Watched, store: BackupStore) -> None:
    """Nothing of it is new; the second backup is as good as the first, also once that is gone."""
    first = update(engine, store)
    assert engine.calls.count("save") == 1
    second = update(engine, store)
    assert engine.calls.count("save") == 1
    store.delete(first)
    store.verify(second)
    engine.remove_container("web", force=True)
    engine.remove_image("app:1")
    assert restore(second, client=engine, store=store) == ["web"]


@pytest.mark.parametrize("files", [1, 100])
def test_what_was_written_to_a_container_is_stored(engine: Watched, store: BackupStore, files: int) -> None:
    """Its file system is another image, which is exported if much of it is new."""
    first = update(engine, store)
    for number in range(files):
        engine.container("web").write(f"/new-{number}", "new")
    second = update(engine, store)
    assert engine.calls.count("save") == (1 if files == 1 else 2)
    one, two = (store.get(taken).containers[0].image for taken in (first, second))
    assert two.layers[:-1] == one.layers


def test_an_image_that_has_rotted_in_the_store_is_exported_again(engine: Watched, store: BackupStore) -> None:
    """That mends the older backup too."""
    first = update(engine, store)
    manifest = store.get(first).containers[0].image.manifest
    assert manifest is not None
    blobs = store.path / "blobs" / "sha256"
    layer = json.loads((blobs / manifest.digest.removeprefix("sha256:")).read_text())["layers"][0]["digest"]
    blob = blobs / layer.removeprefix("sha256:")
    blob.write_bytes(b"rot" + blob.read_bytes()[3:])
    second = update(engine, store)
    assert engine.calls.count("save") == 2
    store.verify(first)
    store.verify(second)


def test_between_stop_and_start_is_the_commit_alone(engine: Watched, store: BackupStore) -> None:
    """Names are given and taken once the container runs again."""
    update(engine, store)
    # What starts before is the guard that holds the container's image and volumes.
    stopped = engine.calls[engine.calls.index("stop") :]
    at_rest = stopped[: stopped.index("start") + 1]
    assert at_rest == ["stop", "commit", "start"]
    assert "tag" in engine.calls


def test_the_original_image_is_exported_before_the_stop_and_once(engine: Watched, store: BackupStore) -> None:
    """A first export takes long; it goes on next to the live pass, and the service runs meanwhile."""
    with rollback("web", client=engine, store=store, verify=None):
        assert engine.calls.count("save") == 1
        assert engine.calls.index("save") < engine.calls.index("stop")


@pytest.mark.parametrize(("files", "counts"), [(1, (1, 0)), (100, (2, 0))])
def test_a_layer_of_the_container_is_stored_above_it(
    engine: Watched, store: BackupStore, files: int, counts: tuple[int, int]
) -> None:
    """What it has written is in the committed image alone; a second backup finds the original in the store."""
    for number in range(files):
        engine.container("web").write(f"/trace-{number}", "of its own")
    for exports in counts:
        engine.calls.clear()
        with rollback("web", client=engine, store=store, verify=None):
            assert engine.calls.count("save") == exports
