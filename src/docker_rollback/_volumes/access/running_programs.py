"""The running programs of one operation on a set of volumes, so that one failure ends them all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from docker_rollback._engine import Process
from docker_rollback._volumes.access.reach import Run
from docker_rollback.errors import EngineError

logger = logging.getLogger("docker_rollback")


class Crew:
    """Keeps track of running programs, so that one failure ends them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._working: set[Process] = set()
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    @contextmanager
    def at_work(self, run: Run, words: Sequence[str], *, stdin: bool = False) -> Iterator[Process]:
        """Run a program during a block."""
        with run(words, stdin=stdin) as process:
            with self._lock:
                self._working.add(process)
                stopped = self._stopped
            try:
                if stopped:
                    process.kill()
                yield process
            finally:
                with self._lock:
                    self._working.discard(process)

    def stop(self) -> None:
        """Kill every program; one that starts later is killed at once."""
        with self._lock:
            self._stopped = True
            working = list(self._working)
        for process in working:
            try:
                process.kill()
            except EngineError as error:
                # The failure that led here is the one to report; it may have caused this one.
                logger.debug("a program could not be ended: %s", error)
