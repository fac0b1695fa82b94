"""An attacker swaps folders of a volume for links meanwhile: nothing outside is read, written or removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from docker_rollback._host import processes
from docker_rollback._host.tree import NotAFileError, Tree
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.retries import tried
from docker_rollback._volumes.capture import base, live_copies
from docker_rollback._volumes.fill import file_flags, filling, volume_root
from docker_rollback._volumes.fill.filling import Filling
from docker_rollback.errors import ArchiveError
from tests.racing import Swapping, exchange, owner_swapping
from tests.unit.volumes.comparing import Node, picture
from tests.unit.volumes.confined import confined
from tests.unit.volumes.fill.test_file_flags import flag
from tests.unit.volumes.live import Taken, capture, let_age, reach_of

pytestmark = [
    pytest.mark.direct,
    pytest.mark.skipif(not processes.may_do_anything(), reason="reaching files directly takes root"),
]

SECRET = b"only root may read this"
PIPES = 8 << 20
"""More bytes than there is room for between tar and its reader."""

LINKS = {
    "absolute": "{outside}",
    "climbing": "../outside",
    "climbing-far": "../../../../../../../..{outside}",
    "through-proc": "/proc/self/root{outside}",
}


class World:
    """A volume, a folder outside that nobody may reach from it, and a link to that in the volume.

    Attributes:
        root: the volume, with `sub` to be swapped.
        link: the link that is to come into its place.
        outside: the other folder.
        store: where archives go.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self.root = folder / "root"
        self.outside = folder / "outside"
        self.store = BackupStore(folder / "store")
        for place in (self.root / "sub" / "deep", self.outside / "deep"):
            place.mkdir(parents=True)
        # tar comes to it once it has opened the folder for good, and before what is deeper.
        (self.root / "sub" / "bulk").write_bytes(os.urandom(PIPES))
        for name in ("file", "deep/file", "gone", "socket"):
            (self.root / "sub" / name).write_bytes(b"its own")
            (self.outside / name).write_bytes(SECRET)
        self.link = self.root / "link"
        self.link.symlink_to(target.format(outside=self.outside))
        self.before = picture(self.outside)

    @property
    def sub(self) -> Path:
        """The folder that is swapped."""
        return self.root / "sub"

    def swap(self) -> None:
        """Exchange the folder and the link."""
        exchange(self.sub, self.link)

    def outside_is_untouched(self) -> bool:
        """Whether nobody wrote to the other folder, or removed anything there."""
        now: dict[bytes, Node] = picture(self.outside)
        return now == self.before


@pytest.fixture(params=LINKS.values(), ids=list(LINKS))
def world(request: pytest.FixtureRequest, field: Path) -> World:
    """Give a volume with each kind of link out of it."""
    return World(field, request.param)


@pytest.fixture
def plain(field: Path) -> World:
    """Give a volume with a link out of it."""
    return World(field, LINKS["absolute"])


@contextlib.contextmanager
def reading(world: World) -> Iterator[Reach]:
    """Have the volume within reach for a capture."""
    with confined(world.root, read_only=True) as reach:
        yield reach


def take(world: World, reach: Reach, during: Callable[[], object]) -> Taken:
    """Archive the whole volume in use; `during` comes while tar waits for its reader."""
    return capture(world.root, during=during, reach=reach, live_from=1 << 40, at_rest=False)


def test_a_capture_reads_nothing_outside(world: World) -> None:
    """A folder becomes a link while tar is at work: the archive holds nothing of where that leads."""
    with reading(world) as reach:
        taken = take(world, reach, world.swap)
    assert world.sub.is_symlink()
    assert not any(SECRET in data for data in taken.tars)
    assert world.outside_is_untouched()


def test_without_a_sandbox_the_attack_works(plain: World) -> None:
    """The test before this one can fail: tar on the machine's own root reads what the link leads to."""
    reach = evolve(reach_of(plain.root), snapshot=str(plain.root.parent / "snapshot"))
    assert any(SECRET in data for data in take(plain, reach, plain.swap).tars)


def test_a_capture_reads_nothing_outside_under_many_swaps(plain: World) -> None:
    """However often folder and link change places during some captures, no archive holds the secret."""
    for _ in range(4):
        with reading(plain) as reach, Swapping(plain.sub, plain.link), contextlib.suppress(ArchiveError):
            assert not any(SECRET in data for data in take(plain, reach, lambda: None).tars)
    assert plain.outside_is_untouched()


def fill(world: World, taken: Taken, progress: Callable[[int], None] | None = None) -> None:
    """Fill the volume again; under attack, it may fail."""
    with confined(world.root) as reach, contextlib.suppress(ArchiveError, OSError):
        Filling(reach, taken.archive, world.store, progress).fill()


def archived(world: World, change: Callable[[], object] = lambda: None, live_from: int = 1 << 40) -> Taken:
    """Archive the volume in peace, whole, or as a base and an increment from some size on."""
    with reading(world) as reach:
        return capture(world.root, change, reach=reach, store=world.store, live_from=live_from)


def test_a_full_restore_writes_nothing_outside(world: World) -> None:
    """A folder becomes a link once it is in place, before its files come: none lands outside, and none goes there."""
    taken = archived(world)
    swapped: list[bool] = []

    def swap(_: int) -> None:
        if not swapped and world.sub.is_dir() and not os.path.lexists(world.sub / "file"):
            with contextlib.suppress(OSError):
                world.link.symlink_to(world.outside)
            with contextlib.suppress(OSError):
                world.swap()
                swapped.append(True)

    fill(world, taken, swap)
    assert world.outside_is_untouched()


def fill_under_many_swaps(world: World, taken: Taken) -> None:
    """Restore a few times while folder and link change places all the time; nothing lands or goes outside."""
    for _ in range(3):
        if not os.path.lexists(world.link):
            world.link.symlink_to(world.outside)
        if not os.path.lexists(world.sub):
            world.sub.mkdir()
        with Swapping(world.sub, world.link):
            fill(world, taken)
        assert world.outside_is_untouched()


def test_a_full_restore_writes_nothing_outside_under_many_swaps(plain: World) -> None:
    """However often folder and link change places during some restores, nothing lands or goes outside."""
    taken = archived(plain)
    fill_under_many_swaps(plain, taken)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the moment of a base set back by a moment, so that files count as untouched."""
    monkeypatch.setattr(base, "MARGIN", 0.02)


@pytest.mark.usefixtures("exact")
def test_a_restore_of_changes_removes_nothing_outside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in a file's place has to go; its parent becomes a link just before: nothing goes behind that."""
    taken = incremental(world)
    (world.sub / "gone").unlink()
    (world.sub / "gone" / "deep").mkdir(parents=True)
    (world.outside / "gone").unlink()
    (world.outside / "gone").mkdir()
    (world.outside / "gone" / "precious").write_bytes(SECRET)
    world.before = picture(world.outside)
    removed, remove = [], filling._remove

    def swap_first(reach: Reach, tree: Tree, path: bytes) -> None:
        removed.append(path)
        world.swap()
        remove(reach, tree, path)

    monkeypatch.setattr(filling, "_remove", swap_first)
    fill(world, taken)
    assert removed == [b"./sub/gone"]
    assert world.outside_is_untouched()


def incremental(world: World) -> Taken:
    """Archive the volume as a base and an increment, so that a restore can leave files alone."""
    (world.root / "link").unlink()
    let_age(world.root, 0.3)
    taken = archived(world, lambda: (world.root / "new").write_text("new"), live_from=0)
    assert taken.incremental
    world.link.symlink_to(world.outside)
    world.before = picture(world.outside)
    return taken


@pytest.mark.usefixtures("exact")
def test_what_a_restore_leaves_alone_is_never_outside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder becomes a link before its files are compared: those behind the link are not taken for them."""
    taken = incremental(world)
    held: list[bool] = []
    below = Tree.below

    def swap_first(self: Tree, path: bytes) -> Tree:
        if path == b"./sub" and not held:
            held.append(True)
            world.swap()
            with pytest.raises(FileNotFoundError):
                below(self, path)
        return below(self, path)

    monkeypatch.setattr(Tree, "below", swap_first)
    fill(world, taken)
    assert held == [True]
    assert world.outside_is_untouched()


@pytest.mark.usefixtures("exact")
def test_a_restore_of_changes_under_many_swaps_touches_nothing_outside(plain: World) -> None:
    """However often folder and link change places while changes are put back, nothing lands or goes outside."""
    taken = incremental(plain)
    fill_under_many_swaps(plain, taken)


def test_a_folder_whose_owner_goes_on_is_put_back(plain: World) -> None:
    """A process of the folder's unprivileged owner swaps all the time: it is kept out, and all is as it was."""
    user = 65_534
    for path in (plain.root, *plain.root.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)
    plain.root.parent.chmod(0o711)
    plain.root.chmod(0o755)
    before = picture(plain.root)
    taken = archived(plain)
    folder = str(plain.root)
    for _ in range(4):
        attack = owner_swapping(plain.sub, plain.link, target=plain.outside, user=user)
        with attack, confined(plain.root, volume=folder) as reach:
            tried(Filling(reach, taken.archive, plain.store, None).fill, doing="filling")
        status = plain.root.stat()
        assert (status.st_uid, status.st_mode & 0o7777) == (user, 0o755)
        assert plain.outside_is_untouched()
    with confined(plain.root, volume=folder) as reach:
        Filling(reach, taken.archive, plain.store, None).fill()
    assert picture(plain.root) == before


def test_somebody_who_cannot_be_kept_out_is_an_error_that_says_where(plain: World) -> None:
    """Root may go everywhere: after some tries the error names the volume, the path, and what to do."""
    taken = archived(plain)
    with Swapping(plain.sub, plain.link) as swapping, pytest.raises(ArchiveError) as failed:
        for _ in range(20):
            with contextlib.suppress(FileExistsError):
                plain.link.symlink_to(plain.outside)
            with contextlib.suppress(FileExistsError):
                plain.sub.mkdir()
            with confined(plain.root) as reach:
                tried(Filling(reach, taken.archive, plain.store, None).fill, doing="filling")
    assert swapping.count > 1
    assert "somebody seems to change it while it is filled, at './" in str(failed.value)
    assert "end the programs" in str(failed.value)
    assert failed.value.volume == "vol"


def test_no_attribute_outside_is_dropped(world: World) -> None:
    """A folder that has become a link has its attributes taken off neither by an increment nor on the way."""
    os.setxattr(world.outside, "user.theirs", b"1")
    os.setxattr(world.sub, "user.stray", b"1")
    world.swap()
    with confined(world.root) as reach:
        assert reach.tree is not None
        with pytest.raises(NotAFileError):
            volume_root.drop_foreign_attributes(reach.tree, b"./sub", keep=())
        with contextlib.suppress(ArchiveError, OSError):
            volume_root.drop_attributes(reach, keep=(), folder="./sub")
    assert os.listxattr(world.outside) == ["user.theirs"]


def test_no_flag_outside_is_cleared(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder becomes a link after it was come by: the flags of what lies behind stay."""
    victim, walk = world.outside / "file", Tree.walk
    flag("+i", victim)
    try:

        def swap_first(self: Tree, **options: Any) -> Iterator[bytes]:
            for path in walk(self, **options):
                if path == b"./sub/file":
                    world.swap()
                yield path

        monkeypatch.setattr(Tree, "walk", swap_first)
        with Tree.at(world.root) as tree:
            assert file_flags.clear_flags(tree) == 0
        with pytest.raises(PermissionError):
            victim.write_text("changed")
    finally:
        flag("-i", victim)


def test_no_flag_outside_is_cleared_under_many_swaps(plain: World) -> None:
    """However often folder and link change places, what lies behind the link keeps its flags."""
    victim = plain.outside / "file"
    flag("+i", victim)
    try:
        with Swapping(plain.sub, plain.link) as swapping, Tree.at(plain.root) as tree:
            while swapping.count < 2_000:
                assert file_flags.clear_flags(tree) == 0
        with pytest.raises(PermissionError):
            victim.write_text("changed")
    finally:
        flag("-i", victim)


def test_no_file_outside_is_copied(world: World) -> None:
    """A large file whose folder has become a link is gone; the one behind the link is not read."""
    world.swap()
    with Tree.at(world.root) as tree, pytest.raises(FileNotFoundError), live_copies._opened(tree, b"./sub/file"):
        pass


def test_a_restore_in_peace_puts_everything_back(plain: World) -> None:
    """In a sandbox a volume comes back as it was, links included."""
    before = picture(plain.root)
    taken = archived(plain)
    shutil.rmtree(plain.sub)
    plain.link.unlink()
    fill(plain, taken)
    assert picture(plain.root) == before
    with tempfile.TemporaryDirectory(dir=plain.root.parent) as empty:
        evolve(taken).fill(Path(empty))
        assert {path for path in picture(Path(empty)) if path != b"."} == {path for path in before if path != b"."}
