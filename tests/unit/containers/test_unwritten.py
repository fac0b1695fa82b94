"""A container to which nothing was written: its image is known without a commit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from docker_rollback import BackupStore, RollbackRequested, compare, healthy
from docker_rollback._containers.overlay import is_unwritten
from docker_rollback._host import Tree, may_do_anything
from docker_rollback.errors import CaptureError
from docker_rollback.testing import FailingEngine, FakeClock
from tests.unit.containers.local_engine import Local
from tests.unit.shop import timed

pytestmark = pytest.mark.skipif(not may_do_anything(), reason="only root sees an engine's layers")


@pytest.fixture
def engine(tmp_path: Path) -> Local:
    """An engine with a container that has written nothing."""
    made = Local(tmp_path / "layers")
    made.add_image("app:1", files={"/app": "1"})
    made.run("app", image="app:1", restart="always")
    return made


def test_a_layer_is_unwritten_if_it_has_no_file_and_no_mark(tmp_path: Path) -> None:
    """A deletion leaves a mark; what cannot be seen may hold anything."""
    upper = tmp_path / "upper"
    upper.mkdir()
    inspection = {"GraphDriver": {"Data": {"UpperDir": str(upper), "LowerDir": ""}}}
    assert is_unwritten(inspection)
    os.mknod(upper / "deleted", 0o020000, os.makedev(0, 0))
    assert not is_unwritten(inspection)
    assert not is_unwritten({"GraphDriver": {"Data": {"UpperDir": str(tmp_path / "gone")}}})
    assert not is_unwritten({"GraphDriver": {"Data": {"UpperDir": ""}}})
    assert not is_unwritten({"GraphDriver": None})


def test_no_other_layer_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image may have so many that eight containers at once would take all descriptors of this process."""
    inspection = {"GraphDriver": {"Data": {"UpperDir": str(tmp_path), "LowerDir": ":".join([str(tmp_path)] * 120)}}}
    opened: list[str] = []
    at = Tree.at

    def counted(path: str) -> Tree:
        opened.append(path)
        return at(path)

    monkeypatch.setattr(Tree, "at", counted)
    assert is_unwritten(inspection)
    assert opened == [str(tmp_path)]


def go(engine: Local, counted: FailingEngine, store: BackupStore, *, writes: bool) -> list[str]:
    """Roll back an update that stops the container; return the verbs of the images."""
    before, clock = engine.inspect_container("app"), FakeClock()
    with timed("app", engine=counted, store=store, clock=clock, verify=healthy(stable_for=0.0)) as tx:
        assert tx.backup.containers[0].image.id == before["Image"]
        assert tx.backup.containers[0].image.clean
        engine.stop_container("app")
        if writes:
            engine.write("app")
        raise RollbackRequested
    assert compare(before, engine.inspect_container("app")) == []
    assert (engine.inspect_container("app")["Id"] == before["Id"]) is not writes
    assert not engine.container("app").exists("/new")
    assert list(engine.image_names().values()) == [["app:1"]]
    return [call.verb for call in counted.calls if call.verb in ("commit_container", "remove_image")]


def test_a_container_that_has_written_nothing_is_not_committed(engine: Local, store: BackupStore) -> None:
    """Neither while it runs, nor while it is stopped, nor to see that the update has written nothing."""
    assert go(engine, FailingEngine(engine), store, writes=False) == ["remove_image"]


def test_a_container_that_the_update_wrote_to_is_recreated(engine: Local, store: BackupStore) -> None:
    """A commit shows that it is not what was captured."""
    verbs = go(engine, FailingEngine(engine), store, writes=True)
    assert verbs.count("commit_container") == 1


def test_what_a_container_writes_before_its_stop_is_captured(engine: Local, store: BackupStore) -> None:
    """It was unwritten when its guard was started, so that it gets a second one, from its commit."""

    class Writes(FailingEngine):
        def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
            super().stop_container(ref, timeout=timeout)
            engine.write("app")

    counted, clock = Writes(engine), FakeClock()
    with timed("app", engine=counted, store=store, clock=clock, verify=healthy(stable_for=0.0)) as tx:
        assert not tx.backup.containers[0].image.clean
        engine.remove_container("app", force=True)
        raise RollbackRequested
    assert engine.container("app").read("/new") == b"x"
    guards = [call for call in counted.called("create_container") if "guard" in str(call.arguments[0])]
    assert len(guards) == 2


class Ends(FailingEngine):
    """An engine on which a container removes its only file when it stops, and may be removed before it starts again."""

    def __init__(self, engine: Local, *, removed: bool) -> None:
        """Have the file written."""
        super().__init__(engine)
        self._local, self._removed, self._app = engine, removed, engine.inspect_container("app")["Id"]
        engine.write("app")

    def stop_container(self, ref: str, *, timeout: float | None = None) -> None:
        """Have the container remove its file."""
        super().stop_container(ref, timeout=timeout)
        self._local.unwrite("app")

    def start_container(self, ref: str) -> None:
        """Have somebody remove the container before it starts."""
        if self._removed and ref == self._app:
            self._local.remove_container("app")
        super().start_container(ref)


def test_a_container_that_removes_its_only_file_gets_a_second_guard(engine: Local, store: BackupStore) -> None:
    """The file of a process id at the root is there while it runs, and gone once it has stopped."""
    counted = Ends(engine, removed=False)
    with timed("app", engine=counted, store=store, clock=FakeClock(), verify=healthy(stable_for=0.0)) as tx:
        assert tx.backup.containers[0].image.clean
    starts = [
        call for call in counted.called("start_container") if call.arguments[0] != engine.inspect_container("app")["Id"]
    ]
    assert len(starts) == 2
    assert list(engine.image_names().values()) == [["app:1"]]


def test_a_container_that_is_removed_comes_back_without_the_file_that_it_had_removed(
    engine: Local, store: BackupStore
) -> None:
    """It is recreated from what it was at its stop, and not from the commit that was made before."""
    with (
        pytest.raises(CaptureError, match="somebody removed it while it was stopped"),
        timed("app", engine=Ends(engine, removed=True), store=store, clock=FakeClock()),
    ):
        pytest.fail("the block was entered")
    assert engine.container("app").status == "running"
    assert not engine.container("app").exists("/new")


def test_a_container_without_a_guard_comes_back_without_its_image(engine: Local, store: BackupStore) -> None:
    """It is committed all the same, so that somebody may remove it and its image while it is stopped."""
    app = engine.inspect_container("app")["Id"]

    class Unguarded(FailingEngine):
        def start_container(self, ref: str) -> None:
            if ref == app:
                engine.prune_containers()
                engine.remove_image("app:1")
            super().start_container(ref)

    failing = Unguarded(engine, at=1, verbs=["put_archive"])
    with (
        pytest.raises(CaptureError, match="somebody removed it while it was stopped"),
        timed("app", engine=failing, store=store, clock=FakeClock()),
    ):
        pytest.fail("the block was entered")
    assert engine.container("app").status == "running"
    assert engine.container("app").read("/app") == b"1"
