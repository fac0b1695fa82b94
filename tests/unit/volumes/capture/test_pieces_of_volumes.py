"""Large files of a volume in several backups: stored in pieces, and as they were when they come back."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from docker_rollback._model.backup import Way
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.capture import base
from docker_rollback._volumes.fill.filling import Filling
from docker_rollback._volumes.tar.cutting import CutRule
from tests.unit.store import making
from tests.unit.volumes.comparing import Node, differences, picture
from tests.unit.volumes.live import Taken, capture, check, let_age, reach_of

RULE: Final = CutRule(least=4000, length=8000, huge=40_000, huge_length=16_000, most=50)
SIZES: Final = {"small": 3999, "least": 4000, "one": 8000, "more": 8001, "huge": 40_000, "many": 39_999}


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder of files around the sizes where something changes, a moment old."""
    monkeypatch.setattr(base, "MARGIN", 0.02)
    # Not below /tmp, which may be a tmpfs: of that there are no increments.
    with tempfile.TemporaryDirectory(prefix="docker-rollback-test-", dir="/var/tmp") as made:
        folder = Path(made)
        for number, (name, size) in enumerate(SIZES.items()):
            (folder / name).write_bytes(random.Random(number).randbytes(size))
        let_age(folder)
        yield folder


def write(root: Path, seed: int) -> None:
    """Write a few bytes in places of each file, let some grow, and some shrink."""
    chance = random.Random(seed)
    for name in SIZES:
        with (root / name).open("r+b") as file:
            for _ in range(3):
                file.seek(chance.randrange((root / name).stat().st_size))
                file.write(chance.randbytes(chance.randrange(1, 60)))
            if name in ("more", "huge"):
                file.truncate(chance.randrange(3000, 50_000))


def added(store: BackupStore, before: set[Path]) -> int:
    """Return how many bytes of blobs there are beside some."""
    return sum(path.stat().st_size for path in {*making.blob_files(store)} - before)


@pytest.mark.parametrize("way", ["direct", "helper"])
@pytest.mark.parametrize("live_from", [0, 1 << 40])
def test_each_of_several_backups_comes_back(root: Path, tmp_path: Path, way: Way, live_from: int) -> None:
    """Whatever was written between them and within them, whether they have an increment, and without the others."""
    store = BackupStore(tmp_path / "store")
    taken: list[tuple[Taken, dict[bytes, Node]]] = []
    for number in range(4):

        def change(number: int = number) -> None:
            write(root, 100 + number)

        one = capture(root, change, store=store, number=number, way=way, live_from=live_from, rule=RULE)
        taken.append((one, picture(root, sockets=False)))
        check(root, one)
        write(root, number)
        let_age(root)
    for number in (1, 0, 2):
        store.delete(f"live-{number}")
    store.verify("live-3")
    archive, before = taken[-1][0].archive, taken[-1][1]
    assert store.get("live-3").volumes == (archive,)
    with tempfile.TemporaryDirectory(dir=tmp_path) as empty:
        Path(empty).chmod(0o700)
        assert Filling(reach_of(Path(empty)), archive, store, None).fill() == archive.size
        assert differences(before, picture(Path(empty))) == []


@pytest.mark.parametrize("in_use", [True, False])
def test_what_did_not_change_is_stored_once(root: Path, tmp_path: Path, *, in_use: bool) -> None:
    """Also by a backup that takes no increment, and for which all is read again."""
    store = BackupStore(tmp_path / "store")
    live_from = 1 << 40 if in_use else 0
    capture(root, store=store, number=1, live_from=live_from, rule=RULE)
    before = {*making.blob_files(store)}
    assert added(store, set()) > sum(SIZES.values())
    second = capture(root, store=store, number=2, live_from=live_from, rule=RULE)
    # Its record, its manifests, and the small file.
    assert added(store, before) < 12_000
    check(root, second)


def test_what_changed_all_over_a_large_file_is_stored_as_differences(root: Path, tmp_path: Path) -> None:
    """In an increment, and in a new base because much has changed; both tell what they take in the store."""
    path, size = root / "big", 400_000
    path.write_bytes(random.Random(9).randbytes(size))
    let_age(root)
    store = BackupStore(tmp_path / "store")

    def change(seed: int) -> Callable[[], None]:
        def scattered() -> None:
            with path.open("r+b") as file:
                for at in range(0, size, 8000):
                    file.seek(at + seed)
                    file.write(b"new")

        return scattered

    first = capture(root, change(100), store=store, number=1, rule=RULE)
    assert first.incremental
    assert first.archive.stored[0] > size
    assert first.archive.stored[1] < size // 8
    before = {*making.blob_files(store)}
    change(500)()
    let_age(root)
    second = capture(root, store=store, number=2, rule=RULE)
    assert second.archive.base != first.archive.base
    assert added(store, before) < size // 8
    check(root, second)


def test_a_file_that_is_no_longer_of_its_size_is_no_trouble(root: Path, tmp_path: Path) -> None:
    """One that grows beyond where pieces are longer, and one that becomes too small to be cut."""
    store = BackupStore(tmp_path / "store")
    for number, (huge, many) in enumerate([(40_000, 39_999), (39_999, 40_000), (3999, 90_000), (4000, 0)]):
        (root / "huge").write_bytes(random.Random(4).randbytes(huge))
        (root / "many").write_bytes(random.Random(5).randbytes(many))
        let_age(root)
        check(root, capture(root, store=store, number=number, rule=RULE))
