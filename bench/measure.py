"""Rounds of measurements: each way once in a round, so that what else the machine does falls on all of them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

from bench import samples
from bench.clients import Watcher
from bench.samples import Key, Sample
from bench.stage import Stage
from bench.subjects import Subject
from bench.ways import Ours, Plain, Restic, Took, Way, bare_calls, restart, stored


@define
class Notebook:
    """Takes samples, and says them aloud."""

    samples: list[Sample] = field(factory=list)

    def note(self, subject: str, way: str, task: str, figure: str, value: float) -> None:
        """Take a sample."""
        self.samples.append(Sample(Key(subject, way, task, figure), value))

    def took(self, subject: str, way: str, task: str, took: Took, down: float | None = None) -> None:
        """Take what something took."""
        words = [f"{took.seconds:.2f} s"]
        self.note(subject, way, task, samples.SECONDS, took.seconds)
        if down is not None:
            self.note(subject, way, task, samples.DOWN, down)
            words.append(f"down {down:.2f} s")
        if took.memory:
            self.note(subject, way, task, samples.MEMORY, took.memory)
            words.append(f"{took.memory / 1e6:.0f} MB of memory")
        say(f"{subject}: {way}: {task}: {', '.join(words)}")


def say(words: str) -> None:
    """Print what was done."""
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


@define
class Rounds:
    """Rounds of several ways over one subject, which stands and has its load.

    Attributes:
        notebook: takes what is measured.
        rounds: how many rounds each way is in, by its name; one that takes minutes is in fewer.
        whole: whether a second backup and the ways back are measured as well.
    """

    notebook: Notebook
    rounds: Mapping[str, int]
    whole: bool

    def play(self, subject: Subject) -> None:
        """Measure all of it."""
        for number in range(max(self.rounds.values())):
            for name, count in self.rounds.items():
                if number < count:
                    with scratch(subject.stage) as folder, subject.load(), subject.watcher() as watcher:
                        self._round(subject, name, _way(name, folder), watcher)

    def _round(self, subject: Subject, name: str, way: Way | None, watcher: Watcher) -> None:
        if subject.data is None and not subject.image_bytes:
            self._enter(subject, name, way)
        elif way is None:
            self._watched(subject, name, samples.RESTART, watcher, lambda: restart(subject))
        else:
            if subject.image_bytes:
                subject.change_layer()
            self._watched(subject, name, samples.FIRST, watcher, lambda: way.backup(subject))
            self.notebook.note(subject.title, name, samples.FIRST, samples.STORED, stored(way))
            if subject.image_bytes:
                self._further(subject, name, way, watcher)
            if self.whole:
                self._second(subject, name, way, watcher)
                self._back(subject, name, way)

    def _second(self, subject: Subject, name: str, way: Way, watcher: Watcher) -> None:
        before, changing = stored(way), time.time()
        subject.change()
        self._watched(subject, name, samples.SECOND, watcher, lambda: way.backup(subject))
        self.notebook.note(subject.title, name, samples.SECOND, samples.STORED, stored(way) - before)
        # What changed until now: also what it may not have had to take.
        self.notebook.note(subject.title, name, samples.SECOND, samples.CHANGED, subject.changed_since(changing))

    def _further(self, subject: Subject, name: str, way: Way, watcher: Watcher) -> None:
        before = stored(way)
        subject.change_layer()
        self._watched(subject, name, samples.FURTHER, watcher, lambda: way.backup(subject))
        self.notebook.note(subject.title, name, samples.FURTHER, samples.STORED, stored(way) - before)

    def _back(self, subject: Subject, name: str, way: Way) -> None:
        os.sync()
        self.notebook.took(subject.title, name, samples.ROLLBACK, way.roll_back(subject, subject.change))
        subject.wait()
        if isinstance(way, Ours):
            os.sync()
            self.notebook.took(subject.title, name, samples.RESTORE, way.restore(subject))
            subject.wait()

    def _enter(self, subject: Subject, name: str, way: Way | None) -> None:
        took = way.enter(subject) if isinstance(way, Ours) else bare_calls(subject)
        self.notebook.took(subject.title, name, samples.ENTRY, took)

    def _watched(self, subject: Subject, name: str, task: str, watcher: Watcher, do: Callable[[], Took]) -> None:
        os.sync()
        watcher.take()
        took = do()
        self.notebook.took(subject.title, name, task, took, watcher.take())


def _way(name: str, folder: Path) -> Way | None:
    match name:
        case samples.PLAIN:
            return Plain(folder)
        case samples.RESTIC:
            return Restic(folder)
        case samples.DIRECT:
            return Ours(folder, "direct")
        case samples.HELPER:
            return Ours(folder, "helper")
        case _:
            return None


@contextmanager
def scratch(stage: Stage) -> Iterator[Path]:
    """Give an empty folder for backups, and remove it afterwards."""
    with tempfile.TemporaryDirectory(dir=stage.folder) as parent:
        folder = Path(parent, "backups")
        folder.mkdir(mode=0o700)
        yield folder
