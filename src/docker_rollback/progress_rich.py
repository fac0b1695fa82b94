"""A display of what is being done, for terminals; needs the extra ``docker-rollback[rich]``."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from docker_rollback._reporting import Progress, StepName

_WORDS: Final[Mapping[StepName, str]] = {
    "hook": "running what is to be done at {}",
    "quiesce": "bringing {} to rest",
    "commit": "capturing {}",
    "resume": "setting {} going again",
    "store": "storing the image of {}",
    "pull": "fetching image {}",
    "replace": "replacing {}",
    "restore": "{}",
    "verify": "checking {}",
    "watch": "watching {}",
}


class RichProgress:
    """Shows each step and, for each volume, how many bytes of it have passed; what has passed stays on the screen.

    Args:
        console: where to show it; by default the terminal's error output, so that a program's own output stays its own.

    Example:
        >>> with RichProgress() as display, rollback("web", progress=display):
        ...     update()
    """

    def __init__(self, console: Console | None = None) -> None:
        self._bars = Bars(
            SpinnerColumn(),
            # No markup: the name of a container may look like it.
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            console=console or Console(stderr=True),
        )
        self._volumes: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave what was shown last on the screen."""
        self._bars.stop()

    def __call__(self, news: Progress) -> None:
        """Show a piece of news; to be given as ``progress=``."""
        if news.step != "data":
            self._bars.console.print(_WORDS[news.step].format(news.subject), markup=False, highlight=False)
            if news.step == "restore":
                # A volume that is filled now is not the one that was archived before.
                self._forget()
            return
        with self._lock:
            if news.subject not in self._volumes:
                self._volumes[news.subject] = self._bars.add_task(f"volume {news.subject}", total=news.expected)
            task = self._volumes[news.subject]
        self._bars.update(task, completed=news.done, total=news.expected)

    def _forget(self) -> None:
        with self._lock:
            for task in self._volumes.values():
                self._bars.stop_task(task)
            self._volumes.clear()
