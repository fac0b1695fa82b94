"""Updates of containers, made transactional.

>>> from docker_rollback import rollback
>>> with rollback("web"):
...     update()
"""

from docker_rollback._api import backup, recover, restore, rollback
from docker_rollback._archiver import VolumeArchiver
from docker_rollback._capture import Capture
from docker_rollback._checked import Check, CheckedContainer
from docker_rollback._checks import eventually, healthy, http_ok, tcp_open
from docker_rollback._compare import Difference, compare
from docker_rollback._engine import Change, ContainerFilter, DockerEngine, Engine, EngineInfo, Finished, Process
from docker_rollback._model import (
    Backup,
    ContainerSnapshot,
    ContainerState,
    Descriptor,
    EngineRecord,
    ImageSnapshot,
    Mount,
    NetworkRecord,
    NotCovered,
    Observed,
    Report,
    VolumeArchive,
)
from docker_rollback._preflight import Preflight
from docker_rollback._progress import Progress, Reporter
from docker_rollback._recovery import Recovered, Recovery
from docker_rollback._restorer import Restorer
from docker_rollback._rollback import Rollback, Status
from docker_rollback._snapshotter import ContainerSnapshotter
from docker_rollback._store import BackupStore, Draft, Keep, PruneReport
from docker_rollback.errors import (
    ArchiveError,
    BackupNotFoundError,
    CaptureError,
    ContainerBusyError,
    ContainerNotFoundError,
    CorruptBackupError,
    DockerRollbackError,
    EngineConflictError,
    EngineError,
    EngineForbiddenError,
    EngineTimeoutError,
    EngineUnavailableError,
    ImageNotFoundError,
    NetworkNotFoundError,
    NotFoundError,
    RestoreError,
    ResumeError,
    RollbackFailedError,
    RollbackRequested,
    StoreError,
    StoreFullError,
    StoreNotWritableError,
    UnfinishedRollbackError,
    UnsupportedContainerError,
    UnsupportedFormatError,
    UpdateRejectedError,
    VolumeAccessError,
    VolumeError,
    VolumeNotFoundError,
)

__all__ = [
    "ArchiveError",
    "Backup",
    "BackupNotFoundError",
    "BackupStore",
    "Capture",
    "CaptureError",
    "Change",
    "Check",
    "CheckedContainer",
    "ContainerBusyError",
    "ContainerFilter",
    "ContainerNotFoundError",
    "ContainerSnapshot",
    "ContainerSnapshotter",
    "ContainerState",
    "CorruptBackupError",
    "Descriptor",
    "Difference",
    "DockerEngine",
    "DockerRollbackError",
    "Draft",
    "Engine",
    "EngineConflictError",
    "EngineError",
    "EngineForbiddenError",
    "EngineInfo",
    "EngineRecord",
    "EngineTimeoutError",
    "EngineUnavailableError",
    "Finished",
    "ImageNotFoundError",
    "ImageSnapshot",
    "Keep",
    "Mount",
    "NetworkNotFoundError",
    "NetworkRecord",
    "NotCovered",
    "NotFoundError",
    "Observed",
    "Preflight",
    "Process",
    "Progress",
    "PruneReport",
    "Recovered",
    "Recovery",
    "Report",
    "Reporter",
    "RestoreError",
    "Restorer",
    "ResumeError",
    "Rollback",
    "RollbackFailedError",
    "RollbackRequested",
    "Status",
    "StoreError",
    "StoreFullError",
    "StoreNotWritableError",
    "UnfinishedRollbackError",
    "UnsupportedContainerError",
    "UnsupportedFormatError",
    "UpdateRejectedError",
    "VolumeAccessError",
    "VolumeArchive",
    "VolumeArchiver",
    "VolumeError",
    "VolumeNotFoundError",
    "backup",
    "compare",
    "eventually",
    "healthy",
    "http_ok",
    "recover",
    "restore",
    "rollback",
    "tcp_open",
]
