"""Files of this machine that are read whole, and written back as they were."""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from pathlib import Path

import pytest
from attrs import evolve

from docker_rollback._host import read_file, write_back
from docker_rollback._host.files import LARGEST


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a file with a mode of its own."""
    path = tmp_path / "docker-compose.yml"
    path.write_bytes(b"old\n")
    path.chmod(0o640)
    return path


def test_a_changed_file_is_as_it_was(path: Path) -> None:
    """Its content, its mode and its owner; nothing else is left in the folder."""
    kept = read_file(str(path))
    assert (kept.content, kept.mode) == (b"old\n", 0o640)
    path.unlink()
    path.write_bytes(b"new and longer\n")
    assert write_back(kept)
    assert path.read_bytes() == b"old\n"
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, kept.uid, kept.gid)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("change", ["mode", "longer", "gone"])
def test_every_change_is_undone(path: Path, change: str) -> None:
    """Even of the mode alone, of a file that begins the same, and of a file that is gone."""
    kept = read_file(str(path))
    if change == "mode":
        path.chmod(0o600)
    elif change == "longer":
        path.write_bytes(b"old\nand more\n")
    else:
        path.unlink()
    assert write_back(kept)
    assert read_file(str(path)) == kept


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")
def test_the_owner_comes_back_with_all_bits_of_the_mode(path: Path) -> None:
    """A change of the owner clears the bits of set-id, so the mode is set last."""
    os.chown(path, 12, 34)
    path.chmod(0o6750)
    kept = read_file(str(path))
    os.chown(path, 0, 0)
    assert write_back(kept)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12, 34, 0o6750)


def test_an_equal_file_is_left_alone(path: Path) -> None:
    """It stays the same file, with its times."""
    kept, before = read_file(str(path)), path.stat()
    assert not write_back(kept)
    assert path.stat() == before


def test_a_link_is_followed_to_its_file(path: Path, tmp_path: Path) -> None:
    """The file that it led to is what is written back, and the link stays."""
    link = tmp_path / "current"
    link.symlink_to(path.name)
    kept = read_file(str(link))
    assert (kept.path, kept.target) == (str(link), str(path.resolve()))
    path.write_bytes(b"new\n")
    assert write_back(kept)
    assert link.is_symlink()
    assert path.read_bytes() == b"old\n"


def test_a_link_in_the_place_of_the_file_is_replaced(path: Path, tmp_path: Path) -> None:
    """What it leads to is not touched."""
    kept, other = read_file(str(path)), tmp_path / "other"
    other.write_bytes(b"other\n")
    path.unlink()
    path.symlink_to(other)
    assert write_back(kept)
    assert not path.is_symlink()
    assert path.read_bytes() == b"old\n"
    assert other.read_bytes() == b"other\n"


@pytest.mark.parametrize("become", ["a link", "gone"])
def test_a_folder_that_is_another_one_is_not_written_to(tmp_path: Path, become: str) -> None:
    """A link in the place of a folder of the path leads out, and is not followed."""
    folder, other = tmp_path / "project", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (folder / "file").write_bytes(b"old\n")
    kept = read_file(str(folder / "file"))
    folder.rename(tmp_path / "away")
    if become == "a link":
        folder.symlink_to(other)
    with pytest.raises(FileNotFoundError):
        write_back(kept)
    assert list(other.iterdir()) == []


def test_a_failed_write_leaves_the_file_and_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader finds the whole new file or the whole old one."""
    kept = read_file(str(path))
    path.write_bytes(b"new\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_back(kept)
    assert path.read_bytes() == b"new\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_too_large_is_refused(path: Path) -> None:
    """The largest one is not."""
    path.write_bytes(bytes(LARGEST))
    assert len(read_file(str(path)).content) == LARGEST
    path.write_bytes(bytes(LARGEST + 1))
    with pytest.raises(OSError, match="larger than 1048576 bytes"):
        read_file(str(path))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A FIFO would block, and a folder has no content."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, tmp_path / "missing"):
        with pytest.raises(OSError, match=r"not a regular file|directory"):
            read_file(str(path))


@pytest.mark.parametrize("target", ["relative", "/", "/tmp/..", ""])
def test_a_record_with_a_strange_path_is_not_written(path: Path, target: str) -> None:
    """A record may come from elsewhere."""
    with pytest.raises(OSError, match="its path is not absolute"):
        write_back(evolve(read_file(str(path)), target=target))


def test_a_record_with_a_strange_content_is_not_written(path: Path) -> None:
    """What is no base64 is an error, and the file stays."""
    kept = evolve(read_file(str(path)), base64=b64encode(b"new").decode() + "!")
    with pytest.raises(ValueError, match="base64"):
        write_back(kept)
    assert path.read_bytes() == b"old\n"
