"""What is put aside for a moment comes back as it was, and leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_rollback._store.draft import Draft
from docker_rollback._store.spool import FileCopy
from docker_rollback._store.store import BackupStore
from docker_rollback.errors import StoreError


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
