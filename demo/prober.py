"""Measure when a database can be reached: ask it again and again, from outside, as its users do."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from demo.session import Session, SessionError


def answers(port: int, *, timeout: float = 1.0) -> bool:
    """Say whether PostgreSQL on a local port opens a session; a port that is merely open does not count."""
    try:
        Session(port, timeout=timeout).close()
    except SessionError:
        return False
    return True


class Prober:
    """Asks in the background, every `interval` seconds, while its block lasts.

    Attributes:
        down: for how many seconds, so far, nobody answered.
    """

    def __init__(self, port: int, *, interval: float = 0.02) -> None:
        self._port = port
        self._interval = interval
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="prober", daemon=True)
        self._lock = threading.Lock()
        self.down = 0.0

    def take(self) -> float:
        """Return the seconds of downtime since the last call, and count from zero again."""
        with self._lock:
            taken, self.down = self.down, 0.0
        return taken

    def _watch(self) -> None:
        last, up = time.monotonic(), True
        while not self._end.wait(self._interval):
            now_up, now = answers(self._port), time.monotonic()
            # The time between two probes counts as down unless both ends of it were up.
            if not (up and now_up):
                with self._lock:
                    self.down += now - last
            last, up = now, now_up

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
