"""Temporary folders outside of a store: a dead process's goes, a living one's and everybody else's stays."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from docker_rollback import BackupStore, recover
from docker_rollback._volumes.access.scratch import remove_dead_scratch, scratch_folder
from tests.unit.shop import Shop

HOLD = """
import sys
from docker_rollback._volumes.access.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "inner").mkdir()
    (folder / "inner" / "snapshot").write_text("names")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty folder to be the one for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_a_folder_is_gone_after_its_block(temporary: Path) -> None:
    """With all that is in it, also after an error."""
    with pytest.raises(KeyError), scratch_folder() as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").touch()
        assert folder.parent == temporary
        raise KeyError
    assert list(temporary.iterdir()) == []


def test_recovery_removes_the_folder_of_a_killed_process_and_no_living_ones(temporary: Path, tmp_path: Path) -> None:
    """The kernel tells the two apart."""
    shop = Shop(BackupStore(tmp_path / "store"))
    shop.store.check()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        recover(client=shop.engine, store=shop.store)
        assert (folder / "inner" / "snapshot").exists()
        process.kill()
    assert folder.exists()
    recover(client=shop.engine, store=shop.store)
    assert list(temporary.iterdir()) == []


def test_what_is_not_ours_stays(temporary: Path, tmp_path: Path) -> None:
    """A folder of another name, or that others may enter, a link to a folder, and a file are somebody else's."""
    (temporary / "docker-rollback-of-the-user").mkdir(mode=0o700)
    (temporary / ".docker-rollback-scratch-0000open").mkdir(mode=0o755)
    (temporary / ".docker-rollback-scratch-0000file").touch()
    aim = tmp_path / "aim"
    aim.mkdir(mode=0o700)
    (aim / "file").touch()
    (temporary / ".docker-rollback-scratch-0000link").symlink_to(aim)
    remove_dead_scratch()
    assert len(list(temporary.iterdir())) == 4
    assert (aim / "file").exists()


def test_a_folder_is_never_taken_from_one_who_has_it(temporary: Path) -> None:
    """Somebody clears again and again while folders are made: each is there for the time of its block."""
    ended = threading.Event()

    def clear() -> None:
        while not ended.is_set():
            remove_dead_scratch()

    thread = threading.Thread(target=clear)
    thread.start()
    try:
        for _ in range(300):
            with scratch_folder() as folder:
                (folder / "file").touch()
                assert (folder / "file").exists()
    finally:
        ended.set()
        thread.join()
    remove_dead_scratch()
    assert list(temporary.iterdir()) == []
