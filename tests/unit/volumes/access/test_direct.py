"""Programs as our own children."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from docker_rollback._volumes.access.direct import LocalProcess


def python(script: str) -> tuple[str, ...]:
    """Return the command that runs a script."""
    return (sys.executable, "-c", script)


def test_what_goes_in_comes_out() -> None:
    """A program gets its input whole, and its output is read whole."""
    data = os.urandom(5_000_000)
    with LocalProcess(("cat",), stdin=True) as process:

        def feed() -> None:
            process.write(memoryview(data))
            process.close_input()

        writer = threading.Thread(target=feed)
        writer.start()
        came = b"".join(iter(lambda: process.read(1 << 20), b""))
        writer.join()
        assert process.finish().exit_code == 0
    assert came == data


def test_a_program_says_how_it_ended() -> None:
    """The exit code and the end of what it said come from finish, which may be asked again."""
    with LocalProcess(python("import sys; sys.stderr.write('why'); sys.exit(7)")) as process:
        assert [(process.finish().exit_code, process.finish().stderr) for _ in range(2)] == [(7, "why")] * 2


def test_what_it_says_is_kept_within_bounds() -> None:
    """Of a flood of words the end is kept."""
    with LocalProcess(python("import sys; sys.stderr.write('x' * 3_000_000 + 'end')")) as process:
        said = process.finish().stderr
    assert said.endswith("xend")
    assert len(said) <= 64 << 10


def test_a_program_that_ends_early_shows_in_its_exit_code() -> None:
    """Input that nobody reads any more is dropped without an error of its own."""
    with LocalProcess(python("import sys; sys.stdin.close(); sys.exit(3)"), stdin=True) as process:
        for _ in range(50):
            process.write(bytes(1 << 20))
        assert process.finish().exit_code == 3


def test_leaving_the_block_ends_a_program() -> None:
    """A program that is still at work when its block ends is gone afterwards."""
    with LocalProcess(python("import os, time; print(os.getpid(), flush=True); time.sleep(600)")) as process:
        number = int(process.read(100))
    assert not Path(f"/proc/{number}").exists()


def test_one_that_was_killed_says_so() -> None:
    """A program ended from outside has the signal for its exit code."""
    with LocalProcess(("sleep", "600")) as process:
        process.kill()
        assert process.finish().exit_code == -9


def test_it_has_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It speaks the C locale, and what stands in our environment does not reach it."""
    monkeypatch.setenv("TAR_OPTIONS", "--remove-files")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    with LocalProcess(("env",)) as process:
        lines = process.read(10_000).decode().splitlines()
    assert sorted(lines) == ["LC_ALL=C", f"PATH={os.defpath}"]


def test_a_ctrl_c_at_our_terminal_does_not_reach_it() -> None:
    """It has a process group of its own."""
    with LocalProcess(python("import os; print(os.getpgid(0))")) as process:
        assert int(process.read(100)) != os.getpgid(0)
