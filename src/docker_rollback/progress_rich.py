"""Shows progress in a terminal; needs the extra ``rich``."""

from __future__ import annotations

import threading
from collections.abc import Mapping
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
    "before_quiesce": "running hook before_quiesce: {}",
    "quiesce": "quiescing {}",
    "capture": "capturing {}",
    "resume": "resuming {}",
    "after_resume": "running hook after_resume: {}",
    "store": "storing the image of {}",
    "pull": "pulling image {}",
    "replace": "replacing {}",
    "verify": "checking {}",
    "watch": "watching {}",
    "restore": "{}",
    "verify again": "checking {} again",
    "after_rollback": "running hook after_rollback: {}",
}


class RichProgress:
    """Shows each step, and a progress bar for each volume; finished lines stay on the screen.

    Args:
        console: the console to draw on; by default stderr, so that stdout stays free for the program's own output.

    Example:
        >>> with RichProgress() as display, rollback("web", progress=display):
        ...     update()
    """

    def __init__(self, console: Console | None = None) -> None:
        self._bars = Bars(
            SpinnerColumn(),
            # A container's name may look like markup.
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

    def __exit__(self, *_: object) -> None:
        """Stop the display; its last state stays on the screen."""
        self._bars.stop()

    def __call__(self, event: Progress) -> None:
        """Show a progress event; pass the object itself as ``progress=``."""
        if event.step != "data":
            self._bars.console.print(_WORDS[event.step].format(event.subject), markup=False, highlight=False)
            if event.step == "restore":
                # The bars so far are of volumes being archived; the same volumes are filled from zero now.
                self._forget()
            return
        with self._lock:
            if event.subject not in self._volumes:
                self._volumes[event.subject] = self._bars.add_task(f"volume {event.subject}", total=event.expected)
            task = self._volumes[event.subject]
        self._bars.update(task, completed=event.done, total=event.expected)

    def _forget(self) -> None:
        with self._lock:
            for task in self._volumes.values():
                self._bars.stop_task(task)
            self._volumes.clear()
