"""Members are told from an archive that passes by in whatever pieces it comes."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._volumes.tar.gnu_tar import create
from docker_rollback._volumes.tar.members import END, MalformedArchiveError, Member, Members, PathTooLongError
from tests.unit.volumes import awkward
from tests.unit.volumes.live import capture, run


def members_of(archive: bytes, *, piece: int = 1 << 20) -> list[Member]:
    """Return the members of an archive that comes in pieces of one size."""
    members = Members()
    return [member for data in _cut(archive, [piece]) for member in members.feed(data)]


def _cut(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """Yield it in pieces of these sizes, again and again."""
    at, sizes = 0, list(sizes)
    while at < len(data):
        for size in sizes:
            yield data[at : at + size]
            at += size


def _small() -> bytes:
    """Return an archive with headers of several kinds, some of them long."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "global"}) as made:
        for name, content in (("empty", b""), ("block", bytes(512)), ("n" * 300, b"content"), ("last", b"x" * 700)):
            entry = tarfile.TarInfo(f"./{name}")
            entry.size, entry.mtime = len(content), 1_600_000_000.25
            entry.pax_headers = {"SCHILY.xattr.user.long": "v" * 2000}
            made.addfile(entry, io.BytesIO(content))
    return written.getvalue()


SMALL = _small()


def test_they_are_what_tarfile_reads(field: Path) -> None:
    """And their times are the files' own, to the nanosecond."""
    root = field / "root"
    root.mkdir()
    awkward.make(root)
    with run(create(str(root), f"{field}/snapshot")) as tar:
        archive = b"".join(iter(lambda: tar.read(1 << 20), b""))
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape") as read:
        expected = {os.fsencode(entry.name): entry for entry in read}
    found = {member.name: member for member in members_of(archive)}
    assert found.keys() == expected.keys()
    for name, member in found.items():
        entry = expected[name]
        assert member.is_directory == entry.isdir()
        assert member.is_file == (entry.isreg() or entry.issparse())
        assert member.size == entry.size
        assert member.modified == os.lstat(os.fsencode(root) + b"/" + name).st_mtime_ns
        assert (member.mode, member.owner) == (entry.mode, (entry.uid, entry.gid))
        assert len(member.attributes) == sum(key.startswith("SCHILY.xattr.") for key in entry.pax_headers)


@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=8))
def test_they_are_the_same_in_whatever_pieces_they_come(sizes: list[int]) -> None:
    """Headers may be cut anywhere; put together again, the parts are the archive."""
    members = Members()
    parts = [part for data in _cut(SMALL, sizes) for part in members.parts(data)]
    assert [part for part in parts if isinstance(part, Member)] == members_of(SMALL)
    together = b"".join(part.head if isinstance(part, Member) else part for part in parts)
    # Of what ends an archive nothing is given out.
    assert together == SMALL.rstrip(b"\0").ljust(len(together), b"\0")
    assert SMALL.startswith(together + END)


def test_a_list_of_very_many_entries_is_put_together_once() -> None:
    """A directory's list may have many megabytes: what came of it is not copied with each piece."""
    listed = b"".join(b"Y%d\0" % number for number in range(300_000)) + b"\0"
    entry = tarfile.TarInfo("./")
    entry.type = tarfile.DIRTYPE
    entry.pax_headers = {"GNU.dumpdir": listed.decode()}
    (member,) = members_of(entry.tobuf(tarfile.PAX_FORMAT), piece=512)
    assert member.listing == listed
    assert sum(1 for _ in member.entries) == 300_000


@pytest.mark.parametrize("record", [b"", b"7", b"x a=b\n", b"-8 a=b\n", b"1 a=b\n", b"99 a=b\n"])
def test_records_that_are_broken_are_refused(record: bytes) -> None:
    """What stands for their length is no number, or leads out of them."""
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 7
    archive = header.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + tarfile.TarInfo("file").tobuf()
    with pytest.raises(MalformedArchiveError, match="records are broken"):
        members_of(archive)


@pytest.mark.parametrize("size", [b"0000000008z", b"00000000008", b"-0000003000", b"0_000000001"])
def test_a_number_that_is_none_is_refused(size: bytes) -> None:
    """A size that is not octal, or is below zero: that would lead back to the header itself."""
    header = bytearray(tarfile.TarInfo("file").tobuf())
    header[124:136] = size + b"\0"
    with pytest.raises(MalformedArchiveError, match="number is broken"):
        members_of(bytes(header))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *itertools.product(["size", "GNU.sparse.realsize", "uid"], ["-2048", "abc", "1_0", "9" * 5000]),
        *itertools.product(["mtime"], ["--2", "abc", "1_0.5", "1.x", "9" * 5000]),
    ],
)
def test_a_record_that_is_no_number_is_refused(key: str, value: str) -> None:
    """A size below zero would lead back to the headers themselves, without end."""
    entry = tarfile.TarInfo("file")
    entry.pax_headers = {key: value}
    found = itertools.islice(Members().feed(entry.tobuf(tarfile.PAX_FORMAT)), 9)
    with pytest.raises(MalformedArchiveError, match="a record's"):
        list(map(attrgetter("owner", "modified"), found))


def test_a_path_that_no_tar_puts_back_is_refused() -> None:
    """It is longer than what tar can name by a descriptor."""
    with pytest.raises(PathTooLongError, match="4065 bytes"):
        members_of(tarfile.TarInfo("d/" * 2032 + "f").tobuf(tarfile.PAX_FORMAT))


def test_what_tar_prints_of_a_base_is_looked_into_once(field: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read back of it is the same by its checksum."""
    root = field / "root"
    root.mkdir()
    (root / "file").write_bytes(os.urandom(3_000_000))
    seen: list[int] = []
    feed = Members.feed

    def counting(self: Members, data: bytes) -> Iterator[Member]:
        seen.append(len(data))
        return feed(self, data)

    monkeypatch.setattr(Members, "feed", counting)
    taken = capture(root)
    base, increment = map(len, taken.tars)
    assert taken.incremental
    # The increment is looked into while it comes, but for what is copied, and once it was read back.
    assert base <= sum(seen) <= base + 2 * increment


@pytest.mark.parametrize("shape", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("owner", [(0, 0), (7, 8), (262_145, 262_146), (2_097_150, 2_097_151), (5_000_000, 6_000_000)])
def test_owners_are_read_from_every_shape_of_a_header(owner: tuple[int, int], shape: int) -> None:
    """In octal digits, in bytes where these do not do, or in a record before it."""
    if shape == tarfile.USTAR_FORMAT and max(owner) > 2_097_151:
        pytest.skip("such a header has no room for it")
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=shape) as archive:
        file = tarfile.TarInfo("file")
        file.uid, file.gid = owner
        archive.addfile(file)
    assert [member.owner for member in Members().feed(whole.getvalue())] == [owner]
