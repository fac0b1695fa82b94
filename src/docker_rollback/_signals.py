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

    SIGTERM becomes `SystemExit` (143, as a shell counts), so that a block that is asked to end is rolled back. Within
    `deferring`, the first SIGINT or SIGTERM waits for the end of it, and a second one ends it at once. Every handler
    that was there before is there again afterwards; a signal that was ignored stays so.
    """

    def __init__(self) -> None:
        self._handlers = ExitStack()
        self._pending: int | None = None

    def __enter__(self) -> Self:
        self._handlers.enter_context(_handling({signal.SIGTERM: _raise}))
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
            if self._pending is not None:
                _raise(number, frame)
            self._pending = number
            logger.warning("%s waits until %s is done; once more breaks it off", signal.Signals(number).name, work)

        with _handling({signal.SIGINT: defer, signal.SIGTERM: defer}):
            yield

    def deliver(self, leaving: BaseException | None) -> None:
        """Raise what a deferred signal stands for, unless the block is left by such an exception already."""
        pending, self._pending = self._pending, None
        if pending is not None and not isinstance(leaving, KeyboardInterrupt | SystemExit):
            _raise(pending, None)


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
