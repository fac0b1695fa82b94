"""The public face, name by name."""

from __future__ import annotations

import docker_rollback

NAMES = [
    "ArchiveError",
    "ArchivedVolume",
    "BackedUp",
    "Backup",
    "BackupNotFoundError",
    "BackupStore",
    "Call",
    "Capture",
    "CaptureError",
    "Change",
    "Check",
    "CheckedContainer",
    "Clock",
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
    "Downtime",
    "DowntimeExceededError",
    "Draft",
    "Engine",
    "EngineConflictError",
    "EngineError",
    "EngineForbiddenError",
    "EngineInfo",
    "EngineRecord",
    "EngineTimeoutError",
    "EngineUnavailableError",
    "Exclude",
    "ExcludeArgument",
    "Exec",
    "Finished",
    "HookError",
    "Hooks",
    "ImageNotFoundError",
    "ImagePlatformError",
    "ImageSnapshot",
    "InFlight",
    "Keep",
    "LedBack",
    "Mount",
    "NetworkNotFoundError",
    "NetworkRecord",
    "NotCovered",
    "NotFoundError",
    "Observed",
    "Operations",
    "Outcome",
    "Preflight",
    "Process",
    "Progress",
    "Project",
    "ProjectNotFoundError",
    "PruneReport",
    "Recovered",
    "Recovery",
    "RecoveryFailedError",
    "RejectedCheck",
    "Report",
    "Reporter",
    "RestoreError",
    "Restorer",
    "ResumeError",
    "Rollback",
    "RollbackFailedError",
    "RollbackRequested",
    "Status",
    "StepTime",
    "StoreError",
    "StoreFullError",
    "StoreNotFoundError",
    "StoreNotWritableError",
    "Timeline",
    "Trouble",
    "UnfinishedElsewhereError",
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
    "replace",
    "restore",
    "rollback",
    "tcp_open",
]


def test_the_public_names_are_these() -> None:
    """A name that comes or goes is a decision, taken here and in the changelog."""
    assert docker_rollback.__all__ == NAMES


def test_every_public_name_is_there_and_documented() -> None:
    """Completion in an editor leads to something with words of its own."""
    for name in docker_rollback.__all__:
        assert getattr(docker_rollback, name).__doc__ or name == "Check", name


def test_every_error_has_one_root() -> None:
    """One except clause catches whatever the library has to say, and control flow is not part of it."""
    for name in docker_rollback.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(docker_rollback, name), docker_rollback.DockerRollbackError)
    assert not issubclass(docker_rollback.RollbackRequested, docker_rollback.DockerRollbackError)
