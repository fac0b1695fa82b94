"""Paths that no system call takes: removed at any depth by a restore, refused by a capture."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import evolve

from docker_rollback._host import processes
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.fill.filling import Filling
from docker_rollback._volumes.tar.members import LONGEST_PATH
from docker_rollback.errors import VolumeAccessError
from tests.unit.volumes.comparing import differences, picture
from tests.unit.volumes.confined import confined
from tests.unit.volumes.live import capture, let_age

pytestmark = [
    pytest.mark.direct,
    pytest.mark.skipif(not processes.may_do_anything(), reason="a sandbox takes root"),
]


@contextmanager
def at_end(folder: Path, levels: int, name: str, *, make: bool = True) -> Iterator[int]:
    """Have the last of a row of folders open, each of which is in the one before, made or there already."""
    above = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(levels):
            if make:
                os.mkdir(name, dir_fd=above)
            above, outer = os.open(name, os.O_RDONLY, dir_fd=above), above
            os.close(outer)
        yield above
    finally:
        os.close(above)


def make_deep(folder: Path, levels: int, name: str) -> None:
    """Make a folder in a folder, so many times, with a file in the last one."""
    with at_end(folder, levels, name) as last:
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=last))


@pytest.mark.parametrize(
    ("levels", "name", "way", "live_from"),
    [
        *((30, "n" * 200, way, live_from) for way in ("direct", "helper") for live_from in (0, 1 << 30)),
        (10_000, "d", "direct", 0),
    ],
)
def test_what_lies_deeper_than_a_path_reaches_is_removed(
    field: Path, levels: int, name: str, way: str, live_from: int
) -> None:
    """A copy of a folder into itself, over and over, goes with all in it; what is excluded stays."""
    root, store = field / "root", BackupStore(field / "store")
    for folder in ("a/b", "cache"):
        (root / folder).mkdir(parents=True)
        (root / folder / "file").write_text("before")
    let_age(root)
    before = picture(root)
    taken = capture(root, store=store, live_from=live_from, excluded=("cache",))
    make_deep(root / "a", levels, name)
    make_deep(root, levels, name)
    (root / "a/b/file").write_text("changed")
    with confined(root) as reach:
        found = reach if way == "direct" else evolve(reach, way="helper", tree=None)
        assert Filling(found, taken.archive, store, None).fill() > 0
    assert differences(before, picture(root)) == []


@pytest.mark.parametrize(("levels", "name"), [(30, "n" * 200), (10_000, "d")], ids=["long", "deep"])
def test_a_path_that_cannot_be_put_back_is_refused_before_the_stop(field: Path, levels: int, name: str) -> None:
    """The live pass, while the service runs, says which; what is excluded does not count."""
    root, store = field / "root", BackupStore(field / "store")
    (root / "sub").mkdir(parents=True)
    make_deep(root / "sub", levels, name)
    with pytest.raises(VolumeAccessError, match=rf"'vol'.*more than {LONGEST_PATH} bytes.*sub/{name[:40]}.*exclude="):
        capture(root, lambda: pytest.fail("nothing is stopped for it"), store=store)
    assert capture(root, store=store, number=1, excluded=("sub",)).archive.size > 0
    # At its end, the test cannot do so: it is too deep for Python's own way.
    subprocess.run(["rm", "-rf", str(root / "sub")], check=True)


def test_the_longest_path_is_archived_and_put_back(field: Path) -> None:
    """One byte less than what is refused comes back."""
    root, store = field / "root", BackupStore(field / "store")
    root.mkdir()
    rest = LONGEST_PATH - len("./") - len("/file") - 1
    levels = rest // 201
    with at_end(root, levels, "n" * 200) as above:
        name = "x" * (rest - levels * 201)
        os.mkdir(name, dir_fd=above)
        last = os.open(name, os.O_RDONLY, dir_fd=above)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=last))
        let_age(root)
        taken = capture(root, store=store)
        os.rename("file", "longer", src_dir_fd=last, dst_dir_fd=last)
        with pytest.raises(VolumeAccessError):
            capture(root, store=store, number=1)
        os.close(last)
    with confined(root) as reach:
        Filling(reach, taken.archive, store, None).fill()
    with at_end(root, levels, "n" * 200, make=False) as above:
        last = os.open(name, os.O_RDONLY, dir_fd=above)
        assert os.listdir(last) == ["file"]  # noqa: PTH208 - of a descriptor
        os.close(last)
