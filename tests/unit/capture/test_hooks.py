"""Hooks run where their names say, within their time; only one before the capture keeps a block from being entered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from docker_rollback import (
    EngineError,
    Exec,
    HookError,
    Progress,
    RollbackFailedError,
    RollbackRequested,
    Status,
    backup,
    recover,
    rollback,
)
from docker_rollback._rollback.checked_container import CheckedContainer
from docker_rollback.parts import Call, Process
from docker_rollback.testing import FailingEngine, Killed, Run
from tests.unit.shop import Shop, UpdateFailedError


class Story:
    """What happened, in order: hooks, and the steps that a listener to progress is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def hook(self, name: str, error: BaseException | None = None) -> Callable[[], None]:
        """Return a hook that notes that it ran, and raises."""

        def run() -> None:
            self.lines.append(name)
            if error is not None:
                raise error

        return run

    def listen(self, news: Progress) -> None:
        """Note when the shop is brought to rest, captured and resumed."""
        if news.step in ("quiesce", "capture", "resume"):
            self.lines.append(news.step)


@pytest.fixture
def story() -> Story:
    """An empty story."""
    return Story()


def test_hooks_run_where_their_names_say(shop: Shop, story: Story) -> None:
    """Around the rest, several in their order; and after the rollback, when all is back."""

    def after_rollback() -> None:
        shop.check_equal()
        story.lines.append("after_rollback")

    with shop.rollback(
        before_quiesce=[story.hook("before 1"), story.hook("before 2")],
        after_resume=story.hook("after"),
        after_rollback=after_rollback,
        progress=story.listen,
    ) as tx:
        shop.break_it()
        raise RollbackRequested
    assert story.lines == ["before 1", "before 2", "quiesce", "capture", "resume", "after", "after_rollback"]
    assert {"before_quiesce", "after_resume", "after_rollback"} <= {step.step for step in tx.outcome.steps}


def test_there_is_nothing_to_do_after_a_rollback_that_was_none(shop: Shop, story: Story) -> None:
    """An update that stands runs the first two alone, and so does a backup."""
    with shop.rollback(after_resume=story.hook("after"), after_rollback=story.hook("after_rollback")):
        pass
    backup(
        "shop",
        client=shop.engine,
        store=shop.store,
        before_quiesce=story.hook("before"),
        after_resume=story.hook("after"),
    )
    assert story.lines == ["after", "before", "after"]


def test_a_hook_before_the_capture_that_fails_aborts(shop: Shop, story: Story) -> None:
    """Nothing was brought to rest, nothing is left over, no other hook runs, and the error is the cause."""
    cause = LookupError("no maintenance page")
    tx = shop.rollback(
        before_quiesce=[story.hook("before", cause), story.hook("never")],
        after_resume=story.hook("never"),
        after_rollback=story.hook("never"),
        progress=story.listen,
    )
    with pytest.raises(HookError, match="LookupError: no maintenance page") as failed, tx:
        pytest.fail("the block was entered")
    error = failed.value
    assert (error.hook, error.container, error.exit_code) == ("before_quiesce", None, None)
    assert error.__cause__ is cause
    assert [line for line in story.lines if line != "resume"] == ["before"]
    assert tx.outcome.reason is not None
    assert (tx.outcome.reason.type, tx.outcome.reason.step) == ("HookError", "before_quiesce")
    assert shop.store.list() == []
    assert shop.engine.inspect_container("shop")["State"] == shop.before["State"]
    shop.check_restored()
    assert recover(client=shop.engine, store=shop.store) == ()


@pytest.mark.parametrize("hook", ["after_resume", "after_rollback"])
def test_a_hook_that_fails_later_is_told(shop: Shop, story: Story, hook: str, caplog: pytest.LogCaptureFixture) -> None:
    """The outcome is what it is without it; the log and the report name it."""
    body = UpdateFailedError("no")
    hooks: dict[str, Any] = {hook: [story.hook("first", ValueError("odd")), story.hook("second")]}
    with pytest.raises(UpdateFailedError) as raised, shop.rollback(**hooks) as tx:
        raise body
    assert raised.value is body
    assert tx.status is Status.ROLLED_BACK
    (problem,) = tx.outcome.problems
    assert (problem.type, problem.step) == ("HookError", hook)
    assert "ValueError: odd" in problem.text
    assert problem.text in caplog.text
    assert story.lines == ["first"]
    assert tx.outcome.to_do == ()


def test_a_capture_that_fails_resumes_with_its_hook(shop: Shop, story: Story) -> None:
    """What was done before the rest is undone after it, whatever became of the capture."""
    # The first commit is that of the running container, without which the backup is taken all the same.
    failing = FailingEngine(shop.engine, at=2, verbs={"commit_container"})
    tx = shop.rollback(
        failing, before_quiesce=story.hook("before"), after_resume=story.hook("after"), progress=story.listen
    )
    with pytest.raises(EngineError, match="made to fail"), tx:
        pytest.fail("the block was entered")
    assert story.lines == ["before", "quiesce", "capture", "resume", "after"]


def test_an_update_that_starts_the_service_itself_has_nothing_resumed(shop: Shop, story: Story) -> None:
    """With ``resume=False`` the hook runs only where a failure sets the containers going again."""
    for number in range(100):
        shop.engine.container("shop").write(f"/layer-{number}", "of its own")
    # The first export is that of the original image, before the stop. The second one is that of many changes.
    failing = FailingEngine(shop.engine, at=2, verbs={"save_image"})
    with (
        pytest.raises(EngineError),
        shop.rollback(failing, resume=False, after_resume=story.hook("after"), progress=story.listen),
    ):
        pytest.fail("the block was entered")
    assert story.lines == ["quiesce", "capture", "resume", "after"]
    story.lines.clear()
    with shop.rollback(resume=False, verify=None, after_resume=story.hook("after")):
        shop.engine.start_container("shop")
    assert story.lines == []


def test_a_rollback_that_failed_has_no_hook_after_it(shop: Shop, story: Story) -> None:
    """Nothing is back, so nobody is told that it is."""
    failing = FailingEngine(shop.engine, at=range(1, 400), verbs={"rename_container"})
    with pytest.raises(RollbackFailedError), shop.rollback(failing, after_rollback=story.hook("after")):
        shop.break_it()
        raise UpdateFailedError
    assert story.lines == []


def test_recovery_has_no_hooks_of_the_dead(shop: Shop, story: Story) -> None:
    """They were in the memory of a process that is gone; those of the next rollback run for its own capture alone."""
    with (
        pytest.raises(Killed),
        shop.rollback(
            FailingEngine(shop.engine, at=1, verbs={"rename_container"}, kill=True),
            after_rollback=story.hook("dead"),
        ),
    ):
        shop.break_it()
        raise RollbackRequested
    hooks: dict[str, Any] = {name: story.hook(name) for name in ("before_quiesce", "after_resume", "after_rollback")}
    with shop.rollback(**hooks) as tx:
        assert [done.outcome for done in tx.recovered] == ["rolled back"]
    assert story.lines == ["before_quiesce", "after_resume"]


def test_a_program_runs_in_its_container(shop: Shop) -> None:
    """An `Exec` changes files there, before the capture."""
    with shop.rollback(before_quiesce=Exec("shop", ["touch", "/data/flushed"])):
        shop.engine.volume("orders").delete("/flushed")
        raise RollbackRequested
    assert shop.engine.volume("orders").exists("/flushed")


def test_a_program_that_fails_says_why(shop: Shop) -> None:
    """Its exit code and what it said, and no value of the container's environment."""
    shop.engine.remove_container("shop", force=True)
    shop.engine.run("shop", image="shop:1", volumes={"orders": "/data"}, env=["PGPASSWORD=tr0ub4dor"])

    def dump(run: Run) -> int:
        run.stderr.append("login by tr0ub4dor failed\n")
        return 3

    shop.engine.program("pg_dump", dump)
    with (
        pytest.raises(HookError) as failed,
        shop.rollback(before_quiesce=Exec("shop", ["pg_dump", "--password=tr0ub4dor"])),
    ):
        pytest.fail("the block was entered")
    error = failed.value
    assert (error.container, error.program, error.exit_code) == ("shop", "pg_dump", 3)
    assert (error.hook, error.reason) == ("before_quiesce", "it ended with exit code 3")
    assert error.stderr == "login by ${PGPASSWORD} failed"
    assert "tr0ub4dor" not in str(error)
    assert "tr0ub4dor" not in repr(Exec("shop", ["pg_dump", "--password=tr0ub4dor"]))


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (Exec("nobody", ["true"]), "no container 'nobody'"),
        (Exec("shop", ["/not/there"]), "exit code 127"),
        (Exec("other", ["true"]), "could not"),
    ],
    ids=["no container", "no program", "does not run"],
)
def test_a_program_that_cannot_run_is_a_hook_that_failed(shop: Shop, hook: Exec, words: str) -> None:
    """Whatever the engine says becomes a `HookError`."""
    shop.engine.run("other", image="shop:1", start=False)
    with pytest.raises(HookError, match=words), shop.rollback(before_quiesce=hook):
        pytest.fail("the block was entered")
    assert shop.engine.inspect_container("shop")["State"] == shop.before["State"]


def test_a_program_that_hangs_is_ended(shop: Shop) -> None:
    """When its time is over it has failed, and does not run on."""
    shop.engine.program("hang", lambda _: None)
    begun: list[Process] = []

    class Watched(FailingEngine):
        def exec(self, ref: str, command: Sequence[str], *, stdin: bool = False) -> Process:
            program = super().exec(ref, command, stdin=stdin)
            begun.extend([program] if command == ["hang"] else [])
            return program

    hook = Exec("shop", ["hang"], timeout=0.05)
    with (
        pytest.raises(HookError, match=r"within 0\.05 s") as failed,
        shop.rollback(Watched(shop.engine), before_quiesce=hook),
    ):
        pytest.fail("the block was entered")
    assert failed.value.exit_code is None
    assert (failed.value.hook, failed.value.program, failed.value.container) == ("before_quiesce", "hang", "shop")
    assert [program.finish().exit_code for program in begun] == [137]


def test_a_function_that_hangs_is_given_up(shop: Shop) -> None:
    """It is waited for no longer than its time."""
    released = threading.Event()
    hook = Call(lambda: released.wait(timeout=60.0), timeout=0.05)
    with pytest.raises(HookError, match=r"within 0\.05 s") as failed, shop.rollback(before_quiesce=hook):
        pytest.fail("the block was entered")
    released.set()
    assert (failed.value.hook, failed.value.reason) == ("before_quiesce", "it did not return within 0.05 s")


def test_a_function_may_ask_for_the_thread_of_the_caller(shop: Shop) -> None:
    """What belongs to a thread can be used in a `Call` without a time-out."""
    seen: list[threading.Thread] = []

    def look() -> None:
        seen.append(threading.current_thread())

    with shop.rollback(before_quiesce=[look, Call(look, timeout=None)]):
        pass
    assert [thread is threading.current_thread() for thread in seen] == [False, True]


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_is_no_failure_of_a_hook(shop: Shop, story: Story, raised: type[BaseException]) -> None:
    """A hook that exits does so, and the service runs."""
    with pytest.raises(raised), shop.rollback(before_quiesce=story.hook("before", raised())):
        pytest.fail("the block was entered")
    shop.check_restored()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Exec("shop", "pg_dump"), ValueError),
        (lambda: Exec("shop", []), ValueError),
        (lambda: Exec("shop", ["true"], timeout=0), ValueError),
        (lambda: Call(print, timeout=-1.0), ValueError),
    ],
)
def test_a_hook_that_makes_no_sense_is_refused(make: Callable[[], object], error: type[Exception]) -> None:
    """Where it is written, not where it runs."""
    with pytest.raises(error):
        make()


def test_what_is_no_hook_is_refused(shop: Shop) -> None:
    """Before anything is asked of an engine."""
    with pytest.raises(TypeError, match="before_quiesce is a callable"):
        shop.rollback(before_quiesce=["pg_dump"])


def test_a_function_tells_no_secret(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """What it raises is told with the name of the variable in the place of its value."""
    shop.engine.remove_container("shop", force=True)
    shop.engine.run("shop", image="shop:1", volumes={"orders": "/data"}, env=["PGPASSWORD=tr0ub4dor"])

    def dump() -> None:
        raise ConnectionError("login by tr0ub4dor failed")

    with shop.rollback(after_resume=dump) as tx:
        pass
    (problem,) = tx.outcome.problems
    assert problem.text.endswith("ConnectionError: login by ${PGPASSWORD} failed")
    assert "tr0ub4dor" not in caplog.text


def test_a_hook_after_a_rollback_finds_all_running(shop: Shop, story: Story) -> None:
    """Also what has ended while the checks of others were made: it may run a program there, or call it up again."""
    shop.engine.run("desk", image="shop:1")

    def check(container: CheckedContainer) -> None:
        if container.name == "shop":
            shop.engine.stop_container("desk")

    def after_rollback() -> None:
        story.lines.append(shop.engine.container("desk").status)

    options: dict[str, Any] = {"verify": check, "after_rollback": after_rollback}
    with rollback("shop", "desk", client=shop.engine, store=shop.store, **options):
        raise RollbackRequested
    assert story.lines == ["running"]
