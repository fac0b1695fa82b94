"""Runs a callable with a timeout."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class LateError(Exception):
    """The callable did not return in time."""


def within(seconds: float, work: Callable[[], T], *, name: str) -> T:
    """Call `work` in a thread, and return its result or raise its exception.

    Args:
        seconds: the timeout. The thread keeps running after it; the caller has to end the work.
        work: the callable.
        name: the thread's name.

    Raises:
        LateError: `work` did not return in time.
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
        result = outcome.get(timeout=seconds)
    except queue.Empty:
        raise LateError from None
    return result()
