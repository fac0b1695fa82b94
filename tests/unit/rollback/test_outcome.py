"""The one report of a block: what it tells of each way to end, and that telling it changes nothing."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from docker_rollback import (
    CheckedContainer,
    ContainerNotFoundError,
    EngineError,
    Outcome,
    Progress,
    RollbackFailedError,
    RollbackRequested,
    Status,
    UnfinishedRollbackError,
    UpdateRejectedError,
    recover,
    restore,
    rollback,
)
from docker_rollback.errors import RestoreError, ResumeError
from docker_rollback.testing import FailingEngine, FakeContainer, FakeEngine, Killed
from tests.unit.shop import Shop, UpdateFailedError

STEPS_IN = ("preflight", "live pass", "quiesce", "capture", "resume", "store", "update")


@pytest.fixture
def told() -> list[Outcome]:
    """What was told, in order."""
    return []


def steps(outcome: Outcome) -> tuple[str, ...]:
    """Return the names of the steps."""
    return tuple(step.step for step in outcome.steps)


def test_a_good_update_is_told(shop: Shop, told: list[Outcome]) -> None:
    """What was backed up, how long each step took and the container was down; nothing is left to do."""
    with shop.rollback(on_outcome=told.append) as tx:
        pass
    (outcome,) = told
    assert tx.outcome is outcome
    assert (outcome.status, outcome.entered, outcome.containers) == (Status.COMMITTED, True, ("shop",))
    assert steps(outcome) == (*STEPS_IN, "verify", "finish")
    assert list(outcome.downtime) == ["shop"]
    assert outcome.downtime["shop"].capture > 0
    assert (outcome.downtime["shop"].update, outcome.downtime["shop"].rollback) == (0.0, 0.0)
    backup = outcome.backup
    assert backup is not None
    assert (backup.id, backup.store, backup.containers) == (tx.backup.id, str(shop.store.path), ("shop",))
    assert {volume.name: volume.way for volume in backup.volumes} == dict.fromkeys(
        [volume.name for volume in tx.backup.volumes], "helper"
    )
    archives = {archive.name: archive for archive in tx.backup.volumes}
    assert all(archive.increment is None for archive in archives.values())
    assert [volume.stored for volume in backup.volumes] == [archives[one.name].base.size for one in backup.volumes]
    assert all(0 < volume.stored < volume.size for volume in backup.volumes)
    assert (backup.networks, backup.durable) == (("front",), True)
    assert (outcome.reason, outcome.rejected, outcome.rolled_back, outcome.lost) == (None, (), (), None)
    assert (outcome.failures, outcome.problems, outcome.to_do, outcome.kept) == ((), (), (), None)
    assert outcome.begun <= outcome.ended


def test_an_update_that_raises_is_told(shop: Shop, told: list[Outcome]) -> None:
    """Why it was rolled back, what came back, what is lost, and how long the container was down for each."""
    with pytest.raises(UpdateFailedError), shop.rollback(on_outcome=told.append):
        shop.break_it()
        raise UpdateFailedError("no such column")
    (outcome,) = told
    assert outcome.status is Status.ROLLED_BACK
    assert outcome.reason is not None
    reason = outcome.reason
    assert (reason.type, reason.text, reason.step) == ("UpdateFailedError", "no such column", "update")
    assert outcome.rolled_back[:2] == ("container 'shop'", "network 'front'")
    assert "volume 'orders'" in outcome.rolled_back
    assert steps(outcome) == (*STEPS_IN, "restore", "verify again", "finish")
    assert outcome.lost is not None
    assert outcome.lost >= 0
    assert outcome.downtime["shop"].rollback > 0
    assert outcome.to_do == ()


def test_a_check_that_failed_is_told(shop: Shop, told: list[Outcome]) -> None:
    """With the fields of the error that it raised."""

    def fall_over(container: FakeContainer) -> None:
        container.print("no tables")
        container.exit(4)

    shop.engine.on_start("shop:2", fall_over)
    with pytest.raises(UpdateRejectedError), shop.rollback(on_outcome=told.append):
        shop.engine.remove_container("shop", force=True)
        shop.engine.run("shop", image="shop:2", volumes={"orders": "/data"})
    (outcome,) = told
    (check,) = outcome.rejected
    assert (check.container, check.state, check.exit_code, check.log) == ("shop", "exited", 4, ("no tables",))
    assert outcome.reason is not None
    assert (outcome.reason.type, outcome.reason.step) == ("UpdateRejectedError", "verify")


def test_a_rollback_on_purpose_is_told_as_one(shop: Shop, told: list[Outcome]) -> None:
    """It is swallowed by the block, and named in the report."""
    with shop.rollback(on_outcome=told.append):
        raise RollbackRequested("not convinced")
    assert told[0].status is Status.ROLLED_BACK
    assert told[0].reason is not None
    assert (told[0].reason.type, told[0].reason.text) == ("RollbackRequested", "not convinced")


def test_a_rollback_that_failed_is_told(shop: Shop, told: list[Outcome]) -> None:
    """Both errors, that the container is down, and which calls put it back; one of those does."""
    entered = counted(shop, lambda: None)
    failing = FailingEngine(shop.engine, at=range(entered + 1, entered + 400))
    with pytest.raises(RollbackFailedError) as raised, shop.rollback(failing, on_outcome=told.append):
        raise UpdateFailedError("no")
    (outcome,) = told
    assert outcome.status is Status.FAILED
    assert outcome.entered
    assert outcome.reason is not None
    assert outcome.reason.type == "UpdateFailedError"
    assert [failure.text for failure in outcome.failures] == [
        str(failure) for failure in raised.value.failures.exceptions
    ]
    assert outcome.rolled_back == ()
    (todo,) = outcome.to_do
    assert outcome.backup is not None
    assert f"docker_rollback.recover(store={str(shop.store.path)!r})" in todo
    assert f"docker_rollback.restore({outcome.backup.id!r}, store=" in todo
    recover(client=shop.engine, store=shop.store)
    shop.check_restored()


def counted(shop: Shop, update: Callable[[], None]) -> int:
    """Return how many calls that change something entering a rollback takes."""
    counting = FailingEngine(shop.engine)
    with shop.rollback(counting):
        entered = counting.count
        update()
    return entered


@pytest.mark.parametrize("asked", ["shop", "nobody"])
def test_an_entry_that_failed_is_told(shop: Shop, told: list[Outcome], asked: str) -> None:
    """There was no update: the report says so, and why."""
    # The first commit is that of the running container, without which the backup is taken all the same.
    failing = FailingEngine(shop.engine, at=2, verbs={"commit_container"})
    tx = rollback(asked, client=failing, store=shop.store, on_outcome=told.append)
    with pytest.raises(Exception) as raised, tx:  # noqa: PT011  (whichever it is, it is the one that is told)
        pytest.fail("the block was entered")
    (outcome,) = told
    assert tx.outcome is outcome
    assert (outcome.status, outcome.entered, outcome.backup) == (Status.FAILED, False, None)
    assert outcome.containers == (asked,)
    assert outcome.reason is not None
    assert (outcome.reason.type, outcome.reason.text) == (type(raised.value).__name__, str(raised.value))
    assert outcome.reason.step == ("preflight" if asked == "nobody" else "capture")
    assert outcome.to_do == ()
    shop.check_restored()


def test_a_service_that_stays_down_is_left_to_somebody(shop: Shop, told: list[Outcome]) -> None:
    """Where a container cannot be set going again, the report asks for it to be started, and no hook says it runs."""
    resumed: list[str] = []

    class Stubborn(FailingEngine):
        def start_container(self, ref: str) -> None:
            if ref == shop.id:
                raise EngineError("start container 'shop'", "not today")
            super().start_container(ref)

    tx = shop.rollback(Stubborn(shop.engine), on_outcome=told.append, after_resume=lambda: resumed.append("shop"))
    with pytest.raises(ResumeError) as failed, tx:
        pytest.fail("the block was entered")
    assert failed.value.containers == ("shop",)
    assert isinstance(failed.value.__cause__, EngineError)
    assert failed.value.failures == (failed.value.__cause__,)
    assert resumed == []
    assert any("'shop' could not be started again" in todo for todo in told[0].to_do)
    assert any("docker_rollback.recover(" in todo for todo in told[0].to_do)


def test_a_rollback_that_asks_first_says_what_to_call(shop: Shop, told: list[Outcome]) -> None:
    """What an earlier one left undone is not finished by itself where that destroys something."""
    failing = FailingEngine(shop.engine, at=2, verbs={"stop_container"}, kill=True, after=True)
    updated: list[str] = []
    with pytest.raises(Killed), shop.rollback(failing):
        shop.break_it()
        updated.append(shop.engine.container("shop").id)
        raise RollbackRequested
    shop.engine.start_container(updated[0])
    with pytest.raises(UnfinishedRollbackError), shop.rollback(on_outcome=told.append):
        pytest.fail("the block was entered")
    assert told[0].to_do == (f"something is left over: call docker_rollback.recover(store={str(shop.store.path)!r})",)


def test_what_an_earlier_one_left_undone_is_told(shop: Shop, told: list[Outcome]) -> None:
    """Entering finishes it, and the report of the new block names it."""
    with pytest.raises(Killed), shop.rollback(FailingEngine(shop.engine, at=1, verbs={"commit_container"}, kill=True)):
        pytest.fail("the block was entered")
    with shop.rollback(on_outcome=told.append) as tx:
        pass
    assert told[0].recovered == tx.recovered
    assert [done.outcome for done in told[0].recovered] == ["discarded"]


@pytest.mark.parametrize("body", [None, UpdateFailedError("no")], ids=["committed", "rolled back"])
@pytest.mark.parametrize("raised", [ValueError("odd"), KeyboardInterrupt(), SystemExit(3)])
def test_whoever_is_told_cannot_change_the_outcome(
    shop: Shop, body: Exception | None, raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """What it raises is logged; the body's exception comes out untouched, and where there is none, an interruption."""

    def tell(_: Outcome) -> None:
        raise raised

    expected = body or (None if isinstance(raised, ValueError) else raised)
    caught: BaseException | None = None
    tx = shop.rollback(on_outcome=tell)
    try:
        with tx:
            if body is not None:
                raise body
    except BaseException as error:
        caught = error
    assert caught is expected
    assert tx.status is (Status.COMMITTED if body is None else Status.ROLLED_BACK)
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == (caught is not raised)


def test_whoever_is_told_may_begin_the_next_one(shop: Shop) -> None:
    """The locks are gone by then."""
    done: list[Status] = []

    def again(outcome: Outcome) -> None:
        assert outcome.backup is not None
        restore(outcome.backup.id, client=shop.engine, store=shop.store)
        with shop.rollback() as tx:
            pass
        done.append(tx.status)

    with pytest.raises(UpdateFailedError), shop.rollback(on_outcome=again):
        raise UpdateFailedError
    assert done == [Status.COMMITTED]


def test_tidying_up_that_fails_is_a_problem(shop: Shop, told: list[Outcome]) -> None:
    """The update stands; what is left over is named."""
    failing = FailingEngine(shop.engine, at=1, verbs={"remove_volume"})
    with shop.rollback(failing, on_outcome=told.append):
        pass
    (outcome,) = told
    assert outcome.status is Status.COMMITTED
    assert outcome.reason is None
    assert [problem.step for problem in outcome.problems] == ["finish"]
    assert "docker_rollback.recover(" in outcome.to_do[0]


def test_an_outcome_is_there_once_it_stands(shop: Shop) -> None:
    """Before, asking for it is a mistake that says how far it is."""
    tx = shop.rollback()
    with pytest.raises(RuntimeError, match="not started"):
        _ = tx.outcome
    with tx, pytest.raises(RuntimeError, match="updating"):
        _ = tx.outcome


def test_no_secret_is_told(shop: Shop, told: list[Outcome]) -> None:
    """A value of the container's environment in an error's text is replaced by the name of its variable."""
    shop.engine.remove_container("shop", force=True)
    shop.engine.run("shop", image="shop:1", volumes={"orders": "/data"}, env=["DB_PASSWORD=tr0ub4dor"])

    class MuteError(Exception):
        def __str__(self) -> str:
            raise LookupError("no words")

    for error, text in ((ValueError("login by tr0ub4dor"), "login by ${DB_PASSWORD}"), (MuteError(), "(no message)")):
        with pytest.raises(type(error)), shop.rollback(on_outcome=told.append):
            raise error
        reason = told[-1].reason
        assert reason is not None
        assert reason.text.startswith(text)
        assert "tr0ub4dor" not in told[-1].to_json()


def test_replacing_is_downtime_of_the_update(shop: Shop, told: list[Outcome]) -> None:
    """From the stop of the old one to the start of the new one."""
    with shop.rollback(on_outcome=told.append) as tx:
        tx.replace("shop", image="shop:2")
    assert told[0].downtime["shop"].update > 0


def test_a_rollback_that_is_broken_off_is_told(shop: Shop, told: list[Outcome]) -> None:
    """The second Ctrl-C ends it at once; the report says that it is not over, and which call finishes it."""

    def listen(news: Progress) -> None:
        if news.step == "restore" and news.subject == "fill volume 'orders'":
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), shop.rollback(progress=listen, on_outcome=told.append):
            shop.break_it()
            raise UpdateFailedError
    finally:
        signal.signal(signal.SIGINT, before)
    assert told[0].status is Status.ROLLING_BACK
    assert told[0].rolled_back == ()
    assert told[0].reason is not None
    assert told[0].reason.type == "UpdateFailedError"
    (todo,) = told[0].to_do
    assert f"docker_rollback.recover(store={str(shop.store.path)!r})" in todo
    recover(client=shop.engine, store=shop.store)
    shop.check_restored()


class Slow(FailingEngine):
    """An engine on which the stops and starts of the shop take time."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(shop.engine)
        self._clock, self._id = shop.clock, shop.id

    def pass_on(self, verb: str, work: Callable[[], Any], *arguments: object) -> Any:
        """Do one call, and let time pass."""
        if self._id in arguments:
            self._clock.advance({"stop_container": 2.0, "start_container": 1.0}.get(verb, 0.0))
        return super().pass_on(verb, work, *arguments)


def test_downtime_is_from_the_stop_to_running_again(shop: Shop) -> None:
    """Measured on a clock that moves with stops and starts alone: 3 s for the capture, 3 s for the way back."""
    tx = shop.timed(Slow(shop))
    with tx:
        raise RollbackRequested
    (down,) = tx.outcome.downtime.values()
    assert (down.capture, down.rollback) == (3.0, 3.0)
    assert sum(step.seconds for step in tx.outcome.steps if step.step in ("quiesce", "capture", "resume")) == 3.0


KEYS = {
    "format", "status", "entered", "containers", "begun", "ended", "steps", "downtime", "backup", "reason", "rejected",
    "rolled_back", "names", "not_exact", "files", "lost", "failures", "kept", "problems", "to_do", "recovered",
}  # fmt: skip


def test_downtime_of_what_shares_a_volume_is_told_too(shop: Shop) -> None:
    """It is stopped only on the way back, while the volume is filled."""
    slow = Slow(shop)
    slow._id = shop.engine.run("guest", image="shop:1", volumes={"orders": "/data"})
    tx = shop.timed(slow, shared="ignore")
    with tx:
        shop.engine.volume("orders").write("/table", "broken")
        raise RollbackRequested
    assert (tx.outcome.downtime["guest"].capture, tx.outcome.downtime["guest"].rollback) == (0.0, 3.0)


def test_json_has_these_keys(shop: Shop, told: list[Outcome]) -> None:
    """Programs read it: a key that goes or changes its meaning is a decision, taken here and in the format's number."""

    def check(container: CheckedContainer) -> None:
        if container.inspect()["Config"]["Image"] == "shop:2":
            raise container.reject("the wrong version")

    with pytest.raises(UpdateRejectedError), shop.rollback(on_outcome=told.append, verify=check) as tx:
        tx.replace("shop", image="shop:2")
    found = json.loads(told[0].to_json())
    assert found.keys() == KEYS
    assert (found["format"], found["status"], found["entered"]) == (1, "rolled back", True)
    assert datetime.fromisoformat(found["begun"]).utcoffset() == timedelta()
    assert datetime.fromisoformat(found["begun"]) == told[0].begun
    assert found["backup"].keys() == {
        "id", "store", "created", "durable", "project", "containers", "volumes", "networks", "not_covered",
    }  # fmt: skip
    assert found["backup"]["volumes"][0].keys() == {"name", "way", "size", "stored"}
    assert found["reason"].keys() == {"type", "text", "step"}
    assert found["rejected"][0].keys() == {"container", "reason", "state", "exit_code", "probe", "log"}
    assert found["downtime"]["shop"].keys() == {"capture", "update", "rollback"}
    assert found["steps"][0].keys() == {"step", "seconds"}


def test_a_container_that_is_not_there_is_told_in_json_too(tmp_path: Path, told: list[Outcome]) -> None:
    """An entry that failed serialises as well."""
    with (
        pytest.raises(ContainerNotFoundError),
        rollback("nobody", client=FakeEngine(), store=tmp_path / "store", on_outcome=told.append),
    ):
        pytest.fail("the block was entered")
    assert json.loads(told[0].to_json())["backup"] is None


def test_a_rollback_that_is_not_well_says_why(shop: Shop, told: list[Outcome]) -> None:
    """A check that held before and does not hold after the rollback is what failed."""
    asked: list[str] = []

    def check(container: CheckedContainer) -> None:
        asked.append(container.name)
        if len(asked) > 1:
            raise LookupError("no such page")

    tx = shop.timed(shop.engine, verify=[check], on_outcome=told.append)
    with pytest.raises(RollbackFailedError), tx:
        raise UpdateFailedError
    (failure,) = told[0].failures
    assert (failure.type, failure.step) == (RestoreError.__name__, "verify again")
