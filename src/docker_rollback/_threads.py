"""Runs callables in threads: one with a timeout, two at once, or one for each of many items; and reads ahead."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Final, Generic, TypeVar

logger = logging.getLogger("docker_rollback")

T = TypeVar("T")
Side = TypeVar("Side")
Main = TypeVar("Main")
Item = TypeVar("Item")

AT_ONCE: Final = 50
"""The most calls to run at once, as Docker's command line has it (docker/cli, parallelOperation). Most only wait."""

_AHEAD: Final = 4  # how many items are read ahead
_LOOK: Final = 0.01  # seconds between two looks whether a thread has ended


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


def each_at_once(
    items: Sequence[Item],
    work: Callable[[Item], object],
    after: Callable[[Item, Item], bool] = lambda *_: False,
    *,
    most: int = AT_ONCE,
    after_error: bool = True,
) -> list[Exception | None]:
    """Call `work` with each item, several at once, and return the error of each item; None if there was none.

    An interruption is raised when the calls in progress have ended, and no further call begins: a request whose caller
    has gone on could otherwise stop a container that has been started again meanwhile.

    Args:
        items: the items. A single one is worked on in this thread, so that an interruption reaches it at once.
        work: the callable.
        after: returns True if the call for its first item begins once the call for its second item has ended. No circle
            may come of it.
        most: how many calls may run at once; never more than `AT_ONCE`.
        after_error: whether further calls begin after an error.
    """
    calls = _Calls(items, work, after=after, after_error=after_error)
    begun = False
    try:
        for _ in range(min(most, AT_ONCE, len(items)) if len(items) > 1 else 0):
            begun = _started(calls.run, "each at once") or begun
    except BaseException as error:
        calls.interrupt(error)
    if not begun:
        calls.run()
    while not calls.ended.is_set():
        # Not by joining the threads: CPython before 3.13 takes a thread for ended when that is interrupted.
        try:
            calls.ended.wait()
        except BaseException as error:
            calls.interrupt(error)
    return calls.errors()


def _started(run: Callable[[], None], name: str) -> bool:
    """Start a thread; return False if the process may have no more of them, so that the caller does the work itself."""
    try:
        threading.Thread(target=run, name=name).start()
    except RuntimeError as error:
        logger.info("the thread %r could not be started: %s", name, error)
        return False
    return True


class _Calls(Generic[Item]):
    """The calls of `each_at_once`, which several threads take one after the other."""

    def __init__(
        self,
        items: Sequence[Item],
        work: Callable[[Item], object],
        *,
        after: Callable[[Item, Item], bool],
        after_error: bool,
    ) -> None:
        self._items, self._work, self._after_error = items, work, after_error
        self._left = list(range(len(items)))
        self._at_work = 0
        # For each call that has not ended, those that have to end before it.
        self._waits = {
            one: {other for other in self._left if other != one and after(items[one], items[other])}
            for one in self._left
        }
        self._errors: list[Exception | None] = [None] * len(items)
        self._interruption: BaseException | None = None
        self._changed = threading.Condition()
        self.ended = threading.Event()

    def run(self) -> None:
        """Do the calls that no other thread has begun, as soon as they may begin."""
        while (number := self._next()) is not None:
            error: BaseException | None = None
            try:
                self._work(self._items[number])
            except BaseException as raised:
                error = raised
            self._end(number, error)

    def interrupt(self, error: BaseException) -> None:
        """Begin no further call."""
        with self._changed:
            self._left.clear()
            self._interruption = self._interruption or error
            self._changed.notify_all()

    def errors(self) -> list[Exception | None]:
        """Return the error of each item. Raises the first interruption."""
        if self._interruption is not None:
            raise self._interruption
        return self._errors

    def _next(self) -> int | None:
        """Return the number of the next call, once one may begin; None if there is none."""
        with self._changed:
            while True:
                for number in self._left:
                    if not self._waits[number] & self._waits.keys():
                        self._left.remove(number)
                        self._at_work += 1
                        return number
                if not self._left:
                    if not self._at_work:
                        self.ended.set()
                    return None
                self._changed.wait()

    def _end(self, number: int, error: BaseException | None) -> None:
        with self._changed:
            self._at_work -= 1
            del self._waits[number]
            if isinstance(error, Exception):
                self._errors[number] = error
                if not self._after_error:
                    self._left.clear()
            elif error is not None:
                self.interrupt(error)
            self._changed.notify_all()


def raise_first(errors: Sequence[Exception | None]) -> None:
    """Raise the first of the errors, if there are any, with a note about each of the others."""
    raised = [error for error in errors if error is not None]
    for other in raised[1:]:
        raised[0].add_note(f"besides, {type(other).__name__}: {other}")
    if raised:
        raise raised[0]


def both_at_once(side: Callable[[], Side], main: Callable[[], Main], stop: Callable[[], object]) -> tuple[Side, Main]:
    """Run `side` in a thread of its own and `main` in this one; return both results when both have ended.

    If one fails, or on an interruption, `stop` is called to end the other early. If both fail, the error of the first
    one to fail is raised; an interruption takes precedence over any error.
    """
    job = Future[Side]()
    job.add_done_callback(lambda done: stop() if done.exception() is not None else None)

    def run() -> None:
        try:
            job.set_result(side())
        except BaseException as error:
            job.set_exception(error)

    if not _started(run, "both at once"):
        run()
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
    finally:
        wait([job])


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """Yield the items, while a thread reads ahead; an error in the thread is raised here."""
    waiting: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(_AHEAD)
    over = threading.Event()

    def get() -> None:
        end: BaseException | None = None
        source = iter(items)
        try:
            for item in source:
                waiting.put((item,))
                if over.is_set():
                    break
        except BaseException as error:
            end = error
        finally:
            if isinstance(source, Generator):
                source.close()
        waiting.put(end)

    thread = threading.Thread(target=get, name="reading ahead", daemon=True)
    thread.start()
    try:
        while (found := waiting.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        over.set()
        while thread.is_alive():
            # The thread may be waiting for space in the queue.
            with suppress(queue.Empty):
                waiting.get(timeout=_LOOK)
        thread.join()
