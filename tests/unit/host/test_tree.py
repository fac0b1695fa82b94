"""Files below a folder: no link leads out of it, even one that is swapped in meanwhile; with and without `openat2`."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_rollback._host import tree
from docker_rollback._host.tree import NotAFileError, Tree
from tests.racing import Swapping, exchange

needs_openat2 = pytest.mark.skipif(not tree.has_openat2(), reason="the kernel has no openat2")


@pytest.fixture(params=[pytest.param("openat2", marks=needs_openat2), "part by part"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have each test run with the kernel's own call, and without it."""
    if request.param != "openat2":
        monkeypatch.setattr(tree, "has_openat2", lambda: False)
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a folder with a file in it, next to a secret, and every kind of link to that."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("secret")
    made = tmp_path / "root"
    (made / "sub" / "deeper").mkdir(parents=True)
    (made / "sub" / "file").write_text("inside")
    (made / "sub" / "deeper" / "file").write_text("inside")
    for name, target in LINKS.items():
        (made / name).symlink_to(target.format(outside=outside))
    return made


LINKS = {
    "absolute": "{outside}",
    "climbing": "../outside",
    "climbing-far": "../../../../../../..{outside}",
    "to-root": "/",
    "to-itself": ".",
    "within": "sub",
    "through-proc": "/proc/self/root{outside}",
    "through-cwd": "/proc/self/cwd",
}


def _read(tree: Tree, path: bytes) -> bytes:
    with tree.reading(path) as file:
        return os.read(file, 100)


ACTIONS: dict[str, Callable[[Tree, bytes], object]] = {
    "status": Tree.status,
    "names": lambda tree, path: tree.names(os.path.dirname(path)),  # noqa: PTH120 - of bytes
    "target": Tree.target,
    "attributes": Tree.attributes,
    "reading": _read,
    "unlink": Tree.unlink,
    "below": lambda tree, path: tree.below(os.path.dirname(path)),  # noqa: PTH120
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("link", LINKS)
def test_no_link_is_followed(root: Path, link: str, action: str) -> None:
    """A path with a link on its way leads to nothing, for every method."""
    with Tree.at(root) as tree, pytest.raises(FileNotFoundError):
        ACTIONS[action](tree, f"./{link}/file".encode())
    assert (root.parent / "outside" / "file").read_text() == "secret"


@pytest.mark.parametrize("path", [b"..", b"sub/../../outside/file", b"./..", b"/etc/passwd", b"sub/\0/file"])
def test_a_path_that_does_not_stay_below_is_refused(root: Path, path: bytes) -> None:
    """Absolute paths and those with dots that climb are errors, not files that are missing."""
    with Tree.at(root) as tree, pytest.raises(OSError, match="not a path below a folder"):
        _read(tree, path)
    with Tree.at(root) as tree, pytest.raises(OSError, match="not a path below a folder"):
        tree.status(path)


def test_a_link_itself_can_be_looked_at(root: Path) -> None:
    """Its kind and its target are told; it cannot be opened to be read."""
    with Tree.at(root) as tree:
        assert stat.S_ISLNK(tree.status(b"./to-root").st_mode)
        assert stat.S_ISLNK(tree.status(b"to-root").st_mode)
        assert tree.target(b"./to-root") == b"/"
        assert not tree.is_folder(b"./to-root")
        with pytest.raises(NotAFileError):
            _read(tree, b"./to-root")


def test_files_and_folders_are_what_they_are(root: Path) -> None:
    """Contents, names, kinds and attributes are those of the file itself."""
    with Tree.at(root) as tree:
        assert _read(tree, b"./sub/file") == b"inside"
        assert sorted(tree.names(b"sub")) == [b"deeper", b"file"]
        assert tree.is_folder(b"./sub/deeper")
        assert not tree.is_folder(b"./sub/file")
        assert not tree.is_folder(b"./sub/file/on")
        assert tree.attributes(b"./sub/file") == {}
        assert tree.below(b"sub").identity == ((found := (root / "sub").stat()).st_dev, found.st_ino)
        assert set(tree.walk()) == {
            b".",
            b"./sub",
            b"./sub/file",
            b"./sub/deeper",
            b"./sub/deeper/file",
            *(f"./{link}".encode() for link in LINKS),
        }
        tree.unlink(b"./sub/file")
        with pytest.raises(IsADirectoryError):
            tree.unlink(b"./sub/deeper")
        assert tree.names(b"./sub") == [b"deeper"]


def test_what_could_wait_or_do_something_is_not_opened(root: Path) -> None:
    """A FIFO without a writer is told apart before it is opened."""
    os.mkfifo(root / "fifo")
    with Tree.at(root) as tree, pytest.raises(NotAFileError):
        _read(tree, b"./fifo")


def test_a_path_longer_than_the_kernel_takes_leads_where_it_should(root: Path) -> None:
    """Part by part, a path of any length is reached, walked and removed."""
    folder = os.open(root, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 100, dir_fd=folder)
        folder, above = os.open("d" * 100, os.O_RDONLY, dir_fd=folder), folder
        os.close(above)
    os.close(os.open("end", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    path = b"/".join([b"d" * 100] * 60)
    with Tree.at(root) as tree:
        assert tree.names(path) == [b"end"]
        assert b"./" + path + b"/end" in set(tree.walk())
        tree.unlink(path + b"/end")
        assert tree.names(path) == []
        # So that the folder itself can be removed by those who go by paths.
        for length in range(60, 0, -1):
            with tree.below(b"/".join([b"d" * 100] * (length - 1)) or b".") as above_it:
                os.rmdir(b"d" * 100, dir_fd=above_it.descriptor)


def test_a_folder_is_closed_with_its_block(root: Path) -> None:
    """Its descriptor does not outlive it, nor the object where nobody closes it."""
    with Tree.at(root) as tree:
        number = tree.descriptor
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    number = Tree.at(root).descriptor
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_program_without_a_standard_input_reads_files_too(root: Path) -> None:
    """The first file that it opens has the number 0."""
    kept = os.dup(0)
    try:
        with Tree.at(root) as tree:
            os.close(0)
            assert sorted(tree.names(b"sub")) == [b"deeper", b"file"]
            assert _read(tree, b"./sub/file") == b"inside"
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_a_folder_that_changes_into_a_link_and_back_leads_nowhere(root: Path) -> None:
    """While somebody swaps a folder for a link to a secret, all that is ever read is the folder's own file."""
    (root / "link").symlink_to(root.parent / "outside")
    seen = set()
    with Swapping(root / "sub", root / "link") as swapping, Tree.at(root) as tree:
        while swapping.count < 2_000:
            for action in (_read, Tree.status):
                with contextlib.suppress(FileNotFoundError):
                    found = action(tree, b"./sub/file")
                    seen.add(found if isinstance(found, bytes) else found.st_ino)
    real = root / "sub" if (root / "sub" / "deeper").exists() else root / "link"
    assert seen <= {b"inside", (real / "file").stat().st_ino}


def test_nothing_is_removed_behind_a_link(root: Path) -> None:
    """While somebody swaps a folder for a link, the file behind the link is never removed."""
    victim = root.parent / "outside" / "file"
    (root / "link").symlink_to(victim.parent)
    with Swapping(root / "sub", root / "link") as swapping, Tree.at(root) as tree:
        while swapping.count < 2_000:
            with contextlib.suppress(FileNotFoundError):
                tree.unlink(b"./sub/file")
    assert victim.read_text() == "secret"


NAMES = st.sampled_from(["a", "b", "c"])
TARGETS = st.sampled_from(["a", "b/c", "..", "../..", "/", ".", "../outside", "/proc/self/root", "../root/a"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@contextlib.contextmanager
def _tree_of(made: list[tuple[str, str | None]]) -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        root, outside = Path(folder, "root"), Path(folder, "outside")
        for place in (root, outside):
            place.mkdir()
        for name in ("a", "b", "c"):
            (outside / name).write_text("secret")
        for path, target in made:
            place = root / path
            with contextlib.suppress(OSError):
                if any(parent.is_symlink() for parent in place.parents):
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(target) if target is not None else place.write_text("inside")
        yield root, outside


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.lists(st.tuples(PATHS, st.none() | TARGETS), max_size=8), asked=PATHS)
def test_in_any_tree_a_path_leads_to_the_file_itself_or_nowhere(made: list[tuple[str, str | None]], asked: str) -> None:
    """What a path leads to is what one finds who looks at each part of it and follows none."""
    with _tree_of(made) as (root, _), Tree.at(root) as tree:
        place = root / asked
        on_the_way = [root.joinpath(*Path(asked).parts[:end]) for end in range(1, len(Path(asked).parts))]
        leads = all(one.is_dir() and not one.is_symlink() for one in on_the_way) and os.path.lexists(place)
        try:
            found: int | None = tree.status(asked.encode()).st_ino
        except FileNotFoundError:
            found = None
        assert found == (place.lstat().st_ino if leads else None)
        with contextlib.suppress(OSError):
            assert _read(tree, asked.encode()) != b"secret"


def test_two_names_are_exchanged_at_once(tmp_path: Path) -> None:
    """The attacker of these tests itself works."""
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").mkdir()
    exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").is_dir()
    assert (tmp_path / "b").read_text() == "a"
