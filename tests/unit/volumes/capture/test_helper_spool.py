"""An increment that waits next to its volume until it is fetched."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from attrs import evolve

from docker_rollback._engine.port import Process
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.capture import base, earlier_base, helper_spool, live_pass
from docker_rollback._volumes.capture.helper_spool import Aside
from docker_rollback._volumes.capture.scan import LARGE, Large, ground
from docker_rollback.errors import ArchiveError, CorruptBackupError
from tests.unit.volumes.live import capture, check, let_age, run

SIZE = LARGE + 5_000


@pytest.fixture
def root(field: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a table that counts as at work, and as worth to be put aside."""
    made = field / "root"
    (made / "base").mkdir(parents=True)
    for name in ("table", "idle"):
        (made / "base" / name).write_bytes(os.urandom(SIZE))
    monkeypatch.setattr(live_pass, "ASIDE_FROM", LARGE)
    monkeypatch.setattr(base, "_rewritten", lambda *_: (Large(b"./base/table", SIZE, 0),))
    monkeypatch.setattr(base, "MARGIN", 0.02)
    let_age(made)
    return made


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give what is carried while the service rests, in bytes, as it comes."""
    sizes: list[int] = []
    head = Aside.carry_head

    def told(self: Aside, *arguments: object) -> int:
        sizes.append(head(self, *arguments))  # type: ignore[arg-type]  # handed on as they came
        return sizes[-1]

    monkeypatch.setattr(Aside, "carry_head", told)
    return sizes


def change(root: Path) -> Callable[[], object]:
    """Return what writes to the table."""
    return lambda: (root / "base/table").write_bytes(os.urandom(SIZE))


def test_a_large_increment_comes_once_the_service_runs_again(root: Path, fetched: list[int]) -> None:
    """At rest its beginning is looked at; the rest follows, and both archives give what was there."""
    (root / "base/sub").mkdir()
    taken = capture(root, change(root), way="helper")
    assert taken.incremental
    assert len(fetched) == 1
    assert fetched[0] < SIZE
    assert len(taken.tars[1]) > SIZE
    check(root, taken)


def test_where_there_is_no_room_it_comes_by_the_stream(
    root: Path, fetched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's disk is filled for it."""
    monkeypatch.setattr(helper_spool, "_PARTS_OF_ROOM", 1 << 60)
    taken = capture(root, change(root), way="helper")
    assert taken.incremental
    assert fetched == []
    check(root, taken)


def test_a_disk_that_fills_up_has_all_archived_at_rest(root: Path, fetched: list[int]) -> None:
    """Where tar cannot write the file, nothing is lost: all goes by the stream."""

    def full(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        return run([word.replace("snapshot.increment", "missing/increment") for word in words], stdin=stdin)

    taken = capture(root, change(root), run=full, way="helper")
    assert not taken.incremental
    assert fetched == []
    check(root, taken)


def test_what_cannot_be_fetched_is_an_error(root: Path, fetched: list[int]) -> None:
    """A file that is gone, or cut short, by the time that it is fetched is no increment."""

    def gone(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        dying = ("sh", "-c", "xargs -0 head -c 100000; exit 1")
        return run(dying if words[:3] == ("xargs", "-0", "cat") else words, stdin=stdin)

    with pytest.raises(ArchiveError, match="fetching what changed failed"):
        capture(root, change(root), run=gone, way="helper")
    assert fetched != []


def test_what_is_cut_short_without_a_word_is_an_error(root: Path) -> None:
    """An engine that loses the end of what a helper prints, and says that all is well, is not believed."""

    def cut(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        losing = ("sh", "-c", f"xargs -0 head -c {SIZE}")
        return run(losing if words[:3] == ("xargs", "-0", "cat") else words, stdin=stdin)

    with pytest.raises(CorruptBackupError, match="cut short"):
        capture(root, change(root), run=cut, way="helper")


def test_what_can_be_put_aside_does_not_take_a_new_base(
    root: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[int]
) -> None:
    """A large file that has changed comes quickly enough at rest; by the stream it would be too much."""
    monkeypatch.setattr(earlier_base, "MOST", 100_000)
    monkeypatch.setattr(earlier_base, "SHARE", 100.0)
    monkeypatch.setattr(base, "ground", lambda reach, crew: evolve(found := ground(reach, crew), now=found.now + 1))
    monkeypatch.setattr(base, "_rewritten", lambda *_: ())
    store = BackupStore(root.parent / "store")
    first = capture(root, store=store, number=1, way="helper")
    change(root)()
    second = capture(root, store=store, number=2, way="helper")
    assert second.archive.base == first.archive.base
    assert fetched != []
    check(root, second)
    monkeypatch.setattr(live_pass, "ASIDE_FROM", 1 << 40)
    third = capture(root, store=store, number=3, way="helper")
    assert third.archive.base != first.archive.base
