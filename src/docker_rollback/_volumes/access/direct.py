"""Runs programs as child processes with direct access to a volume's files."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from collections.abc import Callable, Collection, Sequence
from typing import IO, Final, Self

from docker_rollback._engine import Finished

_PIPE: Final = 1 << 20
_KEPT_STDERR: Final = 64 << 10


class LocalProcess:
    """A child process; implements `Process`.

    It runs in the C locale, with nothing else of our environment, and in its own process group, so that a Ctrl-C at
    our terminal does not interrupt it. If this process dies, it ends with its pipes.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: bool = False,
        keep: Collection[int] = (),
        start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        """Start the program; raises `OSError` if it cannot be started.

        Args:
            command: the program and its arguments.
            stdin: whether it has an input.
            keep: descriptors that it inherits: those of locks, which are then held until it has exited as well.
            start: starts it in place of `Popen`; for a sandbox.
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
            # It exited early; its exit code tells why.
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

    def __exit__(self, *_: object) -> None:
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
    """Return a pipe that was requested, and so exists."""
    if pipe is None:
        raise ValueError("the process has no such pipe")
    return pipe


def _widen(pipe: IO[bytes] | None) -> None:
    """Enlarge a pipe to a megabyte, so that both sides wait less; it keeps its size if that is refused."""
    if pipe is None:
        return
    try:
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
    except OSError:
        # Each user has a limit for pipes.
        return
