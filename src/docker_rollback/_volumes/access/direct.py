"""Programs as our own children, next to a volume's files."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import IO, Final, Self

from docker_rollback._engine import Finished

_PIPE: Final = 1 << 20
_KEPT_STDERR: Final = 64 << 10


class LocalProcess:
    """A child of ours; a `Process`.

    It runs in the C locale, with nothing else of our environment, and in a process group of its own: a Ctrl-C at our
    terminal is ours to handle, and must not cut off an archive half way. Where we die, it ends with its pipes.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: bool = False,
        keep: Collection[int] = (),
        start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        """Start `command`, with an input where `stdin`; raises `OSError` where it cannot be started.

        It inherits the descriptors `keep`: those of locks, which are held until it has ended too. A sandbox starts it
        in another way than by `Popen`.
        """
        self._process = start(
            list(command),
            bufsize=0,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"LC_ALL": "C", "PATH": os.defpath},
            process_group=0,
            pass_fds=tuple(keep),
        )
        self._output = _pipe(self._process.stdout)
        self._stderr = bytearray()
        self._listener = threading.Thread(target=self._listen, name="tar's words", daemon=True)
        self._listener.start()
        for pipe in (self._process.stdin, self._process.stdout):
            _widen(pipe)

    def read(self, size: int, /) -> bytes:
        return os.read(self._output.fileno(), size) if not self._output.closed else b""

    def write(self, data: bytes | memoryview, /) -> None:
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            return
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(pipe.fileno(), view) :]
        except BrokenPipeError:
            # It ended early. Why, its exit code will tell.
            pipe.close()

    def close_input(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def finish(self) -> Finished:
        self.close_input()
        while self.read(_PIPE):
            pass
        exit_code = self._process.wait()
        self._listener.join()
        self._output.close()
        return Finished(exit_code, bytes(self._stderr[-_KEPT_STDERR:]).decode("utf-8", "replace"))

    def kill(self) -> None:
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._process.poll() is None:
            self.kill()
        self.close_input()
        self._process.wait()
        self._listener.join()
        self._output.close()

    def _listen(self) -> None:
        with _pipe(self._process.stderr) as pipe:
            while piece := os.read(pipe.fileno(), _KEPT_STDERR):
                self._stderr += piece
                if len(self._stderr) > 2 * _KEPT_STDERR:
                    del self._stderr[:-_KEPT_STDERR]


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    """Return a pipe that was asked for, and so is there."""
    if pipe is None:
        raise ValueError("the process has no such pipe")
    return pipe


def _widen(pipe: IO[bytes] | None) -> None:
    """Give a pipe a megabyte, so that each side waits less for the other; it works with what it has where refused."""
    if pipe is None:
        return
    try:
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
    except OSError:
        # Pipes have a limit for each user.
        return
