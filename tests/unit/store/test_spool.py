"""What is put aside for a moment comes back as it was, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_rollback._store.draft import Draft
from docker_rollback._store.spool import FileCopy, Spool
from docker_rollback._store.store import BackupStore
from docker_rollback.errors import StoreError, StoreFullError
from tests.unit.store.making import FailingDisk


@pytest.fixture
def draft(tmp_path: Path) -> Iterator[Draft]:
    """Give a draft that is never committed."""
    with BackupStore(tmp_path / "store").draft("aside") as draft:
        yield draft


def put_aside(store: Path) -> list[Path]:
    """List what is put aside in a store."""
    return list((store / "drafts").rglob("*.spool"))


def test_what_is_put_aside_comes_back(draft: Draft, tmp_path: Path) -> None:
    """In the order in which it was written, in pieces of the size that is asked for; then nothing is left of it."""
    with draft.spool() as spool:
        for piece in (b"first ", b"", b"second"):
            spool.write(piece)
        (path,) = put_aside(tmp_path / "store")
        assert path.stat().st_mode & 0o777 == 0o600
        opened = len(list(Path("/proc/self/fd").iterdir()))
        assert [spool.read(8), spool.read(8), spool.read(8)] == [b"first se", b"cond", b""]
        with pytest.raises(ValueError, match="read already"):
            spool.write(b"more")
    assert put_aside(tmp_path / "store") == []
    assert len(list(Path("/proc/self/fd").iterdir())) == opened - 1


def test_what_is_never_read_goes_too(draft: Draft, tmp_path: Path) -> None:
    """The block's end removes it, and its error comes out."""
    with pytest.raises(KeyError), draft.spool() as spool:
        spool.write(b"data")
        raise KeyError
    assert put_aside(tmp_path / "store") == []


def test_what_the_disk_refuses_is_an_error_of_the_store(tmp_path: Path) -> None:
    """A spool and a copy name their file, on a full disk too, with a write and with a read."""
    with pytest.raises(StoreError, match="spool: No such file"), Spool(tmp_path / "missing" / "spool"):
        pytest.fail("the block was entered")
    full = OSError(errno.ENOSPC, "No space left on device")
    with Spool(tmp_path / "spool", disk=FailingDisk(2, full)) as spool:
        with pytest.raises(StoreFullError, match="spool: the disk is full"):
            spool.write(b"data")
        (tmp_path / "spool").unlink()
        with pytest.raises(StoreError, match="spool: No such file"):
            spool.read(1)
    (tmp_path / "file").write_bytes(b"0123456789")
    with FileCopy(tmp_path / "copy", disk=FailingDisk(2, full)) as copy, (tmp_path / "file").open("rb") as file:
        with pytest.raises(StoreFullError, match="copy: the disk is full"):
            copy.update(file.fileno(), 10, lambda: None)
        (tmp_path / "copy").unlink()
        with pytest.raises(StoreError, match="copy: No such file"):
            copy.update(file.fileno(), 10, lambda: None)


def test_a_file_that_becomes_shorter_is_copied_to_its_end(tmp_path: Path) -> None:
    """What a longer one had beyond is not in the copy any more, and comes back with it."""
    path, stretch = tmp_path / "file", 8 << 20
    path.write_bytes(b"a" * stretch + b"b" * stretch)
    with FileCopy(tmp_path / "copy") as copy, path.open("rb") as file:
        copy.update(file.fileno(), 2 * stretch, lambda: None, threads=2)
        assert copy.size == 2 * stretch
        os.truncate(path, 5)
        copy.update(file.fileno(), 2 * stretch, lambda: None, threads=2)
        assert (copy.size, b"".join(copy.pieces())) == (5, b"aaaaa")
        os.truncate(path, 7)
        copy.update(file.fileno(), 7, lambda: None)
        assert b"".join(copy.pieces()) == b"aaaaa\0\0"


def test_nothing_is_written_before_the_block(draft: Draft) -> None:
    """A spool that is not entered takes nothing."""
    with pytest.raises(ValueError, match="not open"):
        draft.spool().write(b"data")


def test_a_copy_goes_with_its_block(draft: Draft, tmp_path: Path) -> None:
    """Its room is there again at once, and not only when its draft ends."""
    source = tmp_path / "source"
    source.write_bytes(b"data" * 1000)
    with source.open("rb") as file, draft.copy() as copy:
        copy.update(file.fileno(), 4000, lambda: None, threads=1)
        assert b"".join(copy.pieces()) == source.read_bytes()
        assert len(list((tmp_path / "store" / "drafts").rglob("*.copy"))) == 1
    assert list((tmp_path / "store" / "drafts").rglob("*.copy")) == []


def test_a_copy_that_somebody_cut_short_is_an_error(tmp_path: Path) -> None:
    """What it holds is told up to there, and no further."""
    (tmp_path / "file").write_bytes(b"0123456789")
    with FileCopy(tmp_path / "copy") as copy, (tmp_path / "file").open("rb") as file:
        assert copy.update(file.fileno(), 10, lambda: None) == 10
        assert b"".join(copy.pieces()) == b"0123456789"
        os.truncate(tmp_path / "copy", 4)
        pieces = copy.pieces()
        assert next(pieces) == b"0123"
        with pytest.raises(StoreError, match="it is shorter than it was"):
            next(pieces)
