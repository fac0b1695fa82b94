"""Flags that keep even root from changing a file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from attrs import evolve

from docker_rollback._host.tree import Tree
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.fill.file_flags import clear_flags
from docker_rollback._volumes.fill.filling import Filling
from docker_rollback.errors import ArchiveError
from tests.unit.volumes.live import capture, reach_of


def flag(change: str, *paths: Path) -> None:
    """Change flags of files; skip the test where nobody can."""
    try:
        done = subprocess.run(["chattr", change, *map(str, paths)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("this machine has no chattr")
    if done.returncode != 0:
        pytest.skip(f"files cannot have flags here: {done.stderr.strip()}")


def test_flags_are_taken_off(field: Path) -> None:
    """Of the folder itself, of folders and of files in it; through no link, and of nothing outside."""
    root, outside = field / "root", field / "outside"
    (root / "deep" / "er").mkdir(parents=True)
    outside.mkdir()
    for path in (root / "deep" / "file", root / "deep" / "er" / "log", outside / "file"):
        path.write_text("x")
    (root / "plain").write_text("x")
    (root / "link").symlink_to(outside / "file")
    (root / "away").symlink_to(outside)
    flagged = [root, root / "deep", root / "deep" / "file"]
    flag("+i", outside / "file")
    try:
        flag("+a", root / "deep" / "er" / "log")
        flag("+i", *reversed(flagged))
        assert clear_flags(Tree.at(root)) == 4
        assert clear_flags(Tree.at(root)) == 0
        (root / "deep" / "file").unlink()
        (root / "deep" / "er" / "log").write_text("y")
        with pytest.raises(PermissionError):
            (outside / "file").write_text("y")
    finally:
        flag("-i", outside / "file")
        clear_flags(Tree.at(root))


@pytest.mark.parametrize("at_hand", [True, False])
def test_flags_that_keep_a_volume_from_being_filled_are_taken_off(
    field: Path, caplog: pytest.LogCaptureFixture, *, at_hand: bool
) -> None:
    """Where its files are at hand; a helper cannot, and its tar's own words are the error."""
    root, store = field / "root", BackupStore(field / "store")
    root.mkdir()
    (root / "file").write_text("before")
    taken = capture(root, store=store)
    (root / "file").write_text("after")
    flag("+i", root / "file")
    reach = reach_of(root) if at_hand else evolve(reach_of(root), way="helper", tree=None)
    try:
        if at_hand:
            Filling(reach, taken.archive, store, None).fill()
            assert (root / "file").read_text() == "before"
            assert "volume vol: cleared flags of 1 files that prevented filling it" in caplog.text
        else:
            with pytest.raises(ArchiveError, match="Operation not permitted"):
                Filling(reach, taken.archive, store, None).fill()
            assert (root / "file").read_text() == "after"
    finally:
        clear_flags(Tree.at(root))


def test_flags_of_excluded_paths_stay(field: Path) -> None:
    """What `exclude=` leaves out keeps its flags, with all that is below it; but not in a folder that goes."""
    root, store, excluded = field / "root", BackupStore(field / "store"), ("cache", "old.log", "new/old.log")
    (root / "cache" / "deep").mkdir(parents=True)
    files = [root / "file", root / "old.log", root / "cache" / "deep" / "file"]
    for file in files:
        file.write_text("before")
    taken = capture(root, store=store, excluded=excluded)
    (root / "new").mkdir()
    (root / "new" / "old.log").write_text("new")
    files[0].write_text("after")
    kept = [*files[1:], root / "cache"]
    try:
        flag("+i", root / "new" / "old.log", files[0], *kept)
        Filling(reach_of(root), evolve(taken.archive, excluded=excluded), store, None).fill()
        assert files[0].read_text() == "before"
        assert not (root / "new").exists()
        for path in kept:
            shown = subprocess.run(["lsattr", "-d", path], capture_output=True, text=True, check=True).stdout
            assert "i" in shown.split()[0], path
    finally:
        clear_flags(Tree.at(root))
