"""Counts how many threads are in a block at once."""

from __future__ import annotations

import threading
from typing import Self

from attrs import define, field


@define(eq=False)
class Gauge:
    """A context that several threads enter.

    Attributes:
        highest: the most threads that were in it at once.
    """

    highest: int = field(default=0, init=False)
    _inside: int = field(default=0, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def __enter__(self) -> Self:
        with self._lock:
            self._inside += 1
            self.highest = max(self.highest, self._inside)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
