"""A program that runs by exec in a container: its input, its output and its exit code over one connection.

The engine sends output in frames: one byte that says which stream, three zeros, four bytes of length, then that many
bytes. docker-py's reader asks for each header and each frame by itself and copies them several times; this one takes in
what is there, up to a megabyte, and copies it once.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from docker_rollback._engine._docker_errors import Asking
from docker_rollback._engine._docker_socket import Duplex
from docker_rollback._engine.port import Finished
from docker_rollback.errors import EngineConflictError, EngineError, EngineTimeoutError

_HEADER: Final = struct.Struct(">BxxxL")
_STDERR, _SYSTEM = 2, 3
_BLOCK: Final = 1 << 20
_KEPT_STDERR: Final = 64 << 10


class Demultiplexer:
    """Takes an engine's frames apart, however they are cut into pieces."""

    def __init__(self, *, together: bool = False) -> None:
        """Begin before the first frame; `together` takes standard error for output too."""
        self._errors = () if together else (_STDERR, _SYSTEM)
        self._header = bytearray()
        self._stream = 0
        self._left = 0
        self._stderr = bytearray()

    @property
    def stderr(self) -> bytes:
        """The last 64 KiB of what came on standard error."""
        return bytes(self._stderr[-_KEPT_STDERR:])

    @property
    def complete(self) -> bool:
        """Whether what has come so far ends where a frame ends."""
        return not self._header and not self._left

    def feed(self, data: memoryview) -> bytes:
        """Take in the next piece of the stream and return what it holds of standard output."""
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


class DockerProcess:
    """The `Process` of an engine's exec; see there for what its methods promise.

    Output that comes while input is written is kept in memory until it is read, so a program that answers as much as it
    is sent is best read by another thread meanwhile; both may use the process at the same time.
    """

    # How long an engine may take to notice that a program has ended whose output has.
    _GRACE = 10.0

    def __init__(
        self,
        duplex: Duplex,
        inspect: Callable[[], Any],
        end: Callable[[Any], None],
        asking: Asking,
        *,
        stdin: bool,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over a connection.

        Args:
            duplex: the connection.
            inspect: returns the engine's inspection of the exec.
            end: ends the program that such an inspection describes.
            asking: what its errors say.
            stdin: whether the program has an input.
            sleep: waits, in seconds.
            clock: tells seconds.
        """
        self._duplex = duplex
        self._inspect = inspect
        self._end = end
        self._asking = asking
        self._sleep = sleep
        self._clock = clock
        self._frames = Demultiplexer()
        self._buffer = memoryview(bytearray(_BLOCK))
        self._output: deque[bytes] = deque()
        self._offset = 0
        self._receiving = threading.Lock()
        self._ended = False
        self._input_open = stdin
        self._finished: Finished | None = None
        self._killed = False

    def read(self, size: int, /) -> bytes:
        while True:
            with self._receiving:
                if self._output:
                    return self._take(size)
                if self._ended:
                    return b""
                came = self._receive()
            if not came:
                self._wait(reading=True, writing=False)

    def write(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data).cast("B")
        while view and self._input_open:
            try:
                with self._asking.translated():
                    sent = self._duplex.send(view[:_BLOCK])
            except EngineError as error:
                if isinstance(error.__cause__, BrokenPipeError):
                    # It ended early. Why, its exit code will tell.
                    self._input_open = False
                    return
                raise
            if sent is None:
                self._drain()
                self._wait(reading=not self._ended, writing=True)
            else:
                view = view[sent:]

    def close_input(self) -> None:
        if self._input_open:
            self._input_open = False
            with self._asking.translated():
                self._duplex.close_write()

    def finish(self) -> Finished:
        if self._finished is None:
            if self._killed:
                raise EngineConflictError(self._asking.action, "it was ended before it had finished")
            self.close_input()
            while self.read(_BLOCK):
                pass
            if not self._frames.complete:
                raise EngineTimeoutError(self._asking.action, "the connection was lost in the middle of its output")
            exit_code = self._exit_code()
            self._duplex.close()
            self._finished = Finished(exit_code, self._frames.stderr.decode("utf-8", "replace"))
        return self._finished

    def kill(self) -> None:
        if self._finished is not None or self._killed:
            return
        self._killed = True
        self._input_open = False
        self._duplex.close()
        self._ended = True
        state = self._inspect()
        if state.get("Running"):
            self._end(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        try:
            self.kill()
        except EngineError as failure:
            if error is None:
                raise
            error.add_note(f"besides, {failure}")

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
        """Take in what is there; tells whether anything was, the end included. Only with the lock held."""
        with self._asking.translated():
            size = self._duplex.receive(self._buffer)
        if size is None:
            return False
        if size == 0:
            self._ended = True
        elif output := self._frames.feed(self._buffer[:size]):
            self._output.append(output)
        return True

    def _drain(self) -> None:
        # Where another thread is receiving, it drains.
        if not self._ended and self._receiving.acquire(blocking=False):
            try:
                self._receive()
            finally:
                self._receiving.release()

    def _wait(self, *, reading: bool, writing: bool) -> None:
        with self._asking.translated():
            self._duplex.wait(reading=reading, writing=writing)

    def _exit_code(self) -> int:
        """Return the exit code, once the engine has it.

        A program that still runs long after its output has ended has not ended its output: the connection was cut, by
        a proxy for one, and some of the output is lost.
        """
        began, pause = self._clock(), 0.001
        while True:
            state = self._inspect()
            code = state.get("ExitCode")
            if not state.get("Running") and code is not None:
                return int(code)
            if self._clock() - began > self._GRACE:
                raise EngineTimeoutError(
                    self._asking.action, "its output ended while it was still at work: the connection was cut"
                )
            self._sleep(pause)
            pause = min(pause * 2, 0.1)
