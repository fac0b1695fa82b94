"""Tars in pieces: what is stored comes back, damage is found and named, and nothing that is needed is lost."""

from __future__ import annotations

import errno
import itertools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from attrs import evolve, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_rollback._model.backup import Backup, Descriptor, VolumeArchive
from docker_rollback._store.draft import Draft
from docker_rollback._store.files import Disk
from docker_rollback._store.oci import PIECES, VOLUME_ARCHIVE, Digest
from docker_rollback._store.pieces import MAX_LIST, MAX_NEEDED, MAX_PIECES, Content, Needed, Piece, write_pieces
from docker_rollback._store.retention import Keep
from docker_rollback._store.store import BackupStore
from docker_rollback._zstd import difference, frame, unpack
from docker_rollback.errors import CorruptBackupError, StoreFullError, UnsupportedFormatError
from tests.unit.store import making
from tests.unit.store.making import digest
from tests.unit.volumes.capture.test_many import measured

FIRST = [random.Random(number).randbytes(5000) for number in range(4)]
SECOND = [FIRST[0], FIRST[1] + b"changed", b"new" * 2000, FIRST[3]]


def plain(draft: Draft, data: bytes, *, of: str = "") -> Piece:
    """Store a plain piece."""
    return stored(draft, b"".join(frame([data], level=1)), data, of=of)


def stored(draft: Draft, blob: bytes, data: bytes, *, of: str = "", needs: Needed | None = None) -> Piece:
    """Store a piece as it is."""
    with draft.blob(VOLUME_ARCHIVE) as writer:
        writer.write(blob)
        made = writer.close()
    content = Content(of, 0, digest(data)[7:]) if of else None
    return Piece(Digest(made.digest), made.size, len(data), content, needs)


def listed(draft: Draft, pieces: Sequence[Piece]) -> Descriptor:
    """Store the list of some pieces."""
    with draft.blob(PIECES) as writer:
        for data in write_pieces(pieces):
            writer.write(data)
        return writer.close()


def forged(draft: Draft, data: bytes) -> Descriptor:
    """Store whatever is to pass for a list of pieces."""
    with draft.blob(PIECES) as writer:
        writer.write(b"".join(frame([data], level=1)))
        return writer.close()


@frozen
class Made:
    """A backup of one volume, and the pieces of its archive."""

    backup: Backup
    base: tuple[Piece, ...]
    increment: tuple[Piece, ...]


def save(
    store: BackupStore, number: int, *, base: Made | None = None, wrong: Callable[[Piece], Piece] | None = None
) -> Made:
    """Write a backup of a base and an increment with a difference, a new piece, and two pieces of the base.

    Args:
        store: where.
        number: of the backup.
        base: an earlier backup whose base serves again.
        wrong: changes the difference before it is listed.
    """
    with store.draft(f"b{number}") as draft:
        pieces = (
            base.base if base is not None else tuple(plain(draft, data, of=f"f{at}") for at, data in enumerate(FIRST))
        )
        assert all(draft.adopt(piece.blob) for piece in pieces)
        changed = SECOND[1] + b"%d" % number
        near = pieces[1]
        made = stored(draft, b"".join(difference([changed], FIRST[1])), changed, of="f1", needs=near.plain)
        made = wrong(made) if wrong is not None else made
        increment = (pieces[0], made, plain(draft, SECOND[2]), pieces[3])
        size = sum(map(len, (*FIRST, *SECOND[:1], changed, *SECOND[2:])))
        first, second = listed(draft, pieces), listed(draft, increment)
        archive = VolumeArchive("data", {"Name": "data"}, False, "direct", first, second, size)
        backup = making.backup_of(f"b{number}", [], [archive], created=making.EPOCH + making.days(number))
        draft.commit(backup)
    return Made(backup, pieces, increment)


def read(store: BackupStore, backup_id: str) -> tuple[bytes, ...]:
    """Return the tars of a backup's volume."""
    return tuple(b"".join(store.open_tar(tar)) for tar in store.get(backup_id).volumes[0].tars)


def expected(number: int) -> tuple[bytes, bytes]:
    """Return what `read` has to."""
    return b"".join(FIRST), b"".join([SECOND[0], SECOND[1] + b"%d" % number, *SECOND[2:]])


@pytest.fixture
def store(tmp_path: Path) -> BackupStore:
    """Return an empty store."""
    return BackupStore(tmp_path / "store")


def test_a_tar_in_pieces_comes_back(store: BackupStore) -> None:
    """Plain pieces and differences alike, and each is stored once; the backup says that it is of format 3."""
    made = save(store, 1)
    assert read(store, "b1") == expected(1)
    store.verify("b1")
    assert len({piece.digest for piece in (*made.base, *made.increment)}) == 6
    record = next(data for data in (path.read_bytes() for path in making.blob_files(store)) if b'"backup":{' in data)
    assert json.loads(record)["format"] == 3


def test_the_list_of_pieces_is_json_with_a_line_for_each(store: BackupStore) -> None:
    """So that jq, and people, can read it."""
    made = save(store, 1)
    data = b"".join(unpack(store.open_blob(made.backup.volumes[0].tars[1])))
    assert len(data.splitlines()) == 2 + len(made.increment)
    (_, changed, *_) = json.loads(data)["pieces"]
    assert changed == {
        "digest": made.increment[1].digest,
        "size": made.increment[1].size,
        "length": len(SECOND[1]) + 1,
        "content": {"path": "f1", "offset": 0, "sha256": digest(SECOND[1] + b"1")[7:]},
        "needs": {"digest": made.base[1].digest, "size": made.base[1].size},
    }


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            Piece,
            st.binary(max_size=3).map(digest).map(Digest),
            st.integers(0, 1 << 40),
            st.none() | st.integers(0, 1 << 40),
            st.none() | st.builds(Content, st.text(max_size=5), st.integers(0, 1 << 50), st.just("ab" * 32)),
            st.none() | st.builds(Needed, st.binary(max_size=3).map(digest).map(Digest), st.integers(0, 1 << 40)),
        ),
        max_size=5,
    )
)
def test_a_list_is_read_back(tmp_path_factory: pytest.TempPathFactory, pieces: list[Piece]) -> None:
    """Whatever is in it."""
    store = BackupStore(tmp_path_factory.mktemp("lists") / "store")
    with store.draft("b1") as draft:
        assert store.pieces(listed(draft, pieces)) == tuple(pieces)


@pytest.mark.parametrize("which", ["base", "increment"])
@pytest.mark.parametrize("deep", [True, False])
def test_a_bit_that_flips_in_any_piece_is_found_and_named(store: BackupStore, which: str, *, deep: bool) -> None:
    """Also in one that only another one needs."""
    made = save(store, 1)
    for piece in {"base": made.base, "increment": made.increment}[which]:
        path = store.path / "blobs/sha256" / piece.digest[7:]
        data = path.read_bytes()
        path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
        with pytest.raises(CorruptBackupError) as caught:
            BackupStore(store.path).verify("b1", deep=deep)
        assert caught.value.blob == piece.digest
        path.unlink()
        with pytest.raises(CorruptBackupError, match="missing") as caught:
            BackupStore(store.path).verify("b1", deep=deep)
        assert caught.value.blob == piece.digest
        path.write_bytes(data)
    store.verify("b1")


def test_a_piece_that_is_needed_and_damaged_is_named_by_who_reads(store: BackupStore) -> None:
    """Where it is missing, too."""
    made = save(store, 1)
    tar = made.backup.volumes[0].tars[1]
    path = store.path / "blobs/sha256" / made.base[1].digest[7:]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"!")
    for is_there in (True, False):
        if not is_there:
            path.unlink()
        with pytest.raises(CorruptBackupError) as caught:
            list(store.open_tar(tar))
        assert caught.value.blob == made.base[1].digest
    path.write_bytes(data)
    assert b"".join(store.open_tar(tar)) == expected(1)[1]


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])), ids=str)
@pytest.mark.parametrize("how", ["delete", "prune"])
def test_what_an_increment_needs_stays_whatever_else_goes(store: BackupStore, order: tuple[int, ...], how: str) -> None:
    """Three backups have one base, and are removed in any order; nothing is left of the last one."""
    first = save(store, 1)
    save(store, 2, base=first)
    save(store, 3, base=first)
    for number, gone in enumerate(order, start=1):
        if how == "prune":
            store.prune(keep=Keep(count=0), protect=[f"b{one}" for one in order[number:]])
        # The newest one that verifies is not pruned.
        if f"b{gone}" in store.ids():
            store.delete(f"b{gone}")
        for left in order[number:]:
            store.verify(f"b{left}")
            assert read(store, f"b{left}") == expected(left)
    assert making.blob_files(store) == []


def test_an_export_has_what_is_needed(store: BackupStore, tmp_path: Path) -> None:
    """Of a backup whose base is another one's, into a store that has neither."""
    first = save(store, 1)
    save(store, 2, base=first)
    store.delete("b1")
    store.export("b2", tmp_path / "b2.tar")
    other = BackupStore(tmp_path / "other")
    assert other.import_(tmp_path / "b2.tar") == store.get("b2")
    other.verify("b2")
    assert read(other, "b2") == expected(2)


WRONG: dict[str, tuple[Callable[[Piece], Piece], str]] = {
    "content": (lambda one: evolve(one, content=Content("f1", 0, "00" * 32)), "other content"),
    "longer": (lambda one: evolve(one, length=one.length and one.length - 1), "decompresses to more than"),
    "shorter": (lambda one: evolve(one, length=one.length and one.length + 1), "not 5"),
    "not-plain": (lambda one: evolve(one, needs=None), "broken"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_list_that_tells_something_else_than_its_pieces_is_refused(
    store: BackupStore, tmp_path: Path, name: str
) -> None:
    """By `verify`, and so by an import; the error names the piece."""
    wrong, reason = WRONG[name]
    made = save(store, 1, wrong=wrong)
    with pytest.raises(CorruptBackupError, match=reason) as caught:
        store.verify("b1")
    assert caught.value.blob == made.increment[1].digest
    store.export("b1", tmp_path / "b1.tar")
    with pytest.raises(CorruptBackupError, match=reason):
        BackupStore(tmp_path / "other").import_(tmp_path / "b1.tar")


def test_a_difference_to_a_difference_is_refused(store: BackupStore) -> None:
    """It could need another one, and so on."""
    first = save(store, 1)
    made = save(store, 2, base=first, wrong=lambda one: evolve(one, needs=first.increment[1].plain))
    store.verify("b2")
    other = Needed(first.increment[1].digest, first.increment[1].size)
    save(store, 3, base=first, wrong=lambda one: evolve(one, needs=other))
    with pytest.raises(CorruptBackupError, match="cannot be used by another piece") as caught:
        store.verify("b3")
    assert caught.value.blob == other.digest
    assert made.increment[1].needs == first.base[1].plain


def test_a_difference_to_what_is_not_there_is_not_listed(store: BackupStore) -> None:
    """The blob that is missing is named."""
    nowhere = Needed(Digest(digest(b"nowhere")), 7)
    with pytest.raises(CorruptBackupError, match="missing") as caught:
        save(store, 1, wrong=lambda one: evolve(one, needs=nowhere))
    assert caught.value.blob == nowhere.digest
    assert store.ids() == []


def test_what_is_needed_stays_without_the_archive_that_had_it_first(store: BackupStore) -> None:
    """The manifest of an archive names it, in whichever of its tars it is needed, and an export has it."""
    with store.draft("b1") as draft:
        old = plain(draft, FIRST[1], of="f1")
        draft.commit(making.backup_of("b1", [], [VolumeArchive("data", {}, False, "direct", listed(draft, [old]))]))
    with store.draft("b2") as draft:
        draft.pin([old.blob])
        new = stored(draft, b"".join(difference([SECOND[1]], FIRST[1])), SECOND[1], of="f1", needs=old.plain)
        draft.commit(making.backup_of("b2", [], [VolumeArchive("data", {}, False, "direct", listed(draft, [new]))]))
    store.delete("b1")
    store.verify("b2")
    assert read(store, "b2") == (SECOND[1],)


@pytest.mark.parametrize(
    "data", [b"[]", b'{"pieces":[{"digest":"sha256:../../x","size":1}]}', b'{"pieces":[{"size":-1}]}', b"{"]
)
def test_a_list_that_is_none_is_damage(store: BackupStore, data: bytes) -> None:
    """It is named."""
    with store.draft("b1") as draft:
        made = forged(draft, data)
        with pytest.raises(CorruptBackupError, match="list of pieces is broken") as caught:
            store.pieces(made)
    assert caught.value.blob == made.digest


def test_a_piece_that_needs_without_end_takes_no_memory_without_end(store: BackupStore) -> None:
    """What is needed is held in memory, so it may not be longer than any piece is."""
    with store.draft("b1") as draft:
        bomb = plain(draft, bytes(MAX_NEEDED + 1))
        made = listed(draft, [stored(draft, b"", b"x", needs=bomb.plain)])
        with pytest.raises(CorruptBackupError, match="holds more than") as caught:
            list(store.open_tar(made))
    assert caught.value.blob == bomb.digest


class PinDisk(Disk):
    """A disk that counts how often pins are written, and may be full in the middle of it."""

    def __init__(self) -> None:
        self.pins = 0
        self.is_full = False

    def write(self, fd: int, data: bytes | memoryview) -> None:
        """Write all of it, or a part."""
        if bytes(data).strip().startswith(b"sha256:"):
            self.pins += 1
            if self.is_full:
                super().write(fd, memoryview(data)[:20])
                raise OSError(errno.ENOSPC, "No space left on device")
        super().write(fd, data)


def test_what_is_pinned_stays_though_an_earlier_pin_was_torn(tmp_path: Path) -> None:
    """Many blobs are pinned by one write: all others wait for the store meanwhile."""
    disk = PinDisk()
    store = BackupStore(tmp_path / "store", disk=disk)
    made = save(store, 1)
    with store.draft("b2") as draft:
        disk.is_full = True
        with pytest.raises(StoreFullError):
            draft.pin([made.base[0].blob])
        disk.is_full = False
        disk.pins = 0
        draft.pin(piece.blob for piece in made.base)
        assert disk.pins == 1
        store.delete("b1")
        assert all(draft.adopt(piece.blob) for piece in made.base)


@pytest.mark.parametrize("item", [b"0", b"[]"])
def test_a_list_of_anything_takes_no_memory_without_end(store: BackupStore, item: bytes) -> None:
    """A small blob holds very many items that are no pieces: the first one is enough of an error."""
    with store.draft("b1") as draft:
        made = forged(draft, b'{"pieces":[' + b",".join([item] * 200_000) + b"]}")
        with measured() as memory, pytest.raises(CorruptBackupError, match=r"its pieces\[0\] is not a JSON object"):
            store.pieces(made)
    assert memory.peak < 40 << 20


def test_a_list_has_no_more_pieces_than_can_be_read(store: BackupStore) -> None:
    """Each of them may need another one to be decompressed."""
    piece = Piece(Digest(digest(b"")), 0)
    with store.draft("b1") as draft:
        assert len(store.pieces(listed(draft, [piece] * MAX_PIECES))) == MAX_PIECES
        with pytest.raises(CorruptBackupError, match="10001 pieces"):
            store.pieces(listed(draft, [piece] * (MAX_PIECES + 1)))
        with pytest.raises(CorruptBackupError, match=f"more than {MAX_LIST} bytes"):
            store.pieces(forged(draft, bytes(MAX_LIST + 1)))


def test_an_older_version_refuses_it(store: BackupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the store's other backups are listed."""
    making.save(store, "b0")
    save(store, 1)
    for module in ("codec", "oci"):
        monkeypatch.setattr(f"docker_rollback._store.{module}.FORMAT", 2)
    with pytest.raises(UnsupportedFormatError, match="format 3"):
        store.get("b1")
    assert [backup.id for backup in store.list()] == ["b0"]
