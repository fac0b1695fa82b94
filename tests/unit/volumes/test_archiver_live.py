"""The live pass by a helper of the in-memory engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker_rollback._model.backup import VolumeArchive
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.archiver import VolumeArchiver
from docker_rollback.testing import FakeEngine


def taken(fake: FakeEngine, store: BackupStore, *, live_from: int) -> VolumeArchive:
    """Archive a volume in use that changes before it is at rest."""
    archiver = VolumeArchiver(fake, store, live_from=live_from)
    with store.draft("live") as draft:
        with archiver.begin(["data"], draft, operation="op") as capture:
            capture.live_pass()
            with pytest.raises(ValueError, match="comes once"):
                capture.live_pass()
            fake.volume("data").delete("/gone")
            fake.volume("data").write("/late", "late")
            capture.capture()
            (archive,) = capture.seal()
        fake.volume("data").delete("/late")
        fake.volume("data").write("/stray", "stray")
        archiver.extract(archive)
    return archive


@pytest.mark.parametrize(("live_from", "incremental"), [(0, True), (1 << 40, False)])
def test_what_is_captured_is_what_there_was_at_rest(tmp_path: Path, live_from: int, *, incremental: bool) -> None:
    """By base and increment or, where the volume is small, by one archive at rest; no helper is left."""
    fake = FakeEngine()
    fake.volume("data").write("/deep/file", "content")
    fake.volume("data").write("/gone", "gone")
    archive = taken(fake, BackupStore(tmp_path / "store"), live_from=live_from)
    assert (archive.increment is not None) == (archive.snapshot is not None) == incremental
    files = fake.volume("data")
    assert (files.read("/late"), files.read("/deep/file")) == (b"late", b"content")
    assert not files.exists("/gone")
    assert not files.exists("/stray")
    assert fake.list_containers() == []


def test_how_much_there_will_be_is_told_before(tmp_path: Path) -> None:
    """A listener knows about how long the bar is; of what has changed since, nobody knows how much it is."""
    fake, store = FakeEngine(), BackupStore(tmp_path / "store")
    for number in range(4):
        fake.volume("data").write(f"/{number}", b"x" * 1_000_000)
    told: list[tuple[str, int | None]] = []
    archiver = VolumeArchiver(
        fake,
        store,
        live_from=0,
        progress=lambda _, done: told.append(("done", done)),
        expect=lambda _, size: told.append(("expect", size)),
    )
    with store.draft("live") as draft, archiver.begin(["data"], draft, operation="op") as capture:
        capture.live_pass()
        (first, *between) = list(told)
        capture.capture()
        capture.seal()
    assert first[0] == "expect"
    assert first[1] == pytest.approx(between[-1][1], rel=0.05)
    assert {kind for kind, _ in between} == {"done"}
    assert told[len(between) + 1] == ("expect", None)
