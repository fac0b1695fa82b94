"""What is left at the edges of the store: misuse, waiting, readers that died, disks that cannot be read."""

from __future__ import annotations

import errno
import json
import os
import re
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from attrs import evolve

from docker_rollback._model import Descriptor
from docker_rollback._store import layout
from docker_rollback._store.draft import Draft
from docker_rollback._store.export import full_name
from docker_rollback._store.files import Disk
from docker_rollback._store.image_import import ImageParts
from docker_rollback._store.locks import FileLock
from docker_rollback._store.oci import VOLUME_ARCHIVE
from docker_rollback._store.store import BackupStore
from docker_rollback._store.streams import CHUNK
from docker_rollback.errors import CorruptBackupError, EngineError, StoreError
from tests.unit.store import making
from tests.unit.store.making import image, pieces, small_image


def test_the_default_store_is_in_the_users_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a path a store is below the user's data folder; making the object writes nothing."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert BackupStore().path == tmp_path / "docker-rollback" / "store"
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_stays_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A store at a relative path is not moved by a change of the working folder."""
    monkeypatch.chdir(tmp_path)
    store = BackupStore("backups")
    monkeypatch.chdir("/")
    assert store.path == tmp_path / "backups"


def test_a_draft_takes_its_own_backup_alone(store: BackupStore) -> None:
    """Committing the record of another id is a mistake of the caller's."""
    with store.draft("b1") as draft, pytest.raises(ValueError, match="b2"):
        draft.commit(making.backup_of("b2", []))


_BLOB = Descriptor(VOLUME_ARCHIVE, "sha256:" + "0" * 64, 1)


@pytest.mark.parametrize(
    "use",
    [
        lambda draft: draft.blob("x/y"),
        lambda draft: draft.adopt(_BLOB),
        lambda draft: draft.spool(),
        lambda draft: draft.copy(),
        lambda draft: draft.adopt_image(_BLOB),
        lambda draft: draft.add_image(iter([]), layers=[]),
        lambda draft: draft.add_image_parts(ImageParts(b"{}", {}), layers=[]),
        lambda draft: draft.flatten_image(_BLOB, keep=1),
        lambda draft: draft.image_archive(_BLOB, []),
        lambda draft: draft.commit(making.backup_of("b1", [])),
    ],
)
def test_a_draft_is_used_while_it_is_open(store: BackupStore, use: Callable[[Draft], object]) -> None:
    """Before it is entered, and once it is committed or has ended, nothing would protect what it writes."""
    draft = store.draft("b1")
    with pytest.raises(ValueError, match="the draft is new, not open"):
        use(draft)
    with draft:
        draft.commit(making.backup_of("b1", []))
        with pytest.raises(ValueError, match="the draft is committed, not open"):
            use(draft)
    with pytest.raises(ValueError, match="the draft is closed, not open"):
        use(draft)
    with pytest.raises(ValueError, match="a draft can be entered once"), draft:
        pass


def test_a_writer_that_ended_takes_no_more(store: BackupStore) -> None:
    """A blob that is closed, discarded or not yet begun takes no bytes."""
    with store.draft("b1") as draft:
        writer = draft.blob("x/y")
        with pytest.raises(ValueError, match="not open"):
            writer.write(b"early")
        with writer:
            assert writer.write(memoryview(b"1234")) == 4
            assert writer.size == 4
            assert writer.close().size == 4
            with pytest.raises(ValueError, match="not open"):
                writer.close()
        with draft.blob("x/y") as other:
            other.write(b"x")
        with pytest.raises(ValueError, match="not open"):
            other.write(b"late")


def test_a_blob_of_nothing_is_a_blob(store: BackupStore) -> None:
    """An empty blob is stored, read and verified like any other."""
    with store.draft("b1") as draft:
        with draft.blob("x/y") as writer:
            blob = writer.close()
        assert list(store.open_blob(blob)) == []


def test_a_store_that_stays_locked_is_an_error_in_time(store: BackupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody never lets go of the store, who waits is told by whom it is held."""
    store.check()
    monkeypatch.setattr(layout, "PATIENCE", 0.05)
    with FileLock(store.path / "locks" / "store.lock") as lock:
        lock.acquire(note="sleeping")
        with pytest.raises(StoreError, match="sleeping"), store.draft("b1"):
            pass


def test_a_store_that_stays_locked_hides_no_error(store: BackupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft that cannot be cleared away at its end is left to the next one, and its own error comes out."""
    monkeypatch.setattr(layout, "PATIENCE", 0.05)
    with FileLock(store.path / "locks" / "store.lock") as lock, pytest.raises(KeyError), store.draft("b1"):
        lock.acquire(note="sleeping")
        raise KeyError
    assert len(list((store.path / "drafts").iterdir())) == 1
    with store.draft("b1"):
        assert len(list((store.path / "drafts").iterdir())) == 1
    assert list((store.path / "drafts").iterdir()) == []


def test_room_that_cannot_be_told_is_an_error_of_the_store(tmp_path: Path) -> None:
    """The disk itself may be gone."""

    class Gone(Disk):
        def room(self, path: Path) -> int:
            """Fail."""
            raise OSError(errno.EIO, "the disk says no", str(path))

    with BackupStore(tmp_path / "store", disk=Gone()).draft("b1") as draft:
        with pytest.raises(StoreError, match="the disk says no") as caught:
            draft.room()
        assert caught.value.path == str(tmp_path / "store")


def test_a_list_that_was_not_written_is_noticed(store: BackupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the disk says, a backup is listed only if the list that is read back has it."""
    monkeypatch.setattr(layout.Layout, "replace_index", lambda *_, **__: None)
    with pytest.raises(CorruptBackupError, match="it does not contain what was just written") as caught:
        making.save(store, "b1")
    assert caught.value.blob == "index.json"
    assert making.blob_files(store) == []


def test_a_file_to_write_to_has_a_name(store: BackupStore) -> None:
    """An empty path would be the working folder."""
    making.save(store, "b1")
    for work in (lambda: store.export("b1", ""), lambda: store.import_("")):
        with pytest.raises(ValueError, match="file is an empty path"):
            work()


def test_a_reader_that_died_holds_nothing(store: BackupStore) -> None:
    """What a reader left that was killed does not keep a backup, and is removed; foreign files mean nothing."""
    making.save(store, "b1")
    making.save(store, "b2", created=making.EPOCH + making.days(1))
    left = store.path / "holds" / "b1.0123456789abcdef.reading"
    left.write_bytes(b"")
    (store.path / "holds" / "README").write_bytes(b"")
    assert store.prune(keep=1).removed == ("b1",)
    assert not left.exists()


def test_releasing_what_cannot_be_is_harmless(store: BackupStore) -> None:
    """A release of an id that no backup can have does nothing, nor one in a store that is not there."""
    store.release("../x", "me")
    store.release("b1", "me")
    assert not store.path.exists()


def test_a_backup_may_lie_in_its_engine_alone(store: BackupStore) -> None:
    """A backup whose image was left in the engine is listed, verifies, moves, and says that it is not durable."""
    with store.draft("b1") as draft:
        volume = making.add_volume(draft, "data", b"rows")
        draft.commit(making.backup_of("b1", [making.snapshot("web", small_image(), None)], [volume]))
    assert not store.get("b1").durable
    store.verify("b1")
    store.export("b1", store.path.parent / "b1.tar")
    other = BackupStore(store.path.parent / "other")
    assert other.import_(store.path.parent / "b1.tar") == store.get("b1")
    other.verify("b1")


def test_containers_on_one_image_share_it(store: BackupStore) -> None:
    """An image that two containers stand on is one part of the backup, with both their names."""
    making.save(store, "b1", names=("web", "worker"))
    assert len(making.children_of(store.path, "b1")) == 4
    assert '"io.docker-rollback.container":"web worker"' in (store.path / "index.json").read_text()
    store.verify("b1")


@pytest.mark.parametrize("name", ["../../etc/x", ".hidden", "a b/c", "ä", "..", "x" * 300])
def test_a_volumes_name_becomes_a_harmless_title(store: BackupStore, name: str) -> None:
    """Whatever a driver calls its volumes, the titles by which tools write files lead nowhere else."""
    with store.draft("b1") as draft:
        volume = making.add_volume(draft, name, b"rows")
        draft.commit(making.backup_of("b1", [], [volume]))
    assert store.get("b1").volumes[0].name == name
    store.verify("b1")
    manifest = (store.path / "blobs" / "sha256" / making.children_of(store.path, "b1")[2][7:]).read_text()
    title = manifest.partition('image.title":"')[2].partition('"')[0]
    assert "/" not in title
    assert not title.startswith(".")
    assert len(title) < 200


def test_the_digests_that_a_caller_gives_are_checked(store: BackupStore) -> None:
    """A descriptor with a digest that is none is damage, not a path."""
    making.save(store, "b1")
    base = store.get("b1").volumes[0].base
    for value in ("sha256:../../index.json", "md5:00", ""):
        with pytest.raises(CorruptBackupError):
            list(store.open_blob(evolve(base, digest=value)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_blob_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    """Missing rights are told from damage."""
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    store = BackupStore(tmp_path / "store")
    making.save(store, "b1")
    base = store.get("b1").volumes[0].base
    for folder in (store.path, store.path / "blobs", store.path / "blobs" / "sha256"):
        folder.chmod(0o755)
    os.seteuid(54321)
    try:
        with pytest.raises(StoreError, match="Permission denied") as caught:
            list(store.open_blob(base))
    finally:
        os.seteuid(0)
    assert not isinstance(caught.value, CorruptBackupError)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_store_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    """Neither its folder nor its small files; a store that is not there is told from both."""
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    store = BackupStore(tmp_path / "store")
    making.save(store, "b1")
    os.seteuid(54321)
    try:
        with pytest.raises(StoreError, match="Permission denied") as caught:
            store.ids()
        assert not isinstance(caught.value, CorruptBackupError)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("more", [True, False])
def test_an_image_with_other_layers_than_its_config_lists_is_damaged(store: BackupStore, *, more: bool) -> None:
    """Nobody knows then which of its layers is which, so none of them spares the next backup anything."""
    backup = making.save(store, "b1")
    manifest = backup.containers[0].image.manifest
    assert manifest is not None
    blobs = store.path / "blobs" / "sha256"
    parts = json.loads((blobs / manifest.digest[7:]).read_bytes())
    parts["layers"] = parts["layers"] * 2 if more else parts["layers"][:-1]
    data = json.dumps(parts).encode()
    forged = evolve(manifest, digest=making.digest(data), size=len(data))
    (blobs / forged.digest[7:]).write_bytes(data)
    layout = store._layout
    assert len(layout.layers_of(manifest)) == 3
    with pytest.raises(CorruptBackupError, match="it has another number of layers than its config") as caught:
        layout.layers_of(forged)
    assert caught.value.blob == forged.digest


@pytest.mark.parametrize(
    ("tag", "full"),
    [
        ("app", "docker.io/library/app:latest"),
        ("app:1", "docker.io/library/app:1"),
        ("team/app", "docker.io/team/app:latest"),
        ("localhost/app:1", "localhost/app:1"),
        ("registry.example/app", "registry.example/app:latest"),
        ("registry:5000/team/app:1", "registry:5000/team/app:1"),
    ],
)
def test_names_are_spelled_as_containerd_does(tag: str, full: str) -> None:
    """An image's name is given with its registry and its tag."""
    assert full_name(tag) == full


def test_an_image_goes_out_without_a_name(store: BackupStore) -> None:
    """Without tags, an archive names its image nowhere."""
    img = small_image()
    with store.draft("b1") as draft:
        manifest = draft.add_image(pieces(making.oci_gzip(img)), layers=img.diff_ids)
        files = making.read_tar(b"".join(store.image_archive(manifest)))
    assert b"annotations" not in files["index.json"]
    assert b'"RepoTags":null' in files["manifest.json"]


def odd_members(img: making.Image) -> bytes:
    """Return an archive with hard links, folders, devices and a layer of nobody in it."""
    files = making.read_tar(making.podman(img))
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./parts/{name}" if name.endswith(".tar") else name)
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
            if name.endswith(".tar"):
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.LNKTYPE, f"parts/{name}"
                archive.addfile(link)
        for kind, name in ((tarfile.DIRTYPE, "folder"), (tarfile.CHRTYPE, "device"), (tarfile.FIFOTYPE, "fifo")):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
        for data in (making.tar({"x": b"of nobody"}), making.gzipped(image(b"of nobody"))[0]):
            info = tarfile.TarInfo(f"stray{len(data)}/layer.tar")
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
    return buffer.getvalue()


def test_odd_members_of_an_archive_do_no_harm(store: BackupStore) -> None:
    """Hard links lead to layers; folders, devices and layers of other images are passed over and not kept."""
    img = small_image()
    with store.draft("b1") as draft:
        manifest = draft.add_image(pieces(odd_members(img)), layers=img.diff_ids)
        draft.commit(making.backup_of("b1", [making.snapshot("web", img, manifest)]))
    store.verify("b1")
    assert {"sha256:" + path.name for path in making.blob_files(store)} == making.blobs_of(store.path, "b1")


def test_an_archive_full_of_json_is_refused(store: BackupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive with more JSON than memory should hold is an error, not a full memory."""
    monkeypatch.setattr("docker_rollback._store.image_import._MAX_TEXTS", 100)
    img = small_image()
    with store.draft("b1") as draft, pytest.raises(EngineError):
        draft.add_image(pieces(making.oci_plain(img)), layers=img.diff_ids)


def test_a_first_backup_beside_a_look_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for the list just before another process makes the store finds an empty list, or that backup's."""
    looked = layout.Layout._has_blobs

    def made_meanwhile(self: layout.Layout) -> bool:
        monkeypatch.setattr(layout.Layout, "_has_blobs", looked)
        self.create()
        (self.blobs.folder / ("0" * 64)).touch()
        return looked(self)

    monkeypatch.setattr(layout.Layout, "_has_blobs", made_meanwhile)
    assert BackupStore(tmp_path / "store").list() == []


def test_a_left_over_file_that_cannot_be_removed_is_an_error_of_ours(tmp_path: Path) -> None:
    """What a dead writer of the list left is swept by a prune; where the disk refuses, the store's error names it."""
    store = BackupStore(tmp_path / "store")
    making.save(store, "b1")
    left = store.path / ".index.json.0123456789abcdef.tmp"
    left.write_bytes(b"{")

    class Refusing(Disk):
        def remove(self, path: Path) -> None:
            if path == left:
                raise OSError(errno.EIO, "the disk says no")
            super().remove(path)

    with pytest.raises(StoreError, match=re.escape(str(left))):
        BackupStore(store.path, disk=Refusing()).prune()
    store.prune()
    assert not left.exists()


def test_a_blob_that_is_cut_short_while_it_is_read_is_damaged(tmp_path: Path) -> None:
    """It had its size when it was opened, so only reading it tells."""
    store = BackupStore(tmp_path / "store")
    making.save(store, "b1")
    with store.draft("b2") as draft, draft.blob("x/y") as writer:
        writer.write(bytes(4 * CHUNK))
        blob = writer.close()
        pieces = store.open_blob(blob)
        next(pieces)
        os.truncate(store.path / "blobs" / "sha256" / blob.digest[7:], 3 * CHUNK)
        with pytest.raises(CorruptBackupError, match="truncated"):
            list(pieces)


def test_a_blob_that_the_disk_does_not_read_is_damaged(store: BackupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the blob and says why; the file is closed."""
    blob = making.save(store, "b1").volumes[0].base
    path = store.path / "blobs" / "sha256" / blob.digest[7:]

    def read(fd: int, size: int) -> bytes:
        if Path(f"/proc/self/fd/{fd}").readlink() == path:
            raise OSError(errno.EIO, "the disk says no")
        return system_read(fd, size)

    system_read = os.read
    monkeypatch.setattr(os, "read", read)
    with pytest.raises(CorruptBackupError, match=r"it cannot be read \(the disk says no\)") as caught:
        list(store.open_blob(blob))
    assert caught.value.blob == blob.digest
    assert path not in [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]


def test_an_archive_whose_index_is_a_folder_is_no_backup(store: BackupStore, tmp_path: Path) -> None:
    """It is refused as damaged, and nothing is taken in."""
    path = tmp_path / "b1.tar"
    with tarfile.open(path, "w") as archive:
        folder = tarfile.TarInfo("docker-rollback.json")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    with pytest.raises(CorruptBackupError, match="or a folder") as caught:
        store.import_(path)
    assert (caught.value.path, caught.value.blob) == (str(path), "docker-rollback.json")
    assert store.ids() == []
