"""Backups as one tar: out of a store and into another."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_rollback._store.store import BackupStore
from docker_rollback.errors import BackupNotFoundError, CorruptBackupError, StoreError, UnsupportedFormatError
from tests.unit.store import making
from tests.unit.store.making import image, read_tar


@pytest.fixture
def exported(tmp_path: Path) -> bytes:
    """Give an export of a backup of a group, with an image of several platforms in it."""
    source = BackupStore(tmp_path / "source")
    one, two = image(b"base" * 400, b"1"), image(b"base" * 400, b"2")
    archive, _ = making.platforms(two)
    with source.draft("b1") as draft:
        manifests = [
            draft.add_image(making.pieces(making.legacy(one)), layers=one.diff_ids),
            draft.add_image(making.pieces(archive), layers=two.diff_ids),
        ]
        volume = making.add_volume(draft, "data", b"rows" * 999, b"more")
        snapshots = [making.snapshot("web", one, manifests[0]), making.snapshot("db", two, manifests[1])]
        draft.commit(making.backup_of("b1", snapshots, [volume]))
    buffer = io.BytesIO()
    source.export("b1", buffer)
    return buffer.getvalue()


def test_an_export_comes_back_equal(store: BackupStore, exported: bytes, tmp_path: Path) -> None:
    """A backup that was exported and imported equals the first in its record and in each of its bytes."""
    source = BackupStore(tmp_path / "source")
    assert store.import_(io.BytesIO(exported)) == source.get("b1")
    store.verify("b1")
    assert making.tree(store.path / "blobs") == making.tree(source.path / "blobs")
    assert (store.path / "index.json").read_bytes() == (source.path / "index.json").read_bytes()


def test_an_import_can_be_done_again(store: BackupStore, exported: bytes) -> None:
    """Importing what is there already returns it and changes nothing."""
    first = store.import_(io.BytesIO(exported))
    before = making.tree(store.path)
    assert store.import_(io.BytesIO(exported)) == first
    after = making.tree(store.path)
    assert {name: data for name, data in after.items() if "lock" not in name} == {
        name: data for name, data in before.items() if "lock" not in name
    }


def test_an_import_does_not_take_the_place_of_another_backup(store: BackupStore, exported: bytes) -> None:
    """A backup of the same id and other content is refused, and nothing of it stays."""
    making.save(store, "b1")
    before = making.tree(store.path / "blobs")
    with pytest.raises(StoreError, match="already"):
        store.import_(io.BytesIO(exported))
    assert making.tree(store.path / "blobs") == before
    store.verify("b1")


def test_paths_work_as_well_as_streams(store: BackupStore, exported: bytes, tmp_path: Path) -> None:
    """Export writes a private file, and import reads it by its path."""
    source = BackupStore(tmp_path / "source")
    old = os.umask(0)
    try:
        source.export("b1", tmp_path / "b1.tar")
    finally:
        os.umask(old)
    assert (tmp_path / "b1.tar").read_bytes() == exported
    assert (tmp_path / "b1.tar").stat().st_mode & 0o777 == 0o600
    assert store.import_(str(tmp_path / "b1.tar")).id == "b1"


def test_pipes_work_between_processes(store: BackupStore, exported: bytes, tmp_path: Path) -> None:
    """One process exports to its standard output, another imports from its standard input, nothing lies between."""
    assert exported
    head = "import sys; from docker_rollback._store import BackupStore; store = BackupStore(sys.argv[1]); "
    out = head + "store.export('b1', sys.stdout.buffer)"
    into = head + "print(store.import_(sys.stdin.buffer).id)"
    first = subprocess.Popen([sys.executable, "-c", out, str(tmp_path / "source")], stdout=subprocess.PIPE)
    second = subprocess.run(
        [sys.executable, "-c", into, str(store.path)], stdin=first.stdout, capture_output=True, text=True, check=True
    )
    assert first.stdout is not None
    first.stdout.close()
    assert (first.wait(), second.stdout) == (0, "b1\n")
    store.verify("b1")


def test_a_reader_that_goes_away_is_the_callers_error(exported: bytes, tmp_path: Path) -> None:
    """What the file that is written to raises comes out untouched."""
    assert exported
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as pipe, pytest.raises(BrokenPipeError):
        BackupStore(tmp_path / "source").export("b1", pipe)


def test_an_export_of_nothing_writes_nothing(store: BackupStore, tmp_path: Path) -> None:
    """Exporting a backup that is not there leaves no file, and a file that was there as it was."""
    making.save(store, "b1")
    with pytest.raises(BackupNotFoundError):
        store.export("b2", tmp_path / "b2.tar")
    assert not (tmp_path / "b2.tar").exists()
    with pytest.raises(StoreError):
        store.export("b1", tmp_path / "no such folder" / "b1.tar")


def test_a_damaged_backup_leaves_no_export(store: BackupStore, tmp_path: Path) -> None:
    """An export of a damaged backup to a path leaves what was there before, and no temporary file."""
    making.save(store, "b1")
    making.blob_files(store)[0].write_bytes(b"x")
    target = tmp_path / "out" / "b1.tar"
    target.parent.mkdir()
    target.write_bytes(b"older")
    with pytest.raises(CorruptBackupError):
        store.export("b1", target)
    assert making.tree(target.parent) == {"b1.tar": b"older"}


def test_engines_see_the_images_alone(exported: bytes) -> None:
    """What an engine reads of an export names its images and no artifact; the backup's index has a name of its own."""
    files = read_tar(exported)
    images = json.loads(files["index.json"])["manifests"]
    table = json.loads(files["manifest.json"])
    assert [entry["RepoTags"] for entry in table] == [["docker-rollback:b1.2"], ["docker-rollback:b1.3"]]
    assert [entry["annotations"]["io.containerd.image.name"] for entry in images] == [
        "docker.io/library/docker-rollback:b1.2",
        "docker.io/library/docker-rollback:b1.3",
    ]
    assert images[1]["mediaType"] == "application/vnd.oci.image.index.v1+json"
    whole = json.loads(files["docker-rollback.json"])["manifests"]
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in whole] == [
        "b1", "b1.1", "b1.2", "b1.3", "b1.4",
    ]  # fmt: skip
    for entry in table:
        assert {entry["Config"], *entry["Layers"]} <= set(files)


def altered(exported: bytes, name: str, data: bytes | None) -> bytes:
    """Return an export with other content in one file, or without it."""
    files = read_tar(exported)
    files.pop(name)
    return making.tar(files if data is None else {**files, name: data})


def largest(exported: bytes) -> str:
    """Return the name of the largest blob of an export."""
    files = read_tar(exported)
    return max(files, key=lambda name: len(files[name]))


BAD: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "no tar": lambda _: b"junk" * 1000,
    "cut short": lambda data: data[: len(data) // 2],
    "cut in the last blob": lambda data: data[:-3000],
    "a flipped bit": lambda data: bytes([*data[:-20_000], data[-20_000] ^ 1, *data[-19_999:]]),
    "a blob missing": lambda data: altered(data, largest(data), None),
    "a blob of other content": lambda data: altered(data, largest(data), b"other"),
    "no index": lambda data: altered(data, "docker-rollback.json", None),
    "an index that is no JSON": lambda data: altered(data, "docker-rollback.json", b"{"),
    "an index of nothing": lambda data: altered(data, "docker-rollback.json", b'{"schemaVersion": 2, "manifests": []}'),
    "an index too long": lambda data: altered(data, "docker-rollback.json", b" " * (5 << 20)),
    "a path that climbs out": lambda data: making.tar({"../../evil": b"x", **read_tar(data)}),
    "an absolute path": lambda data: making.tar({"/tmp/evil": b"x", **read_tar(data)}),
    "a blob that climbs out": lambda data: making.tar({"blobs/sha256/../../../evil": b"x", **read_tar(data)}),
    "a blob of another kind": lambda data: making.tar({"blobs/sha256/evil": b"x", **read_tar(data)}),
    "a symlink that is no blob": lambda data: making.tar(read_tar(data), {"notes": "/etc/passwd"}),
    "a symlink": lambda data: making.tar(read_tar(data), {"blobs/sha256/" + "0" * 64: "/etc/passwd"}),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_import_is_refused_and_leaves_nothing(
    store: BackupStore, exported: bytes, tmp_path: Path, bad: str
) -> None:
    """An archive that is broken, incomplete or hostile is a `CorruptBackupError`; no blob stays and none gets out."""
    making.save(store, "before")
    blobs = making.tree(store.path / "blobs")
    with pytest.raises(CorruptBackupError):
        store.import_(io.BytesIO(BAD[bad](exported)))
    assert store.ids() == ["before"]
    assert making.tree(store.path / "blobs") == blobs
    assert list((store.path / "drafts").iterdir()) == []
    assert not list(tmp_path.rglob("*evil*"))


def test_an_import_in_which_nothing_is_wrong_is_the_whole_backup(store: BackupStore, exported: bytes) -> None:
    """Also cut off behind its last file, where a tar has nothing but zeros."""
    for data in (exported, exported.rstrip(b"\0") + bytes(1024)):
        assert store.import_(io.BytesIO(data)).id == "b1"
        store.verify("b1")
        store.delete("b1")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0), bit=st.integers(0, 7), end=st.none() | st.integers(0))
def test_any_bit_of_an_import_may_be_wrong(
    store: BackupStore, exported: bytes, place: int, bit: int, end: int | None
) -> None:
    """With any one bit changed, and cut anywhere, an import is the whole backup or an error of the store."""
    data = bytearray(exported)
    data[place % len(data)] ^= 1 << bit
    if end is not None:
        del data[end % len(data) :]
    try:
        store.import_(io.BytesIO(bytes(data)))
    except StoreError:
        assert store.ids() == []
    else:
        store.verify("b1")
        store.delete("b1")


def test_names_of_others_are_not_taken(store: BackupStore, exported: bytes) -> None:
    """A backup from elsewhere cannot give its children the names of another backup."""
    making.save(store, "mine")
    files = read_tar(exported)
    files["docker-rollback.json"] = files["docker-rollback.json"].replace(b'"b1.1"', b'"mine"')
    store.import_(io.BytesIO(making.tar(files)))
    assert store.ids() == ["b1", "mine"]
    store.verify("mine")
    names = [
        entry["annotations"]["org.opencontainers.image.ref.name"]
        for entry in json.loads((store.path / "index.json").read_bytes())["manifests"]
    ]
    assert len(names) == len(set(names))


def test_a_newer_backup_is_told_from_a_damaged_one(store: BackupStore, exported: bytes) -> None:
    """An import of a newer format says so."""
    files = read_tar(exported)
    whole = json.loads(files["docker-rollback.json"])
    name = "blobs/sha256/" + whole["manifests"][0]["digest"][7:]
    index = json.loads(files.pop(name))
    index["artifactType"] = "application/vnd.docker-rollback.backup.v9"
    text = json.dumps(index).encode()
    whole["manifests"][0].update(digest=making.digest(text), size=len(text))
    files["docker-rollback.json"] = json.dumps(whole).encode()
    files["blobs/sha256/" + making.digest(text)[7:]] = text
    with pytest.raises(UnsupportedFormatError):
        store.import_(io.BytesIO(making.tar(files)))
    assert store.ids() == []


def test_what_an_import_brings_beside_its_backup_does_not_stay(store: BackupStore, exported: bytes) -> None:
    """Blobs that nothing of the backup refers to are not kept."""
    extra = b"of nobody"
    name = "blobs/sha256/" + making.digest(extra)[7:]
    store.import_(io.BytesIO(making.tar({name: extra, "README": b"hello", **read_tar(exported)})))
    assert not (store.path / name).exists()


def test_a_slow_stream_is_read_as_it_comes(store: BackupStore, exported: bytes) -> None:
    """An import from a pipe takes what is there, in whatever pieces."""
    read, write = os.pipe()

    def feed() -> None:
        with os.fdopen(write, "wb", buffering=0) as pipe:
            for piece in making.pieces(exported, 777):
                pipe.write(piece)

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(read, "rb", buffering=0) as pipe:
        assert store.import_(pipe).id == "b1"
    thread.join()


def test_a_file_that_is_not_there_is_an_error_of_ours(store: BackupStore, tmp_path: Path) -> None:
    """Importing a path that cannot be read is a `StoreError` that names it."""
    with pytest.raises(StoreError, match=r"gone\.tar"):
        store.import_(tmp_path / "gone.tar")
