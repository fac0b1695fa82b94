"""What is excluded is in no archive, and a restore neither removes nor overwrites it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from attrs import evolve, frozen
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from docker_rollback._engine.port import Process
from docker_rollback._host.tree import Tree
from docker_rollback._model.backup import Way
from docker_rollback._model.exclude import Paths
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.capture import base
from docker_rollback._volumes.capture.hash_set import Hashes
from docker_rollback._volumes.capture.seen_files import Held
from docker_rollback._volumes.fill.excluded_paths import KeptPaths
from docker_rollback._volumes.fill.filling import Filling
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.members import Member, Members
from docker_rollback.errors import ArchiveError
from tests.unit.volumes.capture.test_increment_any import HISTORY, Deed, do, set_attribute
from tests.unit.volumes.comparing import Node, differences, picture
from tests.unit.volumes.live import Taken, capture, let_age, reach_of, run

WAYS: tuple[Way, ...] = ("direct", "helper")
EXCLUDED = ("cache", "tmp/*.log", "odd [name]\\\n")


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an increment take what is a moment old, not seconds, so that a test has something that is older."""
    monkeypatch.setattr(base, "MARGIN", 0.02)


def run_in_helper(words: Sequence[str], /, *, stdin: bool = False) -> Process:
    """Start a program as a helper does: where it has none of that name, it ends with 127."""
    return run(("sh", "-c", 'exec "$@"', "sh", *words), stdin=stdin)


@frozen
class Volume:
    """A folder, a store beside it, and its archive."""

    root: Path
    store: BackupStore
    taken: Taken

    def fill(self, way: Way = "direct") -> None:
        """Fill the folder as a restore by that way does."""
        reach = evolve(
            reach_of(self.root),
            way=way,
            run=run if way == "direct" else run_in_helper,
            tree=Tree.at(self.root) if way == "direct" else None,
        )
        assert Filling(reach, self.taken.archive, self.store, None).fill() > 0


def names_in(archive: bytes) -> Hashes:
    """Return the hashed paths of all that an archive holds but directories."""
    held = Held()
    for member in Members().feed(archive):
        held.see(member)
    return held.names


def make(folder: Path, excluded: Sequence[str] = EXCLUDED) -> Volume:
    """Make a folder with something of everything, and archive it."""
    root, store = folder / "root", BackupStore(folder / "store")
    for name in ("cache/deep", "tmp", "kept", "odd [name]\\\n"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text(f"before, in {name}")
    (root / "tmp/old.log").write_text("a log")
    (root / "tmp/gone.log").write_text("a log")
    os.mknod(root / "cache/socket", 0o140600)
    let_age(root)
    return Volume(root, store, capture(root, store=store, excluded=tuple(excluded)))


def update(root: Path) -> None:
    """Do what an update may do to what is excluded, and to what is not."""
    (root / "cache/deep/file").write_text("changed by the update")
    (root / "cache/new").write_text("made by the update")
    (root / "tmp/new.log").write_text("made by the update")
    (root / "tmp/old.log").write_text("changed by the update")
    (root / "tmp/gone.log").unlink()
    (root / "tmp/stray").write_text("stray")
    (root / "tmp/file").write_text("changed")
    (root / "kept/file").unlink()
    (root / "odd [name]\\\n/more").write_text("made by the update")


@pytest.mark.parametrize("way", WAYS)
def test_what_is_excluded_stays_as_the_update_left_it(field: Path, way: Way) -> None:
    """It was changed, made and removed by the update, and so it stays; everything else is as it was."""
    volume = make(field)
    root = volume.root
    before = picture(root)
    update(root)
    if way == "direct":
        # A helper needs setfattr for this, which not every machine has.
        os.setxattr(root / "tmp", "user.stray", b"1")
    left = picture(root)
    volume.fill(way)
    after = picture(root)
    paths = Paths(EXCLUDED)
    assert differences(*(only(seen, paths, excluded=True) for seen in (left, after))) == []
    assert differences(*(only(seen, paths, excluded=False) for seen in (before, after))) == []
    assert (root / "tmp/new.log").read_text() == "made by the update"
    assert not (root / "tmp/gone.log").exists()


def only(seen: dict[bytes, Node], paths: Paths, *, excluded: bool) -> dict[bytes, Node]:
    """Return what of a picture is excluded, or what is not; links between the two do not count."""
    wanted = {name: node for name, node in seen.items() if (b"./" + name[2:] in paths) == excluded}
    return {name: evolve(node, links=tuple(set(node.links) & wanted.keys())) for name, node in wanted.items()}


def test_nothing_that_is_excluded_is_archived(field: Path) -> None:
    """Neither its content nor its names below what matches; the archive says what it left out."""
    taken = make(field, (*EXCLUDED, "nothing/like*this")).taken
    for held in map(names_in, taken.tars):
        assert hash(b"./cache/deep/file") not in held
        assert hash(b"./tmp/old.log") not in held
    assert not any(b"before, in cache" in data or b"a log" in data for data in taken.tars)
    assert [(gap.what, gap.reason) for gap in taken.archive.not_covered] == [
        ("cache in volume vol", "it is excluded"),
        ("tmp/*.log in volume vol", "it is excluded"),
        ("odd [name]\\\n in volume vol", "it is excluded"),
        ("nothing/like*this in volume vol", "it is excluded; there was nothing of the kind"),
    ]


@pytest.mark.parametrize("way", WAYS)
def test_what_lost_its_folder_is_gone(field: Path, way: Way) -> None:
    """The update removed the folder with all in it: the folder comes back, and what nobody has does not."""
    volume = make(field)
    shutil.rmtree(volume.root / "tmp")
    shutil.rmtree(volume.root / "cache")
    volume.fill(way)
    assert sorted(path.name for path in volume.root.iterdir()) == ["kept", "odd [name]\\\n", "tmp"]
    assert [path.name for path in (volume.root / "tmp").iterdir()] == ["file"]


@pytest.mark.parametrize("way", WAYS)
def test_what_came_with_a_new_folder_goes_with_it(field: Path, way: Way) -> None:
    """A folder that the backup does not have is removed, whatever is in it; one that became a file is put back."""
    volume = make(field, ("*/spared", "tmp/file/x"))
    (volume.root / "new").mkdir()
    (volume.root / "new/spared").write_text("goes")
    (volume.root / "kept/spared").write_text("stays")
    (volume.root / "tmp/file").unlink()
    (volume.root / "tmp/file").mkdir()
    (volume.root / "tmp/file/x").write_text("in the way of a file")
    volume.fill(way)
    assert not (volume.root / "new").exists()
    assert (volume.root / "kept/spared").read_text() == "stays"
    assert (volume.root / "tmp/file").read_text() == "before, in tmp"


def test_another_exclusion_has_another_base(field: Path) -> None:
    """What the one left out, the other must hold; the same exclusion builds on the base that there is."""
    volume = make(field)
    archive = volume.taken.archive
    assert archive.excluded == EXCLUDED
    let_age(volume.root)
    again = capture(volume.root, store=volume.store, number=1, excluded=EXCLUDED)
    assert again.incremental
    assert not any(b"before, in cache" in data for data in again.tars)


def test_without_a_way_to_look_nothing_is_touched(field: Path) -> None:
    """Where there is no GNU find next to the volume, what is to be left alone cannot be told."""
    volume = make(field)
    before = picture(volume.root)

    def bare(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        return run(("false",) if words[0] == "find" else words, stdin=stdin)

    without = evolve(reach_of(volume.root), run=bare)
    with pytest.raises(ArchiveError, match="volume 'vol': scanning it for excluded paths, before anything is touched,"):
        Filling(without, volume.taken.archive, volume.store, None).fill()
    assert picture(volume.root) == before


PATTERN = st.lists(st.sampled_from(["a", "b", "c", "*", "?", "a*", "[a]", "?b*"]), min_size=1, max_size=3).map("/".join)


NAME = st.text("ab[]*?\\", min_size=1, max_size=3)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patterns=st.lists(PATTERN, max_size=3, unique=True), names=st.lists(NAME, max_size=4))
@example(patterns=["*"], names=["a"])
@example(patterns=["[a]"], names=["a", "[a]"])
def test_tar_leaves_out_what_we_say(field: Path, patterns: list[str], names: list[str]) -> None:
    """Whatever the patterns and the names are, tar and we match the same ones."""
    with tempfile.TemporaryDirectory(dir=field) as folder:
        root = Path(folder, "root")
        root.mkdir()
        for one in ("a", "b", "ab", *names):
            for two in ("a", "cb", *names):
                (root / one / two).mkdir(parents=True, exist_ok=True)
                (root / one / two / "c").touch()
        with run(gnu_tar.create(str(root), f"{folder}/snapshot", excluded=patterns)) as tar:
            data = b"".join(iter(partial(tar.read, 1 << 20), b""))
            assert tar.finish().exit_code == 0
        held = names_in(data)
        paths = Paths(patterns)
        for path in root.rglob("c"):
            name = b"./" + os.fsencode(path.relative_to(root))
            assert (hash(name) in held) == (name not in paths), name


History = Sequence[tuple[Deed, str, str, int]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=HISTORY,
    during=HISTORY,
    after=HISTORY,
    patterns=st.lists(st.sampled_from(["a", "b/c", "*/a", "c/*/b", "b/?/c"]), min_size=1, max_size=2, unique=True),
    way=st.sampled_from(WAYS),
)
def test_whatever_happens_the_one_is_put_back_and_the_other_left(
    field: Path, before: History, during: History, after: History, patterns: list[str], way: Way
) -> None:
    """Any tree, any changes: what is not excluded is as it was at rest, what is excluded as the update left it."""
    with tempfile.TemporaryDirectory(dir=field, ignore_cleanup_errors=True) as folder:
        root, store, paths = Path(folder, "root"), BackupStore(Path(folder, "store")), Paths(patterns)
        (root / "a/b/c").mkdir(parents=True)
        (root / "b/a").mkdir(parents=True)
        (root / "c/c").mkdir(parents=True)
        do(root, before)
        let_age(root)
        taken = capture(root, partial(do, root, during), store=store, excluded=tuple(patterns))
        event("by increment" if taken.incremental else "whole")
        was = only(picture(root, sockets=False), paths, excluded=False)
        # A helper needs setfattr to take an attribute off a folder that stays, which not every machine has.
        do(root, [deed for deed in after if way == "direct" or deed[0] is not set_attribute])
        left = only(picture(root), paths, excluded=True)
        Volume(root, store, taken).fill(way)
        now = picture(root)
        assert differences(was, only(now, paths, excluded=False)) == []
        spared = {name: node for name, node in left.items() if _has_its_folder(name, was, left)}
        assert differences(spared, only(now, paths, excluded=True)) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", ["nothing", "file", "link"])
def test_what_is_left_alone_outlasts_a_base_without_its_folder(field: Path, place: str, way: Way) -> None:
    """A folder that came after the base keeps what is excluded in it, whatever the base has in its place."""
    root, store = field / "root", BackupStore(field / "store")
    (root / "b").mkdir(parents=True)
    (root / "c/c").mkdir(parents=True)
    if place == "file":
        (root / "b/b").write_text("was here")
    elif place == "link":
        (root / "b/b").symlink_to("/nowhere")
    let_age(root)

    def change() -> None:
        (root / "b/b").unlink(missing_ok=True)
        (root / "c").rename(root / "b/b")

    taken = capture(root, change, store=store, excluded=("b/?/c",))
    assert taken.incremental
    (root / "b/b/c/cached").write_text("of the update")
    (root / "b/b/stray").touch()
    Volume(root, store, taken).fill(way)
    assert (root / "b/b/c/cached").read_text() == "of the update"
    assert not (root / "b/b/stray").exists()


@pytest.mark.parametrize("way", WAYS)
def test_what_is_left_alone_goes_with_a_folder_that_was_none(field: Path, way: Way) -> None:
    """Where a file was at the capture, it is again, though the update has a folder there with something excluded."""
    root, store = field / "root", BackupStore(field / "store")
    (root / "b").mkdir(parents=True)
    (root / "b/b").write_text("was here")
    let_age(root)
    taken = capture(root, (root / "other").touch, store=store, excluded=("b/?/c",))
    assert taken.incremental
    (root / "b/b").unlink()
    (root / "b/b/c").mkdir(parents=True)
    Volume(root, store, taken).fill(way)
    assert (root / "b/b").read_text() == "was here"


def test_a_base_still_makes_the_folders_that_stay(field: Path) -> None:
    """Before an increment, each of them is in the base with its own headers and lists what stays; a file goes."""
    root = field / "root"
    (root / "b").mkdir(parents=True, mode=0o751)
    (root / "b/file").write_text("was here")
    let_age(root)
    base = capture(root).tars[0]
    spared = KeptPaths({b"./b": [b"cached"], b"./b/file": [b"cached"]})

    def members(*archive: bytes | memoryview) -> dict[bytes, Member]:
        return {member.name: member for member in Members().feed(b"".join(archive))}

    was, now = members(base), members(*spared.amended([base], is_last=False))
    assert was.keys() == {b".", b"./b", b"./b/file"}
    assert now.keys() == {b".", b"./b"}
    assert [now[name].header for name in now] == [was[name].header for name in now]
    assert {name: set(now[name].entries) for name in now} == {
        b".": {(b"N", b"b")},
        b"./b": {(b"N", b"cached"), (b"N", b"file")},
    }


def _has_its_folder(name: bytes, was: dict[bytes, Node], left: dict[bytes, Node]) -> bool:
    """Whether the folder in which an excluded path is came back, which is all that keeps it."""
    folder = name.rpartition(b"/")[0]
    while folder in left:
        folder = folder.rpartition(b"/")[0]
    return folder in was and (was[folder].mode & 0o170000) == 0o040000
