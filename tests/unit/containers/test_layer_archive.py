"""The tar of a layer is assembled byte for byte as an engine writes it, from archives of its files."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._containers.layer_archive import (
    Deletion,
    LayerArchiveError,
    LayerMember,
    Part,
    Step,
    members,
    proven,
    shown_by,
    steps,
    written,
)

LONG = "d" * 99
DEEP = f"{LONG}/{LONG}/file"

NAMES = st.binary(min_size=1, max_size=120).filter(
    lambda name: not {*name} & {0, ord("/")} and name not in (b".", b"..")
)


def archive_of(*entries: tuple[str, dict[str, object]], content: bytes = b"") -> bytes:
    """Return a tar with members of these names and facts."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for name, facts in entries:
            info = tarfile.TarInfo(name)
            for key, value in facts.items():
                setattr(info, key, value)
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return whole.getvalue()


def read(archive: bytes, path: str, *, most: int = 1 << 20) -> list[LayerMember]:
    """Return the members of an archive that comes in small pieces."""
    pieces = (archive[place : place + 700] for place in range(0, len(archive), 700))
    return list(members(pieces, path, most=most))


def digest_of(tar: bytes) -> str:
    """Return the digest of a tar."""
    return "sha256:" + hashlib.sha256(tar).hexdigest()


def test_the_steps_are_in_the_order_of_a_walk() -> None:
    """By the names in each folder, and what is in an added folder comes with it."""
    changes = {
        "/t": "changed",
        "/t-x": "added",
        "/t/b": "added",
        "/t/b/c": "added",
        "/t/a": "deleted",
        "/t/c": "changed",
        "/t/c/d": "added",
    }
    assert steps(changes) == [
        Step("/t", "first"),
        Step("/t/a", "mark"),
        Step("/t/b", "all"),
        Step("/t/c", "first"),
        Step("/t/c/d", "all"),
        Step("/t-x", "all"),
    ]


def test_a_member_gets_its_name_in_the_layer() -> None:
    """So does the target of a hard link; that of a symbolic link stays as it is."""
    archive = archive_of(
        ("new", {"type": tarfile.DIRTYPE}),
        ("new/one", {}),
        ("new/soft", {"type": tarfile.SYMTYPE, "linkname": "new/one"}),
        ("new/two", {"type": tarfile.LNKTYPE, "linkname": "new/one"}),
        content=b"content",
    )
    whole = b"".join(map(written, read(archive, "/a/b/new"))) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        found = [(one.name, one.linkname) for one in tar]
        assert tar.extractfile("a/b/new/one").read() == b"content"  # type: ignore[union-attr]  # it is a file
    assert found == [
        ("a/b/new", ""),
        ("a/b/new/one", ""),
        ("a/b/new/soft", "new/one"),
        ("a/b/new/two", "a/b/new/one"),
    ]


@given(st.lists(NAMES, min_size=1, max_size=4), NAMES)
def test_any_name_is_written(above: list[bytes], target: bytes) -> None:
    """Whatever its bytes and its length, of a file and of a link, with attributes and without."""
    name, link = (b"/".join(above)).decode("utf-8", "surrogateescape"), target.decode("utf-8", "surrogateescape")
    for extended in ({}, {"SCHILY.xattr.security.capability": "x"}):
        facts = {"type": tarfile.SYMTYPE, "linkname": link, "pax_headers": extended}
        archive = archive_of((name.rpartition("/")[2], dict(facts)))
        whole = b"".join(map(written, read(archive, f"/{name}"))) + bytes(1024)
        with tarfile.open(fileobj=io.BytesIO(whole), errors="surrogateescape") as tar:
            (one,) = tar
        assert (one.name, one.linkname) == (name.rstrip("/"), link)
        assert "SCHILY.xattr.security.capability" in one.pax_headers or not extended


def test_a_long_name_is_split_as_by_go() -> None:
    """It needs no extended header where it fits in two parts; a longer one does, with a name as Go gives it."""
    (short,) = read(archive_of(("file", {})), f"/{LONG}/file")
    assert len(written(short)) == 512
    assert written(short)[:5] == b"file\0"
    assert written(short)[345:444] == LONG.encode()
    (deep,) = read(archive_of(("file", {})), f"/{DEEP}")
    assert written(deep).startswith(f"{LONG}\0".encode())
    assert written(deep)[512:].startswith(f"214 path={DEEP}\n".encode())
    (odd,) = read(archive_of(("ü", {})), "/new/ü")
    assert written(odd).startswith(b"new/PaxHeaders.0/\0"[:16])


def test_a_deletion_is_found_by_the_digest() -> None:
    """Its mark is as old as its folder or somewhat older, and all marks are links to one file."""
    (folder,) = read(archive_of(("t", {"type": tarfile.DIRTYPE, "mtime": 5000})), "/t")
    parts: list[Part] = [folder, Deletion(b"t/one"), Deletion(b"t/two")]
    for age in (0, 1, 3599):
        marks = []
        for name, target in ((b"t/.wh.one", ""), (b"t/.wh.two", "t/one")):
            info = tarfile.TarInfo(name.decode())
            info.mode, info.mtime, info.linkname = 0o600, 5000 - age, target
            marks.append(info.tobuf(tarfile.USTAR_FORMAT))
        tar = b"".join((written(folder), *marks, bytes(1024)))
        found = proven(parts, digest_of(tar), marks_have_times=True)
        assert found is not None
        assert b"".join(found) == tar
        assert proven(parts, digest_of(tar), marks_have_times=False) is None
    assert proven(parts, digest_of(b"another"), marks_have_times=True) is None


def test_an_earlier_layer_shows_its_marks() -> None:
    """Those of deletions and of replaced folders, byte for byte."""
    layer = archive_of(
        ("t", {"type": tarfile.DIRTYPE}),
        ("t/.wh..wh..opq", {"mode": 0o755}),
        ("t/.wh.gone", {"mtime": 7}),
        ("t/file", {}),
    )
    marks = shown_by(iter([layer]), most=1 << 20).marks
    assert [*marks] == [b"t/.wh..wh..opq", b"t/.wh.gone"]
    assert written(marks[b"t/.wh.gone"]) == layer[1024:1536]


def test_an_earlier_layer_shows_the_names_of_owners() -> None:
    """Docker 20.10 writes those of its host into a layer, and those of the container into an archive."""
    layer = archive_of(("t", {"type": tarfile.DIRTYPE, "uid": 7, "uname": "host", "gid": 7, "gname": "group"}))
    (member,) = read(archive_of(("file", {"uid": 7, "uname": "inside", "gid": 8, "gname": "other"})), "/file")
    with tarfile.open(fileobj=io.BytesIO(written(shown_by(iter([layer]), most=1 << 20).named(member)))) as tar:
        (one,) = tar
    assert (one.uid, one.uname, one.gid, one.gname) == (7, "host", 8, "other")


BROKEN = {
    "nothing": b"",
    "truncated": archive_of(("file", {}), content=bytes(5000))[:3000],
    "not a tar": b"x" * 2048,
    "of another file": archive_of(("other", {})),
    "of a kind of GNU's": tarfile.TarInfo("file" * 50).tobuf(tarfile.GNU_FORMAT) + bytes(1024),
    "with a bad header": archive_of(("file", {"pax_headers": {"a": "b"}})).replace(b"6 a=b\n", b"9 a=b\n"),
    "without a length": archive_of(("file", {"pax_headers": {"a": "bzz"}})).replace(b"8 a=bzz\n", b"x a=b\nzz"),
    "without any length": archive_of(("file", {"pax_headers": {"a": "bzz"}})).replace(b"8 a=bzz\n", b"0 a=b\nzz"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_archive_is_an_error(kind: str) -> None:
    """The image is exported then."""
    with pytest.raises(LayerArchiveError):
        read(BROKEN[kind], "/file")


def test_no_more_is_read_than_is_allowed() -> None:
    """The size is known before the content is read."""
    archive = archive_of(("file", {}), content=bytes(10_000))
    assert read(archive, "/file", most=20_000)
    with pytest.raises(LayerArchiveError, match="too large"):
        read(archive, "/file", most=5_000)
