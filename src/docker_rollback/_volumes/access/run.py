"""What starts programs next to a volume's files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from docker_rollback._engine import Process


class Run(Protocol):
    """Starts a program next to a volume's files, by its bare name and arguments, with an input where asked."""

    def __call__(self, words: Sequence[str], /, *, stdin: bool = False) -> Process: ...
