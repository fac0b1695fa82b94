"""Handles signals while a rollback is open: a request to terminate rolls back first."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Self, TypeAlias

logger = logging.getLogger("docker_rollback")

_Handler: TypeAlias = Callable[[int, FrameType | None], None]


class Signals:
    """Installs signal handlers for the time of a block; does nothing outside the main thread.

    SIGTERM and SIGHUP raise `SystemExit` (143 and 129, as in a shell), so that the block is rolled back. Inside
    `deferring`, the first SIGINT or SIGTERM waits for the end, and a second one interrupts at once.
    """

    def __init__(self) -> None:
        self._handlers = ExitStack()
        self._pending: int | None = None
        self._insisted = False
        self._hung_up = False

    def __enter__(self) -> Self:
        self._handlers.enter_context(_handling({signal.SIGTERM: _raise, signal.SIGHUP: self._hang_up}))
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.close()

    @contextmanager
    def deferring(self, work: str) -> Iterator[None]:
        """Defer a signal until the end of a block, after which `deliver` raises it; `work` names the block."""

        def defer(number: int, frame: FrameType | None) -> None:
            if self._insisted:
                _raise(number, frame)
            self._insisted = True
            self._pending = self._pending or number
            logger.warning(
                "%s is deferred until %s is done; send it again to interrupt", signal.Signals(number).name, work
            )

        # A closing terminal sends SIGHUP twice, from the shell and from the kernel, so a second one does not interrupt.
        def defer_hang_up(number: int, _: FrameType | None) -> None:
            if not self._hung_up:
                self._hung_up = True
                self._pending = self._pending or number
                logger.warning("%s is deferred until %s is done", signal.Signals(number).name, work)

        with _handling({signal.SIGINT: defer, signal.SIGTERM: defer, signal.SIGHUP: defer_hang_up}):
            yield

    def deliver(self, leaving: BaseException | None) -> None:
        """Raise the exception of a deferred signal, unless such an exception is already leaving the block."""
        pending, self._pending, self._insisted = self._pending, None, False
        if pending is not None and not isinstance(leaving, KeyboardInterrupt | SystemExit):
            _raise(pending, None)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        """Raise on the first SIGHUP only: the second one of a closing terminal would interrupt the rollback."""
        if not self._hung_up:
            self._hung_up = True
            _raise(number, frame)


def _raise(number: int, _: FrameType | None) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


@contextmanager
def _handling(handlers: dict[signal.Signals, _Handler]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in handlers}
    # None is a handler that was not installed from Python and could not be restored. An ignored signal stays ignored.
    ours = [number for number in handlers if before[number] not in (None, signal.SIG_IGN)]
    try:
        for number in ours:
            signal.signal(number, handlers[number])
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
