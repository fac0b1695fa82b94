"""Streams that are compressed, decompressed and packed piece by piece."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from docker_rollback._store.streams import (
    CompressionError,
    IteratorFile,
    buffered,
    compression,
    plain,
    tar_end,
    tar_member,
)
from tests.unit.store.making import zstd_of

SKIPPED = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x50\x2a\x4d\x18", "zstd"),
        (b"\x5f\x2a\x4d\x18", "zstd"),
        (b"\x4f\x2a\x4d\x18", None),
        (b"\x60\x2a\x4d\x18", None),
        (b"\x1f", None),
        (b"", None),
    ],
)
def test_a_compressed_stream_is_known_by_its_beginning(head: bytes, kind: str | None) -> None:
    """A zstd stream may begin with any of sixteen frames that are skipped."""
    assert compression(head) == kind


@pytest.mark.parametrize(
    "packed",
    [b"content", gzip.compress(b"content"), zstd_of(b"content"), SKIPPED + zstd_of(b"content")],
    ids=["plain", "gzip", "zstd", "skipped frame"],
)
def test_content_is_the_same_however_it_is_packed(packed: bytes) -> None:
    """Also if it comes in two pieces."""
    assert b"".join(plain(iter([packed]))) == b"content"
    assert b"".join(plain(iter([packed[:12], packed[12:]]))) == b"content"


@pytest.mark.parametrize(
    ("packed", "kind"), [(gzip.compress(b"content"), "gzip"), (zstd_of(b"content"), "zstd")], ids=["gzip", "zstd"]
)
def test_a_stream_that_breaks_off_is_an_error_that_names_its_kind(packed: bytes, kind: str) -> None:
    """Nothing that is missing is taken for the end."""
    with pytest.raises(CompressionError, match=f"its {kind} stream is broken"):
        list(plain(iter([packed[:-3]])))


def test_a_file_of_pieces_is_read_in_any_size() -> None:
    """Empty pieces are no end."""
    assert buffered([b"ab", b"", b"cde"]).read(4) == b"abcd"
    file = IteratorFile([b"ab", b"", b"cde"])
    assert [file.read(1), file.read(9), file.read(2), file.read(9), file.read(9)] == [b"a", b"b", b"cd", b"e", b""]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513])
def test_a_tar_is_made_of_whole_blocks_and_ends_in_two_empty_ones(size: int) -> None:
    """Whatever the size of a member."""
    packed = b"".join([*tar_member("name", [b"x" * size], size), *tar_end()])
    assert len(packed) == 512 + -(-size // 512) * 512 + 1024
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        (member,) = archive.getmembers()
        file = archive.extractfile(member)
        assert file is not None
        assert (member.name, member.mode, file.read()) == ("name", 0o644, b"x" * size)
