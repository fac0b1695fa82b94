"""The attributes of a folder that is filled and not made: what the archive lacks goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from docker_rollback._engine.port import Finished
from docker_rollback._host.tree import Tree
from docker_rollback._volumes.fill.volume_root import drop_attributes, drop_foreign_attributes
from docker_rollback.errors import ArchiveError
from tests.unit.volumes.live import reach_of, run


class Says:
    """A program that prints something, and ends in some way."""

    def __init__(self, printed: bytes, finished: Finished) -> None:
        self._printed = [printed]
        self._finished = finished

    def __enter__(self) -> Says:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def read(self, _: int, /) -> bytes:
        """Return what it prints."""
        return self._printed.pop() if self._printed else b""

    def finish(self) -> Finished:
        """Say how it ended."""
        return self._finished


@pytest.fixture
def root(field: Path) -> Path:
    """Give a folder with two attributes, in which there is another one with two."""
    for folder in (field / "root", field / "root" / "sub"):
        folder.mkdir()
        for name in ("user.kept", "user.strange"):
            os.setxattr(folder, name, folder.name.encode())
    return field / "root"


@pytest.mark.parametrize("folder", [".", "sub"])
def test_attributes_that_the_archive_lacks_are_removed(root: Path, folder: str) -> None:
    """Of the folder that is meant, and of no other one."""
    drop_attributes(reach_of(root), keep=["user.kept"], folder=folder)
    left = {name: sorted(os.listxattr(root / name)) for name in (".", "sub")}
    assert left.pop(folder) == ["user.kept"]
    assert list(left.values()) == [["user.kept", "user.strange"]]


@pytest.mark.parametrize(("folder", "where"), [(".", "its root"), ("sub", "sub")])
def test_by_a_helper_without_the_program_the_log_names_the_attribute(
    root: Path, caplog: pytest.LogCaptureFixture, folder: str, where: str
) -> None:
    """By one that has it, the attribute goes, and nothing is said."""
    asked: list[Sequence[str]] = []

    def helping(words: Sequence[str], /, *, stdin: bool = False) -> Any:
        if words[0] == "tar":
            return run(words, stdin=stdin)
        asked.append(words)
        return Says(b"", Finished(127 if len(asked) == 1 else 0, ""))

    reach = evolve(reach_of(root), way="helper", tree=None, run=helping)
    drop_attributes(reach, keep=["user.kept"], folder=folder)
    path = str(root) if folder == "." else f"{root}/{folder}"
    assert asked == [("setfattr", "--remove=user.strange", path)]
    assert f"volume vol: {where} keeps the attribute user.strange, which it did not have" in caplog.text
    caplog.clear()
    drop_attributes(reach, keep=["user.kept"], folder=folder)
    assert len(asked) == 2
    assert caplog.text == ""


@pytest.mark.parametrize("program", ["tar", "setfattr"])
def test_a_program_that_was_killed_is_an_error(root: Path, program: str) -> None:
    """What it did not do is unknown."""

    def helping(words: Sequence[str], /, *, stdin: bool = False) -> Any:
        return Says(b"", Finished(137, "")) if words[0] == program else run(words, stdin=stdin)

    with pytest.raises(ArchiveError, match=f"{program}"):
        drop_attributes(evolve(reach_of(root), tree=None, run=helping), keep=())


def test_attributes_that_tar_has_words_for_stay(root: Path) -> None:
    """Access lists are tar's business, and labels follow a policy."""
    # An ACL with one more entry: user 1000 may read.
    entries = ((1, 7, -1), (2, 4, 1000), (4, 5, -1), (16, 5, -1), (32, 5, -1))
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + mode.to_bytes(2, "little") + (owner & 0xFFFFFFFF).to_bytes(4, "little")
        for tag, mode, owner in entries
    )
    os.setxattr(root, "system.posix_acl_access", acl)
    drop_attributes(reach_of(root), keep=())
    assert os.listxattr(root) == ["system.posix_acl_access"]
    os.setxattr(root, "user.kept", b"")
    os.setxattr(root, "user.strange", b"")
    with Tree.at(root) as tree:
        drop_foreign_attributes(tree, b".", keep=[b"user.kept"])
    assert sorted(os.listxattr(root)) == ["system.posix_acl_access", "user.kept"]


def test_a_folder_that_was_replaced_meanwhile_is_left_alone(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It comes from the archive, as a new one: a link in its place is not followed."""

    def replacing(words: Sequence[str], /, *, stdin: bool = False) -> Any:
        with run(words, stdin=stdin) as process:
            printed = b"".join(iter(lambda: process.read(1 << 16), b""))
            finished = process.finish()
        (root / "sub").rename(root / "moved")
        (root / "sub").symlink_to("moved")
        return Says(printed, finished)

    drop_attributes(evolve(reach_of(root), run=replacing), keep=(), folder="sub")
    assert sorted(os.listxattr(root / "moved")) == ["user.kept", "user.strange"]
    assert caplog.text == ""
