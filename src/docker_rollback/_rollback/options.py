"""Holds the parts and the options of a rollback as two values, made once and passed whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from attrs import field, frozen

from docker_rollback._arguments import flag, function, seconds
from docker_rollback._capture import Capture, Preflight
from docker_rollback._engine import Engine
from docker_rollback._host import Timer, now
from docker_rollback._recovery import Recovery
from docker_rollback._reporting import Reporter
from docker_rollback._rollback.checked_container import Check
from docker_rollback._rollback.checks import as_checks
from docker_rollback._rollback.outcome import OutcomeListener
from docker_rollback._store import BackupStore, Keep, KeepArgument


# Converters of this module, because the types of their arguments become those of the class's constructor.
def _as_checks(verify: Check | Sequence[Check] | None) -> tuple[Check, ...]:
    return as_checks(verify)


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
    """How an update is checked, and what remains of it.

    Attributes:
        verify: the checks that the update has to pass.
        watch: seconds of probation after the checks; None for no probation.
        keep: the backups of these containers that stay in the store when the block ends: a number, a maximum age as a
            `timedelta`, or both as `Keep`; None keeps all.
        keep_failed: whether to keep the state of a failed update as a backup of its own before it is undone.
        restore_tags: whether a rollback points image names to their captured images again.
        on_outcome: called with the `Outcome` once it is final, also if entering failed.

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
