"""A volume that nothing can be written to: a restore proves that it is as it was, or says what differs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import evolve

from docker_rollback._host import processes
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.capture import base
from docker_rollback._volumes.fill.filling import Filling
from docker_rollback.errors import ArchiveError
from tests.unit.volumes import awkward
from tests.unit.volumes.comparing import differences, picture
from tests.unit.volumes.confined import sandbox_of
from tests.unit.volumes.live import Taken, capture, let_age, reach_of

pytestmark = [
    pytest.mark.direct,
    pytest.mark.skipif(not processes.may_do_anything(), reason="mounting takes root"),
]
BOTH_SHAPES = pytest.mark.parametrize("live_from", [0, 1 << 30], ids=["increment", "whole"])


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an increment take what is a moment old, not seconds, so that a test has something that is older."""
    monkeypatch.setattr(base, "MARGIN", 0.02)


@pytest.fixture
def root(field: Path) -> Iterator[Path]:
    """Give a folder with some files, which is seen read-only at another path."""
    made, seen = field / "root", field / "seen"
    (made / "sub/deeper").mkdir(parents=True)
    seen.mkdir()
    (made / "file").write_text("before")
    (made / "sub/file").write_text("before")
    (made / "sub/deeper/file").write_text("before")
    os.link(made / "sub/file", made / "name")
    with (made / "holes").open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"data")
    subprocess.run(["mount", "--bind", str(made), str(seen)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(seen)], check=True)
    try:
        yield made
    finally:
        subprocess.run(["umount", str(seen)], check=True)


def fill(root: Path, taken: Taken, store: BackupStore) -> None:
    """Fill the read-only volume as a restore does."""
    reach = evolve(reach_of(root.parent / "seen"), snapshot=str(root.parent / "record"), read_only=True)
    (root.parent / "record").unlink(missing_ok=True)
    assert Filling(reach, taken.archive, store, None).fill() > 0


def edit(root: Path) -> None:
    """Change a few things between base and increment."""
    (root / "file").write_text("changed before the capture")
    (root / "sub/deeper/file").unlink()
    (root / "sub/new").write_text("made before the capture")


@BOTH_SHAPES
def test_what_has_not_changed_is_not_written(root: Path, live_from: int) -> None:
    """A restore of a read-only volume that is as it was succeeds, and touches nothing."""
    store = BackupStore(root.parent / "store")
    let_age(root)
    taken = capture(root, lambda: edit(root), store=store, live_from=live_from)
    assert taken.incremental == (live_from == 0)
    before = picture(root)
    fill(root, taken, store)
    assert differences(before, picture(root)) == []


@BOTH_SHAPES
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda root: (root / "sub/new").write_text("made before the capturE"), "sub/new"),
        (lambda root: (root / "sub/new").chmod(0o600), "sub/new"),
        (lambda root: (root / "sub/deeper/stray").write_text("stray"), "sub/deeper"),
        (lambda root: (root / "sub/deeper").rmdir(), "sub"),
        (lambda root: os.setxattr(root / "file", "user.stray", b"1"), "file"),
        (lambda root: os.utime(root / "file", ns=(0, 0)), "file"),
        (lambda root: os.truncate(root / "holes", 1 << 19), "holes"),
    ],
    ids=["content", "mode", "new", "gone", "attribute", "time", "size"],
)
def test_what_has_changed_is_named(root: Path, live_from: int, change: Callable[[Path], object], named: str) -> None:
    """Somebody changed it by another way: that cannot be undone, and nothing is touched."""
    store = BackupStore(root.parent / "store")
    let_age(root)
    taken = capture(root, lambda: edit(root), store=store, live_from=live_from)
    change(root)
    before = picture(root)
    with pytest.raises(ArchiveError, match=rf"volume 'vol': it is read-only, and differs.*: (\./)?{named} is not"):
        fill(root, taken, store)
    assert differences(before, picture(root)) == []


def test_every_kind_of_file_is_compared(field: Path) -> None:
    """Whatever a volume holds, it is found the same."""
    root, store = field / "root", BackupStore(field / "store")
    root.mkdir()
    awkward.make(root)
    taken = capture(root, store=store, live_from=1 << 30)
    reach = evolve(reach_of(root), snapshot=str(field / "record"), read_only=True)
    assert Filling(reach, taken.archive, store, None).fill() > 0


def test_a_program_here_knows_that_it_cannot_write(root: Path) -> None:
    """What is seen read-only stays so in a sandbox that is to write; any other folder can be written there."""
    with sandbox_of(root.parent / "seen") as sandbox:
        assert sandbox.sight.is_read_only
    with sandbox_of(root) as sandbox:
        assert not sandbox.sight.is_read_only
