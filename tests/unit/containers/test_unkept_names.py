"""Names that no commit keeps are found before anything stops, where the layer can be seen and where it cannot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from docker_rollback import BackupStore, EngineError, UnsupportedContainerError, rollback
from docker_rollback._containers.unkept_names import unkept_names
from docker_rollback._engine.port import Change, EngineInfo
from docker_rollback._host.processes import may_do_anything
from docker_rollback._inspection.recreate import observe
from docker_rollback.errors import CaptureError
from docker_rollback.testing import FailingEngine, FakeEngine

LONG = "d" * 200

ours = pytest.mark.skipif(not may_do_anything(), reason="only root sees an engine's layers")


class Local(FakeEngine):
    """An engine of this machine, whose container has its layers below a folder."""

    upper = ""

    def info(self) -> EngineInfo:
        """Return where it is."""
        return evolve(super().info(), address="unix:///run/docker.sock")

    def inspect_container(self, ref: str) -> dict[str, Any]:
        """Return the inspection with the writable layer."""
        return {**super().inspect_container(ref), "GraphDriver": {"Data": {"UpperDir": self.upper}}}

    def container_changes(self, ref: str) -> list[Change]:
        """Nobody needs to ask."""
        raise AssertionError(ref)


@pytest.fixture
def upper(tmp_path: Path) -> Iterator[Path]:
    """Give a folder that is the writable layer."""
    folder = tmp_path / "upper"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def local(upper: Path) -> list[str]:
    """Return what is found in a layer that can be seen."""
    engine = Local()
    engine.upper = str(upper)
    engine.add_image("app:1")
    engine.run("app", image="app:1")
    return unkept_names(engine, observe(engine.inspect_container("app")))


def deep(folder: Path, length: int) -> None:
    """Make folders in each other until their path below `folder` has so many bytes."""
    above = os.open(folder, os.O_RDONLY)
    at = 0
    while at < length:
        name = "d" * min(200, length - at - 1)
        if not name:
            break
        os.mkdir(name, dir_fd=above)
        below = os.open(name, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above, at = below, at + 1 + len(name)
    os.close(above)


@ours
@pytest.mark.parametrize("name", [".wh.x", ".wh..wh..opq", ".wh..wh.plnk", ".wh.", "folder/.wh.\udce9"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_names_that_look_like_marks_are_found(upper: Path, name: str, kind: str) -> None:
    """Whatever has such a name: a file, a folder, a link."""
    path = upper / name
    path.parent.mkdir(exist_ok=True)
    if kind == "link":
        path.symlink_to("x")
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
    (reason,) = local(upper)
    assert repr("/" + os.fsencode(name).decode("utf-8", "backslashreplace")) in reason


@ours
def test_other_names_are_kept(upper: Path) -> None:
    """Also those that have it in the middle, and links to such names."""
    for name in ("a.wh.b", "wh.x", ".w", ".wha"):
        (upper / name).touch()
    (upper / "link").symlink_to(".wh.x")
    deep(upper, 3000)
    assert local(upper) == []


@ours
@pytest.mark.parametrize("length", [4100, 9000])
def test_paths_that_are_too_long_are_found(upper: Path, length: int) -> None:
    """By their whole length on the host; the error is short."""
    deep(upper, length)
    (reason,) = local(upper)
    assert "'/ddd" in reason
    assert len(reason) < 400


@ours
def test_the_limit_is_that_of_the_path_on_the_host(upper: Path) -> None:
    """What fits into a path with the layer's own is kept."""
    most = 4079 - len(str(upper))
    deep(upper, most)
    assert local(upper) == []
    (upper / LONG).mkdir(exist_ok=True)
    shutil.rmtree(upper / LONG)
    deep(upper, most + 2)
    assert len(local(upper)) == 1


@ours
def test_many_names_are_told_in_a_few_words(upper: Path) -> None:
    """Three of them, with the long path."""
    for number in range(50):
        (upper / f".wh.{number}{LONG}").touch()
    deep(upper, 5000)
    marks, path = local(upper)
    assert marks.count(".wh.") == 4
    assert "and others" in marks
    assert len(marks) + len(path) < 1000


def test_an_engine_elsewhere_is_asked(store: BackupStore) -> None:
    """The names are in its list of changes; nothing is stopped."""
    engine = FakeEngine()
    engine.add_image("app:1", files={"/lower/sbin/tool": "x"})
    engine.run("app", image="app:1")
    engine.container("app").write("/lower/.wh.sbin", "x")
    watching = FailingEngine(engine)
    tx = rollback("app", client=watching, store=store)
    (reason,) = tx.check().refused["app"]
    assert "'/lower/.wh.sbin'" in reason
    with pytest.raises(UnsupportedContainerError, match=r"'app'.*\.wh\.sbin"), tx:
        pytest.fail("the block was entered")
    assert not {call.verb for call in watching.calls} & {"stop_container", "commit_container"}


class Asked(FakeEngine):
    """An engine whose list of changes fails."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__()
        self.error = EngineError("list the changes", reason, status=status)

    def container_changes(self, ref: str) -> list[Change]:
        """Fail."""
        assert ref
        raise self.error


def test_an_engine_that_cannot_list_long_paths_is_understood() -> None:
    """Its error of 4,000 letters becomes one of a few lines; other failures of the list are no reason."""
    engine = Asked(f"mount callback failed on /tmp/x: lstat /tmp/x/{'/'.join([LONG] * 21)}: file name too long", 500)
    engine.add_image("app:1")
    engine.run("app", image="app:1")
    found = observe(engine.inspect_container("app"))
    (reason,) = unkept_names(engine, found)
    assert "'/tmp/x/ddd" in reason
    assert len(reason) < 400
    engine.error = EngineError("list the changes", "not a directory", status=500)
    assert unkept_names(engine, found) == []
    engine.error = EngineError("list the changes", "nobody answers")
    with pytest.raises(EngineError, match="nobody answers"):
        unkept_names(engine, found)


def test_a_name_that_comes_after_the_look_is_an_error(store: BackupStore) -> None:
    """Before the update begins; the service runs, and nothing is left."""

    class Late(FakeEngine):
        def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
            if self.container("app").status == "running":
                self.container("app").write("/.wh.late", "x")
            super().stop_container(ref, timeout=timeout)

    engine = Late()
    engine.add_image("app:1")
    engine.run("app", image="app:1")
    with (
        pytest.raises(CaptureError, match=r"\.wh\.late"),
        rollback("app", client=engine, store=store, verify=None),
    ):
        pytest.fail("the block was entered")
    assert engine.container("app").status == "running"
    assert store.list() == []
    assert engine.list_images("docker-rollback") == []
