"""What a signal does to an open rollback: it is rolled back first, and nothing breaks that off by accident."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_rollback import BackupStore, CheckedContainer, Progress, Status, recover
from docker_rollback._rollback.signals import Signals
from tests.unit.shop import Shop, UpdateFailedError


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Hold that every test leaves the handlers as they were: Python's own, whatever the tests were started with."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    given = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    left = [signal.signal(number, handler) for number, handler in zip(numbers, given, strict=True)]
    assert left == [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]


def at_the_first_filling(number: signal.Signals, times: int) -> tuple[list[str], object]:
    """Return a listener that sends this process a signal, so often, once a volume is being filled."""
    seen: list[str] = []

    def listen(news: Progress) -> None:
        if news.step == "restore" and news.subject.startswith("fill"):
            seen.append(news.subject)
            if len(seen) == 1:
                for _ in range(times):
                    signal.raise_signal(number)

    return seen, listen


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["term", "hup"])
def test_a_request_to_end_is_rolled_back(shop: Shop, number: signal.Signals, code: int) -> None:
    """SIGTERM or SIGHUP in the body leaves the block as SystemExit with a shell's exit code, once all is as it was."""
    with pytest.raises(SystemExit) as ended, shop.rollback() as tx:
        shop.break_it()
        signal.raise_signal(number)
    assert ended.value.code == code
    assert tx.status is Status.ROLLED_BACK
    shop.check_restored()


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
    ids=["int", "term", "hup"],
)
def test_one_signal_waits_for_the_end_of_a_rollback(
    shop: Shop, number: signal.Signals, error: type[BaseException]
) -> None:
    """It is raised after that, over what the body raised."""
    body = UpdateFailedError()
    seen, listen = at_the_first_filling(number, 1)
    with pytest.raises(error) as raised, shop.rollback(progress=listen) as tx:
        shop.break_it()
        raise body
    assert raised.value.__context__ is body
    assert tx.status is Status.ROLLED_BACK
    assert len(seen) == 2
    shop.check_restored()


def test_a_signal_while_rolling_back_because_of_one_says_nothing_new(shop: Shop) -> None:
    """Ctrl-C in the body and once more in the rollback is one interruption: the body's."""
    _, listen = at_the_first_filling(signal.SIGINT, 1)
    body = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as raised, shop.rollback(progress=listen):
        shop.break_it()
        raise body
    assert raised.value is body
    shop.check_restored()


def test_a_second_signal_breaks_a_rollback_off(shop: Shop) -> None:
    """It comes out at once, with the call that finishes the job; and that call does."""

    class Impatient:
        presses = 0

        def __call__(self, news: Progress) -> None:
            if news.step == "restore" and news.subject.startswith("restore volume"):
                signal.raise_signal(signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as raised, shop.rollback(progress=Impatient()) as tx:
        shop.break_it()
        raise UpdateFailedError
    assert tx.status is Status.ROLLING_BACK
    assert "docker_rollback.recover(" in raised.value.__notes__[-1]
    recover(client=shop.engine, store=shop.store)
    shop.check_restored()


def test_a_signal_in_the_rollback_of_a_rejected_update_is_not_lost(shop: Shop) -> None:
    """It comes out over the rejection, once all is as it was."""
    _, listen = at_the_first_filling(signal.SIGTERM, 1)

    def no(container: CheckedContainer) -> None:
        raise LookupError(container.name)

    with pytest.raises(SystemExit), shop.rollback(verify=no, progress=listen):
        shop.engine.volume("orders").write("/table", "changed")
    shop.check_restored()


def test_a_signal_in_a_commit_waits(shop: Shop) -> None:
    """The update stands, and the signal is raised after that."""
    engine = shop.engine
    removing = engine.remove_volume

    def remove_volume(name: str) -> None:
        signal.raise_signal(signal.SIGTERM)
        removing(name)

    engine.remove_volume = remove_volume  # type: ignore[method-assign]  # the first call of the end of a commit
    with pytest.raises(SystemExit), shop.rollback() as tx:
        pass
    assert tx.status is Status.COMMITTED
    assert shop.store.journal.names() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["term", "hup"])
def test_a_signal_that_is_ignored_stays_ignored(shop: Shop, number: signal.Signals) -> None:
    """A program that was started to ignore a signal is not ended by it."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with shop.rollback() as tx:
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert tx.status is Status.COMMITTED


def test_a_terminal_that_hangs_up_twice_does_not_break_a_rollback_off(shop: Shop) -> None:
    """The shell and the kernel each send SIGHUP; the second one in the rollback changes nothing."""
    seen, listen = at_the_first_filling(signal.SIGHUP, 3)
    with pytest.raises(SystemExit) as ended, shop.rollback(progress=listen) as tx:
        shop.break_it()
        raise UpdateFailedError
    assert ended.value.code == 129
    assert tx.status is Status.ROLLED_BACK
    assert len(seen) == 2
    shop.check_restored()


def test_a_hang_up_after_the_one_that_ended_the_body_is_no_new_one(shop: Shop) -> None:
    """Neither the body's own clean-up nor the rollback that follows is broken off by it."""
    cleaned: list[str] = []
    _, listen = at_the_first_filling(signal.SIGHUP, 2)
    with pytest.raises(SystemExit) as ended, shop.rollback(progress=listen) as tx:
        shop.break_it()
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            signal.raise_signal(signal.SIGHUP)
            cleaned.append("whole")
    assert (ended.value.code, cleaned) == (129, ["whole"])
    assert tx.status is Status.ROLLED_BACK
    shop.check_restored()


def test_after_a_hang_up_one_request_to_end_waits_too(shop: Shop) -> None:
    """A session that ends sends SIGHUP and SIGTERM together; two of SIGTERM and SIGINT break a rollback off."""
    seen: list[str] = []

    def listen(news: Progress) -> None:
        if news.step == "restore" and news.subject.startswith("fill"):
            seen.append(news.subject)
            if len(seen) == 1:
                signal.raise_signal(signal.SIGHUP)
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended, shop.rollback(progress=listen) as tx:
        shop.break_it()
        raise UpdateFailedError
    assert ended.value.code == 129
    assert tx.status is Status.ROLLED_BACK
    shop.check_restored()


PROGRAM = """
import sys, time
from pathlib import Path
from docker_rollback import BackupStore
from tests.unit.shop import Shop
folder = Path(sys.argv[1])
shop = Shop(BackupStore(folder / "store"))
tx = shop.rollback()
code = 0
try:
    with tx:
        shop.break_it()
        (folder / "in the body").touch()
        while not (folder / "go on").exists():
            time.sleep(0.01)
except SystemExit as end:
    code = end.code
    shop.check_restored()
(folder / "ending").write_text(f"{code} {tx.status.name}")
(folder / "ended").touch()
sys.exit(code)
"""


def await_file(path: Path) -> None:
    """Return once a file is there."""
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} never came"
        time.sleep(0.02)


def test_a_terminal_that_is_closed_rolls_back(tmp_path: Path) -> None:
    """An interactive shell whose terminal goes takes its foreground program along, which puts everything back first."""
    shell, terminal = pty.fork()
    if shell == 0:
        os.execvp("bash", ["bash", "--norc", "-i"])
    try:
        command = shlex.join([sys.executable, "-c", PROGRAM, str(tmp_path)])
        os.write(terminal, f"{command}\n".encode())
        await_file(tmp_path / "in the body")
    finally:
        os.close(terminal)
        os.waitpid(shell, 0)
    await_file(tmp_path / "ended")
    assert (tmp_path / "ending").read_text() == "129 ROLLED_BACK"


@pytest.mark.parametrize(("before", "code", "ending"), [([], 129, "129 ROLLED_BACK"), (["nohup"], 0, "0 COMMITTED")])
def test_a_hang_up_ends_a_process_unless_it_was_started_to_ignore_it(
    tmp_path: Path, before: list[str], code: int, ending: str
) -> None:
    """The exit code is a shell's, 129; below ``nohup`` the update goes on and is committed."""
    command = [*before, sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        await_file(tmp_path / "in the body")
        process.send_signal(signal.SIGHUP)
        if before:
            (tmp_path / "go on").touch()
        assert process.wait(60) == code
    assert (tmp_path / "ending").read_text() == ending


def test_another_thread_has_no_signals(shop: Shop) -> None:
    """A rollback in it works, and touches no handler."""
    found: list[object] = []

    def work() -> None:
        with shop.rollback():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_a_forked_child_holds_nothing(tmp_path: Path) -> None:
    """A child that the body forked and that outlives us keeps no lock: recovery needs not wait for it."""
    program = textwrap.dedent(
        f"""
        import os, signal, sys
        from docker_rollback import BackupStore
        from tests.unit.shop import Shop
        shop = Shop(BackupStore({str(tmp_path / "store")!r}))
        with shop.rollback():
            child = os.fork()
            if child == 0:
                sys.stdout.close()
                os.close(1)
                signal.pause()
            print(child, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    died = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL
    child = int(died.stdout)
    try:
        store = BackupStore(tmp_path / "store")
        (name,) = store.journal.names()
        operation = name.partition(".")[0]
        again = Shop(store)
        with store.lock(again.id, container="shop"):
            assert store.get(operation).containers[0].id == again.id
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("sent", "ends"),
    [
        ([signal.SIGTERM, signal.SIGHUP], SystemExit(143)),
        ([signal.SIGHUP, signal.SIGTERM], SystemExit(129)),
        ([signal.SIGHUP, signal.SIGINT], SystemExit(129)),
        ([signal.SIGINT, signal.SIGHUP], KeyboardInterrupt()),
    ],
)
def test_the_first_of_two_deferred_signals_counts(sent: list[signal.Signals], ends: BaseException) -> None:
    """It is raised once, and not if such an exception leaves the block anyway."""
    for leaving in (None, ValueError(), SystemExit(1), KeyboardInterrupt()):
        with Signals() as signals:
            with signals.deferring("the work"):
                for number in sent:
                    signal.raise_signal(number)
            if isinstance(leaving, SystemExit | KeyboardInterrupt):
                signals.deliver(leaving)
            else:
                with pytest.raises(type(ends)) as ended:
                    signals.deliver(leaving)
                assert ended.value.args == ends.args
            signals.deliver(None)
