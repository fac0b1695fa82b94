"""Whatever befalls a store's files, reading it names the damage, touches nothing, and shows no foreign traceback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_rollback._model.backup import Backup
from docker_rollback._store.store import BackupStore
from docker_rollback.errors import BackupNotFoundError, CorruptBackupError, StoreError, UnsupportedFormatError
from tests.unit.store import making
from tests.unit.store.making import digest, image, tree

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a store of two backups that share an image; not to be touched."""
    store = BackupStore(tmp_path_factory.mktemp("sound") / "store")
    img = image(os.urandom(3000), b"top")
    making.save(store, "b1", img=img)
    making.save(store, "b2", img=img, volume=os.urandom(2000))
    return store.path


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> BackupStore:
    """Give a copy of that store, to be damaged."""
    return BackupStore(shutil.copytree(sound, tmp_path / "copy"))


def flip(where: float) -> Damage:
    """Change one bit, at a place between start (0) and end (1)."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[min(int(len(data) * where), len(data) - 1)] ^= 4
        path.write_bytes(data)

    return damage


def truncate(path: Path) -> None:
    """Cut the second half off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def extend(path: Path) -> None:
    """Add a byte."""
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path: Path) -> None:
    """Leave nothing of its content."""
    path.write_bytes(b"")


def swap(path: Path) -> None:
    """Put another blob in its place."""
    other = next(found for found in sorted(path.parent.iterdir()) if found != path)
    path.write_bytes(other.read_bytes())


def remove(path: Path) -> None:
    """Remove it."""
    path.unlink()


def link(path: Path) -> None:
    """Put a symlink to the same content in its place."""
    target = path.parent.parent / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


def fifo(path: Path) -> None:
    """Put a FIFO in its place, at which a careless reader waits for ever."""
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Damage] = {
    "start": flip(0),
    "middle": flip(0.5),
    "end": flip(1),
    "truncated": truncate,
    "extended": extend,
    "empty": empty,
    "swapped": swap,
    "missing": remove,
    "symlink": link,
    "fifo": fifo,
    "folder": folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_blob_with_this_damage_is_named(sound: Path, tmp_path: Path, damage: str) -> None:
    """Each single blob of a backup, damaged in this way, makes `verify` fail with that blob's name; no file changes."""
    wanted = sorted(making.blobs_of(sound, "b1"))
    assert len(wanted) >= 10
    for number, blob in enumerate(wanted):
        store = BackupStore(shutil.copytree(sound, tmp_path / str(number)))
        DAMAGES[damage](store.path / "blobs" / "sha256" / blob[7:])
        before = {} if damage == "fifo" else tree(store.path)
        with pytest.raises(CorruptBackupError) as caught:
            store.verify("b1")
        assert caught.value.blob == blob
        if damage != "fifo":
            assert tree(store.path) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_blob_never_reads_to_its_end(copy: BackupStore, damage: str) -> None:
    """Who streams a damaged blob gets an error in place of its last piece, and never more bytes than its size."""
    base = copy.get("b1").volumes[0].base
    DAMAGES[damage](copy.path / "blobs" / "sha256" / base.digest[7:])
    got = 0
    with pytest.raises(CorruptBackupError) as caught:
        for data in copy.open_blob(base):
            got += len(data)
    assert got < base.size
    assert caught.value.blob == base.digest


def test_one_damaged_backup_leaves_the_others_readable(copy: BackupStore, caplog: pytest.LogCaptureFixture) -> None:
    """A backup whose record is damaged is named in a warning and left out of the list; the others are there."""
    root = making.children_of(copy.path, "b1")[0]
    remove(copy.path / "blobs" / "sha256" / root[7:])
    assert [backup.id for backup in copy.list()] == ["b2"]
    assert "b1" in caplog.text
    assert copy.ids() == ["b1", "b2"]
    copy.verify("b2")
    with pytest.raises(CorruptBackupError):
        copy.get("b1")


def test_a_damaged_backup_can_be_deleted(copy: BackupStore) -> None:
    """Deleting a backup whose index is gone works, and leaves the other whole."""
    root = making.children_of(copy.path, "b1")[0]
    remove(copy.path / "blobs" / "sha256" / root[7:])
    copy.delete("b1")
    assert copy.ids() == ["b2"]
    copy.verify("b2")


@pytest.mark.parametrize("which", [0, 1], ids=["index", "record"])
@pytest.mark.parametrize("damage", [flip(0.5), remove], ids=["flip", "remove"])
def test_no_blob_is_removed_while_a_manifest_is_damaged(copy: BackupStore, damage: Damage, which: int) -> None:
    """As long as it cannot be known what a backup refers to, pruning frees nothing, and says why."""
    root = making.children_of(copy.path, "b1")[which]
    damage(copy.path / "blobs" / "sha256" / root[7:])
    orphan = copy.path / "blobs" / "sha256" / ("0" * 64)
    orphan.write_bytes(b"of nobody")
    report = copy.prune()
    assert report.not_swept is not None
    assert root in report.not_swept
    assert orphan.exists()
    copy.delete("b1")
    assert not orphan.exists()


@pytest.mark.parametrize(("damage", "swept"), [(remove, True), (flip(0.5), False)], ids=["remove", "flip"])
def test_an_image_of_another_tool_may_lack_parts_and_not_be_damaged(
    copy: BackupStore, damage: Damage, *, swept: bool
) -> None:
    """Of several platforms one may have been fetched; while what is there cannot be read, no blob is removed."""
    theirs = making.children_of(copy.path, "b1")[2]
    index = copy.path / "index.json"
    index.write_text(index.read_text().replace('"b1.2"', '"theirs"'))
    copy.delete("b1")
    copy.delete("b2")
    manifest = copy.path / "blobs" / "sha256" / theirs[7:]
    layers = [copy.path / "blobs" / "sha256" / one["digest"][7:] for one in json.loads(manifest.read_bytes())["layers"]]
    assert all(layer.exists() for layer in layers)
    damage(manifest)
    orphan = copy.path / "blobs" / "sha256" / ("0" * 64)
    orphan.write_bytes(b"of nobody")
    assert (copy.prune().not_swept is None) is swept
    assert orphan.exists() is not swept
    assert swept or all(layer.exists() for layer in layers)


def content(data: bytes) -> Damage:
    """Put other content in its place."""

    def damage(path: Path) -> None:
        path.write_bytes(data)

    return damage


def rewrite(change: Callable[[dict[str, object]], object]) -> Damage:
    """Change the parsed index.json in place."""

    def damage(path: Path) -> None:
        data = json.loads(path.read_bytes())
        changed = change(data)
        path.write_text(json.dumps(data if changed is None else changed))

    return damage


def first(data: dict[str, object]) -> dict[str, object]:
    """Return the first entry of an index."""
    manifests = data["manifests"]
    assert isinstance(manifests, list)
    entry = manifests[0]
    assert isinstance(entry, dict)
    return entry


def of_format(version: str) -> Damage:
    """Return the damage of an index that says that it has a format."""
    return rewrite(lambda data: data.update(annotations={"io.docker-rollback.format": version}))


INDEX_DAMAGES: dict[str, Damage] = {
    "cut short": truncate,
    "empty": empty,
    "missing": remove,
    "symlink": link,
    "folder": folder,
    "fifo": fifo,
    "wrong JSON": content(b"{'a': 1}"),
    "not UTF-8": content(b"\xff\xfe{}"),
    "nested without end": content(b"[" * 200_000),
    "a number without end": content(b'{"schemaVersion": ' + b"9" * 10_000 + b"}"),
    "NaN": content(b'{"schemaVersion": NaN}'),
    "a list": rewrite(lambda data: [data]),
    "null": content(b"null"),
    "no manifests": rewrite(lambda data: data.pop("manifests") and None),
    "manifests is an object": rewrite(lambda data: data.update(manifests={})),
    "a manifest is a text": rewrite(lambda data: data.update(manifests=["sha256:00"])),
    "no digest": rewrite(lambda data: first(data).pop("digest") and None),
    "a digest that climbs out": rewrite(lambda data: first(data).update(digest="sha256:../../../../etc/passwd")),
    "an absolute digest": rewrite(lambda data: first(data).update(digest="/etc/passwd")),
    "a digest of another kind": rewrite(lambda data: first(data).update(digest="sha512:" + "0" * 128)),
    "a digest in capitals": rewrite(lambda data: first(data).update(digest="sha256:" + "A" * 64)),
    "a digest that is a number": rewrite(lambda data: first(data).update(digest=7)),
    "a size that is a text": rewrite(lambda data: first(data).update(size="12")),
    "a size below zero": rewrite(lambda data: first(data).update(size=-1)),
    "a size that is true": rewrite(lambda data: first(data).update(size=True)),
    "no media type": rewrite(lambda data: first(data).pop("mediaType") and None),
    "annotations of numbers": rewrite(lambda data: first(data).update(annotations={"a": 1})),
    "annotations are a list": rewrite(lambda data: first(data).update(annotations=[])),
    "another schema": rewrite(lambda data: data.update(schemaVersion=3)),
    "a format that is no number": of_format("x"),
    "a format that is empty": of_format(""),
    "a format below zero": of_format("-1"),
    "a format that is too long": of_format("1" * 10),
    "a format in other digits": of_format("\u0661"),
}


@pytest.mark.parametrize("damage", INDEX_DAMAGES)
def test_a_damaged_index_is_named_and_nothing_is_touched(copy: BackupStore, damage: str) -> None:
    """Every call on a store whose index.json is damaged says so; none removes or writes a blob."""
    INDEX_DAMAGES[damage](copy.path / "index.json")
    before = sorted(path.name for path in making.blob_files(copy))
    calls: list[Callable[[], object]] = [
        copy.list,
        copy.ids,
        lambda: copy.get("b1"),
        lambda: copy.verify("b1"),
        lambda: copy.delete("b1"),
        lambda: copy.prune(keep=1),
        copy.check,
        lambda: copy.export("b1", copy.path.parent / "out.tar"),
        lambda: making.save(copy, "b3"),
    ]
    for call in calls:
        with pytest.raises(CorruptBackupError) as caught:
            call()
        assert caught.value.blob == "index.json"
    assert sorted(path.name for path in making.blob_files(copy)) == before


ENTRY_DAMAGES: dict[str, Damage] = {
    "a size that is wrong": rewrite(lambda data: first(data).update(size=7)),
    "a size without end": rewrite(lambda data: first(data).update(size=10**18)),
    "a digest of nothing": rewrite(lambda data: first(data).update(digest="sha256:" + "0" * 64)),
}


@pytest.mark.parametrize("damage", ENTRY_DAMAGES)
def test_an_entry_that_leads_nowhere_is_a_damaged_backup(copy: BackupStore, damage: str) -> None:
    """An entry of index.json with another size or digest damages its backup alone."""
    ENTRY_DAMAGES[damage](copy.path / "index.json")
    with pytest.raises(CorruptBackupError):
        copy.get("b1")
    with pytest.raises(CorruptBackupError):
        copy.verify("b1")
    assert [backup.id for backup in copy.list()] == ["b2"]


def swap_names(store: BackupStore, one: str, other: str) -> None:
    """Exchange two names in index.json."""

    def exchange(data: dict[str, object]) -> None:
        manifests = data["manifests"]
        assert isinstance(manifests, list)
        for entry in manifests:
            name = entry["annotations"]["org.opencontainers.image.ref.name"]
            entry["annotations"]["org.opencontainers.image.ref.name"] = {one: other, other: one}.get(name, name)

    rewrite(exchange)(store.path / "index.json")


def test_names_that_were_swapped_are_seen(copy: BackupStore) -> None:
    """Two backups whose names were exchanged in index.json are both refused: a record knows its own name."""
    swap_names(copy, "b1", "b2")
    for backup_id in ("b1", "b2"):
        with pytest.raises(CorruptBackupError) as caught:
            copy.verify(backup_id)
        assert caught.value.blob == "index.json"


def test_parts_whose_names_were_swapped_are_seen(copy: BackupStore) -> None:
    """A name of a part leads to that very part of its backup, not to another one."""
    swap_names(copy, "b1.1", "b1.2")
    with pytest.raises(CorruptBackupError, match=r"its entry 'b1\.[12]' is not of that backup"):
        copy.verify("b1")


def test_a_file_that_is_longer_than_it_can_be_is_damaged(copy: BackupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of it is read than the limit; one byte less is no damage."""
    size = (copy.path / "index.json").stat().st_size
    monkeypatch.setattr("docker_rollback._store.oci.MAX_INDEX", size)
    assert copy.ids() == ["b1", "b2"]
    monkeypatch.setattr("docker_rollback._store.oci.MAX_INDEX", size - 1)
    with pytest.raises(CorruptBackupError, match=f"it is longer than {size - 1} bytes") as caught:
        copy.ids()
    assert caught.value.blob == "index.json"


@pytest.mark.parametrize("damage", ["missing", "wrong JSON", "wrong version"])
def test_a_damaged_layout_file_is_named(copy: BackupStore, damage: str) -> None:
    """A store without a sound oci-layout is refused by the calls that read."""
    path = copy.path / "oci-layout"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text('{"imageLayoutVersion":"2.0.0"}' if damage == "wrong version" else "{")
    with pytest.raises(CorruptBackupError) as caught:
        copy.list()
    assert caught.value.blob == "oci-layout"


@pytest.mark.parametrize(("version", "told"), [("9" * 78, f"'{'9' * 78}'"), ("9" * 79, f"'{'9' * 76}...")])
def test_what_is_damaged_is_quoted_in_short(copy: BackupStore, version: str, told: str) -> None:
    """An error has no room for a megabyte of rubbish."""
    (copy.path / "oci-layout").write_text(json.dumps({"imageLayoutVersion": version}))
    with pytest.raises(StoreError) as caught:
        copy.ids()
    assert f"its imageLayoutVersion is {told}" in str(caught.value)


def test_a_newer_store_is_told_from_a_damaged_one(copy: BackupStore) -> None:
    """A store in a newer format raises `UnsupportedFormatError`, whatever is asked of it, and is left alone."""
    rewrite(lambda data: data.update(annotations={"io.docker-rollback.format": "2"}))(copy.path / "index.json")
    before = tree(copy.path)
    for call in (copy.list, copy.check, lambda: copy.delete("b1"), lambda: copy.prune(keep=0)):
        with pytest.raises(UnsupportedFormatError):
            call()
    after = tree(copy.path)
    assert {name for name in after if "locks" not in name} == {name for name in before if "locks" not in name}


def test_no_bit_of_the_index_can_make_a_backup_vanish(sound: Path, tmp_path: Path) -> None:
    """With any one byte of index.json changed, either that is said, or a backup is, or both are there and verify."""
    store = BackupStore(shutil.copytree(sound, tmp_path / "copy"))
    text = (sound / "index.json").read_bytes()
    refused = named = whole = 0
    for place in range(len(text)):
        mask = (0x01, 0x04, 0x20, 0x80)[place % 4]
        (store.path / "index.json").write_bytes(text[:place] + bytes([text[place] ^ mask]) + text[place + 1 :])
        try:
            ids = store.ids()
        except StoreError:
            refused += 1
            continue
        said = False
        for backup_id in ids:
            try:
                store.verify(backup_id)
            except CorruptBackupError:
                said = True
        assert said or ids == ["b1", "b2"], (place, text[max(0, place - 40) : place + 5])
        named, whole = named + said, whole + (not said)
    assert min(refused, named, whole) > len(text) / 100, "each of the three was seen"


def test_a_backup_that_lost_its_name_is_found_by_its_record(copy: BackupStore) -> None:
    """A root without a name in index.json is listed under its own id, verifies, and can be deleted."""
    rewrite(lambda data: first(data).pop("annotations") and None)(copy.path / "index.json")
    assert copy.ids() == ["b1", "b2"]
    copy.verify("b1")
    copy.delete("b1")
    assert copy.ids() == ["b2"]
    assert {"sha256:" + path.name for path in making.blob_files(copy)} == making.blobs_of(copy.path, "b2")


def forge(copy: BackupStore, backup_id: str, *, record: bytes | None = None, artifact_type: str | None = None) -> None:
    """Write a backup whose hashes are all right and whose content is not: what an attacker or a newer version does."""
    blobs = copy.path / "blobs" / "sha256"

    def write(data: bytes) -> dict[str, object]:
        (blobs / digest(data)[7:]).write_bytes(data)
        return {"digest": digest(data), "size": len(data)}

    entries = json.loads((copy.path / "index.json").read_bytes())
    (entry,) = [
        found
        for found in entries["manifests"]
        if found["annotations"]["org.opencontainers.image.ref.name"] == backup_id
    ]
    index = json.loads((blobs / entry["digest"][7:]).read_bytes())
    if record is not None:
        manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
        manifest["layers"][0].update(write(record))
        index["manifests"][0].update(write(json.dumps(manifest).encode()))
    if artifact_type is not None:
        index["artifactType"] = entry["artifactType"] = artifact_type
    entry.update(write(json.dumps(index).encode()))
    (copy.path / "index.json").write_text(json.dumps(entries))


def record_of(copy: BackupStore, backup_id: str) -> dict[str, object]:
    """Return a backup's record as JSON."""
    *_, blob = [path for path in making.blob_files(copy) if f'"id":"{backup_id}"'.encode() in path.read_bytes()]
    data = json.loads(blob.read_bytes())
    assert isinstance(data, dict)
    return data


def test_a_newer_backup_is_told_from_a_damaged_one(copy: BackupStore, caplog: pytest.LogCaptureFixture) -> None:
    """A backup in a newer format raises `UnsupportedFormatError`, whether its type or its record says so."""
    forge(copy, "b1", artifact_type="application/vnd.docker-rollback.backup.v4")
    record = record_of(copy, "b2")
    record["format"] = 4
    forge(copy, "b2", record=json.dumps(record).encode())
    for backup_id in ("b1", "b2"):
        with pytest.raises(UnsupportedFormatError):
            copy.get(backup_id)
        with pytest.raises(UnsupportedFormatError):
            copy.verify(backup_id)
    assert copy.list() == []
    assert caplog.text.count("newer") + caplog.text.count("format 4") >= 2


def places(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Yield the place of every value in a JSON document."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from places(item, (*path, number))


def replaced(value: object, path: tuple[object, ...], new: object) -> object:
    """Return a JSON document with another value at one place."""
    if not path:
        return new
    head, *rest = path
    if isinstance(value, dict):
        return {key: replaced(item, tuple(rest), new) if key == head else item for key, item in value.items()}
    assert isinstance(value, list)
    return [replaced(item, tuple(rest), new) if number == head else item for number, item in enumerate(value)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_record_with_anything_anywhere_is_read_or_refused(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    """A record with any JSON value in any place, its hashes made right, is a backup or an error of the store."""
    path = tmp_path / "forged"
    shutil.rmtree(path, ignore_errors=True)
    store = BackupStore(shutil.copytree(sound, path))
    record = record_of(store, "b1")
    place = data.draw(st.sampled_from(sorted(places(record), key=str)))
    forge(store, "b1", record=json.dumps(replaced(record, place, data.draw(json_values))).encode())
    with suppress(StoreError):
        assert isinstance(store.get("b1"), Backup)
        store.verify("b1")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_index_with_anything_anywhere_is_read_or_refused(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    """An index.json with any JSON value in any place is read, or an error of the store; no blob goes."""
    path = tmp_path / "forged"
    shutil.rmtree(path, ignore_errors=True)
    store = BackupStore(shutil.copytree(sound, path))
    index = json.loads((path / "index.json").read_bytes())
    place = data.draw(st.sampled_from(sorted(places(index), key=str)))
    (path / "index.json").write_text(json.dumps(replaced(index, place, data.draw(json_values))))
    for call in (store.list, lambda: store.get("b1"), lambda: store.verify("b2"), store.check):
        with suppress(StoreError):
            call()
    assert len(making.blob_files(store)) == len(list((sound / "blobs" / "sha256").iterdir()))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_as_an_index_are_refused(sound: Path, data: bytes) -> None:
    """No content of index.json brings anything but an error of the store."""
    path = sound.parent / "bytes"
    shutil.rmtree(path, ignore_errors=True)
    store = BackupStore(shutil.copytree(sound, path))
    (path / "index.json").write_bytes(data)
    with pytest.raises(StoreError):
        store.list()


def test_a_volume_that_decompresses_without_end_is_stopped(copy: BackupStore) -> None:
    """An archive that holds more than its record says is refused as soon as it does, not after it has unpacked."""
    bomb = making.zstd_of(bytes(200 << 20), level=19)
    blobs = copy.path / "blobs" / "sha256"
    record = record_of(copy, "b1")
    text = json.dumps(record)
    old = copy.get("b1").volumes[0].base
    (blobs / digest(bomb)[7:]).write_bytes(bomb)
    text = text.replace(old.digest, digest(bomb)).replace(f'"size": {old.size}', f'"size": {len(bomb)}')
    forge_volume(copy, old.digest, bomb)
    forge(copy, "b1", record=text.encode())
    with pytest.raises(CorruptBackupError) as caught:
        copy.verify("b1")
    assert caught.value.blob == digest(bomb), caught.value
    assert "decompresses to more" in caught.value.reason


def forge_volume(copy: BackupStore, old: str, data: bytes) -> None:
    """Put other content in the place of a volume's archive in the first backup, its hashes made right."""
    blobs = copy.path / "blobs" / "sha256"
    entries = json.loads((copy.path / "index.json").read_bytes())
    entry = entries["manifests"][0]
    index = json.loads((blobs / entry["digest"][7:]).read_bytes())
    for child in index["manifests"]:
        manifest = json.loads((blobs / child["digest"][7:]).read_bytes())
        found = [layer for layer in manifest["layers"] if layer["digest"] == old]
        if not found:
            continue
        found[0].update(digest=digest(data), size=len(data))
        text = json.dumps(manifest).encode()
        (blobs / digest(text)[7:]).write_bytes(text)
        child.update(digest=digest(text), size=len(text))
    text = json.dumps(index).encode()
    (blobs / digest(text)[7:]).write_bytes(text)
    entry.update(digest=digest(text), size=len(text))
    (copy.path / "index.json").write_text(json.dumps(entries))


NO_IDS = ["", ".", "..", "../b1", "b1/..", "b1.1", "/etc/passwd", "b 1", "b" * 101, "b1\n"]


@pytest.mark.parametrize("backup_id", NO_IDS)
def test_an_id_that_cannot_be_is_no_backup(copy: BackupStore, backup_id: str) -> None:
    """Ids that are paths, names of children or too long are simply not there, and cannot be written."""
    for call in (copy.get, copy.verify, copy.delete):
        with pytest.raises(BackupNotFoundError):
            call(backup_id)
    with pytest.raises(ValueError, match="backup's id"):
        copy.draft(backup_id)


def test_what_is_wrong_with_a_record_is_said_without_its_values(copy: BackupStore) -> None:
    """The error for a record that does not fit names a field, and shows nothing of a container's secrets."""
    record = record_of(copy, "b1")
    text = json.dumps(record).replace('"stop"', '["hunter2"]')
    forge(copy, "b1", record=text.encode())
    with pytest.raises(CorruptBackupError) as caught:
        copy.get("b1")
    assert "hunter2" not in repr(caught.value) + str(caught.value.__cause__) + str(caught.value.__context__)
    assert "quiesce" in str(caught.value)
