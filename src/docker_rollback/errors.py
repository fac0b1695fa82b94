"""Every error of this library, and nothing else.

All of them derive from one root, so ``except DockerRollbackError`` is enough to catch whatever the library itself
has to say. ``RollbackRequested`` is control flow, not an error, and is deliberately not part of the tree::

    DockerRollbackError
    ├── EngineError                     an engine said no, or nothing
    │   ├── EngineUnavailableError      nobody answered
    │   ├── EngineTimeoutError          somebody may have done it, the answer never came
    │   ├── EngineForbiddenError        the engine, or a proxy before it, does not allow this
    │   ├── EngineConflictError         a name is taken, or a state forbids it
    │   └── NotFoundError
    │       ├── ContainerNotFoundError
    │       ├── ImageNotFoundError
    │       ├── NetworkNotFoundError
    │       ├── ProjectNotFoundError
    │       └── VolumeNotFoundError
    ├── UnsupportedContainerError       cannot be put back exactly, so it is not touched
    ├── ContainerBusyError              another rollback holds it
    ├── UnfinishedRollbackError         an earlier rollback was cut off, and must be finished first
    ├── VolumeError                     a volume's data could not be read or written
    │   ├── VolumeAccessError           there is no way to its data
    │   └── ArchiveError                tar, or the stream from it, failed
    ├── StoreError                      durable storage
    │   ├── StoreNotFoundError
    │   ├── StoreNotWritableError
    │   ├── StoreFullError
    │   ├── BackupNotFoundError
    │   ├── CorruptBackupError
    │   └── UnsupportedFormatError      written by a newer version of this library
    ├── CaptureError                    the backup could not be taken; the service runs as before
    │   └── DowntimeExceededError       it would have been down for longer than allowed
    ├── HookError                       what the caller wanted done around it failed
    ├── ResumeError                     a container that was brought to rest could not be set going again
    ├── ImagePlatformError              the image is for another kind of machine
    ├── UpdateRejectedError             the update ended, its container is not well
    ├── RestoreError                    what was put back differs, or a step of it failed
    ├── RollbackFailedError             the rollback failed; the backup is kept
    ├── RecoveryFailedError             something that was cut off could not be finished
    └── UnfinishedElsewhereError        another store has to finish what was cut off
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from docker_rollback._engine_errors import (
    ContainerNotFoundError,
    DockerRollbackError,
    EngineConflictError,
    EngineError,
    EngineForbiddenError,
    EngineTimeoutError,
    EngineUnavailableError,
    ImageNotFoundError,
    NetworkNotFoundError,
    NotFoundError,
    ProjectNotFoundError,
    VolumeNotFoundError,
)
from docker_rollback._recovered import UnfinishedElsewhereError
from docker_rollback._store_errors import (
    BackupNotFoundError,
    CorruptBackupError,
    StoreError,
    StoreFullError,
    StoreNotFoundError,
    StoreNotWritableError,
    UnsupportedFormatError,
)

__all__ = [
    "ArchiveError",
    "BackupNotFoundError",
    "CaptureError",
    "ContainerBusyError",
    "ContainerNotFoundError",
    "CorruptBackupError",
    "DockerRollbackError",
    "DowntimeExceededError",
    "EngineConflictError",
    "EngineError",
    "EngineForbiddenError",
    "EngineTimeoutError",
    "EngineUnavailableError",
    "HookError",
    "ImageNotFoundError",
    "ImagePlatformError",
    "NetworkNotFoundError",
    "NotFoundError",
    "ProjectNotFoundError",
    "RecoveryFailedError",
    "RestoreError",
    "ResumeError",
    "RollbackFailedError",
    "RollbackRequested",
    "StoreError",
    "StoreFullError",
    "StoreNotFoundError",
    "StoreNotWritableError",
    "UnfinishedElsewhereError",
    "UnfinishedRollbackError",
    "UnsupportedContainerError",
    "UnsupportedFormatError",
    "UpdateRejectedError",
    "VolumeAccessError",
    "VolumeError",
    "VolumeNotFoundError",
]


class UnsupportedContainerError(DockerRollbackError):
    """A container could not be put back exactly, so the rollback refuses to begin; nothing was touched.

    Attributes:
        container: its name.
        reasons: every reason found, each a sentence.
    """

    def __init__(self, container: str, reasons: Sequence[str]) -> None:
        self.container = container
        self.reasons = tuple(reasons)
        super().__init__(f"container {container!r} cannot be rolled back exactly: " + "; ".join(self.reasons))


class ContainerBusyError(DockerRollbackError):
    """Another rollback, backup or restore of the container is at work; nothing was touched.

    Attributes:
        container: its name.
        holder: what is known of the one at work.
    """

    def __init__(self, container: str, holder: str) -> None:
        self.container = container
        self.holder = holder
        super().__init__(f"container {container!r} is busy: {holder}; wait for it to end, then try again")


class UnfinishedRollbackError(DockerRollbackError):
    """An earlier rollback was cut off, and finishing it could destroy what was done since; nothing was touched.

    Attributes:
        operation: its id, which is that of its backup.
        containers: the names of its containers.
        reasons: why it is not finished without being asked for, a sentence each.
        store: the path of the store that has its record.
    """

    def __init__(self, operation: str, containers: Sequence[str], reasons: Sequence[str], *, store: str) -> None:
        self.operation = operation
        self.containers = tuple(containers)
        self.reasons = tuple(reasons)
        self.store = store
        names = ", ".join(repr(name) for name in self.containers)
        super().__init__(
            f"the rollback {operation} of {names} was cut off, and is not finished by itself: "
            f"{'; '.join(self.reasons)}. docker_rollback.recover(store={store!r}) finishes it, and keeps what it finds "
            "as a backup before"
        )


class VolumeError(DockerRollbackError):
    """The data of a volume, or of a folder that a container binds, could not be read or written.

    Attributes:
        volume: its name; the path of a folder.
        reason: what happened, a sentence.
    """

    def __init__(self, volume: str, reason: str) -> None:
        self.volume = volume
        self.reason = reason
        super().__init__(f"{'folder' if volume.startswith('/') else 'volume'} {volume!r}: {reason}")


class VolumeAccessError(VolumeError):
    """There is no way to the volume's data, neither directly nor by a helper container."""


class ArchiveError(VolumeError):
    """Archiving or extracting a volume failed.

    Attributes:
        permanent: whether another try would fail again; False where a program was killed, its input was cut off, or
            somebody changed the files meanwhile.
    """

    def __init__(self, volume: str, reason: str, *, permanent: bool = True) -> None:
        self.permanent = permanent
        super().__init__(volume, reason)


class CaptureError(DockerRollbackError):
    """The backup could not be taken; every container is in the state that it had.

    Attributes:
        container: the name of the container it happened to.
        reason: what happened, a sentence.
    """

    def __init__(self, container: str, reason: str) -> None:
        self.container = container
        self.reason = reason
        super().__init__(f"could not back up container {container!r}: {reason}")


class DowntimeExceededError(CaptureError):
    """Bringing containers to rest and capturing them took longer than allowed; they run again, nothing is left over.

    Attributes:
        containers: the names of those that were at rest.
        allowed: how long they might have been at rest, in seconds.
        step: what was being done when that time was over, "rest" or "capture".
    """

    def __init__(self, containers: Sequence[str], allowed: float, step: str) -> None:
        self.containers = tuple(containers)
        self.allowed = allowed
        self.step = step
        super().__init__(
            ", ".join(self.containers),
            f"in step {step!r} it had been at rest for the {allowed:g} s that max_downtime allows; it does what it did",
        )


class HookError(DockerRollbackError):
    """A hook failed. Where it is one before the capture, nothing was touched; a later one changes no outcome.

    Attributes:
        hook: which: "before_quiesce", "after_resume" or "after_rollback".
        program: the program or the function that it runs.
        container: the container in which that runs; None for a function.
        reason: what happened, a sentence.
        exit_code: of the program; None where it did not end by itself, and for a function.
        stderr: the end of what the program said.
    """

    def __init__(
        self,
        hook: Literal["before_quiesce", "after_resume", "after_rollback"],
        reason: str,
        *,
        program: str,
        container: str | None = None,
        exit_code: int | None = None,
        stderr: str = "",
    ) -> None:
        self.hook: Literal["before_quiesce", "after_resume", "after_rollback"] = hook
        self.program = program
        self.container = container
        self.reason = reason
        self.exit_code = exit_code
        self.stderr = stderr
        place = f" in container {container!r}" if container is not None else ""
        super().__init__(f"{hook}: {program!r}{place}: {reason}" + (f"\n{stderr}" if stderr else ""))


class ResumeError(DockerRollbackError):
    """Containers that were brought to rest could not be set going again, although each was tried several times.

    Attributes:
        containers: their names.
        failures: why, one error for each; before them the error that came first, where one did.
    """

    def __init__(self, containers: Sequence[str], failures: Sequence[BaseException]) -> None:
        self.containers = tuple(containers)
        self.failures = tuple(failures)
        names = ", ".join(repr(name) for name in self.containers)
        reasons = "".join(f"\n  {type(failure).__name__}: {failure}" for failure in self.failures)
        super().__init__(f"{names} could not be set going again; start them by hand{reasons}")


class ImagePlatformError(DockerRollbackError):
    """The image of an update is for another platform than its engine's; nothing was touched.

    Attributes:
        image: its name.
        platform: what it is for ("linux/arm64").
        engine: what the engine runs.
    """

    def __init__(self, image: str, platform: str, engine: str) -> None:
        self.image = image
        self.platform = platform
        self.engine = engine
        super().__init__(
            f"image {image!r} is for {platform}, and the engine runs {engine}; name an image, or a platform=, that fits"
        )


class UpdateRejectedError(DockerRollbackError):
    """The update ended without an error, but a check found that its container is not well.

    Nothing in it shows a value of the container's environment; the name of the variable stands in its place.

    Attributes:
        container: its name.
        reason: what the check found, a sentence.
        state: what it did then, as the engine names it; None where that is not known, as of one that is gone.
        exit_code: of its last run; None where that is not known.
        probe: how the last probe of its health check ended, and what it said; None where it has none.
        log: the last lines of its log.
        details: the same as text, for people.
    """

    def __init__(
        self,
        container: str,
        reason: str,
        *,
        details: str = "",
        state: str | None = None,
        exit_code: int | None = None,
        probe: str | None = None,
        log: Sequence[str] = (),
    ) -> None:
        self.container = container
        self.reason = reason
        self.state = state
        self.exit_code = exit_code
        self.probe = probe
        self.log = tuple(log)
        lines = [details] if details else []
        lines += [f"state: {state}, exit code {exit_code}"] if state is not None else []
        lines += [f"last health probe: {probe}"] if probe is not None else []
        lines += ["last lines of its log:", *self.log] if self.log else []
        self.details = "\n".join(lines)
        super().__init__(
            f"the update of container {container!r} was rejected: {reason}"
            + (f"\n{self.details}" if self.details else "")
        )


class RestoreError(DockerRollbackError):
    """A step of a restore failed, or what was put back differs from what was captured.

    Attributes:
        container: the name of the container it happened to, or several by commas.
        reason: what happened, a sentence.
        differences: what differs from the captured inspection, one line each.
        failures: every failure, where there were several.
        restored: whether everything had been put back, so that another restore ends the same.
    """

    def __init__(
        self,
        container: str,
        reason: str,
        differences: Sequence[str] = (),
        *,
        failures: Sequence[Exception] = (),
        restored: bool = False,
    ) -> None:
        self.container = container
        self.reason = reason
        self.differences = tuple(differences)
        self.failures = tuple(failures)
        self.restored = restored
        lines = [*self.differences, *(f"{type(failure).__name__}: {failure}" for failure in self.failures)]
        detail = "".join(f"\n  {line}" for line in lines)
        super().__init__(f"container {container!r}: {reason}{detail}")


class RollbackFailedError(DockerRollbackError):
    """The update failed and so did its rollback; the backup is kept, unless a failure says that it cannot be read.

    The exception that left the ``with`` block is the ``__cause__``.

    Attributes:
        backup_id: the backup from which ``restore`` can try again.
        containers: the names of the containers concerned.
        failures: every failure of the rollback, as one group.
        store: the path of the store that has the backup.
    """

    def __init__(self, backup_id: str, containers: Sequence[str], failures: Sequence[Exception], *, store: str) -> None:
        self.backup_id = backup_id
        self.containers = tuple(containers)
        self.failures = ExceptionGroup("the rollback failed", list(failures))
        self.store = store
        names = ", ".join(repr(name) for name in self.containers)
        reasons = "".join(f"\n  {type(failure).__name__}: {failure}" for failure in failures)
        call = f"docker_rollback.restore({backup_id!r}, store={store!r})"
        if all(isinstance(failure, RestoreError) and failure.restored for failure in failures):
            rest = (
                "everything was put back, but it does not do what it did, and another restore would end the same. "
                f"When the cause is mended, start what does not run, then call docker_rollback.recover(store={store!r})"
            )
        elif any(isinstance(failure, (BackupNotFoundError, CorruptBackupError)) for failure in failures):
            rest = f"its backup cannot be read. If it can be brought back from elsewhere, call {call}"
        else:
            rest = f"its backup is kept. When the cause is mended, call {call}"
        super().__init__(f"the rollback of {names} failed; {rest}{reasons}")


class RecoveryFailedError(DockerRollbackError):
    """Not everything that was cut off could be finished; everything was tried, and what is left can be tried again.

    Attributes:
        failures: every failure, as one group; a note on each names its operation.
        finished: the ids of the operations that were finished.
        store: the path of the store that has the records of the others.
    """

    def __init__(self, failures: Sequence[Exception], finished: Sequence[str] = (), *, store: str) -> None:
        self.failures = ExceptionGroup("the recovery failed", list(failures))
        self.finished = tuple(finished)
        self.store = store
        reasons = "".join(
            f"\n  {type(failure).__name__}: {failure}"
            + "".join(f" ({note})" for note in getattr(failure, "__notes__", ()))
            for failure in failures
        )
        done = f"; finished are {', '.join(self.finished)}" if self.finished else ""
        super().__init__(
            f"not everything could be finished{done}. When the cause is mended, call "
            f"docker_rollback.recover(store={store!r}) again{reasons}"
        )


class RollbackRequested(Exception):  # noqa: N818  (control flow, as the design names it, and no error)
    """Raise this inside the block to roll back on purpose; the block swallows it.

    Example:
        >>> with rollback("web"):
        ...     update()
        ...     if not convinced():
        ...         raise RollbackRequested("not convinced")
    """
