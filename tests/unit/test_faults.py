"""Wherever the engine fails, the service runs or the backup says how to get it back, and no error is lost."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

import docker
import pytest

from docker_rollback import (
    BackupStore,
    DockerRollbackError,
    EngineUnavailableError,
    RollbackFailedError,
    RollbackRequested,
    Status,
    StoreError,
    StoreFullError,
    UnsupportedContainerError,
    recover,
    restore,
    rollback,
)
from docker_rollback._engine.docker.engine import DockerEngine
from docker_rollback._engine.retry import RetryingEngine
from docker_rollback._store.files import Disk
from docker_rollback.testing import FailingEngine, FakeClock, FakeEngine
from tests.unit.shop import Shop, UpdateFailedError


def fresh(folder: Path, number: int) -> Shop:
    """Return a new service with a new store."""
    return Shop(BackupStore(folder / f"store-{number}"))


@pytest.mark.parametrize("after", [False, True])
def test_a_failure_on_the_way_in_leaves_the_service_as_it_was(tmp_path: Path, *, after: bool) -> None:
    """For every call of a backup that changes something: where it fails, the container runs, the error is ours."""
    k = 0
    while True:
        k += 1
        shop = fresh(tmp_path, k)
        failing = FailingEngine(shop.engine, at=k, after=after)
        tx = shop.rollback(failing)
        try:
            with tx:
                pass
        except DockerRollbackError:
            assert tx.status is Status.FAILED
            assert shop.store.list() == [], failing.story()
        if failing.struck is None:
            break
        assert shop.engine.inspect_container("shop")["Id"] == shop.id, failing.story()
        shop.check_restored()
    assert k > 8, "the backup was seen to make calls"


@pytest.mark.parametrize("after", [False, True])
def test_a_failure_on_the_way_back_loses_nothing(tmp_path: Path, *, after: bool) -> None:
    """For every call of a rollback that changes something: both errors are there, and a restore finishes the job."""
    entered, left = calls_of_a_rollback(fresh(tmp_path, 0))
    assert left > entered + 8, "the rollback was seen to make calls"
    for k in range(entered + 1, left + 1):
        shop = fresh(tmp_path, k)
        failing = FailingEngine(shop.engine, at=k, after=after)
        body = UpdateFailedError()
        tx = shop.rollback(failing)
        with pytest.raises((UpdateFailedError, RollbackFailedError)) as raised, tx:
            shop.break_it()
            raise body
        if isinstance(raised.value, RollbackFailedError):
            assert raised.value.__cause__ is body
            assert tx.status is Status.FAILED
            restored = restore(raised.value.backup_id, client=shop.engine, store=shop.store)
            assert restored == ["shop"], failing.story()
        else:
            # What failed did no harm, or everything stood again already: what was put aside goes with the next restore.
            assert tx.status is Status.ROLLED_BACK
            shop.check_equal()
            restore(tx.backup.id, client=shop.engine, store=shop.store)
        shop.check_restored()


def calls_of_a_rollback(shop: Shop) -> tuple[int, int]:
    """Return how many calls that change something have been made when the body starts, and when all is over."""
    counting = FailingEngine(shop.engine)
    with shop.rollback(counting):
        entered = counting.count
        shop.break_it()
        raise RollbackRequested
    return entered, counting.count


@pytest.mark.parametrize("verb", ["exec", "process.finish", "start_container", "create_container"])
def test_one_answer_that_is_lost_does_not_fail_a_rollback(tmp_path: Path, verb: str) -> None:
    """Where the engine was away for a moment, everything is put back from the start once it answers again."""
    shop = fresh(tmp_path, 0)
    error = EngineUnavailableError("ask", "the connection was dropped")
    failing = FailingEngine(shop.engine, verbs={verb}, error=error)
    with shop.rollback(failing) as tx:
        shop.break_it()
        failing._at = frozenset([failing.count + 1])
        raise RollbackRequested
    assert failing.struck is not None
    assert tx.status is Status.ROLLED_BACK
    shop.check_restored()


class FullDisk(Disk):
    """A disk that has room for a number of writes, and none after them."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def write(self, fd: int, data: bytes | memoryview) -> None:
        """Write while there is room."""
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(fd, data)


def test_a_disk_that_fills_up_leaves_the_service_running(tmp_path: Path) -> None:
    """For every write of a backup: where there is no room for it, the error says so, and everything is as it was."""
    writes = 0
    seen: list[Status] = []
    while True:
        disk = FullDisk(writes)
        shop = Shop(BackupStore(tmp_path / f"store-{writes}", disk=disk))
        tx = shop.rollback()
        try:
            with tx:
                break
        except StoreFullError:
            # Where it is the commit that cannot be noted, the update is rolled back.
            seen.append(tx.status)
        shop.check_restored()
        disk.left = 1 << 30
        # Where not even the list of backups could be written, recovery does that.
        recover(client=shop.engine, store=shop.store)
        assert len(shop.store.list()) == (tx.status is Status.ROLLED_BACK)
        assert shop.store.journal.names() == []
        writes += 1
    assert writes > 8, "the backup was seen to write"
    assert tx.status is Status.COMMITTED
    assert disk.left >= 0, "no full disk went unnoticed"
    assert set(seen) == {Status.FAILED, Status.ROLLED_BACK}


def test_a_store_without_enough_room_is_found_out_beforehand(tmp_path: Path) -> None:
    """Nothing was touched when it turns out that the backup cannot fit."""

    class Small(Disk):
        def room(self, path: Path) -> int:
            del path
            return 0

    shop = Shop(BackupStore(tmp_path / "store", disk=Small()))
    counting = FailingEngine(shop.engine)
    with pytest.raises(StoreFullError, match="too little space"), shop.rollback(counting):
        pytest.fail("the block was entered")
    assert counting.called("stop_container") == []


def test_a_store_that_cannot_be_written_is_found_out_beforehand(tmp_path: Path) -> None:
    """Nothing was touched; the error names the folder."""
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    shop = Shop(BackupStore(tmp_path / "file" / "store"))
    counting = FailingEngine(shop.engine)
    with pytest.raises(StoreError, match="file"), shop.rollback(counting):
        pytest.fail("the block was entered")
    assert counting.called("stop_container") == []


Answer = TypeVar("Answer")

Meddling: TypeAlias = Callable[[FakeEngine], object]
"""What somebody else does to an engine."""


class Meddled(FailingEngine):
    """An engine on which somebody else does something right after a call of ours."""

    def __init__(self, engine: FakeEngine, verb: str, meddle: Meddling | None) -> None:
        super().__init__(engine)
        self.meddle = meddle
        self.verb = verb
        self.fake = engine

    def pass_on(self, verb: str, work: Callable[[], Answer], *arguments: object) -> Answer:
        """Do a call, and let somebody meddle after the first of its kind that concerns the shop."""
        answer = super().pass_on(verb, work, *arguments)
        meddle = self.meddle
        if verb == self.verb and meddle is not None:
            self.meddle = None
            meddle(self.fake)
        return answer


@pytest.mark.parametrize(
    ("meddle", "words"),
    [
        (lambda engine: engine.rename_container("shop", "old"), "renamed"),
        (lambda engine: engine.update_container("shop", {"RestartPolicy": {"Name": "no"}}), "restart policy"),
        (lambda engine: engine.remove_container("shop", force=True), "somebody removed it"),
    ],
    ids=["rename", "policy", "remove"],
)
def test_whoever_meddles_with_a_capture_is_noticed(tmp_path: Path, meddle: Meddling, words: str) -> None:
    """Whatever is done to the container between its stop and its start makes the backup fail: no mixture is kept."""
    shop = Shop(BackupStore(tmp_path / "store"))

    def later(engine: FakeEngine) -> None:
        shop.clock.advance(1)
        meddle(engine)

    with (
        pytest.raises(DockerRollbackError, match=words),
        shop.rollback(Meddled(shop.engine, "stop_container", later)),
    ):
        pytest.fail("the block was entered")
    assert shop.store.list() == []


def test_a_start_before_the_data_is_back_is_undone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody starts the container before its volumes are filled: it is stopped, and everything is put back again."""
    shop = Shop(BackupStore(tmp_path / "store"))

    def later(engine: FakeEngine) -> None:
        shop.clock.advance(1)
        engine.start_container("shop-docker-rollback-aside-new")
        engine.kill_container("shop-docker-rollback-aside-new")

    engine = Meddled(shop.engine, "create_container", None)
    with caplog.at_level("WARNING", "docker_rollback"), shop.rollback(engine):
        shop.break_it()
        engine.meddle = later
        raise RollbackRequested
    assert "somebody started it before all of its data was back" in caplog.text
    shop.check_restored()


def test_an_engine_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """The error says where nobody answered; it comes after a while, in which somebody might have."""
    clock = FakeClock()
    began = clock.monotonic()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        nobody = docker.DockerClient(base_url=f"tcp://127.0.0.1:{port}", version="1.41")
        engine = RetryingEngine(DockerEngine(nobody), sleep=clock.sleep)
        with (
            pytest.raises(EngineUnavailableError, match=str(port)),
            rollback("web", client=engine, store=tmp_path / "store"),
        ):
            pytest.fail("the block was entered")
        nobody.close()
    assert 10 < clock.monotonic() - began <= 15


def test_a_volume_that_cannot_be_reached_is_refused(tmp_path: Path) -> None:
    """Where only the direct way is allowed and there is none, the container is not touched, and the reason is named."""
    shop = Shop(BackupStore(tmp_path / "store"))
    with pytest.raises(UnsupportedContainerError, match="orders"), shop.rollback(way="direct"):
        pytest.fail("the block was entered")
    assert shop.engine.inspect_container("shop")["State"]["StartedAt"] == shop.before["State"]["StartedAt"]
