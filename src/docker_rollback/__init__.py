"""Updates of containers, made transactional.

>>> from docker_rollback import rollback
>>> with rollback("web"):
...     update()
"""

from docker_rollback._api import backup, restore, rollback
from docker_rollback._archiver import VolumeArchiver
from docker_rollback._checks import Check, CheckedContainer, healthy, http_ok, tcp_open
from docker_rollback._compare import Difference, compare
from docker_rollback._engine import DockerEngine, Engine, EngineInfo
from docker_rollback._model import (
    Backup,
    ContainerSnapshot,
    ContainerState,
    Descriptor,
    ImageSnapshot,
    Mount,
    NetworkRecord,
    NotCovered,
    Report,
    VolumeArchive,
)
from docker_rollback._progress import Progress
from docker_rollback._restorer import Restorer
from docker_rollback._rollback import Rollback, Status
from docker_rollback._snapshotter import ContainerSnapshotter
from docker_rollback._store import BackupStore
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
    "CaptureError",
    "Check",
    "CheckedContainer",
    "ContainerBusyError",
    "ContainerNotFoundError",
    "ContainerSnapshot",
    "ContainerSnapshotter",
    "ContainerState",
    "CorruptBackupError",
    "Descriptor",
    "Difference",
    "DockerEngine",
    "DockerRollbackError",
    "Engine",
    "EngineConflictError",
    "EngineError",
    "EngineForbiddenError",
    "EngineInfo",
    "EngineTimeoutError",
    "EngineUnavailableError",
    "ImageNotFoundError",
    "ImageSnapshot",
    "Mount",
    "NetworkNotFoundError",
    "NetworkRecord",
    "NotCovered",
    "NotFoundError",
    "Progress",
    "Report",
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
    "healthy",
    "http_ok",
    "restore",
    "rollback",
    "tcp_open",
]
