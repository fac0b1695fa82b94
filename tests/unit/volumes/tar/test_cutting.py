"""Where a tar is cut: at fixed offsets of large files, whatever comes before them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from operator import itemgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._volumes.tar.cutting import CUT_RULE, CutRule, Cutter, Span
from docker_rollback._volumes.tar.members import MalformedArchiveError

SMALL = CutRule(least=700, length=1000, huge=5000, huge_length=2000, most=100)

FILES = st.dictionaries(
    st.text("ab/", min_size=1, max_size=5),
    st.sampled_from([0, 1, 511, 512, 513, 699, 700, 701, 999, 1000, 1001, 2000, 2001, 4999, 5000, 5001, 6000]),
    max_size=6,
)


def tar_of(files: dict[str, int], *, link: bool = False) -> bytes:
    """Return a tar of files of these sizes."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as made:
        for number, (name, size) in enumerate(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = size
            entry.mtime = 1.5
            made.addfile(entry, io.BytesIO(bytes([number]) * size))
        if link:
            entry = tarfile.TarInfo("link")
            entry.type, entry.linkname, entry.size = tarfile.LNKTYPE, "a", 0
            made.addfile(entry)
    return written.getvalue()


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    """Yield bytes in chunks."""
    return (data[at : at + size] for at in range(0, len(data), size))


def pieces(tar: bytes, *, rule: CutRule = SMALL, size: int = 300) -> list[tuple[Span | None, bytes]]:
    """Return the pieces of a tar."""
    cut = Cutter(rule).cut(chunks(tar, size))
    return [(place, b"".join(part for _, part in parts)) for place, parts in groupby(cut, key=itemgetter(0))]


@given(FILES, st.integers(1, 3000))
def test_all_pieces_together_are_the_tar(files: dict[str, int], size: int) -> None:
    """In whatever chunks it comes; none is empty."""
    tar = tar_of(files)
    cutter = Cutter(SMALL)
    parts = list(cutter.cut(chunks(tar, size)))
    cutter.check_over()
    assert b"".join(part for _, part in parts) == tar
    assert all(len(part) for _, part in parts)


@given(FILES, st.integers(1, 3000))
def test_each_large_file_is_cut_at_its_own_offsets(files: dict[str, int], size: int) -> None:
    """And nothing else is in its pieces; what is not of a large file is one piece."""
    found = pieces(tar_of(files), size=size)
    assert all(one is not None or two is not None for (one, _), (two, _) in pairwise(found))
    expected = []
    for number, (name, length) in enumerate(files.items()):
        step = SMALL.length_of(length)
        for offset in range(0, length, step) if length >= SMALL.least else ():
            content = bytes([number]) * min(step, length - offset)
            expected.append((Span(name.rstrip("/").encode(), offset, len(content)), content))
    assert [(place, data) for place, data in found if place is not None] == expected


def test_a_very_large_file_has_longer_pieces() -> None:
    """From a size on, which counts."""
    assert [SMALL.length_of(size) for size in (700, 4999, 5000, 10**12)] == [1000, 1000, 2000, 2000]
    assert [CUT_RULE.length_of(size) >> 20 for size in (4 << 20, (16 << 30) - 1, 16 << 30)] == [8, 8, 16]


@pytest.mark.parametrize(("most", "cut"), [(13, ["a", "b", "c"]), (12, ["a", "b"]), (10, ["a", "b"]), (9, ["a", "c"])])
def test_a_tar_has_no_more_pieces_than_a_manifest_may_name(most: int, cut: Sequence[str]) -> None:
    """A file is cut as a whole or not at all, and one after it may be again."""
    tar = tar_of({"a": 3000, "b": 4500, "c": 2000})
    found = pieces(tar, rule=CutRule(least=700, length=1000, huge=5000, huge_length=2000, most=most))
    assert sorted({place.path.decode() for place, _ in found if place is not None}) == list(cut)
    assert b"".join(data for _, data in found) == tar


def test_links_and_files_with_holes_are_not_cut() -> None:
    """A hard link has no content, and a file with holes a map before it."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as made:
        entry = tarfile.TarInfo("sparse")
        entry.size = 2000
        entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9000"}
        made.addfile(entry, io.BytesIO(bytes(2000)))
    assert [place for place, _ in pieces(written.getvalue())] == [None]
    assert [place for place, _ in pieces(tar_of({}, link=True))] == [None]


@pytest.mark.parametrize(("length", "is_cut"), [(CUT_RULE.longest_path, True), (CUT_RULE.longest_path + 1, False)])
def test_a_file_whose_path_is_very_long_is_not_cut(length: int, *, is_cut: bool) -> None:
    """The list of pieces has it with each of them."""
    assert any(span for span, _ in pieces(tar_of({"a" * length: 2000}))) == is_cut


def test_a_stream_that_is_no_tar_is_an_error() -> None:
    """Or one that ends too early."""
    with pytest.raises(MalformedArchiveError):
        pieces(b"x" * 1024)
    cutter = Cutter(SMALL)
    assert b"".join(part for _, part in cutter.cut([tar_of({"a": 3000})[:2000]]))
    with pytest.raises(MalformedArchiveError, match="cut short"):
        cutter.check_over()
