"""A mount point in a volume is neither archived nor touched: only its name is part of the volume."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from attrs import evolve

from docker_rollback._host import processes
from docker_rollback._host.mounts import mounted
from docker_rollback._model.exclude import MountPoint
from docker_rollback._store.store import BackupStore
from docker_rollback._volumes.access import mount_points
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.capture import base
from docker_rollback._volumes.fill.filling import Filling
from docker_rollback.errors import ArchiveError
from tests.unit.volumes.comparing import differences, picture
from tests.unit.volumes.confined import confined
from tests.unit.volumes.live import Taken, capture, let_age

pytestmark = [
    pytest.mark.direct,
    pytest.mark.skipif(not processes.may_do_anything(), reason="mounting takes root"),
]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an increment take what is a moment old, not seconds, so that a test has something that is older."""
    monkeypatch.setattr(base, "MARGIN", 0.02)


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Give what mounts something; all of it is unmounted at the end."""
    with ExitStack() as made:

        def on(target: Path, *words: str) -> None:
            subprocess.run(["mount", *(words or ("-t", "tmpfs", "none")), str(target)], check=True)
            made.callback(unmount, target)

        yield on


def unmount(target: Path) -> None:
    """Take a mount away, if it is one."""
    if is_mounted(target):
        subprocess.run(["umount", "-l", str(target)], check=True)


def is_mounted(target: Path) -> bool:
    """Whether something is mounted there, also a part of the same file system."""
    return any(one.target == str(target) for one in mounted(mount_points.here()))


@pytest.fixture
def root(field: Path) -> Path:
    """Give a volume with some files and folders."""
    made = field / "root"
    for name in ("disk", "a/odd [*] \\name", "kept"):
        (made / name).mkdir(parents=True)
    for name in ("file", "a/file", "kept/file"):
        (made / name).write_text(f"before, in {name}")
    return made


def take(root: Path, store: BackupStore, *, live_from: int = 0, change: Callable[[], object] = lambda: None) -> Taken:
    """Archive a volume in its sandbox."""
    with confined(root, read_only=True) as reach:
        names = tuple(one.path for one in reach.mount_points)
        points = mount_points.described(reach.run, reach.root, names)
        return capture(root, change, store=store, reach=evolve(reach, mount_points=points), live_from=live_from)


def fill(root: Path, taken: Taken, store: BackupStore, of: Callable[[Reach], Reach] = lambda reach: reach) -> None:
    """Fill a volume as a restore does."""
    with confined(root) as reach:
        assert Filling(of(reach), taken.archive, store, None).fill() > 0


def as_helper(reach: Reach) -> Reach:
    """Return a volume as a helper reaches it."""
    return evolve(reach, way="helper", tree=None)


def as_direct(reach: Reach) -> Reach:
    """Return a volume as it is."""
    return reach


def other(root: Path) -> None:
    """Do what an update may do to what is no mount point."""
    (root / "file").write_text("changed")
    (root / "a/file").unlink()
    (root / "a/stray").mkdir()
    (root / "a/stray/file").write_text("stray")
    (root / "kept/file").unlink()
    (root / "kept").rmdir()
    (root / "kept").write_text("a file by now")


BOTH_WAYS = pytest.mark.parametrize("of", [as_direct, as_helper])
BOTH_SHAPES = pytest.mark.parametrize("live_from", [0, 1 << 30], ids=["increment", "whole"])


@BOTH_WAYS
@BOTH_SHAPES
@pytest.mark.parametrize("source", ["bind", "tmpfs"])
def test_what_is_mounted_is_left_out_and_left_alone(
    root: Path, mount: Callable[..., None], of: Callable[[Reach], Reach], live_from: int, source: str
) -> None:
    """Whatever file system it is: nothing of it is in the archive, and it is the same mount with its files after."""
    outside = root.parent / "outside"
    outside.mkdir()
    places = [root / "disk", root / "a/odd [*] \\name"]
    for place in places:
        mount(place, *(("--bind", str(outside)) if source == "bind" else ()))
        (place / "big").write_text("on the other disk")
    store = BackupStore(root.parent / "store")
    let_age(root)
    before = picture(root)
    taken = take(root, store, live_from=live_from)
    assert taken.incremental == (live_from == 0)
    assert not any(b"on the other disk" in data or b"big" in data for data in taken.tars)
    assert [one.path for one in taken.archive.mount_points] == ["a/odd [*] \\name", "disk"]
    assert [gap.what for gap in taken.archive.not_covered] == [
        "mount point a/odd [*] \\\\name in volume vol",
        "mount point disk in volume vol",
    ]
    other(root)
    for place in places:
        (place / "new").write_text("written by the update")
    left = {place: picture(place) for place in places}
    fill(root, taken, store, of)
    assert all(map(is_mounted, places))
    assert all(differences(left[place], picture(place)) == [] for place in places)
    for place in places:
        unmount(place)
        place.rmdir()
        for name in [name for name in before if name.startswith(b"./" + bytes(place.relative_to(root)))]:
            del before[name]
    after = picture(root)
    assert before.keys() == after.keys()
    # Their folders' times are those of now: the test has just removed names from them.
    touched = (b".", b"./a")
    assert [one for one in before if one not in touched and before[one] != after[one]] == []


@BOTH_WAYS
@BOTH_SHAPES
def test_a_place_that_is_gone_is_made_again_empty(
    root: Path, mount: Callable[..., None], of: Callable[[Reach], Reach], live_from: int
) -> None:
    """A mount that went with its name leaves a folder of the same owner and mode, and no time changes by it."""
    (root / "one").touch()
    for name, words in (("disk", ("-t", "tmpfs", "-o", "mode=2750,uid=1234,gid=4321", "none")), ("one", ())):
        mount(root / name, *(words or ("--bind", "/dev/null")))
    store = BackupStore(root.parent / "store")
    let_age(root)
    before = picture(root)
    taken = take(root, store, live_from=live_from)
    other(root)
    unmount(root / "disk")
    unmount(root / "one")
    (root / "disk").rmdir()
    (root / "one").unlink()
    (root / "one").mkdir()
    fill(root, taken, store, of)
    after = picture(root)
    place = root / "disk"
    assert (place.stat().st_mode & 0o7777, place.stat().st_uid, place.stat().st_gid) == (0o2750, 1234, 4321)
    assert list(place.iterdir()) == []
    assert (root / "one").read_bytes() == b""
    changed = [one for one in before if one not in (b"./disk", b"./one") and before[one] != after.get(one)]
    assert changed == []
    assert before.keys() == after.keys()


@BOTH_WAYS
@BOTH_SHAPES
def test_a_mount_that_came_since_stays(
    root: Path, mount: Callable[..., None], of: Callable[[Reach], Reach], live_from: int
) -> None:
    """It is where an empty folder was, or in a folder that the backup does not have: the rest of that folder goes."""
    store = BackupStore(root.parent / "store")
    let_age(root)
    before = picture(root)
    taken = take(root, store, live_from=live_from)
    other(root)
    (root / "new/deep/disk").mkdir(parents=True)
    (root / "new/stray").write_text("stray")
    (root / "new/deep/stray").write_text("stray")
    places = [root / "disk", root / "new/deep/disk"]
    for place in places:
        mount(place)
        (place / "big").write_text("on the other disk")
        place.chmod(0o700)
    fill(root, taken, store, of)
    assert [sorted(one.name for one in place.iterdir()) for place in places] == [["big"], ["big"]]
    assert {place.stat().st_mode & 0o7777 for place in places} == {0o700}
    for place in places:
        unmount(place)
    assert sorted(one.name for one in (root / "new").rglob("*")) == ["deep", "disk"]
    after = picture(root)
    assert [one for one in before if before[one] != after.get(one)] == []


@BOTH_WAYS
def test_a_removed_folder_does_not_come_back_with_its_files(
    root: Path, mount: Callable[..., None], of: Callable[[Reach], Reach]
) -> None:
    """It was gone at the capture. Somebody makes it again to mount something in it: the way there stays, no more."""
    store = BackupStore(root.parent / "store")
    for name in ("gone/deep/er", "gone/deep/disk", "gone/other"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text(f"before, in {name}")
    os.link(root / "gone/deep/er/file", root / "second name")
    (root / "gone/link").symlink_to("other/file")
    let_age(root)
    taken = take(root, store, change=lambda: shutil.rmtree(root / "gone"))
    assert taken.incremental
    before = picture(root)
    other(root)
    place = root / "gone/deep/disk"
    place.mkdir(parents=True)
    (root / "gone/stray").write_text("stray")
    mount(place)
    (place / "big").write_text("on the other disk")
    fill(root, taken, store, of)
    assert is_mounted(place)
    assert [one.name for one in place.iterdir()] == ["big"]
    unmount(place)
    assert sorted(one.name for one in (root / "gone").rglob("*")) == ["deep", "disk"]
    shutil.rmtree(root / "gone")
    after = picture(root)
    assert before.keys() == after.keys()
    assert [one for one in before if one != b"." and before[one] != after[one]] == []


@pytest.mark.parametrize(
    ("where", "words"), [("kept", "kept"), ("file", "file"), ("kept/file/disk", "kept/file/disk")], ids=str
)
@BOTH_SHAPES
def test_what_a_mount_hides_is_refused_before_anything_is_touched(
    root: Path, mount: Callable[..., None], where: str, words: str, live_from: int
) -> None:
    """The backup has files where something is mounted now, or where a folder on the way to it is: nobody can write."""
    store = BackupStore(root.parent / "store")
    let_age(root)
    taken = take(root, store, live_from=live_from)
    if where.startswith("kept/"):
        (root / "kept/file").unlink()
        (root / where).mkdir(parents=True)
    mount(root / where, *(("--bind", "/dev/null") if where == "file" else ()))
    (root / "a/file").write_text("changed")
    left = picture(root)
    with pytest.raises(ArchiveError, match=rf"volume 'vol'.*mounted at (\./)?{words} by now.*Unmount it"):
        fill(root, taken, store)
    assert differences(left, picture(root)) == []


def test_a_mount_point_that_no_program_here_sees_is_left_alone(root: Path) -> None:
    """Removed here, it would be unmounted there without an error: a mount in another namespace is looked for."""
    store = BackupStore(root.parent / "store")
    let_age(root)
    taken = take(root, store)
    (root / "hidden").mkdir()
    # In a namespace of its own, which lasts as long as the program.
    script = f"mount -t tmpfs none {root}/hidden && echo theirs > {root}/hidden/big && echo ready && read line && "
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"{script} cat {root}/hidden/big"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "ready\n"
        assert not is_mounted(root / "hidden")
        (root / "a/file").write_text("changed")
        fill(root, taken, store)
        assert (root / "a/file").read_text() == "before, in a/file"
        said, _ = stranger.communicate("\n")
        assert said == "theirs\n"
        assert stranger.returncode == 0


def test_what_is_seen_of_a_mount_point_is_kept(root: Path, mount: Callable[..., None]) -> None:
    """What is described of mount points is what is seen of them, and a dead one is a folder all the same."""
    mount(root / "disk", "-t", "tmpfs", "-o", "mode=1711,uid=7", "none")
    with confined(root, read_only=True) as reach:
        assert mount_points.described(reach.run, reach.root, ("disk", "gone")) == (
            MountPoint("disk", 0o1711, 7, 0),
            MountPoint("gone"),
        )
