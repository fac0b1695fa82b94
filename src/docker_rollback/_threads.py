"""Work that may take so long and no longer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class LateError(Exception):
    """Work has not come back in its time."""


def within(seconds: float, work: Callable[[], T], *, name: str) -> T:
    """Do work in a thread of its own, and return what it returns or raise what it raises.

    Args:
        seconds: how long it is waited for. Nothing ends it then: that is up to whoever gave it.
        work: what to do.
        name: the thread's name.

    Raises:
        LateError: it did not come back in that time.
    """
    outcome: queue.SimpleQueue[Callable[[], T]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answer = work()
        except BaseException as error:
            failure = error

            def fail() -> T:
                raise failure

            outcome.put(fail)
        else:
            outcome.put(lambda: answer)

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        tell = outcome.get(timeout=seconds)
    except queue.Empty:
        raise LateError from None
    return tell()
