"""A capture that takes longer than it may is given up, and the service runs as if nothing had happened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from docker_rollback import DowntimeExceededError, EngineError, Status, backup, recover
from docker_rollback._capture.downtime_limit import DowntimeLimit
from docker_rollback.errors import ArchiveError, CaptureError, ResumeError
from docker_rollback.testing import FailingEngine, FakeClock, Run
from tests.unit.shop import Shop


class Slow(FailingEngine):
    """An engine on which one call for the shop takes seconds."""

    def __init__(self, shop: Shop, slow: str, seconds: float) -> None:
        super().__init__(shop.engine)
        self._shop, self._slow, self._seconds = shop, slow, seconds

    def pass_on(self, verb: str, work: Callable[[], Any], *arguments: object) -> Any:
        """Do one call, and let time pass."""
        if verb == self._slow and self._shop.id in arguments:
            self._shop.clock.advance(self._seconds)
        return super().pass_on(verb, work, *arguments)


@pytest.mark.parametrize(("slow", "step"), [("stop_container", "quiesce"), ("commit_container", "capture")])
@pytest.mark.parametrize("resume", [True, False])
def test_a_call_that_takes_too_long_is_waited_for(shop: Shop, slow: str, step: str, *, resume: bool) -> None:
    """A stop and a commit cannot be taken back; when they are done, entering fails, and nothing is left over."""
    engine = Slow(shop, slow, 6.0)
    tx = shop.timed(engine, max_downtime=5.0, resume=resume)
    with pytest.raises(DowntimeExceededError, match="5 s that max_downtime allows") as failed, tx:
        pytest.fail("the block was entered")
    error = failed.value
    assert (error.containers, error.allowed, error.step) == (("shop",), 5.0, step)
    assert isinstance(error, CaptureError)
    assert tx.status is Status.FAILED
    assert shop.store.list() == []
    assert [call.arguments[0] for call in engine.called("start_container")].count(shop.id) == 1
    shop.check_restored()
    assert recover(client=shop.engine, store=shop.store) == ()
    assert tx.outcome.to_do == ()


@pytest.mark.parametrize("slow", ["stop_container", "commit_container", "start_container"])
def test_what_stays_within_its_time_is_a_backup(shop: Shop, slow: str) -> None:
    """Up to the limit itself all is well, and the start is not counted."""
    with shop.timed(Slow(shop, slow, 6.0 if slow == "start_container" else 5.0), max_downtime=5.0) as tx:
        pass
    assert tx.status is Status.COMMITTED


def test_an_archive_that_takes_too_long_is_ended(shop: Shop) -> None:
    """Tar is killed while it is at work; its failure is the cause of the error, not the error."""

    def hang(run: Run) -> int | None:
        if "--version" in run.arguments:
            run.stdout += b"tar (GNU tar) 1.34\n"
            return 0
        shop.clock.advance(6.0)
        return None

    shop.engine.program("tar", hang)
    with pytest.raises(DowntimeExceededError) as failed, shop.timed(shop.engine, max_downtime=5.0):
        pytest.fail("the block was entered")
    assert failed.value.step == "capture"
    assert isinstance(failed.value.__cause__, ArchiveError)
    assert shop.engine.container("shop").status == "running"
    assert shop.store.list() == []
    shop.check_nothing_left()


def test_nobody_is_down_where_nothing_rests(shop: Shop) -> None:
    """Without a rest, and for what does not run, there is no limit."""
    with shop.timed(Slow(shop, "commit_container", 6.0), max_downtime=5.0, quiesce="none"):
        pass
    shop.engine.stop_container("shop")
    with shop.timed(Slow(shop, "commit_container", 6.0), max_downtime=5.0):
        pass


def test_a_service_that_stays_down_is_the_worse_news(shop: Shop) -> None:
    """Where it cannot be set going again, that is the error, and the limit the first of its failures."""

    class Stubborn(Slow):
        def start_container(self, ref: str) -> None:
            if ref == shop.id:
                raise EngineError("start container 'shop'", "not today")
            super().start_container(ref)

    with (
        pytest.raises(ResumeError) as failed,
        shop.timed(Stubborn(shop, "commit_container", 6.0), max_downtime=5.0),
    ):
        pytest.fail("the block was entered")
    assert isinstance(failed.value.failures[0], DowntimeExceededError)
    assert failed.value.__cause__ is failed.value.failures[0]
    assert isinstance(failed.value.failures[1], EngineError)


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_a_limit_that_nothing_can_keep_is_refused(shop: Shop, limit: float) -> None:
    """Before anything is asked of an engine."""
    with pytest.raises(ValueError, match="max_downtime"):
        shop.rollback(max_downtime=limit)
    with pytest.raises(ValueError, match="max_downtime"):
        backup("shop", client=shop.engine, store=shop.store, max_downtime=limit)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError])
def test_an_interruption_is_no_want_of_time(raised: type[BaseException]) -> None:
    """What was ended when the time was over failed for that; Ctrl-C did not."""
    clock, stopped = FakeClock(), threading.Event()
    limit = DowntimeLimit(5.0, ["web"], step=lambda: "capture", stop=stopped.set, clock=clock.monotonic)
    expected = raised if raised is KeyboardInterrupt else DowntimeExceededError
    with pytest.raises(expected), limit:
        clock.advance(6.0)
        assert stopped.wait(timeout=30.0)
        raise raised


def test_what_failed_by_itself_fails_for_that() -> None:
    """An error before the time was over comes out as it is, and the watcher is gone."""
    limit = DowntimeLimit(3600.0, ["web"], step=lambda: "capture", stop=lambda: None)
    with pytest.raises(LookupError), limit:
        raise LookupError
    assert not any(thread.name == "limit of downtime" for thread in threading.enumerate())
