"""Runs a program in a container by exec, with input and output over one connection.

The engine sends output in frames: one byte for the stream, three zeros, four bytes of length, then that many bytes.
docker-py reads each header and each frame separately and copies them several times; this reader takes everything that
has arrived, up to a megabyte, and copies it once.
"""

from __future__ import annotations

import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from attrs import Factory, define, field

from docker_rollback._engine.docker.errors import Asking
from docker_rollback._engine.docker.kill import Killer
from docker_rollback._engine.docker.socket import Duplex
from docker_rollback._engine.port import Finished
from docker_rollback._host import Timer
from docker_rollback.errors import EngineError, EngineTimeoutError, NotFoundError

_HEADER: Final = struct.Struct(">BxxxL")
_STDERR, _SYSTEM = 2, 3
_BLOCK: Final = 1 << 20
_KEPT_STDERR: Final = 64 << 10
_KILLED: Final = 137
_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127
_FIRST_LOOK: Final = 0.5
_LAST_LOOK: Final = 4.0
# Seconds in which a program ends by itself after its connection was closed, if it does so at all.
_PATIENCE: Final = 0.5


class Demultiplexer:
    """Splits an engine's frames into streams; chunks may end anywhere in a frame."""

    def __init__(self, *, together: bool = False) -> None:
        """Start before the first frame; `together` adds standard error to the output."""
        self._errors = () if together else (_STDERR, _SYSTEM)
        self._header = bytearray()
        self._stream = 0
        self._left = 0
        self._stderr = bytearray()

    @property
    def stderr(self) -> bytes:
        """The last 64 KiB of standard error."""
        return bytes(self._stderr[-_KEPT_STDERR:])

    @property
    def complete(self) -> bool:
        """True if the data so far ends at the end of a frame."""
        return not self._header and not self._left

    def feed(self, data: memoryview) -> bytes:
        """Process the next chunk, and return the standard output in it."""
        output: list[memoryview] = []
        at, end = 0, len(data)
        while at < end:
            if not self._left:
                at = self._read_header(data, at)
                continue
            size = min(self._left, end - at)
            piece = data[at : at + size]
            if self._stream in self._errors:
                self._keep(piece)
            else:
                output.append(piece)
            self._left -= size
            at += size
        return b"".join(output)

    def _read_header(self, data: memoryview, at: int) -> int:
        size = min(_HEADER.size - len(self._header), len(data) - at)
        self._header += data[at : at + size]
        if len(self._header) == _HEADER.size:
            self._stream, self._left = _HEADER.unpack(self._header)
            self._header.clear()
        return at + size

    def _keep(self, piece: memoryview) -> None:
        self._stderr += piece
        if len(self._stderr) > 2 * _KEPT_STDERR:
            del self._stderr[:-_KEPT_STDERR]


@define
class _Refusal:
    """Recognises the message of an engine that could not start a program, which Docker sends as the program's output.

    Only the exit code distinguishes it from a program that prints the same. So output that starts like the message is
    held back until the end.
    """

    _BEGINNINGS = (b"OCI runtime exec failed: ", b"cannot exec in a ")
    _LONGEST = 16 << 10

    _begun: bool = False
    _kept: bytes = b""

    @property
    def held(self) -> bool:
        """True if output is held back."""
        return bool(self._kept)

    def sift(self, output: bytes) -> bytes:
        """Return the output that can be passed on."""
        if self._kept:
            self._kept += output
            return self.release() if len(self._kept) > self._LONGEST else b""
        if output and not self._begun:
            self._begun = True
            if output.startswith(self._BEGINNINGS):
                self._kept = output
                return b""
        return output

    def release(self) -> bytes:
        """Return the held output, which was the program's."""
        kept, self._kept = self._kept, b""
        return kept

    def judged(self, exit_code: int, stderr: bytes) -> Finished:
        """Return the result, with a shell's exit code if the program could not be started."""
        if not _never_ran(exit_code) or not (self._kept or stderr.startswith(b"Error: ")):
            return Finished(exit_code, _text(stderr))
        said = _text(self._kept + stderr).strip()
        missing = "executable file not found" in said or "no such file or directory" in said
        return Finished(_NOT_FOUND if missing else _NOT_EXECUTABLE, said)


@define(eq=False)
class DockerProcess:
    """Implements `Process` for an engine's exec.

    Output that arrives while input is written is held in memory until it is read. So if a program returns as much as it
    receives, another thread should read meanwhile; both may use the process at the same time.
    """

    # Seconds that an engine may need to notice the end of a program after the end of its output.
    _GRACE = 10.0

    _duplex: Duplex
    _inspect: Callable[[], Any]  # returns the engine's inspection of the exec
    _killer: Killer
    _asking: Asking
    _fed: bool = field(alias="stdin", kw_only=True)  # True if the program has an input
    _timer: Timer = field(default=time, kw_only=True)
    _frames: Demultiplexer = field(factory=Demultiplexer, init=False)
    _buffer: memoryview = field(factory=lambda: memoryview(bytearray(_BLOCK)), init=False)
    _output: deque[bytes] = field(factory=deque, init=False)
    _offset: int = field(default=0, init=False)
    _refusal: _Refusal = field(factory=_Refusal, init=False)
    _receiving: threading.Lock = field(factory=threading.Lock, init=False)
    _ended: bool = field(default=False, init=False)
    _input_open: bool = field(default=Factory(lambda self: self._fed, takes_self=True), init=False)
    _over: float | None = field(default=None, init=False)
    _reset: bool = field(default=False, init=False)
    _finished: Finished | None = field(default=None, init=False)

    def read(self, size: int, /) -> bytes:
        patience = _FIRST_LOOK
        while True:
            with self._receiving:
                if self._output:
                    return self._take(size)
                if self._ended:
                    return b""
                came = self._receive()
            if not came and not self._wait(patience if self._fed else None, reading=True, writing=False):
                if self._over is not None and self._timer.monotonic() > self._over:
                    # The program has ended, and no output has arrived since.
                    self._ended = True
                else:
                    self._look()
                patience = min(patience * 2, _LAST_LOOK)

    def write(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data).cast("B")
        while view and self._input_open:
            try:
                with self._asking.translated():
                    sent = self._duplex.send(view[:_BLOCK])
            except EngineError as error:
                if isinstance(error.__cause__, BrokenPipeError):
                    # The program ended early; `finish` reports its exit code.
                    self._input_open = False
                    return
                raise
            if sent is None:
                self._drain()
                if not self._wait(_FIRST_LOOK, reading=not self._ended, writing=True):
                    self._look()
            else:
                view = view[sent:]

    def close_input(self) -> None:
        if self._input_open:
            self._input_open = False
            with self._asking.translated():
                self._duplex.close_write()

    def finish(self) -> Finished:
        if self._finished is None:
            self.close_input()
            while self.read(_BLOCK):
                pass
            if not self._frames.complete:
                raise EngineTimeoutError(self._asking.action, "the connection was lost in the middle of the output")
            exit_code = self._exit_code()
            if self._reset and exit_code == 0:
                # A program that reads to the end of its input also succeeds if a lost connection truncates the input.
                raise EngineTimeoutError(self._asking.action, "the connection was lost, and with it part of the input")
            self._finished = self._refusal.judged(exit_code, self._frames.stderr)
            self._duplex.close()
        return self._finished

    def kill(self) -> None:
        if self._finished is not None:
            return
        try:
            state = self._state()
            if not state.get("Running") and state.get("ExitCode") is not None:
                self._finished = Finished(int(state["ExitCode"]), _text(self._frames.stderr))
                return
            # It counts as killed, whatever its exit code turns out to be.
            self._finished = Finished(_KILLED, _text(self._frames.stderr))
            self._killer.signal(state)
        finally:
            self._input_open = False
            self._duplex.close()
        self._see_it_end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object, /) -> None:
        try:
            self.kill()
        except EngineError as failure:
            if error is None:
                raise
            error.add_note(f"in addition, {failure}")

    def _take(self, size: int) -> bytes:
        first = self._output[0]
        if not self._offset and len(first) <= size:
            return self._output.popleft()
        piece = first[self._offset : self._offset + size]
        self._offset += len(piece)
        if self._offset == len(first):
            self._output.popleft()
            self._offset = 0
        return piece

    def _receive(self) -> bool:
        """Receive available data; return True if there was any, or the end. Only with the lock held."""
        size = self._received()
        if size is None:
            return False
        if self._over is not None:
            self._over = max(self._over, self._timer.monotonic() + _FIRST_LOOK)
        if size == 0:
            self._ended = True
            if self._refusal.held and not _never_ran(self._exit_code()):
                self._output.append(self._refusal.release())
        elif output := self._refusal.sift(self._frames.feed(self._buffer[:size])):
            self._output.append(output)
        return True

    def _received(self) -> int | None:
        try:
            with self._asking.translated():
                return self._duplex.receive(self._buffer)
        except EngineError as error:
            if self._fed and isinstance(error.__cause__, ConnectionResetError | ssl.SSLEOFError):
                # Podman closes the connection like this if a program ends before its input. The exit code follows.
                self._reset = True
                return 0
            raise

    def _look(self) -> None:
        """Check whether the program has ended, although the connection is still open.

        If a program ends before its input, Docker reads on, and closes the connection up to two minutes later. The
        output of a successful program may still arrive.
        """
        state = self._state()
        if self._over is None and not state.get("Running") and state.get("ExitCode") is not None:
            self._over = self._timer.monotonic() + (self._GRACE if state["ExitCode"] == 0 else 0)
            self.close_input()

    def _drain(self) -> None:
        # If another thread is receiving, that one drains.
        if not self._ended and self._receiving.acquire(blocking=False):
            try:
                self._receive()
            finally:
                self._receiving.release()

    def _wait(self, timeout: float | None, *, reading: bool, writing: bool) -> bool:
        with self._asking.translated():
            return self._duplex.wait(reading=reading, writing=writing, timeout=timeout)

    def _state(self) -> Mapping[str, Any]:
        try:
            state: Mapping[str, Any] = self._inspect()
        except NotFoundError:
            # The exec is gone with its container, or after a restart of the engine: the program was killed.
            return {"Running": False, "ExitCode": _KILLED}
        return state

    def _exit_code(self) -> int:
        """Wait for the exit code, and return it.

        If the program still runs long after the end of its output, the connection was lost, for example in a proxy, and
        part of the output is missing.
        """
        began, pause = self._timer.monotonic(), 0.001
        while True:
            state = self._state()
            code = state.get("ExitCode")
            if not state.get("Running") and code is not None:
                return int(code)
            if self._timer.monotonic() - began > self._GRACE:
                raise EngineTimeoutError(
                    self._asking.action, "its output ended while it was still running: the connection was lost"
                )
            self._timer.sleep(pause)
            pause = min(pause * 2, 0.1)

    def _see_it_end(self) -> None:
        began, pause, searching = self._timer.monotonic(), 0.005, False
        while self._state().get("Running"):
            waited = self._timer.monotonic() - began
            if waited > _PATIENCE and not searching:
                searching = self._killer.search()
                if not searching:
                    # No shell in the container can kill it, so waiting is useless.
                    waited = self._GRACE + 1
            if waited > self._GRACE:
                raise EngineError(
                    self._asking.action, "it cannot be killed from here; it runs until it ends, or its container does"
                )
            self._timer.sleep(pause)
            pause = min(pause * 2, 0.1)


def _never_ran(exit_code: int) -> bool:
    return 125 <= exit_code <= 128


def _text(stderr: bytes) -> str:
    return stderr.decode("utf-8", "replace")
