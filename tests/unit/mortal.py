"""Processes that fail or die at a chosen effect, on the engine or on the disk, for tests over the engine in memory."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

from attrs import define, field

from docker_rollback._engine.port import Engine
from docker_rollback._store.files import Disk
from docker_rollback.errors import EngineError, EngineTimeoutError
from docker_rollback.testing import FailingEngine, Killed
from docker_rollback.testing._failing.calls import CHANGING, FEEDING

T = TypeVar("T")

Fault: TypeAlias = Literal["fail", "lose", "die before", "die after"]
"""What happens at an effect: it fails; it is done and its answer is lost; the process dies before or after it."""

COUNTED: Final = CHANGING | FEEDING


@define
class Life:
    """One process: counts its effects, and fails or dies at one of them. What is dead has no effect any more.

    Attributes:
        fault: what happens; None for nothing.
        at: at which effect, from 1.
        count: how many effects there were.
        struck: whether it has happened.
        dead: whether the process is dead.
    """

    fault: Fault | None = None
    at: int = 0
    count: int = field(default=0, init=False)
    struck: bool = field(default=False, init=False)
    dead: bool = field(default=False, init=False)
    _last_words: list[Callable[[], None]] = field(factory=list, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def die(self) -> Killed:
        """End it; return what is raised from now on."""
        self.dead = True
        for word in self._last_words:
            word()
        return Killed("dead")

    def on_death(self, word: Callable[[], None]) -> None:
        """Have something happen when it dies, as the kernel closes what a dead process had open."""
        self._last_words.append(word)

    def effect(self, work: Callable[[], T], error: Callable[[], Exception], lost: Callable[[], Exception] | None) -> T:
        """Have one effect; `lost` is raised where its answer is lost, where it has one."""
        with self._lock:
            if self.dead:
                raise Killed("dead before it")
            self.count += 1
            strikes = self.fault is not None and self.count == self.at and not (self.fault == "lose" and lost is None)
            self.struck = self.struck or strikes
        if not strikes:
            return work()
        if self.fault == "fail":
            raise error()
        if self.fault == "die before":
            raise self.die()
        answer = work()
        if self.fault == "lose" and lost is not None:
            # Whoever began a program holds nothing by which to feed or end it.
            getattr(answer, "kill", lambda: None)()
            raise lost()
        raise self.die()


class MortalEngine(FailingEngine):
    """An engine as a process sees it that may die."""

    def __init__(self, engine: Engine, life: Life) -> None:
        super().__init__(engine)
        self._life = life

    def pass_on(self, verb: str, work: Callable[[], T], *arguments: object) -> T:
        """Do one call."""
        if verb not in COUNTED:
            if self._life.dead:
                raise Killed(f"dead before {verb}")
            return super().pass_on(verb, work, *arguments)
        action = verb.replace("_", " ")
        return self._life.effect(
            lambda: self._watched(super(MortalEngine, self).pass_on(verb, work, *arguments)),
            lambda: EngineError(action, "made to fail"),
            lambda: EngineTimeoutError(action, "the answer was lost on purpose"),
        )

    def _watched(self, answer: T) -> T:
        kill = getattr(answer, "kill", None)
        if kill is not None:
            self._life.on_death(kill)
        return answer


class MortalDisk(Disk):
    """A disk as a process sees it that may die; where it fails, it is full."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def make_folder(self, path: Path) -> None:
        """Make one folder."""
        self._do(lambda: super(MortalDisk, self).make_folder(path))

    def create(self, path: Path) -> int:
        """Make a new file."""
        return self._do(lambda: super(MortalDisk, self).create(path))

    def write(self, fd: int, data: bytes | memoryview) -> None:
        """Write."""
        self._do(lambda: super(MortalDisk, self).write(fd, data))

    def sync(self, fd: int) -> None:
        """Bring a file to the disk, which need not be waited for here."""
        del fd
        self._do(lambda: None)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its name."""
        self._do(lambda: super(MortalDisk, self).rename(source, target))

    def sync_folder(self, path: Path) -> None:
        """Bring a folder to the disk, likewise."""
        del path
        self._do(lambda: None)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        self._do(lambda: super(MortalDisk, self).remove(path), fails=False)

    def remove_folder(self, path: Path) -> None:
        """Remove a folder."""
        self._do(lambda: super(MortalDisk, self).remove_folder(path), fails=False)

    def _do(self, work: Callable[[], T], *, fails: bool = True) -> T:
        if not fails and self._life.fault == "fail" and not self._life.dead:
            return work()
        return self._life.effect(work, lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), None)
