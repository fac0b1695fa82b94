"""Holds the parts and the options of a rollback as two values, made once and passed whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from attrs import field, frozen

from docker_rollback._arguments import flag, function, seconds, several
from docker_rollback._capture import Capture, Preflight
from docker_rollback._engine import Engine
from docker_rollback._host import Timer, now
from docker_rollback._recovery import Recovery
from docker_rollback._reporting import Reporter
from docker_rollback._rollback.checked_container import Check
from docker_rollback._rollback.checks import eventually, healthy, http_ok, tcp_open
from docker_rollback._rollback.outcome import OutcomeListener
from docker_rollback._store import BackupStore, Keep, KeepArgument


# Converters of this module, because the types of their arguments become those of the class's constructor.
def _as_checks(verify: Check | Sequence[Check] | None) -> tuple[Check, ...]:
    """Convert a check, several, or None to a tuple of checks."""
    if verify is None:
        return ()
    what = "a check, such as healthy() or http_ok(url), several, or None"
    checks = (verify,) if callable(verify) else several("verify", verify, what=what)
    makers: tuple[object, ...] = (healthy, http_ok, tcp_open, eventually)
    for check in checks:
        if not callable(check):
            raise TypeError(f"a check is a callable, not {check!r}")
        if check in makers:
            raise ValueError(f"{check!r} returns a check; call it, and pass the result as verify=")
    return checks


def _as_keep(keep: KeepArgument) -> Keep:
    return Keep.of(keep)


@frozen(kw_only=True)
class RollbackParts:
    """The parts that a `Rollback` composes.

    Attributes:
        engine: the engine of the containers.
        store: the store for the backup.
        preflight: checks the containers, for `Rollback.check`.
        capture: prunes old backups.
        recovery: takes the backup, keeps the journal, restores, and finishes unfinished earlier operations.
        reporter: receives progress and measures the steps; the other parts need the same instance.
        clock: returns the time in UTC.
        timer: measures time for checks, and waits between them.
    """

    engine: Engine
    store: BackupStore
    preflight: Preflight
    capture: Capture
    recovery: Recovery
    reporter: Reporter = field(factory=Reporter)
    clock: Callable[[], datetime] = now
    timer: Timer = time


@frozen(kw_only=True)
class RollbackOptions:
    """How an update is checked, and what remains of it: the arguments of `rollback` with these names.

    Raises:
        ValueError, TypeError: a value is not among the choices.
    """

    verify: tuple[Check, ...] = field(default=(), converter=_as_checks)
    watch: float | None = None
    keep: Keep = field(default=Keep(3), converter=_as_keep)
    keep_failed: bool = False
    restore_tags: bool = True
    on_outcome: OutcomeListener | None = None

    def __attrs_post_init__(self) -> None:
        seconds("watch", self.watch, above=True, optional=True)
        flag("keep_failed", self.keep_failed)
        flag("restore_tags", self.restore_tags)
        function("on_outcome", self.on_outcome, optional=True)
