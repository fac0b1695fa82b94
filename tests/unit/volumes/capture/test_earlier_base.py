"""The base of an earlier backup, used again: each backup is what there was, whatever happened between them."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from docker_rollback._engine.port import Process
from docker_rollback._model.backup import Descriptor
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.capture import base, earlier_base, scan
from docker_rollback._volumes.capture.earlier_base import Comparison
from docker_rollback._volumes.capture.hash_set import Hashes
from docker_rollback._volumes.capture.scan import Large, ground
from docker_rollback._volumes.tar.members import Members
from docker_rollback.errors import CorruptBackupError, StoreError
from tests.unit.volumes.capture.test_increment_any import HISTORY, Deed, do
from tests.unit.volumes.comparing import picture
from tests.unit.volumes.live import Taken, capture, check, let_age, run

History = Sequence[tuple[Deed, str, str, int]]


@pytest.fixture
def root(field: Path) -> Path:
    """Give a folder on a file system that keeps everything, with a few files."""
    made = field / "root"
    made.mkdir()
    for number in range(20):
        (made / f"d{number % 3}").mkdir(exist_ok=True)
        (made / f"d{number % 3}" / f"{number}").write_bytes(random.Random(number).randbytes(50_000))
    return made


@pytest.fixture
def store(field: Path) -> BackupStore:
    """Give a store."""
    return BackupStore(field / "store")


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an increment take what is a moment old, not seconds, so that a test has something that is older."""
    monkeypatch.setattr(base, "MARGIN", 0.02)
    # The kernel tells whole seconds, rounded down.
    monkeypatch.setattr(base, "ground", lambda reach, crew: evolve(found := ground(reach, crew), now=found.now + 1))


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a base used again however much has changed."""
    monkeypatch.setattr(earlier_base, "SHARE", 100.0)
    monkeypatch.setattr(earlier_base, "TOGETHER", 1e9)
    monkeypatch.setattr(earlier_base, "WASTE", 1 << 40)


def twice(
    root: Path, store: BackupStore, between: Callable[[], object] = lambda: None, *, age: float = 0.1
) -> tuple[Taken, Taken]:
    """Let the files get that old, take a backup, do something, and take another one, which is checked."""
    let_age(root, age)
    first = capture(root, store=store, number=1)
    assert first.incremental
    let_age(root)
    between()
    second = capture(root, store=store, number=2)
    check(root, second)
    return first, second


def again(taken: tuple[Taken, Taken]) -> bool:
    """Whether the second backup has the base of the first."""
    return taken[0].archive.base == taken[1].archive.base


def test_what_did_not_change_is_not_archived_again(root: Path, store: BackupStore) -> None:
    """The second backup has the base of the first, what lies beside it, and an increment with what changed alone."""
    # An increment takes what is younger than its base took to begin, which may be long on a busy machine.
    first, second = twice(root, store, lambda: (root / "d1/new").write_bytes(b"new" * 1000), age=5)
    for part in ("base", "snapshot", "listing"):
        assert getattr(first.archive, part) == getattr(second.archive, part)
    assert len(second.tars[0]) > 1_000_000
    assert len(second.tars[1]) < 100_000
    assert second.archive.size == sum(map(len, second.tars))


def test_no_content_is_read_again_while_the_volume_is_in_use(root: Path, store: BackupStore) -> None:
    """In the second backup tar runs once, for the increment, and nothing is flushed."""
    let_age(root)
    capture(root, store=store, number=1)
    started: list[str] = []

    def noting(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        started.append(" ".join(words[:2]))
        return run(words, stdin=stdin)

    capture(root, store=store, number=2, run=noting)
    assert sum(words == "tar --create" for words in started) == 1
    assert not any(words.startswith("sync") for words in started)


def test_what_the_base_passed_over_and_has_come_to_rest_takes_no_new_one(
    root: Path, store: BackupStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that an increment takes because the base has none of it may bear whatever time it likes."""
    with monkeypatch.context() as patch:
        patch.setattr(base, "_rewritten", lambda *_: (Large(b"./d1/4", 50_000, 0),))
        let_age(root)
        first = capture(root, store=store, number=1)
    assert b"./d1/4" not in {member.name for member in Members().feed(first.tars[0])}
    let_age(root)
    second = capture(root, store=store, number=2)
    assert again((first, second))
    check(root, second)


def test_a_new_base_is_taken_once_much_has_changed(root: Path, store: BackupStore) -> None:
    """Half of the volume is the limit; what changed is then archived while the volume is in use."""

    def change(names: Sequence[int]) -> None:
        for number in names:
            (root / f"d{number % 3}/{number}").write_bytes(os.urandom(50_000))

    first, second = twice(root, store, partial(change, range(9)))
    assert again((first, second))
    let_age(root)
    change(range(11))
    third = capture(root, store=store, number=3)
    assert not again((first, third))
    check(root, third)


def test_a_new_base_is_taken_once_increments_have_taken_as_much(root: Path, store: BackupStore) -> None:
    """Small steps: each increment holds all since the base, until together they are as large as it is."""
    let_age(root)
    bases = []
    for number in range(9):
        for step in range(3):
            (root / f"d{step % 3}/{step}").write_bytes(os.urandom(50_000))
        let_age(root)
        taken = capture(root, store=store, number=number)
        bases.append(taken.archive.base.digest)
    # Nearly a fifth each time; the first of them came with the base, and does not count.
    assert [bases.count(base) for base in dict.fromkeys(bases)] == [6, 3]


def test_a_new_base_is_taken_once_most_of_the_old_one_is_gone(root: Path, store: BackupStore) -> None:
    """A restore reads all of the base."""

    def empty() -> None:
        for folder in ("d0", "d1", "d2"):
            shutil.rmtree(root / folder)

    assert not again(twice(root, store, empty))


def test_a_folder_made_again_under_the_name_has_a_base_of_its_own(root: Path, store: BackupStore) -> None:
    """The same names with the same times and sizes are other files."""
    aside = root.with_name("aside")

    def replace() -> None:
        root.rename(aside)
        shutil.copytree(aside, root)

    assert not again(twice(root, store, replace))


@pytest.mark.usefixtures("always")
def test_files_put_back_since_are_taken_for_changed(root: Path, store: BackupStore) -> None:
    """A restore in between writes every file anew: their numbers and times say so."""
    let_age(root)
    first = capture(root, store=store, number=1)
    let_age(root)
    (root / "d1/stray").write_text("stray")
    first.fill(root)
    second = capture(root, store=store, number=2)
    assert again((first, second))
    assert len(second.tars[1]) > 1_000_000
    check(root, second)


def lines(root: Path) -> Iterator[bytes]:
    """Yield the lines of a look."""
    with run(("find", str(root), "-printf", "%i %C@ %T@ %s %P\\0")) as find:
        yield from find.read(1 << 20).split(b"\0")
        find.finish()


def test_a_file_written_while_the_clock_was_set_back_gives_the_base_up(
    root: Path, store: BackupStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is before the base, so that tar would leave it out; but its line is none that the base knows."""
    real = Hashes.__contains__

    def write() -> None:
        odd = {hash(line) for line in lines(root) if line.endswith(b" d1/7")}
        monkeypatch.setattr(Hashes, "__contains__", lambda self, hashed: hashed not in odd and real(self, hashed))

    assert not again(twice(root, store, write))


def test_a_machine_that_has_started_again_has_new_bases(
    root: Path, store: BackupStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash, data may have reached the disk whose time of change did not."""
    monkeypatch.setattr(base, "ground", lambda reach, crew: evolve(ground(reach, crew), boot="earlier"))
    assert not again(twice(root, store, lambda: monkeypatch.setattr(base, "ground", ground)))


def test_a_clock_before_the_base_has_a_new_one_taken(
    root: Path, store: BackupStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written from now on would bear times from before it."""

    def set_back() -> None:
        monkeypatch.setattr(base, "ground", lambda reach, crew: evolve(ground(reach, crew), now=1e9))

    assert not again(twice(root, store, set_back))


def test_a_base_grows_old(root: Path, store: BackupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a month, whatever has changed, there is a new one."""

    def wait() -> None:
        monkeypatch.setattr(
            base, "ground", lambda reach, crew: evolve(found := ground(reach, crew), now=found.now + 31 * 86400)
        )

    assert not again(twice(root, store, wait))


@pytest.mark.parametrize("part", ["snapshot", "listing"])
def test_a_base_that_the_disk_does_not_give_is_not_used_again(root: Path, store: BackupStore, part: str) -> None:
    """A bad sector under an earlier backup keeps nobody from the next one."""
    let_age(root)
    first = capture(root, store=store, number=1)
    blob = getattr(first.archive, part)

    class BadDisk(BackupStore):
        """A store with a file that cannot be read."""

        def open_tar(self, wanted: Descriptor) -> Iterator[bytes]:
            if wanted == blob:
                raise StoreError(str(self.path), "it cannot be read (Input/output error)")
            return super().open_tar(wanted)

    (root / "d1/1").write_text("new")
    second = capture(root, store=BadDisk(store.path), number=2)
    assert not again((first, second))
    check(root, second)


@pytest.mark.parametrize("part", ["base", "snapshot", "listing"])
def test_a_damaged_base_is_not_used_again(root: Path, store: BackupStore, part: str) -> None:
    """It is hashed first, and so is what lies beside it; the backup is taken with a new one."""
    let_age(root)
    first = capture(root, store=store, number=1)
    blob = store.path / "blobs/sha256" / getattr(first.archive, part).digest.removeprefix("sha256:")
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    (root / "d1/1").write_text("new")
    second = capture(root, store=store, number=2)
    assert not again((first, second))
    check(root, second)
    store.verify("live-2")


@pytest.mark.usefixtures("always")
def test_sockets_and_links_come_and_go(root: Path, store: BackupStore) -> None:
    """What no archive holds is listed as it is now, and names of one file stay names of one file."""
    os.mknod(root / "d0/sock\n\\\xff", 0o140600)
    os.mknod(root / "d0/goes", 0o140600)
    (root / "d1/link").hardlink_to(root / "d0/0")

    def change() -> None:
        (root / "d0/goes").unlink()
        os.mknod(root / "d2/comes", 0o140600)
        (root / "d2/link").hardlink_to(root / "d0/3")

    taken = twice(root, store, change)
    assert again(taken)
    whats = [gap.what for gap in taken[1].archive.not_covered]
    assert sorted(whats) == [r"socket ./d0/sock\n\\\303\277 in volume vol", "socket ./d2/comes in volume vol"]


@pytest.mark.usefixtures("always")
def test_each_of_many_backups_on_one_base_is_what_there_was(root: Path, store: BackupStore) -> None:
    """Whichever is restored, also once the backup that took the base is gone."""
    let_age(root)
    pictures = []
    for number in range(1, 5):
        (root / f"d1/{number}").write_text(f"generation {number}")
        (root / f"d2/{number * 3 - 1}").unlink()
        (root / f"d{number % 3}").rename(root / "moved") if number == 3 else None
        taken = capture(root, store=store, number=number)
        pictures.append((taken, picture(root, sockets=False)))
        let_age(root)
    assert len({taken.archive.base.digest for taken, _ in pictures}) == 1
    store.delete("live-1")
    for taken, before in pictures[1:]:
        taken.fill(root)
        assert picture(root, sockets=False) == before
    store.verify("live-2")


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("large", [scan.LARGE, 1], ids=("by tar", "by copies"))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(generations=st.lists(st.tuples(HISTORY, HISTORY), min_size=2, max_size=4))
def test_every_generation_is_what_was_there(
    field: Path, large: int, generations: Sequence[tuple[History, History]]
) -> None:
    """Whatever is done to a tree before and within each of several backups on one base, each gives what was there."""
    with (
        tempfile.TemporaryDirectory(dir=field, ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(scan, "LARGE", large)
        root = Path(folder, "root")
        (root / "a/b/c").mkdir(parents=True)
        (root / "kept").write_text("older than the base, and never touched")
        store = BackupStore(Path(folder, "store"))
        pictures = []
        for number, (since, during) in enumerate(generations):
            do(root, since)
            let_age(root)
            taken = capture(root, partial(do, root, during), store=store, number=number)
            pictures.append((taken, picture(root, sockets=False)))
        bases = {taken.archive.base.digest for taken, _ in pictures if taken.incremental}
        event(f"{len(bases)} bases of {len(generations)} backups")
        for taken, before in pictures:
            with tempfile.TemporaryDirectory(dir=folder) as empty:
                Path(empty).chmod(0o700)
                taken.fill(Path(empty))
                assert picture(Path(empty)) == before
            taken.fill(root)
            assert picture(root, sockets=False) == before


def test_a_moved_directory_with_names_of_files_elsewhere_has_a_new_base(root: Path, store: BackupStore) -> None:
    """An increment would bring one file back as two, which is known before the service is stopped."""
    (root / "d1/link").hardlink_to(root / "d0/0")
    (root / "small").mkdir()
    (root / "small/link").hardlink_to(root / "d0/0")

    def rename() -> None:
        (root / "small").rename(root / "moved")
        let_age(root)

    first, second = twice(root, store, rename)
    assert not again((first, second))
    assert second.incremental


def test_a_base_that_goes_before_it_is_taken_over_is_not_missed(root: Path, store: BackupStore) -> None:
    """Another process deletes the only backup that has it while the volume is looked at: a new one is taken."""
    let_age(root)
    first = capture(root, store=store, number=1)

    def deleting(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        if words[0] == "find" and store.ids() == ["live-1"]:
            store.delete("live-1")
        return run(words, stdin=stdin)

    (root / "d1/1").write_text("new")
    second = capture(root, store=store, number=2, run=deleting)
    assert second.archive.base != first.archive.base
    store.verify("live-2")
    check(root, second)


def test_a_base_that_was_taken_over_stays(root: Path, store: BackupStore) -> None:
    """Once it is chosen, whoever deletes the backup that took it leaves it where it is."""
    let_age(root)
    first = capture(root, store=store, number=1)
    (root / "d1/1").write_text("new")
    second = capture(root, lambda: store.delete("live-1"), store=store, number=2)
    assert again((first, second))
    store.verify("live-2")
    check(root, second)


def test_what_the_look_did_not_find_unchanged_must_be_in_the_increment(
    root: Path, store: BackupStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that tar leaves out, and that the base may not hold as it is, gives the backup up before it is listed."""
    let_age(root)
    capture(root, store=store, number=1)
    kept = Comparison.file

    def file(self: Comparison, line: bytes, weight: int) -> None:
        if not line.endswith(b" d1/7"):
            kept(self, line, weight)

    monkeypatch.setattr(Comparison, "file", file)
    with pytest.raises(CorruptBackupError, match="builds upon 1 files"):
        capture(root, store=store, number=2)
    assert store.ids() == ["live-1"]
