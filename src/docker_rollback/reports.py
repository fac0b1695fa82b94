"""The values that operations return: the contents of a backup, the steps of an outcome, the findings of a check."""

from docker_rollback._inspection import Difference, Report
from docker_rollback._model import (
    Clock,
    ContainerSnapshot,
    ContainerState,
    Descriptor,
    EngineRecord,
    HostFile,
    ImageSnapshot,
    InFlight,
    LedBack,
    Mount,
    NetworkRecord,
    NotCovered,
    Observed,
    Project,
    Recovered,
    VolumeArchive,
)
from docker_rollback._reporting import Downtime, StepTime
from docker_rollback._rollback import ArchivedVolume, BackedUp, RejectedCheck, Trouble
from docker_rollback._store import PruneReport

__all__ = [
    "ArchivedVolume",
    "BackedUp",
    "Clock",
    "ContainerSnapshot",
    "ContainerState",
    "Descriptor",
    "Difference",
    "Downtime",
    "EngineRecord",
    "HostFile",
    "ImageSnapshot",
    "InFlight",
    "LedBack",
    "Mount",
    "NetworkRecord",
    "NotCovered",
    "Observed",
    "Project",
    "PruneReport",
    "Recovered",
    "RejectedCheck",
    "Report",
    "StepTime",
    "Trouble",
    "VolumeArchive",
]
