"""What a commit cannot keep of a writable layer is found where the layer can be seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from docker_rollback._containers.overlay import altered, lost_by_commit
from docker_rollback._host.tree import Tree
from docker_rollback._model.backup import NotCovered
from tests.racing import exchange


def seen(upper: Path) -> tuple[NotCovered, ...]:
    """Return what is found in a folder that an inspection names as the writable layer."""
    return lost_by_commit({"GraphDriver": {"Data": {"UpperDir": str(upper)}}})


def test_a_plain_layer_loses_nothing(tmp_path: Path) -> None:
    """Ordinary files and links come back as they were."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "conf").write_text("x", encoding="utf-8")
    (tmp_path / "link").symlink_to("/nowhere")
    assert seen(tmp_path) == ()


def test_attributes_and_old_times_are_found(tmp_path: Path) -> None:
    """A user attribute is lost, and a time before 1970, of a file, a folder and a link itself."""
    (tmp_path / "tagged").write_text("x", encoding="utf-8")
    try:
        os.setxattr(tmp_path / "tagged", "user.colour", b"blue")
    except OSError:
        pytest.skip("this file system keeps no user attributes")
    (tmp_path / "old").touch()
    (tmp_path / "older").mkdir()
    (tmp_path / "oldest").symlink_to("/nowhere")
    (tmp_path / "first").touch()
    for name, moment in (("old", -1), ("older", -86400), ("oldest", -0.5), ("first", 0)):
        os.utime(tmp_path / name, (moment, moment), follow_symlinks=False)
    times = {f"the time before 1970 of /{name}" for name in ("old", "older", "oldest")}
    assert {gap.what for gap in seen(tmp_path)} == {"the user attributes of /tagged"} | times


def test_a_changed_root_is_found(tmp_path: Path) -> None:
    """No layer of an image has the mode and the owner of the root itself."""
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for folder in (upper, lower):
        folder.mkdir(mode=0o755)
    layers = {"GraphDriver": {"Data": {"UpperDir": str(upper), "LowerDir": str(lower)}}}
    assert lost_by_commit(layers) == ()
    upper.chmod(0o711)
    (gap,) = lost_by_commit(layers)
    assert gap.what == "the mode, the owner or an attribute of /"


def test_a_long_list_ends(tmp_path: Path) -> None:
    """Twenty are named; the rest is said to exist."""
    for number in range(30):
        (tmp_path / str(number)).touch()
        os.utime(tmp_path / str(number), (-1, -1))
    found = seen(tmp_path)
    assert len(found) == 21
    assert found[-1].what.startswith("more")


@pytest.mark.parametrize("inspection", [{}, {"GraphDriver": None}, {"GraphDriver": {"Data": {"UpperDir": "/no/such"}}}])
def test_a_layer_that_cannot_be_seen_tells_nothing(inspection: dict[str, object]) -> None:
    """On another machine, or with another way of keeping layers, there is nothing to look at."""
    assert lost_by_commit(inspection) == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("none", False),
        ("time", False),
        ("mode", True),
        ("owner", True),
        ("attribute", True),
        ("made", False),
        ("own", True),
    ],
)
def test_a_folder_that_somebody_changed_is_told_from_one_that_the_engine_did(
    tmp_path: Path, change: str, *, expected: bool
) -> None:
    """What counts is another mode, owner or attribute than the image's, or the engine's where the image has none."""
    upper, lower, hidden = tmp_path / "upper", tmp_path / "lower", tmp_path / "hidden"
    folder = upper / "srv"
    for layer in (upper, lower, hidden):
        (layer / "srv").mkdir(parents=True, mode=0o755)
    (hidden / "srv").chmod(0o700)
    if change == "time":
        os.utime(folder, (1, 1))
    elif change == "mode":
        folder.chmod(0o750)
    elif change == "owner":
        if os.geteuid() != 0:
            pytest.skip("giving a folder to somebody else takes root")
        os.chown(folder, 1234, 0)
    elif change == "attribute":
        try:
            os.setxattr(folder, "user.colour", b"blue")
        except OSError:
            pytest.skip("this file system keeps no user attributes")
    elif change in ("made", "own"):
        (lower / "srv").rmdir()
        (hidden / "srv").rmdir()
        if change == "own":
            folder.chmod(0o700)
    data = {"UpperDir": str(upper), "LowerDir": f"{lower}:{hidden}"}
    assert altered({"GraphDriver": {"Data": data}}, ["/srv"]) is expected
    assert not altered({"GraphDriver": {"Data": {"UpperDir": "/no/such"}}}, ["/srv"])


@pytest.mark.parametrize("target", ["{outside}", "../outside", "/proc/self/root{outside}"])
def test_a_folder_that_becomes_a_link_is_not_followed(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container may run: where it swaps a folder for a link meanwhile, nothing behind the link is listed."""
    upper, outside = tmp_path / "upper", tmp_path / "outside"
    (upper / "srv").mkdir(parents=True)
    outside.mkdir()
    (outside / ".wh.secret").touch()
    (upper / "link").symlink_to(target.format(outside=outside))
    names = Tree.names

    def swap_first(self: Tree, path: bytes) -> list[bytes]:
        if path == b"./srv":
            exchange(upper / "srv", upper / "link")
        return names(self, path)

    monkeypatch.setattr(Tree, "names", swap_first)
    assert seen(upper) == ()
    assert (upper / "srv").is_symlink()


def test_a_link_to_a_folder_is_no_folder_of_the_layer(tmp_path: Path) -> None:
    """Where a layer has a link on the way, it leads within the container, not to this machine's folder."""
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    (upper / "srv" / "data").mkdir(parents=True)
    lower.mkdir()
    (lower / "srv").symlink_to(tmp_path)
    (tmp_path / "data").mkdir(mode=0o711)
    data = {"UpperDir": str(upper), "LowerDir": str(lower)}
    assert not altered({"GraphDriver": {"Data": data}}, ["/srv/data"])
