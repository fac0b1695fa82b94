"""Bases, increments, and bases that are used again, on a real engine and by both ways."""

from __future__ import annotations

import mmap
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from docker_rollback import RollbackRequested, rollback
from docker_rollback._model.backup import Backup, VolumeArchive, Way
from docker_rollback._volumes.archiver import VolumeArchiver
from docker_rollback._volumes.capture import base
from tests.integration.test_volumes import WAYS, Bench, bench, eyes, settled
from tests.unit.volumes import awkward
from tests.unit.volumes.capture.test_increment import MOVES, move, tree
from tests.unit.volumes.comparing import Node, differences, picture
from tests.unit.volumes.live import let_age

__all__ = ["bench", "eyes"]

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("eyes", "exact")]

WRITES = "i=0; while :; do i=$((i+1)); echo $i >>/data/log; date >/data/now.$i; rm -f /data/now.$((i-9)); done"
"""What a service does that writes all the time."""


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an increment take what is a moment old, not seconds, so that a test has something that is older."""
    monkeypatch.setattr(base, "MARGIN", 0.02)


@pytest.fixture
def volume(bench: Bench) -> str:
    """Give a volume with two megabytes, and directories that can be moved."""
    name = bench.volume()
    tree(bench.folder(name))
    (bench.folder(name) / "large").write_bytes(secrets.token_bytes(2_000_000))
    let_age(bench.folder(name))
    return name


def capture(
    bench: Bench,
    volume: str,
    way: Way,
    change: Callable[[], object] = lambda: None,
    *,
    during: Callable[[], object] = lambda: None,
) -> VolumeArchive:
    """Archive a volume as the capture of a service does: a part while it runs, and after a change the rest.

    Args:
        bench: the engine and the store.
        volume: which.
        way: how it is reached.
        change: called between the two.
        during: called once the first of the base has come.
    """
    begun: list[int] = []

    def progress(_: str, done: int) -> None:
        if done and not begun:
            begun.append(done)
            during()

    engine, store = bench.engine, bench.store
    identity = f"taken-{secrets.token_hex(4)}"
    archiver = VolumeArchiver(engine, store, way=way, live_from=0, progress=progress)
    with store.draft(identity) as draft:
        with archiver.begin([volume], draft, operation=identity) as taking:
            taking.live_pass()
            change()
            taking.capture()
            archives = taking.seal()
        draft.commit(Backup(identity, datetime.now(UTC), engine.info().record(), "stop", (), archives))
    assert archives[0].way == way
    return archives[0]


def check(bench: Bench, volume: str, way: Way, taken: VolumeArchive, before: dict[bytes, Node]) -> None:
    """Fill the volume itself and a new one, and compare both with what there was."""
    for name in (volume, bench.volume()):
        VolumeArchiver(bench.engine, bench.store, way=way).extract(taken, name)
        assert differences(before, picture(bench.folder(name), sockets=False)) == []


@pytest.mark.parametrize("way", WAYS)
def test_what_a_service_writes_while_it_is_archived_comes_back(bench: Bench, volume: str, way: Way) -> None:
    """A container writes, makes and removes files throughout the live pass; what it left when it ended counts."""
    root = bench.folder(volume)
    writer = bench.container(f"{volume}:/data", command=WRITES, start=True)
    while not (root / "log").exists():
        time.sleep(0.01)
    taken = capture(bench, volume, way, lambda: bench.client.api.kill(writer))
    assert taken.increment is not None
    check(bench, volume, way, taken, picture(root, sockets=False))


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_is_written_again_and_again_is_taken_as_it_was_last(bench: Bench, volume: str, way: Way) -> None:
    """Before its base, while that is read, and after it, within the same tick of the clock for files or not."""
    path = bench.folder(volume) / "again"

    def write(word: str) -> Callable[[], object]:
        return lambda: [path.write_text(f"{word} {number:04}") for number in range(200)]

    write("before")()
    taken = capture(bench, volume, way, write("after"), during=write("during"))
    assert taken.increment is not None
    assert path.read_text() == "after 0199"
    check(bench, volume, way, taken, picture(bench.folder(volume), sockets=False))


@pytest.mark.parametrize("way", WAYS)
def test_a_mapped_page_that_stays_dirty_is_taken(bench: Bench, volume: str, way: Way) -> None:
    """A program maps a file, and writes to a page that is dirty already: by itself that marks no time."""
    root = bench.folder(volume)
    path = root / "mapped"
    path.write_bytes(b"-" * 8192)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:
        mapped[0:6] = b"before"
        let_age(root, 0.3)
        mapped[0:6] = b"dirty!"

        def change() -> None:
            mapped[0:6] = b"after!"

        taken = capture(bench, volume, way, change)
        assert taken.increment is not None
        before = picture(root, sockets=False)
    assert path.read_bytes().startswith(b"after!")
    check(bench, volume, way, taken, before)


@pytest.mark.parametrize("way", WAYS)
def test_directories_that_change_places_come_back_where_they_are(bench: Bench, volume: str, way: Way) -> None:
    """Rotated, swapped, nested: what tar alone can write and not extract."""
    root = bench.folder(volume)

    def rotate() -> None:
        for name in ("rotated", "swapped-below", "child-becomes-parent"):
            move(root, MOVES[name])

    taken = capture(bench, volume, way, rotate)
    assert taken.increment is not None
    assert taken.increment.size < 100_000
    check(bench, volume, way, taken, picture(root, sockets=False))


@pytest.mark.parametrize("way", WAYS)
def test_the_next_backup_builds_on_the_base_that_there_is(bench: Bench, volume: str, way: Way) -> None:
    """Three backups have one base, whose content is read once; each is what there was, also without the first."""
    root = bench.folder(volume)
    awkward.make(root)
    generations = []
    for number in range(3):
        (root / "which").write_text(f"generation {number}")
        if number == 2:
            shutil.rmtree(root / "p")
        # The engine's machine tells whole seconds, rounded down.
        time.sleep(1.1)
        taken = capture(bench, volume, way)
        generations.append((taken, picture(root, sockets=False)))
    first, *later = (taken for taken, _ in generations)
    for taken in later:
        assert (taken.base, taken.listing) == (first.base, first.listing)
        assert taken.increment is not None
        assert taken.increment.size < first.base.size // 4
    bench.store.delete(bench.store.list()[0].id)
    for taken, before in generations[1:]:
        check(bench, volume, way, taken, before)
    for backup in bench.store.ids():
        bench.store.verify(backup)


def test_a_volume_made_again_under_its_name_has_a_new_base(bench: Bench, volume: str) -> None:
    """The files are the same, and have the times that they had; they are others."""
    first = capture(bench, volume, "helper")
    VolumeArchiver(bench.engine, bench.store).extract(first, volume)
    bench.client.api.remove_volume(volume)
    bench.client.api.create_volume(volume, labels=bench.labels)
    VolumeArchiver(bench.engine, bench.store).extract(first, volume)
    second = capture(bench, volume, "helper")
    assert second.listing != first.listing
    check(bench, volume, "helper", second, picture(bench.folder(volume), sockets=False))


@pytest.mark.parametrize("way", WAYS)
def test_what_nobody_touched_is_left_alone(bench: Bench, volume: str, way: Way) -> None:
    """Directly, a file that lies where it lay is not written again; by a helper, all is. What comes out is the same."""
    root = bench.folder(volume)
    let_age(root, 0.5)
    taken = capture(bench, volume, way)
    before, large = picture(root, sockets=False), (root / "large").stat()
    move(root, MOVES["rotated"])
    (root / "a/x/which").write_text("changed")
    VolumeArchiver(bench.engine, bench.store, way=way).extract(taken)
    assert differences(before, picture(root, sockets=False)) == []
    assert ((root / "large").stat().st_ctime_ns == large.st_ctime_ns) == (way == "direct")


@pytest.mark.parametrize("way", WAYS)
def test_a_large_file_that_changes_all_the_time_is_taken_as_it_is_at_rest(
    bench: Bench, volume: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base passes it over. Directly it is copied before, by a helper put aside; and it is what it was at rest."""
    monkeypatch.setattr("docker_rollback._volumes.capture.live_pass.ASIDE_FROM", 4 << 20)
    # It is as young as its last change.
    monkeypatch.setattr(base, "RECENT", 0.0)
    root = bench.folder(volume)
    path = root / "l/table"
    path.write_bytes(secrets.token_bytes(9_000_000))

    def write_pages() -> None:
        with path.open("r+b") as file:
            for page in (0, 17, 1000):
                file.seek(page * 8192)
                file.write(secrets.token_bytes(8192))

    taken = capture(bench, volume, way, write_pages, during=write_pages)
    assert taken.increment is not None
    assert taken.stored[0] < 4_000_000
    assert taken.stored[1] > 9_000_000
    check(bench, volume, way, taken, picture(root, sockets=False))


@pytest.mark.parametrize("way", WAYS)
def test_a_large_file_with_few_changes_is_stored_as_differences(bench: Bench, volume: str, way: Way) -> None:
    """Three backups of it take little more than one, each comes back, and none needs another."""
    root = bench.folder(volume)
    path, size = root / "l/table", 20_000_000
    path.write_bytes(secrets.token_bytes(size))
    let_age(root)

    def write_pages() -> None:
        with path.open("r+b") as file:
            for at in range(0, size, 200_000):
                file.seek(at)
                file.write(secrets.token_bytes(100))

    generations, stored = [], []
    for _ in range(3):
        taken = capture(bench, volume, way, write_pages)
        generations.append((taken, picture(root, sockets=False)))
        stored.append(sum(file.stat().st_size for file in bench.store.path.glob("blobs/sha256/*")))
        write_pages()
    assert stored[0] > size
    assert stored[2] - stored[0] < size // 4
    bench.store.delete(bench.store.list()[0].id)
    for taken, before in generations[1:]:
        check(bench, volume, way, taken, before)
    for backup in bench.store.ids():
        bench.store.verify(backup)


LAST_WORDS = """
cd /data
trap 'dd if=/dev/urandom of=table bs=8192 count=3 seek=40 conv=notrunc; sha256sum table >sum; exit 0' TERM
if test -e sum; then sha256sum -c sum >told; else dd if=/dev/urandom of=table bs=8192 count=2500; fi
touch begun
while :; do sleep 0.1; dd if=/dev/urandom of=table bs=8192 count=1 seek=7 conv=notrunc; done
"""
"""Writes to a large file all the time, and when it ends; when it starts again, it tells whether that is as it was."""
NOBODY_WRITES = "nobody writes to volume {} any more, as far as the kernel knows"


@pytest.mark.parametrize("way", WAYS)
def test_what_a_service_writes_when_it_ends_is_in_the_backup(
    bench: Bench, volume: str, way: Way, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is captured as soon as it has ended, some time before its engine says that it has."""
    caplog.set_level("DEBUG", logger="docker_rollback")
    monkeypatch.setattr(base, "RECENT", 0.0)
    root = bench.folder(volume)
    service = bench.container(f"{volume}:/data", command=LAST_WORDS, start=True, StopSignal="SIGTERM")
    assert settled((root / "begun").exists)
    with (
        suppress(RollbackRequested),
        rollback(service, client=bench.client, store=bench.store, way=way, verify=None),
    ):
        assert caplog.messages.index(NOBODY_WRITES.format(volume)) < caplog.messages.index("step: capture")
        (root / "table").unlink()
        raise RollbackRequested
    assert settled((root / "told").exists)
    assert settled(lambda: (root / "told").read_text() == "table: OK\n")
