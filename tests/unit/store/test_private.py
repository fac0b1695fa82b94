"""A backup holds secrets: who may read it, and where its secrets must not appear."""

from __future__ import annotations

import io
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from docker_rollback._store.store import BackupStore
from docker_rollback.errors import StoreError, StoreFullError, StoreNotWritableError
from tests.unit.store import making
from tests.unit.store.making import read_tar

SECRET = "hunter2"


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run under this umask."""
    old = os.umask(request.param)
    yield
    os.umask(old)


@pytest.mark.usefixtures("umask")
def test_modes_are_private_whatever_the_umask(tmp_path: Path) -> None:
    """Every folder of a store is 0700 and every file 0600, the folders above it that it had to make included."""
    store = BackupStore(tmp_path / "new" / "deeper" / "store")
    making.save(store, "b1")
    store.hold("b1", "rollback-1", "why")
    with (
        store.lock("c0ffee", container="web"),
        store.using("b1"),
        store.draft("b2") as draft,
        draft.blob("x/y") as first,
        draft.blob("x/y") as second,
    ):
        first.write(b"finished")
        first.close()
        second.write(b"unfinished")
        found = {path: path.stat().st_mode for path in ((tmp_path / "new"), *(tmp_path / "new").rglob("*"))}
    assert len(found) > 25
    assert {"pins", "lock", "2.blob", "reserve", "store.lock", "b1.rollback-1"} <= {path.name for path in found}
    for path, mode in found.items():
        assert stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600), path


def test_a_store_open_to_others_draws_a_warning(store: BackupStore, caplog: pytest.LogCaptureFixture) -> None:
    """A store whose folder others may read is used, with a warning that says what to do; a private one draws none."""
    store.check()
    assert caplog.records == []
    store.path.chmod(0o755)
    store.check()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "chmod 700" in caplog.text
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_store_of_another_user_draws_a_warning(store: BackupStore, caplog: pytest.LogCaptureFixture) -> None:
    """A store that belongs to somebody else is used, with a warning."""
    store.check()
    os.chown(store.path, 12345, 12345)
    store.check()
    assert "belongs to another user (12345)" in caplog.text


def test_no_secret_is_where_others_look(store: BackupStore, caplog: pytest.LogCaptureFixture) -> None:
    """A container's secret is in its backup's record and its image's config, and in no name, index, lock or log."""
    caplog.set_level(logging.DEBUG)
    img = making.image(b"x", label=SECRET)
    making.save(store, "b1", img=img)
    store.hold("b1", "rollback-1", "why")
    with store.lock("c0ffee", container="web"):
        files = making.tree(store.path)
    assert SECRET not in " ".join(files)
    holders = {name for name, data in files.items() if SECRET.encode() in data}
    record = next(name for name, data in files.items() if b'"format":1' in data)
    assert holders == {record, "blobs/sha256/" + making.digest(img.config)[7:]}
    buffer = io.BytesIO()
    store.export("b1", buffer)
    store.verify("b1")
    store.prune(keep=1)
    archive = read_tar(buffer.getvalue())
    assert {name for name, data in archive.items() if SECRET.encode() in data} == holders
    assert SECRET not in caplog.text


def test_errors_of_a_damaged_record_show_no_secret(store: BackupStore, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever byte of a record is wrong, no error or warning shows what stands in it."""
    making.save(store, "b1")
    path = next(found for found in making.blob_files(store) if b'"format":1' in found.read_bytes())
    sound = path.read_bytes()
    for place in range(0, len(sound), 37):
        path.write_bytes(sound[:place] + b"\0" + sound[place + 1 :])
        with pytest.raises(StoreError) as caught:
            store.verify("b1")
        assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
        store.list()
    assert SECRET not in caplog.text


@pytest.fixture
def read_only() -> Iterator[BackupStore]:
    """Give a store with one backup that only its owner may write, with modes that let everybody read it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        store = BackupStore(Path(folder) / "store")
        making.save(store, "b1")
        files = [store.path, *store.path.rglob("*")]
        for path in files:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield store
        for path in files:
            path.chmod(0o700)


@contextmanager
def another_user() -> Iterator[None]:
    """Be no longer root for the time of a block, where this process is root; pytest's own work is done as before."""
    if os.getuid() != 0:
        yield
        return
    os.setegid(54321)
    os.seteuid(54321)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@another_user()
def test_a_store_that_may_only_be_read_is_read(read_only: BackupStore) -> None:
    """Listing, verifying, reading and exporting need no right to write."""
    assert [backup.id for backup in read_only.list()] == ["b1"]
    read_only.verify("b1")
    buffer = io.BytesIO()
    read_only.export("b1", buffer)
    assert read_tar(buffer.getvalue())


@another_user()
def test_a_store_that_may_not_be_written_says_so(read_only: BackupStore) -> None:
    """Whatever would write is a `StoreNotWritableError`."""
    for call in (read_only.check, lambda: read_only.delete("b1"), lambda: read_only.prune(keep=0)):
        with pytest.raises(StoreNotWritableError):
            call()
    with pytest.raises(StoreNotWritableError), read_only.draft("b2"):
        pass
    with pytest.raises(StoreNotWritableError), read_only.lock("c0ffee", container="web"):
        pass
    with pytest.raises(StoreNotWritableError):
        BackupStore(read_only.path / "within").check()


def test_check_makes_the_layout_and_asks_for_room(store: BackupStore) -> None:
    """A check leaves a store that can be written, and refuses a backup that there is no room for."""
    store.check()
    assert {path.name for path in store.path.iterdir()} >= {"oci-layout", "index.json", "blobs"}
    assert list((store.path / "drafts").iterdir()) == []
    store.check(room=1)
    with pytest.raises(StoreFullError, match="are free") as caught:
        store.check(room=1 << 60)
    assert caught.value.needed == 1 << 60
    assert caught.value.free is not None
    assert 0 < caught.value.free < 1 << 60


def test_a_file_in_the_way_is_an_error_of_ours(tmp_path: Path) -> None:
    """A path that is a file, or lies below one, is a `StoreError`."""
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(StoreError):
            BackupStore(path).check()
