"""What a writable layer changes is told from its layers as overlayfs has them, or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from docker_rollback import BackupStore
from docker_rollback._containers import overlay_changes
from docker_rollback._containers.overlay_changes import changes
from docker_rollback._containers.snapshotter import ContainerSnapshotter
from docker_rollback._engine.port import Change, EngineInfo
from docker_rollback._host.processes import may_do_anything
from docker_rollback._host.tree import Tree
from docker_rollback.testing import FakeEngine
from tests.racing import exchange


def told(folder: Path, *, most: int = 100) -> dict[str, str] | None:
    """Return what is told of a container whose layers are the folders there."""
    data = {"UpperDir": str(folder / "upper"), "LowerDir": f"{folder / 'high'}:{folder / 'low'}"}
    return changes({"GraphDriver": {"Data": data}}, most=most)


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """Give three layers, of which two have the same folder."""
    for layer in ("upper", "high", "low"):
        (tmp_path / layer / "srv").mkdir(parents=True)
    for layer in ("high", "low"):
        (tmp_path / layer / "srv" / layer).write_text(layer)
    return tmp_path


def copy_up(layers: Path, layer: str, name: str) -> Path:
    """Have a file of a layer in the writable one, the same in all that counts."""
    was, now = layers / layer / name, layers / "upper" / name
    now.write_bytes(was.read_bytes())
    os.utime(now, ns=(was.stat().st_atime_ns, was.stat().st_mtime_ns))
    return now


def test_what_was_only_copied_up_is_no_change(layers: Path) -> None:
    """A program that opens a file for writing and writes nothing has changed nothing."""
    copy_up(layers, "high", "srv/high")
    copy_up(layers, "low", "srv/low")
    assert told(layers) == {}


@pytest.mark.parametrize("how", ["time", "size", "mode", "kind", "content", "attribute", "much"])
def test_a_file_that_differs_is_changed_and_its_folders(
    layers: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held against the layer that shows it; times can be set, and prove nothing."""
    (layers / "low/srv/high").write_text("this one is hidden")
    file = copy_up(layers, "high", "srv/high")
    match how:
        case "time":
            os.utime(file, (1, 1))
        case "size":
            file.write_text("longer than it was")
        case "mode":
            file.chmod(0o755)
        case "content":
            times = file.stat().st_atime_ns, file.stat().st_mtime_ns
            file.write_text("HIGH")
            os.utime(file, ns=times)
        case "attribute":
            os.setxattr(file, "user.colour", b"blue")
        case "much":
            monkeypatch.setattr(overlay_changes, "_MOST_COMPARED", 3)
        case _:
            file.unlink()
            file.symlink_to("low")
    assert told(layers) == {"/srv": "changed", "/srv/high": "changed"}


def test_what_the_image_does_not_have_is_added(layers: Path) -> None:
    """A folder with all that is in it; what is wanted is no more than so many."""
    (layers / "upper/srv/new/deep").mkdir(parents=True)
    assert told(layers) == {"/srv": "changed", "/srv/new": "added", "/srv/new/deep": "added"}
    assert told(layers, most=2) == {"/srv": "changed", "/srv/new": "added"}


@pytest.mark.skipif(os.geteuid() != 0, reason="marks of overlayfs take root")
def test_marks_of_overlayfs_are_understood(layers: Path) -> None:
    """A deleted file, a folder made anew over another, and what a layer below has deleted."""
    nothing = os.makedev(0, 0)
    os.mknod(layers / "upper/srv/low", 0o20000, nothing)
    os.mknod(layers / "high/gone", 0o20000, nothing)
    (layers / "low/gone").write_text("hidden")
    (layers / "upper/gone").write_text("anew")
    for layer in ("upper", "low"):
        (layers / layer / "anew").mkdir()
    os.setxattr(layers / "upper/anew", "trusted.overlay.opaque", b"y")
    (layers / "low/anew/was").write_text("was")
    assert told(layers) == {
        "/anew": "changed",
        "/anew/was": "deleted",
        "/gone": "added",
        "/srv": "changed",
        "/srv/low": "deleted",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="marks of overlayfs take root")
def test_a_mark_that_is_not_understood_tells_nothing(layers: Path) -> None:
    """A folder that was renamed shows what another one has: the engine is asked."""
    os.setxattr(layers / "upper/srv", "trusted.overlay.redirect", b"other")
    assert told(layers) is None


@pytest.mark.parametrize("inspection", [{}, {"GraphDriver": None}, {"GraphDriver": {"Data": {"UpperDir": "/no/such"}}}])
def test_layers_that_cannot_be_seen_tell_nothing(inspection: dict[str, object]) -> None:
    """On another machine, or with another way of keeping layers, the engine is asked."""
    assert changes(inspection, most=10) is None


LINKS = ["{outside}", "../outside", "../../../../../../..{outside}", "/proc/self/root{outside}"]


@pytest.mark.parametrize("target", LINKS)
def test_a_folder_that_becomes_a_link_is_not_followed(
    layers: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container may run: where it swaps a folder for a link meanwhile, nothing behind the link is read."""
    outside = layers / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    copy_up(layers, "high", "srv/high")
    link = layers / "upper" / "link"
    link.symlink_to(target.format(outside=outside))
    names = Tree.names
    swapped: list[bool] = []

    def swap_first(self: Tree, path: bytes) -> list[bytes]:
        if path == b"./srv" and not swapped:
            swapped.append(True)
            exchange(layers / "upper" / "srv", link)
        return names(self, path)

    monkeypatch.setattr(Tree, "names", swap_first)
    assert told(layers) is None
    assert swapped
    assert set(told(layers) or ()) == {"/link", "/link/high", "/srv"}


class Podman(FakeEngine):
    """A Podman of this machine, whose container's layer holds a file that Podman itself makes."""

    upper = ""

    def info(self) -> EngineInfo:
        """Return where and what it is."""
        return evolve(super().info(), address="unix:///run/podman.sock", flavour="podman")

    def inspect_container(self, ref: str) -> dict[str, Any]:
        """Return the inspection with the writable layer."""
        return {
            **super().inspect_container(ref),
            "GraphDriver": {"Data": {"UpperDir": self.upper, "LowerDir": self.upper + "-lower"}},
        }

    def container_changes(self, ref: str) -> list[Change]:
        """Return no change, as Podman does for a file of its own."""
        assert ref
        return []


@pytest.mark.skipif(not may_do_anything(), reason="only root sees an engine's layers")
def test_podmans_own_list_counts_for_its_containers(store: BackupStore, tmp_path: Path) -> None:
    """It leaves out the files that Podman makes, which the layer has too; so the layer is clean."""
    engine = Podman()
    engine.upper = str(tmp_path / "upper")
    made = tmp_path / "upper" / "run" / ".containerenv"
    made.parent.mkdir(parents=True)
    (tmp_path / "upper-lower").mkdir()
    made.touch()
    engine.add_image("app:1")
    engine.run("app", image="app:1")
    engine.container("app").write("/run/.containerenv", "")
    assert ContainerSnapshotter(engine, store).snapshot("app").image.clean
