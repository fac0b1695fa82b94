"""What signals mean while a rollback is open: a request to end first puts everything back."""

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
    """The signals of the main thread for the time of a block; in any other thread, nothing.

    SIGTERM and SIGHUP become `SystemExit` (143 and 129, as a shell counts), so that a block that is asked to end is
    rolled back. Within `deferring`, the first SIGINT or SIGTERM waits for the end of it, and a second one ends it at
    once. SIGHUP waits as well and never ends it: a terminal that closes sends it twice, by the shell and by the
    kernel. Every handler that was there before is there again afterwards; a signal that was ignored stays so.
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
        """Have one signal wait for the end of a block; `deliver` raises it then.

        Args:
            work: what is being done, for the log.
        """

        def defer(number: int, frame: FrameType | None) -> None:
            if self._insisted:
                _raise(number, frame)
            self._insisted = True
            self._pending = self._pending or number
            logger.warning("%s waits until %s is done; once more breaks it off", signal.Signals(number).name, work)

        def defer_hang_up(number: int, _: FrameType | None) -> None:
            if not self._hung_up:
                self._hung_up = True
                self._pending = self._pending or number
                logger.warning("%s waits until %s is done", signal.Signals(number).name, work)

        with _handling({signal.SIGINT: defer, signal.SIGTERM: defer, signal.SIGHUP: defer_hang_up}):
            yield

    def deliver(self, leaving: BaseException | None) -> None:
        """Raise what a deferred signal stands for, unless the block is left by such an exception already."""
        pending, self._pending, self._insisted = self._pending, None, False
        if pending is not None and not isinstance(leaving, KeyboardInterrupt | SystemExit):
            _raise(pending, None)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        """Raise the first SIGHUP alone: a second one is the same terminal, and would break off what the first began."""
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
    # One that was installed by other means than Python's could not be put back.
    ours = [number for number in handlers if before[number] not in (None, signal.SIG_IGN)]
    try:
        for number in ours:
            signal.signal(number, handlers[number])
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
