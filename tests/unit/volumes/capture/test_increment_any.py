"""Any tree, and anything that happens to it between base and increment."""

from __future__ import annotations

import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from docker_rollback._volumes.capture import base
from tests.unit.volumes.awkward import ACCESS, SECOND
from tests.unit.volumes.live import capture, check, let_age

NAMES = ("a", "b", "c")
PATHS = [
    *NAMES,
    *(f"{one}/{two}" for one in NAMES for two in NAMES),
    *(f"{one}/{two}/{three}" for one in NAMES for two in NAMES for three in NAMES),
]
PATH = st.sampled_from(PATHS)
"""Few names, so that what is done meets what was done before."""

Deed = Callable[[Path, Path, int], object]
"""Something that is done to two paths, by a number."""


def write(one: Path, _: Path, number: int) -> None:
    """Make a file, over one that is there."""
    one.write_bytes(random.Random(number).randbytes(number % 3000))


def write_in_place(one: Path, _: Path, number: int) -> None:
    """Change a byte of a file."""
    with one.open("r+b") as file:
        file.seek(number % 3000)
        file.write(b"%d" % number)


def replace(one: Path, _: Path, number: int) -> None:
    """Write a file beside another one and put it in its place, as careful programs do."""
    beside = one.with_name("beside")
    beside.write_bytes(b"%d" % number)
    beside.replace(one)


def remove(one: Path, _: Path, __: int) -> None:
    """Remove whatever is there, with all below it."""
    if one.is_dir() and not one.is_symlink():
        shutil.rmtree(one)
    else:
        one.unlink()


def swap(one: Path, other: Path, _: int) -> None:
    """Exchange two names."""
    spare = one.with_name("spare")
    one.rename(spare)
    try:
        other.rename(one)
    finally:
        spare.rename(other if not os.path.lexists(other) else one)


def grow(one: Path, _: Path, number: int) -> None:
    """Give a file a hole, or a longer one."""
    with one.open("ab") as file:
        file.truncate(file.tell() + (number + 1) * 4096)


def set_times(one: Path, _: Path, number: int) -> None:
    """Set a file's times back, as ``touch -d`` does."""
    moment = number * 12_345_678_901 % (1_600_000_000 * SECOND)
    os.utime(one, ns=(moment, moment), follow_symlinks=False)


def chmod(one: Path, _: Path, number: int) -> None:
    """Change a mode and nothing else."""
    one.chmod(0o600 | number % 0o177)


def set_attribute(one: Path, _: Path, number: int) -> None:
    """Set an attribute, and nothing else."""
    os.setxattr(one, ("user.a", "user.b", "trusted.c")[number % 3], b"%d" % number, follow_symlinks=False)


def take_attribute(one: Path, _: Path, number: int) -> None:
    """Take an attribute off."""
    os.removexattr(one, ("user.a", "user.b", "trusted.c")[number % 3], follow_symlinks=False)


def set_acl(one: Path, _: Path, __: int) -> None:
    """Set an ACL, and nothing else."""
    os.setxattr(one, "system.posix_acl_access", ACCESS)


def link(one: Path, other: Path, _: int) -> None:
    """Give a file or a link one more name; GNU tar takes two names of a FIFO or a device for two of them."""
    if stat.S_ISREG(one.lstat().st_mode) or one.is_symlink():
        other.hardlink_to(one)


CONTENT: tuple[Deed, ...] = (write, write_in_place, replace, grow)
"""Those that write to files."""

DEEDS: tuple[Deed, ...] = (
    write,
    write_in_place,
    replace,
    remove,
    swap,
    grow,
    set_times,
    chmod,
    set_attribute,
    take_attribute,
    set_acl,
    lambda one, _, __: one.mkdir(),
    lambda one, _, __: one.mkdir(parents=True),
    lambda one, other, _: one.rename(other),
    link,
    lambda one, other, _: one.symlink_to(other),
    lambda one, _, __: os.mkfifo(one),
    lambda one, _, __: os.mknod(one, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    lambda one, _, number: os.chown(one, number, number + 1, follow_symlinks=False),
)

HISTORY = st.lists(st.tuples(st.sampled_from(DEEDS), PATH, PATH, st.integers(0, 10_000)), max_size=30)


def do(root: Path, history: Sequence[tuple[Deed, str, str, int]]) -> None:
    """Do what can be done of a history; what cannot, such as a write to what is not there, is passed over."""
    for deed, one, other, number in history:
        if deed in CONTENT and (root / one).exists() and not (root / one).is_file():
            continue  # a FIFO waits for its reader
        try:
            deed(root / one, root / other, number)
        except OSError:
            continue


@pytest.mark.usefixtures("exact")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=HISTORY, after=HISTORY)
def test_base_and_increment_are_what_was_there(
    field: Path, before: Sequence[tuple[Deed, str, str, int]], after: Sequence[tuple[Deed, str, str, int]]
) -> None:
    """Whatever a tree was, and whatever was done to it, both archives give what was there at rest, and nothing else."""
    with tempfile.TemporaryDirectory(dir=field, ignore_cleanup_errors=True) as folder:
        root = Path(folder, "root")
        root.mkdir()
        (root / "kept").mkdir()
        (root / "kept/old").write_text("older than the base, and never touched")
        for name in PATHS[3:12]:
            (root / name / "c").mkdir(parents=True)
            (root / name / "b").write_text(name)
        do(root, before)
        let_age(root)
        taken = capture(root, lambda: do(root, after))
        event("by increment" if taken.incremental else "whole")
        if taken.incremental:
            assert b"never touched" not in taken.tars[1]
        check(root, taken)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an increment take what is a moment old, not seconds, so that a test has something that is older."""
    monkeypatch.setattr(base, "MARGIN", 0.02)
