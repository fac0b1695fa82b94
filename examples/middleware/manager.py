"""A class of one's own, built on the parts: several containers that are upgraded, put back and listed as one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from attrs import frozen

from docker_rollback import (
    BackupStore,
    ContainerSnapshotter,
    DockerRollbackError,
    Hooks,
    Outcome,
    Restorer,
    Rollback,
    RollbackFailedError,
    VolumeArchiver,
    healthy,
    recover,
    restore,
)
from docker_rollback.errors import StoreNotFoundError
from docker_rollback.parts import (
    Capture,
    CaptureOptions,
    Engine,
    Operations,
    Preflight,
    Recovery,
    Reporter,
    RollbackOptions,
    RollbackParts,
)
from docker_rollback.reports import Recovered, Report
from docker_rollback.types import Check, Timer


@frozen
class Version:
    """A state of the middleware that can be gone back to.

    Attributes:
        id: its backup's id.
        taken: the moment, in UTC.
        images: what each container was made from, by its name.
        failed: whether it is what a failed upgrade left.
    """

    id: str
    taken: datetime
    images: Mapping[str, str]
    failed: bool


class Middleware:
    """Several containers that are one thing to their user.

    Args:
        engine: where they are.
        store: where their backups are.
        containers: their names.
        checks: what each of them has to pass after an upgrade.
        keep: how many versions stay.
        maintenance: told True before the middleware goes down for its backup, and False when it runs again.
        clock: the time, in UTC.
        timer: measures time for checks and downtimes, and waits between checks.
    """

    def __init__(
        self,
        engine: Engine,
        store: BackupStore,
        containers: Sequence[str],
        *,
        checks: Sequence[Check] = (healthy(),),
        keep: int = 5,
        maintenance: Callable[[bool], object] = lambda _: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        timer: Timer = time,
    ) -> None:
        self._engine = engine
        self._store = store
        self._containers = tuple(containers)
        self._checks = tuple(checks)
        self._keep = keep
        self._maintenance = maintenance
        self._clock = clock
        self._timer = timer

    def look(self) -> Report:
        """Return what an upgrade would back up, and what stands against it; nothing is touched."""
        return self._rollback().check()

    def upgrade(self, images: Mapping[str, str]) -> Outcome:
        """Replace containers by ones of other images, all or none of them, and return what became of it.

        Raises:
            RollbackFailedError: the middleware is down, and somebody has to look.
        """
        update = self._rollback()
        try:
            with update as tx:
                for container, image in images.items():
                    tx.replace(container, image=image)
        except RollbackFailedError:
            raise
        except DockerRollbackError:
            # Why is in the outcome. Anything else is a mistake of ours, and comes out.
            pass
        return update.outcome

    def versions(self) -> list[Version]:
        """Return the versions that there are, oldest first."""
        return [
            Version(
                id=backup.id,
                taken=backup.created,
                images={
                    one.name: one.image.name or one.image.reference
                    for one in backup.containers
                    if one.name in self._containers
                },
                failed=bool(backup.kept_for),
            )
            for backup in self._store.list()
            if {one.name for one in backup.containers} & set(self._containers)
        ]

    def go_back(self, version: str) -> None:
        """Put a version back, with its data."""
        restore(version, client=self._engine, store=self._store)

    def finish_what_was_cut_off(self) -> tuple[Recovered, ...]:
        """Finish what a process that died left undone; to be called when this program begins."""
        try:
            return recover(client=self._engine, store=self._store)
        except StoreNotFoundError:
            # The first start: nothing has been backed up yet.
            return ()

    def _rollback(self) -> Rollback:
        """Put the parts together: one set for each upgrade, so that each is measured for itself."""
        engine, store = self._engine, self._store
        reporter = Reporter(clock=self._timer.monotonic)
        archiver = VolumeArchiver(engine, store, progress=reporter.data, expect=reporter.expect)
        snapshotter = ContainerSnapshotter(engine, store, reporter=reporter)
        preflight = Preflight(engine, store, archiver)
        capture = Capture(engine, store, snapshotter, archiver, reporter=reporter, clock=self._clock)
        hooks = Hooks(
            engine,
            before_quiesce=lambda: self._maintenance(True),  # noqa: FBT003  (on)
            after_resume=lambda: self._maintenance(False),  # noqa: FBT003  (off)
            reporter=reporter,
        )
        parts = RollbackParts(
            engine=engine,
            store=store,
            preflight=preflight,
            capture=capture,
            recovery=Recovery(
                engine,
                store,
                Operations(engine, store, clock=self._clock),
                preflight=preflight,
                capture=capture,
                restorer=Restorer(engine, store, archiver=archiver, intruders="stop", reporter=reporter),
                archiver=archiver,
                reporter=reporter,
                clock=self._clock,
            ),
            reporter=reporter,
            clock=self._clock,
            timer=self._timer,
        )
        options = RollbackOptions(verify=self._checks, keep=self._keep, keep_failed=True)
        return Rollback(self._containers, parts, options, capture=CaptureOptions(hooks=hooks))
