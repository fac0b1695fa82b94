"""What is excluded, on a real engine and by both ways: not archived, and left alone by a restore and by a rollback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from docker_rollback import Exclude, RollbackRequested, VolumeArchiver, rollback
from docker_rollback._model.backup import Way
from tests.integration.test_volumes import WAYS, Bench, bench, eyes
from tests.unit.volumes import awkward
from tests.unit.volumes.comparing import differences, picture

__all__ = ["bench", "eyes"]

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("eyes")]


def spoil(root: Path) -> None:
    """Do to a volume what an update may do."""
    (root / "cache/file").write_text("updated")
    (root / "cache/new").write_text("updated")
    (root / "tmp/old.log").unlink()
    (root / "tmp/new.log").write_text("updated")
    (root / "tmp/stray").write_text("stray")
    (root / "kept").write_text("updated")


def make(root: Path) -> None:
    """Fill a volume."""
    for folder in ("cache", "tmp"):
        (root / folder).mkdir()
    for name in ("cache/file", "tmp/old.log", "tmp/file", "kept"):
        (root / name).write_text("before")


def check(root: Path) -> None:
    """See that what is excluded is as the update left it, and all else as it was."""
    found = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}
    assert found == {
        "cache/file": "updated",
        "cache/new": "updated",
        "tmp/new.log": "updated",
        "tmp/file": "before",
        "kept": "before",
    }


@pytest.mark.parametrize("live_from", [0, 1 << 40], ids=["by-increment", "whole"])
@pytest.mark.parametrize("way", WAYS)
def test_a_restore_leaves_it_alone(bench: Bench, way: Way, live_from: int) -> None:
    """Paths in a volume: as the update left them; the next archive builds on the base that left out the same."""
    volume = bench.volume()
    root = bench.folder(volume)
    make(root)
    archiver = VolumeArchiver(bench.engine, bench.store, way=way, live_from=live_from)
    exclude = [f"{volume}:cache", f"{volume}:tmp/*.log"]
    archive = archiver.archive(volume, exclude=exclude)
    assert (archive.increment is not None) == (live_from == 0)
    spoil(root)
    archiver.extract(archive)
    check(root)
    assert archiver.archive(volume, exclude=exclude).excluded == ("cache", "tmp/*.log")
    assert archive.way == way


@pytest.mark.parametrize("way", WAYS)
def test_everything_around_it_comes_back_as_it_was(bench: Bench, way: Way) -> None:
    """Every kind of file, damaged in every way, beside a folder that is excluded."""
    volume = bench.volume()
    root = bench.folder(volume)
    awkward.make(root)
    (root / "spared").mkdir()
    os.chown(root / "spared", 7, 7)
    before = picture(root, sockets=False)
    archiver = VolumeArchiver(bench.engine, bench.store, way=way, live_from=0)
    archive = archiver.archive(volume, exclude=[Exclude(volume, "spared")])
    outside = bench.folder(bench.volume())
    awkward.damage(root, outside)
    if not (root / "spared").is_dir():
        (root / "spared").mkdir()
        os.chown(root / "spared", 7, 7)
    for attribute in ("user.stray", "trusted.stray"):
        # A helper needs setfattr to take these off the root, which not every machine has.
        os.removexattr(root, attribute)
    spared = picture(root / "spared")
    archiver.extract(archive)
    after = picture(root, sockets=False)
    assert picture(root / "spared") == spared
    for seen in (before, after):
        for name in [name for name in seen if name.startswith(b"./spared")]:
            del seen[name]
    assert differences(before, after) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_rollback_leaves_it_alone(bench: Bench, way: Way) -> None:
    """A whole volume and paths in another; all else is put back."""
    data, cache = bench.volume(), bench.volume()
    root = bench.folder(data)
    make(root)
    (bench.folder(cache) / "large").write_text("before")
    service = bench.container(f"{data}:/data", f"{cache}:/cache", start=True)
    with (
        rollback(
            service,
            client=bench.engine,
            store=bench.store,
            way=way,
            verify=None,
            exclude=[cache, f"{data}:cache", f"{data}:tmp/*.log"],
        ) as tx,
    ):
        spoil(root)
        (bench.folder(cache) / "large").write_text("updated")
        raise RollbackRequested
    check(root)
    assert (bench.folder(cache) / "large").read_text() == "updated"
    assert [volume.name for volume in tx.backup.volumes] == [data]
