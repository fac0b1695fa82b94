"""The type of functions that start a program with access to a volume's files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from docker_rollback._engine import Process


class Run(Protocol):
    """Starts a program by its bare name and arguments, with access to a volume's files and an optional input."""

    def __call__(self, words: Sequence[str], /, *, stdin: bool = False) -> Process: ...
