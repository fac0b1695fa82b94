"""Programs that run in a container of the in-memory engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self, TypeAlias

from attrs import define, field

from docker_rollback._engine import Finished
from docker_rollback.testing._fake.files import Files

KILLED = 137


@define
class Run:
    """One run of a program, as the program sees it.

    Attributes:
        arguments: its command line, the program's own name first, without a loader before it.
        files: the file system of its container.
        stdin: all of its input.
        cut: True if the run was killed before its input had ended, so that `stdin` has only the beginning.
        now: returns the current time, in nanoseconds since 1970.
        hang_up: reports that a writer has closed the FIFO at a path.
        stdout: the program's output.
        stderr: the program's error output.
    """

    arguments: list[str]
    files: Files
    stdin: bytes
    cut: bool
    now: Callable[[], int]
    hang_up: Callable[[str], object]
    stdout: bytearray = field(factory=bytearray)
    stderr: list[str] = field(factory=list)


Program: TypeAlias = Callable[[Run], int | None]
"""A program: takes a `Run` and returns its exit code, or None to go on running until it is killed."""


@define(eq=False)
class FakeProcess:
    """A program that runs in a container; implements `Process`.

    A program with input runs once its input is closed; one without input runs at once. A program that is killed while
    it is still being fed works on the input so far, as a real one would have.
    """

    _program: Program
    _arguments: list[str]
    _files: Files
    _now: Callable[[], int]
    _lock: AbstractContextManager[object]
    _hang_up: Callable[[str], object]
    _input: bytearray = field(factory=bytearray)
    _output: bytearray = field(factory=bytearray)
    _errors: list[str] = field(factory=list)
    _code: int | None = None
    _open: bool = True
    _change: threading.Condition = field(factory=threading.Condition)

    @property
    def ended(self) -> bool:
        """True once the program has ended."""
        return self._code is not None

    def feeds(self, path: str) -> bool:
        """Return True if the program holds this path open: it has it as an argument, and its input is still open."""
        return self._open and self._code is None and path in self._arguments[1:]

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of output, ``b""`` at its end. Waits while the program is being fed."""
        with self._change:
            self._change.wait_for(lambda: self._output or self._code is not None)
            piece = bytes(self._output[:size])
            del self._output[:size]
        return piece

    def write(self, data: bytes | memoryview, /) -> None:
        """Send all of `data` to the program's input; a program that has ended drops it."""
        if self._open and self._code is None:
            self._input += data

    def close_input(self) -> None:
        """End the input; the program does its work now."""
        self._work(cut=False)

    def finish(self) -> Finished:
        """Wait until the program has ended, and return its exit code and error output."""
        self.close_input()
        with self._change:
            self._change.wait_for(lambda: self._code is not None)
            self._output.clear()
            return Finished(self._code if self._code is not None else KILLED, "".join(self._errors)[-4096:])

    def kill(self) -> None:
        """End the program now; the input so far has had its effect."""
        self._work(cut=True)
        self._end(KILLED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.kill()

    def _work(self, *, cut: bool) -> None:
        with self._change:
            if not self._open or self._code is not None:
                return
            self._open = False
        run = Run(self._arguments, self._files, bytes(self._input), cut, self._now, self._hang_up)
        with self._lock:
            try:
                code = self._program(run)
            except OSError as error:
                run.stderr.append(f"{self._arguments[0]}: {error}\n")
                code = 2
        self._errors += run.stderr
        with self._change:
            self._output += run.stdout
        if code is not None:
            self._end(KILLED if cut else code)

    def _end(self, code: int) -> None:
        with self._change:
            if self._code is None:
                self._code = code
            self._change.notify_all()
