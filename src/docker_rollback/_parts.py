"""The parts that the functions of the face are put together from."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Self, get_args

from attrs import frozen

from docker_rollback._archiver import VolumeArchiver
from docker_rollback._arguments import flag, function, one_of, text, texts
from docker_rollback._capture import Capture
from docker_rollback._engine.port import Engine
from docker_rollback._exclude import ExcludeArgument
from docker_rollback._model import Quiesce, Shared, Way
from docker_rollback._operations import Operations
from docker_rollback._own_container import Traces
from docker_rollback._preflight import Preflight
from docker_rollback._progress import Listener, Reporter
from docker_rollback._recovery import Recovery
from docker_rollback._restorer import Intruders, Restorer
from docker_rollback._snapshotter import ContainerSnapshotter
from docker_rollback._store import BackupStore
from docker_rollback._timeline import Timeline
from docker_rollback._timer import Timer


@frozen
class Parts:
    """One set of parts on one engine and one store."""

    engine: Engine
    store: BackupStore
    archiver: VolumeArchiver
    preflight: Preflight
    capture: Capture
    report: Reporter
    timer: Timer

    @classmethod
    def build(
        cls,
        engine: Engine,
        store: BackupStore,
        *,
        export_image: bool = True,
        way: Way | None,
        helper_image: str | None,
        progress: Listener | None,
        quiesce: Quiesce = "stop",
        shared: Shared = "refuse",
        include_binds: Collection[str] = (),
        exclude: Collection[ExcludeArgument] = (),
        timer: Timer = time,
    ) -> Self:
        """Build the parts; raises `ValueError` or `TypeError` for an argument that is wrong."""
        one_of("quiesce", quiesce, get_args(Quiesce))
        one_of("shared", shared, get_args(Shared))
        one_of("way", way, (None, *get_args(Way)))
        text("helper_image", helper_image, what="the name or id of an image", optional=True)
        flag("export_image", export_image)
        function("progress", progress, optional=True)
        include_binds = texts("include_binds", include_binds, what="paths")
        report = Reporter(progress, timeline=Timeline(timer.monotonic))
        snapshotter = ContainerSnapshotter(engine, store, export_image=export_image, report=report, timer=timer)
        archiver = VolumeArchiver(
            engine, store, way=way, helper_image=helper_image, progress=report.data, expect=report.expect
        )
        return cls(
            engine,
            store,
            archiver,
            Preflight(
                engine,
                store,
                archiver,
                export_image=export_image,
                quiesce=quiesce,
                shared=shared,
                include_binds=include_binds,
                exclude=exclude,
                traces=Traces.of_this_process(),
                sleep=timer.sleep,
            ),
            Capture(engine, store, snapshotter, archiver, report=report, timer=timer),
            report,
            timer,
        )

    def recovery(self, intruders: Intruders) -> Recovery:
        """Return the way back, which deals so with what is in its way."""
        restorer = Restorer(
            self.engine,
            self.store,
            archiver=self.archiver,
            intruders=intruders,
            report=self.report,
            timer=self.timer,
        )
        return Recovery(
            self.engine,
            self.store,
            Operations(self.engine, self.store),
            preflight=self.preflight,
            capture=self.capture,
            restorer=restorer,
            archiver=self.archiver,
            report=self.report,
            timer=self.timer,
        )
