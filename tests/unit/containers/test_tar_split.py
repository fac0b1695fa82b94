"""A layer's tar is assembled from what an engine keeps of it, whatever it holds."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._containers.tar_split import TarSplitError, assembled
from tests.unit.containers.engine_files import split

KINDS = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
NAMES = st.one_of(
    st.binary(min_size=1, max_size=300).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"_")),
    st.sampled_from([b".wh.gone", b".wh..wh..opq", b".wh..wh.plnk", "ä".encode(), b"na\xffme", b"x" * 101]),
)
MEMBERS = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map(b"/".join),
    st.tuples(st.sampled_from(KINDS), st.binary(max_size=1500), st.integers(-100, 2**33), st.integers(0, 2**22)),
    max_size=8,
)


def tar_of(members: dict[bytes, tuple[bytes, bytes, int, int]], form: int) -> bytes:
    """Return a tar of members: by name the kind, the content, the time and the owner."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as tar:
        for name, (kind, content, time, owner) in members.items():
            info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            info.type, info.mtime, info.uid = kind, time, owner
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                info.pax_headers = {"SCHILY.xattr.security.capability": "cap"}
            elif kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = "target"
            tar.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    return buffer.getvalue()


@given(MEMBERS, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.integers(1, 700))
def test_the_parts_give_the_tar_byte_for_byte(
    members: dict[bytes, tuple[bytes, bytes, int, int]], form: int, size: int
) -> None:
    """Headers, markers, links and padding are in the one part, the content of files in the other."""
    whole = tar_of(members, form)
    lines, files = split(whole)

    def content(name: bytes) -> Iterator[bytes]:
        data = files[name]
        yield from (data[at : at + size] for at in range(0, len(data), size))

    assert b"".join(assembled(lines, content)) == whole


def file(**fields: object) -> bytes:
    """Return a line about a file of four bytes."""
    return json.dumps({"type": 1, "name": "a", "size": 4, "position": 0, **fields}).encode()


BROKEN = {
    "no JSON": b"{",
    "no object": b"[]",
    "deep": b"[" * 100_000,
    "an unknown type": b'{"type": 3, "payload": ""}',
    "no type": b"{}",
    "a payload that is not base64": b'{"type": 2, "payload": "%"}',
    "a payload that is not text": b'{"type": 2, "payload": 5}',
    "a size that is no number": file(size="4"),
    "no name": file(name=""),
    "a name that is no text": file(name=5),
    "a raw name that is not base64": file(name_raw="%"),
    "a file that is shorter": file(size=5),
    "a file that is longer": file(size=3),
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_what_does_not_fit_is_an_error(line: bytes) -> None:
    """It is never passed on as if it were the layer."""
    with pytest.raises(TarSplitError):
        list(assembled([line], lambda _: iter([b"ab", b"cd"])))


def test_a_file_that_grows_is_not_read_to_its_end() -> None:
    """Reading ends with the first byte too many."""

    def endless(_: bytes) -> Iterator[bytes]:
        while True:
            yield b"x"

    with pytest.raises(TarSplitError, match="4 bytes"):
        list(assembled([file()], endless))
