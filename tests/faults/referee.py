"""Who counts the effects of a victim, and says at each what is to happen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from attrs import define, field, frozen

from tests.faults.cases import FAULTS, Effect, Kind

Verdict: TypeAlias = Literal["go", "refuse", "drop", "full", "late", "lose", "dead"]
"""What becomes of an effect: it goes its way; it is refused with 500; its connection breaks; there is no room for it;
it is done and its answer comes too late, or never; or the victim is dead, and nothing more is done for it."""


def _nothing() -> None:
    """Do it."""


@frozen
class Turn:
    """One effect about to happen.

    Attributes:
        verdict: what becomes of it.
        during: what is to be done while it happens.
        after: what is to be done when it has happened; it returns once that is done.
    """

    verdict: Verdict
    during: Callable[[], None] = _nothing
    after: Callable[[], None] = _nothing


_VERDICTS: Final[Mapping[str, Verdict]] = {
    "error-500": "refuse",
    "timeout": "late",
    "drop-before": "drop",
    "drop-after": "lose",
    "disk-full": "full",
}


@define
class Referee:
    """Counts effects, and lets the planned fault happen at the planned one, or at the next one that it fits.

    Attributes:
        kill: kills the victim, and returns when it is dead.
        stop_engine: kills the engine, and returns when it is dead; it is being started again then.
        effects: what the present phase had so far.
        struck: the effect at which the fault happened; None where it has not.
        struck_at: the moment right before that effect, in seconds.
    """

    kill: Callable[[], None]
    stop_engine: Callable[[], None]
    effects: list[Effect] = field(factory=list, init=False)
    struck: Effect | None = field(default=None, init=False)
    struck_at: float = field(default=0.0, init=False)
    _phase: str = field(default="", init=False)
    _plan: tuple[str, str, int] | None = field(default=None, init=False)
    _dead: bool = field(default=True, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def begin(self, plan: tuple[str, str, int] | None) -> None:
        """Begin with a new victim; the plan is a phase, a fault and a number, or None for no fault."""
        with self._lock:
            self._plan, self._dead, self.struck = plan, False, None
            self._phase, self.effects = "", []

    def enter(self, phase: str) -> list[Effect]:
        """Begin a phase; return the effects of the one before."""
        with self._lock:
            self._phase, past, self.effects = phase, self.effects, []
            return past

    def end(self) -> None:
        """Take note that the victim has ended."""
        with self._lock:
            self._dead = True

    def ask(self, kind: Kind, name: str) -> Turn:
        """Count an effect that is about to happen."""
        with self._lock:
            if self._dead:
                return Turn("dead")
            effect = Effect(len(self.effects) + 1, kind, name)
            self.effects.append(effect)
            if self._plan is None or self.struck is not None:
                return Turn("go")
            phase, fault, number = self._plan
            if self._phase != phase or effect.number < number or kind not in FAULTS[fault][1]:
                return Turn("go")
            self.struck, self.struck_at = effect, time.time()
            if fault.startswith("kill"):
                self._dead = fault == "kill-before"
        return self._strike(fault)

    def _strike(self, fault: str) -> Turn:
        match fault:
            case "kill-before":
                self.kill()
                return Turn("dead")
            case "kill-after":
                return Turn("go", after=self._kill_after)
            case "daemon-before":
                self.stop_engine()
                return Turn("go")
            case "daemon-during":
                return Turn("go", during=self.stop_engine)
            case _:
                return Turn(_VERDICTS[fault])

    def _kill_after(self) -> None:
        self.end()
        self.kill()
