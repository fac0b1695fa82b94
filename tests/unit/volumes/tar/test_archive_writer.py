"""Tars are written in pieces, each of them once; whatever is known already, they come back byte for byte."""

from __future__ import annotations

import io
import random
import sys
import tarfile
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docker_rollback._model.backup import Descriptor, VolumeArchive
from docker_rollback._store.draft import Draft
from docker_rollback._store.oci import MAX_MANIFEST, VOLUME_ARCHIVE, Digest, Manifest, dump_manifest
from docker_rollback._store.pieces import MAX_LIST, MAX_NEEDED, MAX_PIECES, Content, Needed, Piece, write_pieces
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.access.direct import LocalProcess
from docker_rollback._volumes.tar.archive_stream import pieces_of
from docker_rollback._volumes.tar.archive_writer import ArchiveWriter, ArchiveWriters, Known, Memory
from docker_rollback._volumes.tar.cutting import CUT_RULE, CutRule
from docker_rollback._volumes.tar.members import Member
from docker_rollback._zstd import unpack
from docker_rollback.errors import StoreFullError
from tests.unit.store.making import FailingDisk, backup_of, digest
from tests.unit.volumes.capture.test_many import measured

RULE: Final = CutRule(least=1000, length=2000, huge=9000, huge_length=4000, most=200)
LENGTHS: Final = (0, 1, 999, 1000, 1001, 1999, 2000, 2001, 4000, 8999, 9000, 12_001)
NAMES: Final = ("a", "b", "d/c", "\N{SNOWMAN}")

FILES = st.dictionaries(st.sampled_from(NAMES), st.tuples(st.sampled_from(LENGTHS), st.integers(0, 3)), max_size=4)
WRITES = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 12_500), st.binary(min_size=1, max_size=40)))


def tar_of(files: Mapping[str, bytes], *, before: int = 0) -> bytes:
    """Return a tar of files, after a small one of some size."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, data in {"0": bytes(before), **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
    return written.getvalue()


def chunks(data: bytes, size: int = 700) -> Iterator[bytes]:
    """Yield bytes in chunks."""
    return (data[at : at + size] for at in range(0, len(data), size))


def content(length: int, seed: int) -> bytes:
    """Return content that does not shrink much; equal for an equal seed, as far as it goes."""
    return random.Random(seed).randbytes(length)


def changed(files: Mapping[str, bytes], writes: Sequence[tuple[str, int, bytes]]) -> dict[str, bytes]:
    """Return the files after some writes, within or at the end of a file."""
    made = {name: bytearray(data) for name, data in files.items()}
    for name, at, data in writes:
        if name in made:
            made[name][at : at + len(data)] = data
    return {name: bytes(data) for name, data in made.items()}


def write(
    store: BackupStore, draft: Draft, tar: bytes, known: Known | None = None, *, rule: CutRule = RULE, size: int = 700
) -> Descriptor:
    """Store a tar."""
    with ArchiveWriter(store, draft, level=1, threads=2, known=known, rule=rule) as writer:
        writer.write(chunks(tar, size)).check_over()
        assert writer.size == len(tar)
        return writer.close()


def archive_of(base: Descriptor, increment: Descriptor | None = None) -> VolumeArchive:
    """Return the archive of a volume."""
    return VolumeArchive("data", {"Name": "data"}, False, "direct", base, increment)


def read(store: BackupStore, tar: Descriptor) -> bytes:
    """Return a stored tar."""
    return b"".join(store.open_tar(tar))


def added(store: BackupStore, tar: Descriptor, *others: Descriptor) -> list[Piece]:
    """Return the pieces of a stored tar whose blobs others do not have."""
    there = {blob.digest for other in others for blob in store.blobs_of(other)}
    return [piece for piece in store.pieces(tar) if piece.digest not in there]


@pytest.fixture
def store(tmp_path: Path) -> BackupStore:
    """Return an empty store."""
    return BackupStore(tmp_path / "store")


@settings(max_examples=30, deadline=None)
@given(FILES, WRITES, WRITES, st.integers(0, 1500), st.integers(1, 5000))
def test_base_increment_and_the_next_backup_come_back(
    made: dict[str, tuple[int, int]],
    first: list[tuple[str, int, bytes]],
    second: list[tuple[str, int, bytes]],
    before: int,
    size: int,
) -> None:
    """Whatever the sizes of their files, and whatever was written in between, in whatever chunks they come."""
    files = {name: content(*how) for name, how in made.items()}
    states = [files, changed(files, first), changed(changed(files, first), second)]
    tars = [tar_of(state, before=before if number else 0) for number, state in enumerate(states)]
    with tempfile.TemporaryDirectory() as folder:
        store = BackupStore(folder)
        with store.draft("b1") as draft:
            base = write(store, draft, tars[0], size=size)
            increment = write(store, draft, tars[1], Known.of(store, (), base), size=size)
            archive = archive_of(base, increment)
            draft.commit(backup_of("b1", [], [archive]))
        with store.draft("b2") as draft:
            again = write(store, draft, tars[2], Known.of(store, [archive], base), size=size)
            new = write(store, draft, tars[2], Known.of(store, [archive]), size=size)
            draft.commit(backup_of("b2", [], [archive_of(base, again), archive_of(new)]))
        assert all(piece.needs is None for piece in store.pieces(base))
        plain = {one.digest for tar in (base, increment) for one in store.pieces(tar) if one.needs is None}
        store.delete("b1")
        store.verify("b2")
        plain |= {one.digest for tar in (again, new) for one in store.pieces(tar) if one.needs is None}
        assert all(one.plain.digest in plain for tar in (again, new) for one in store.pieces(tar))
        assert [read(store, tar) for tar in (base, again, new)] == [tars[0], tars[2], tars[2]]


def test_what_did_not_change_is_not_stored_again(store: BackupStore) -> None:
    """Neither after something that has another size, nor under another name, nor in a new base."""
    files = {"a": content(12_000, 1), "b": content(5000, 2)}
    moved = {"c": files["b"], "a": files["a"]}
    with store.draft("b1") as draft:
        base = write(store, draft, tar_of(files))
        for known in (Known.of(store, (), base), Known.of(store, [archive_of(base)])):
            tar = write(store, draft, tar_of(moved, before=600), known)
            assert [piece.content for piece in added(store, tar, base)] == [None] * 3
            assert read(store, tar) == tar_of(moved, before=600)


def test_what_changed_in_a_large_file_is_stored_as_a_difference(store: BackupStore) -> None:
    """The piece that changed alone, and in a fraction of its length; one that is new as a whole is plain."""
    files = {"a": content(8000, 1), "b": content(4000, 2)}
    after = {"a": changed(files, [("a", 2500, b"new")])["a"], "b": files["b"][:2000] + content(2000, 3)}
    with store.draft("b1") as draft:
        base = write(store, draft, tar_of(files))
        increment = write(store, draft, tar_of(after), Known.of(store, (), base))
        plain = {piece.digest for piece in store.pieces(base)}
        one, other = [piece for piece in added(store, increment, base) if piece.content is not None]
    assert one.content is not None
    assert (one.content.path, one.content.offset, one.length) == ("a", 2000, 2000)
    assert one.size < 100
    assert one.needs is not None
    assert one.needs.digest in plain
    assert (other.length, other.needs) == (2000, None)


def test_a_difference_of_the_last_increment_serves_again(store: BackupStore) -> None:
    """With what it needs, which stays as long as it does; also in a new base."""
    files = {"a": content(8000, 1)}
    after = changed(files, [("a", 2500, b"new")])
    with store.draft("b1") as draft:
        base = write(store, draft, tar_of(files))
        first = write(store, draft, tar_of(after), Known.of(store, (), base))
        last = [archive_of(base, first)]
        second = write(store, draft, tar_of(after, before=1), Known.of(store, last, base))
        assert {piece.content for piece in added(store, second, base, first)} == {None}
        third = write(store, draft, tar_of(after), Known.of(store, last))
        assert added(store, third, base, first) == []
        draft.commit(backup_of("b1", [], [archive_of(third)]))
    store.verify("b1")
    assert read(store, third) == tar_of(after)


def test_a_difference_needs_no_other_difference(store: BackupStore) -> None:
    """What differs from a difference is a difference to the same plain piece, until a plain one is not much larger."""
    files = {"a": content(2000, 1)}
    archives = list[VolumeArchive]()
    needs = list[Needed | None]()
    with store.draft("b1") as draft:
        for number in range(40):
            files = changed(files, [("a", 50 * number, content(50, number))])
            tar = write(store, draft, tar_of(files), Known.of(store, archives))
            archives.append(archive_of(tar))
            (piece,) = [piece for piece in store.pieces(tar) if piece.content is not None]
            needs.append(piece.needs)
            assert read(store, tar) == tar_of(files)
    first, *others = [number for number, needed in enumerate(needs) if needed is None]
    assert first == 0
    assert len(others) == 1
    assert len({needed.digest for needed in needs if needed is not None}) == 2


def test_a_piece_that_a_difference_would_need_is_read_before(
    store: BackupStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it is damaged, what would need it is plain."""
    files = {"a": content(2000, 1)}
    with store.draft("b1") as draft:
        base = write(store, draft, tar_of(files))
        path = store.path / "blobs/sha256" / store.pieces(base)[1].digest[7:]
        path.write_bytes(bytes(path.stat().st_size))
        after = tar_of(changed(files, [("a", 500, b"new")]))
        made = write(store, draft, after, Known.of(store, (), base))
        assert [piece.needs for piece in store.pieces(made)] == [None] * 3
        assert read(store, made) == after
    assert "a piece of an earlier backup is not used again" in caplog.text


def test_a_known_piece_that_is_damaged_is_stored_anew(store: BackupStore) -> None:
    """Which repairs the backup that had it."""
    tar = tar_of({"a": content(6000, 1)})
    with store.draft("b1") as draft:
        base = write(store, draft, tar)
        draft.commit(backup_of("b1", [], [archive_of(base)]))
    damaged = store.pieces(base)[2]
    path = store.path / "blobs/sha256" / damaged.digest[7:]
    path.write_bytes(bytes(damaged.size))
    with store.draft("b2") as draft:
        assert read(store, write(store, draft, tar, Known.of(store, [archive_of(base)]))) == tar
    store.verify("b1")


def test_archives_whose_list_is_damaged_are_no_help(store: BackupStore, caplog: pytest.LogCaptureFixture) -> None:
    """But no obstacle either."""
    tar = tar_of({"a": content(6000, 1)})
    with store.draft("b1") as draft:
        base = write(store, draft, tar)
        (store.path / "blobs/sha256" / base.digest[7:]).unlink()
        writers = ArchiveWriters(store, draft, level=1, rule=RULE, earlier=lambda: {"data": [archive_of(base)]})
        with writers.writer("data", threads=1) as writer:
            writer.write([tar])
            assert read(store, writer.close()) == tar
    assert "the pieces of its last archives are not used again" in caplog.text


@pytest.mark.parametrize(
    "tar", [tar_of({"a": b"small", "b": content(999, 1)}), bytes(1024), tar_of({}, before=3 << 20)]
)
def test_a_tar_without_large_files_is_one_blob(store: BackupStore, tar: bytes) -> None:
    """As it was before there were pieces, so that earlier versions can read it."""
    with store.draft("b1") as draft:
        made = write(store, draft, tar, rule=CutRule())
        assert made.media_type == "application/vnd.oci.image.layer.v1.tar+zstd"
        assert read(store, made) == tar
        assert [blob.digest for blob in store.blobs_of(made)] == [made.digest]


def test_nothing_is_a_tar_of_nothing(store: BackupStore) -> None:
    """A program that prints nothing has an empty blob."""
    with store.draft("b1") as draft, ArchiveWriter(store, draft, level=1, threads=0) as writer:
        writer.write([])
        assert read(store, writer.close()) == b""


def test_what_a_program_prints_is_counted(store: BackupStore) -> None:
    """The progress ends with its size, and each member is seen."""
    told, seen = list[int](), list[Member]()
    code = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"
    (store.path.parent / "tar").write_bytes(tar_of({"a": content(4_000_000, 1), "b": b"x"}))
    with (
        store.draft("b1") as draft,
        LocalProcess((sys.executable, "-c", code, str(store.path.parent / "tar"))) as process,
        ArchiveWriter(store, draft, level=1, threads=2) as writer,
    ):
        writer.write(pieces_of(process), progress=told.append, look=seen.append).check_over()
    assert told[-1] == writer.size == (store.path.parent / "tar").stat().st_size
    assert told == sorted(told)
    assert [member.name for member in seen] == [b"0", b"a", b"b"]


def test_nothing_stays_of_a_tar_that_is_given_up(store: BackupStore) -> None:
    """Neither blobs nor temporary files, once its draft is over; while it is written, no file stays open."""
    with store.draft("b1") as draft:
        with ArchiveWriter(store, draft, level=1, threads=2, rule=RULE) as writer:
            writer.write(chunks(tar_of({"a": content(12_000, 1)})))
            waiting = list(store.path.glob("drafts/*/*.blob"))
            open_files = {path.resolve() for path in Path("/proc/self/fd").iterdir()}
            assert len(waiting) == 5
            assert open_files.isdisjoint(waiting)
        assert list(store.path.glob("drafts/*/*.blob")) == []
    assert list(store.path.glob("blobs/sha256/*")) == []


def test_what_is_known_is_forgotten_once_it_is_written(store: BackupStore) -> None:
    """A writer waits for its `close` with those of all other volumes, and this is megabytes."""
    tar = tar_of({"a": content(12_000, 1)})
    with store.draft("b1") as draft:
        known = Known.of(store, (), write(store, draft, tar))
        is_there = weakref.ref(known)
        with ArchiveWriter(store, draft, level=1, threads=2, known=known, rule=RULE) as writer:
            del known
            assert is_there() is not None
            writer.write(chunks(tar))
            assert is_there() is None


@pytest.mark.parametrize("at", range(12, 40, 3))
def test_a_full_disk_ends_all_that_is_at_work(tmp_path: Path, at: int) -> None:
    """The first error is raised, and all memory is free again."""
    disk = FailingDisk()
    store = BackupStore(tmp_path / "store", disk=disk)
    memory = Memory(5000)
    with store.draft("b1") as draft:
        disk.fail(disk.calls + at, OSError(28, "No space left on device"))
        with (
            pytest.raises(StoreFullError),
            ArchiveWriter(store, draft, level=1, threads=2, memory=memory, rule=RULE) as writer,
        ):
            writer.write(chunks(tar_of({"a": content(60_000, 1)})))
            writer.close()
        disk.fail(0, None)
    memory.take(5000)
    assert [one.name for one in threading.enumerate() if one.name.startswith("storing pieces")] == []


@pytest.mark.parametrize("again", [False, True])
def test_a_large_file_takes_no_more_memory_than_a_few_of_its_pieces(store: BackupStore, *, again: bool) -> None:
    """However much faster it comes than it is compressed; also where each piece is a difference."""
    files = {"a": content(8 << 20, 1) * 20}
    tar = tar_of(files)
    with store.draft("b1") as draft:
        base = write(store, draft, tar, rule=CutRule(), size=1 << 20) if again else None
        known = Known.of(store, (), base) if base is not None else None
        changed_tar = bytearray(tar)
        for at in range(4096, len(tar), 1 << 20):
            changed_tar[at] ^= 1
        with (
            measured() as memory,
            ArchiveWriter(store, draft, level=1, threads=8, memory=Memory(40 << 20), known=known) as writer,
        ):
            writer.write(bytes(changed_tar[at : at + (1 << 20)]) for at in range(0, len(tar), 1 << 20))
            made = writer.close()
        if again:
            assert all(piece.needs for piece in store.pieces(made) if piece.content is not None)
    assert memory.peak < 70 << 20


def test_a_manifest_of_the_most_pieces_is_small_enough() -> None:
    """Each of base and increment may be differences to other blobs."""
    blob = Descriptor(VOLUME_ARCHIVE, digest(b""), 16 << 20)
    layers = [blob] * (4 * CUT_RULE.most + 4)
    assert len(dump_manifest(Manifest(blob, tuple(layers), "type", {}))) < MAX_MANIFEST


def test_a_list_of_the_most_pieces_can_be_read() -> None:
    """However long the path of the file, and whatever is in it; a longer one is not cut."""
    needs = Needed(Digest(digest(b"")), CUT_RULE.huge_length)
    content = Content("\xff" * CUT_RULE.longest_path, 1 << 40, digest(b"")[7:])
    piece = Piece(needs.digest, needs.size, CUT_RULE.huge_length, content, needs)
    assert len(b"".join(unpack(write_pieces([piece] * (CUT_RULE.most + 1))))) <= MAX_LIST
    assert CUT_RULE.most < MAX_PIECES
    assert CUT_RULE.huge_length <= MAX_NEEDED


def test_pieces_at_work_take_no_more_memory_than_there_is() -> None:
    """Who needs more than all of it has it alone."""
    memory = Memory(10)
    memory.take(6)
    taken = threading.Event()

    def take_all() -> None:
        memory.take(30)
        taken.set()

    waiting = threading.Thread(target=take_all)
    waiting.start()
    memory.take(4)
    memory.give_back(6)
    assert not taken.is_set()
    memory.give_back(4)
    waiting.join(60)
    assert taken.is_set()
