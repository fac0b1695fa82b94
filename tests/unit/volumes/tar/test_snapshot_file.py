"""tar's record of directories: read to the last byte or refused, and without what tar did not see."""

from __future__ import annotations

import pytest
from attrs import evolve

from docker_rollback._volumes.tar.snapshot_file import SnapshotFile

HEAD = b"GNU tar-1.34-2\n1000\x00500\x00"


def folder(name: bytes, *entries: bytes, inode: int = 7) -> bytes:
    """Return the record of a directory."""
    fields = (b"0", b"1000", b"0", b"2049", str(inode).encode(), name)
    return b"".join(field + b"\0" for field in fields) + b"".join(entry + b"\0" for entry in entries) + b"\0\0"


WHOLE = HEAD + folder(b".") + folder(b"./a", b"Yone", b"Ntwo", b"Db") + folder(b"./a/b", b"Ythree", inode=8)


def test_a_record_is_read_and_written_to_the_letter() -> None:
    """Its moment, and the name, device and inode of each directory, are known."""
    read = SnapshotFile.parse(WHOLE)
    assert read.written() == WHOLE
    assert read.began == 1000 * 10**9 + 500
    assert [(one.name, one.device, one.inode) for one in read.folders] == [
        (b".", 2049, 7),
        (b"./a", 2049, 7),
        (b"./a/b", 2049, 8),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not begin"),
        (b"GNU tar-1.34-1\n1000\x00500\x00", "does not begin"),
        (WHOLE[:-1], "broken after 2 directories"),
        (WHOLE + b"\0", "broken after 3 directories"),
        (WHOLE + b"0\x001000\x000\x002049\x007\x00./c", "broken after 3 directories"),
        (HEAD + b"rubbish\x00\x00\x00", "broken after 0 directories"),
    ],
)
def test_what_is_no_record_to_its_last_byte_is_refused(data: bytes, reason: str) -> None:
    """It is said how far it could be read."""
    with pytest.raises(ValueError, match=reason):
        SnapshotFile.parse(data)


@pytest.mark.parametrize(
    ("missed", "left"),
    [
        ([], WHOLE),
        ([b"./a/one"], WHOLE.replace(b"Yone\0", b"")),
        ([b"./a/b"], HEAD + folder(b".") + folder(b"./a", b"Yone", b"Ntwo", b"Db")),
        ([b"./a"], HEAD + folder(b".")),
        ([b"./a", b"./a/b/three"], HEAD + folder(b".")),
        ([b"./new", b"./new/file"], WHOLE),
        ([b"./new/file"], None),
        ([b"./an/file", b"./a"], None),
    ],
)
def test_what_was_missed_is_forgotten(missed: list[bytes], left: bytes | None) -> None:
    """With all below it; a file in a directory that is not known, and that was not missed itself, could be anywhere."""
    found = SnapshotFile.parse(WHOLE).forgetting(missed)
    assert (found and found.written()) == left


def test_a_broken_directory_is_no_directory() -> None:
    """What was read cannot be changed into something that is none."""
    read = SnapshotFile.parse(WHOLE)
    broken = evolve(read, folders=tuple(evolve(one, record=b"rubbish\0\0") for one in read.folders))
    with pytest.raises(ValueError, match="a directory's record is broken"):
        broken.forgetting([b"./a/one"])
