"""Runs callables in threads: one with a timeout, or two at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Side = TypeVar("Side")
Main = TypeVar("Main")


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


def both_at_once(side: Callable[[], Side], main: Callable[[], Main], stop: Callable[[], object]) -> tuple[Side, Main]:
    """Run `side` in a thread of its own and `main` in this one; return both results when both have ended.

    If one fails, or on an interruption, `stop` is called to end the other early. If both fail, the error of the first
    one to fail is raised; an interruption takes precedence over any error.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="both at once") as pool:
        job = pool.submit(side)
        job.add_done_callback(lambda done: stop() if done.exception() is not None else None)
        try:
            done = main()
            return job.result(), done
        except Exception as error:
            came_first = job.done()
            if not came_first:
                stop()
            failure = job.exception()
            if failure is None or failure is error or not came_first:
                raise
            # The main work failed because `stop` ended it, so the error of the side explains both.
            raise failure from error
        except BaseException:
            stop()
            raise
