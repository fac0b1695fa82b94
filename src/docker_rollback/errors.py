"""Every error of this library.

DockerRollbackError
    EngineError
        EngineConflictError, EngineForbiddenError, EngineTimeoutError, EngineUnavailableError
        NotFoundError
            ContainerNotFoundError, ImageNotFoundError, NetworkNotFoundError, ProjectNotFoundError
            VolumeNotFoundError
    StoreError
        BackupNotFoundError, CorruptBackupError, StoreFullError, StoreNotFoundError, StoreNotWritableError
        UnsupportedFormatError
    VolumeError
        ArchiveError, VolumeAccessError
    CaptureError
        DowntimeExceededError
    ContainerBusyError, HookError, ImagePlatformError, RecoveryFailedError, RestoreError, ResumeError
    RollbackFailedError, UnfinishedElsewhereError, UnfinishedRollbackError, UnsupportedContainerError
    UpdateRejectedError
RollbackRequested
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from docker_rollback._model import InFlight, Recovered

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

_FULL_ID = re.compile(r"(container\W+(?:with (?:name or )?id\W+)?)([0-9a-f]{12})[0-9a-f]{52}\b", re.IGNORECASE)
"""A container's full id in a sentence. Only these are shortened, because a volume's name can look the same."""


class DockerRollbackError(Exception):
    """The root of every error that this library raises. Copies and pickles keep all fields."""

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own __reduce__ calls the class with the message alone, which these constructors do not take.
        return _rebuild, (type(self), self.args), dict(vars(self))


def _rebuild(kind: type[DockerRollbackError], args: tuple[object, ...]) -> DockerRollbackError:
    return kind.__new__(kind, *args)


def _listed(failures: Sequence[BaseException]) -> str:
    return "".join(f"\n  {type(failure).__name__}: {failure}" for failure in failures)


class EngineError(DockerRollbackError):
    """The engine refused or failed a request.

    Attributes:
        action: the request in words ("stop container 'web'").
        reason: the engine's answer.
        status: the HTTP status of the answer; None if there was no answer.
        permanent: True if the same request would fail again.
    """

    permanent: bool = True

    def __init__(self, action: str, reason: str, *, status: int | None = None) -> None:
        self.action = action
        self.reason = reason
        self.status = status
        answer = f" (HTTP {status})" if status is not None else ""
        # Shortened to the form in which engines show ids.
        super().__init__(_FULL_ID.sub(r"\1\2", f"could not {action}: {reason}{answer}"))
        # An engine answers with 5xx to a failure of its own, which another try may not meet.
        if status is not None and status >= 500:
            self.permanent = False


class EngineUnavailableError(EngineError):
    """No engine answers at the address."""

    permanent = False


class EngineTimeoutError(EngineError):
    """The engine did not answer in time; it may still have carried out the request."""

    permanent = False


class EngineForbiddenError(EngineError):
    """The engine, or a proxy in front of it, does not allow this request."""


class EngineConflictError(EngineError):
    """A name is taken, or the object's state does not allow the request."""


class NotFoundError(EngineError):
    """The engine has no such object.

    Attributes:
        name: the name or id that was looked up.
    """

    kind = "object"

    def __init__(self, name: str, *, action: str | None = None, status: int | None = 404) -> None:
        self.name = name
        described = f"{self.kind} {name!r}"
        super().__init__(action or f"find {described}", f"the engine has no {described}", status=status)


class ContainerNotFoundError(NotFoundError):
    """The engine has no such container."""

    kind = "container"


class ProjectNotFoundError(NotFoundError):
    """The engine has no container of the compose project.

    Attributes:
        projects: the names of the projects that have containers.
    """

    kind = "compose project"

    def __init__(self, name: str, projects: Sequence[str] = ()) -> None:
        self.name = name
        self.projects: tuple[str, ...] = tuple(projects)
        found = f"it has containers of {', '.join(map(repr, self.projects))}" if self.projects else "nor of any other"
        EngineError.__init__(
            self, f"find compose project {name!r}", f"the engine has no container of it; {found}. Bring it up first"
        )


class ImageNotFoundError(NotFoundError):
    """The engine has no such image."""

    kind = "image"


class NetworkNotFoundError(NotFoundError):
    """The engine has no such network."""

    kind = "network"


class VolumeNotFoundError(NotFoundError):
    """The engine has no such volume."""

    kind = "volume"


class StoreError(DockerRollbackError):
    """Durable storage failed.

    Attributes:
        path: the file or folder.
        reason: the cause, a sentence.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"store {path}: {reason}")


class StoreNotFoundError(StoreError):
    """There is no store at `path`, and none was created; `default` is the path of the default store."""

    def __init__(self, path: str, reason: str, *, default: str) -> None:
        self.default = default
        hint = "this is the default" if path == default else f"the default is {default}"
        super().__init__(
            path,
            f"there is no store here: {reason}. Is its disk mounted? Name the store that the rollbacks use with store= "
            f"or --store PATH; {hint}",
        )


class StoreNotWritableError(StoreError):
    """This user may not write to the store's folder."""


class StoreFullError(StoreError):
    """The store has too little free space for the backup; partial files have been removed.

    Attributes:
        needed: the least number of bytes that the backup needs; None if unknown.
        free: the number of free bytes; None if unknown, for example under a quota.
    """

    def __init__(self, path: str, reason: str, *, needed: int | None = None, free: int | None = None) -> None:
        self.needed = needed
        self.free = free
        numbers = [f"{needed / 1e6:,.2f} MB or more are needed"] if needed is not None else []
        numbers += [f"{free / 1e6:,.2f} MB are free"] if free is not None else []
        full = f"{reason}: {', '.join(numbers)}" if numbers else reason
        super().__init__(path, f"{full}; remove old backups (BackupStore.prune), or move the store to another disk")


class BackupNotFoundError(StoreError):
    """The store has no backup of the id `backup_id`."""

    def __init__(self, path: str, backup_id: str) -> None:
        self.backup_id = backup_id
        super().__init__(path, f"no backup {backup_id!r}; BackupStore.list() lists the backups that exist")


class CorruptBackupError(StoreError):
    """A file of the store is damaged or missing; nothing has been changed.

    Attributes:
        blob: the digest of the damaged blob, or the name of the damaged file.
    """

    def __init__(self, path: str, blob: str, reason: str) -> None:
        self.blob = blob
        super().__init__(
            path, f"{blob} is damaged: {reason}; take another backup (BackupStore.list()), or import a copy"
        )


class UnsupportedFormatError(StoreError):
    """The store, or a backup in it, has a format that this version does not know."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, f"{reason}; use a newer version of docker-rollback")


class UnsupportedContainerError(DockerRollbackError):
    """A container could not be restored exactly, so the rollback refuses to start; nothing was changed.

    Attributes:
        container: the container's name.
        reasons: all reasons, each a sentence.
    """

    def __init__(self, container: str, reasons: Sequence[str]) -> None:
        self.container = container
        self.reasons: tuple[str, ...] = tuple(reasons)
        super().__init__(f"container {container!r} cannot be rolled back exactly: " + "; ".join(self.reasons))


class ContainerBusyError(DockerRollbackError):
    """Another rollback, backup or restore of the container is running; nothing was changed.

    Attributes:
        container: the container's name.
        holder: the process that holds the container's lock, as far as it is known.
    """

    def __init__(self, container: str, holder: str) -> None:
        self.container = container
        self.holder = holder
        super().__init__(f"container {container!r} is busy: {holder}; wait until it ends, then try again")


class UnfinishedRollbackError(DockerRollbackError):
    """An earlier rollback was interrupted, and finishing it could destroy later changes; nothing was changed.

    Attributes:
        operation: the operation's id, which is also its backup's.
        containers: the names of its containers.
        reasons: why it is not finished automatically, each a sentence.
        store: the path of the store that has its journal record.
    """

    def __init__(self, operation: str, containers: Sequence[str], reasons: Sequence[str], *, store: str) -> None:
        self.operation = operation
        self.containers: tuple[str, ...] = tuple(containers)
        self.reasons: tuple[str, ...] = tuple(reasons)
        self.store = store
        super().__init__(
            f"the rollback {operation} of {', '.join(map(repr, containers))} was interrupted, and is not finished "
            f"automatically: {'; '.join(self.reasons)}. docker_rollback.recover(store={store!r}) finishes it, after a "
            "backup of the present state"
        )


class VolumeError(DockerRollbackError):
    """The data of a volume, or of a bind-mounted folder, could not be read or written.

    Attributes:
        volume: the volume's name, or the folder's path.
        reason: the cause, a sentence.
    """

    def __init__(self, volume: str, reason: str) -> None:
        self.volume = volume
        self.reason = reason
        super().__init__(f"{'folder' if volume.startswith('/') else 'volume'} {volume!r}: {reason}")


class VolumeAccessError(VolumeError):
    """The volume's data cannot be reached, neither directly nor through a helper container."""


class ArchiveError(VolumeError):
    """Archiving or extracting a volume failed.

    Attributes:
        permanent: False if a retry may succeed: a program was killed, its input ended early, or files changed.
    """

    def __init__(self, volume: str, reason: str, *, permanent: bool = True) -> None:
        self.permanent = permanent
        super().__init__(volume, reason)


class CaptureError(DockerRollbackError):
    """The backup failed; every container is in the state that it had before.

    Attributes:
        container: the container's name, or several names separated by commas.
        reason: the cause, a sentence.
    """

    def __init__(self, container: str, reason: str) -> None:
        self.container = container
        self.reason = reason
        super().__init__(f"could not back up container {container!r}: {reason}")


class DowntimeExceededError(CaptureError):
    """Quiescing and capturing containers took longer than `max_downtime`; they run again, and nothing is left over.

    Attributes:
        containers: the names of the quiesced containers.
        allowed: the limit in seconds.
        step: the step that was running when the time was up, "quiesce" or "capture".
    """

    def __init__(self, containers: Sequence[str], allowed: float, step: str) -> None:
        self.containers: tuple[str, ...] = tuple(containers)
        self.allowed = allowed
        self.step = step
        super().__init__(
            ", ".join(self.containers),
            f"in step {step!r} it had been down for the {allowed:g} s that max_downtime allows; it has been resumed",
        )


class HookError(DockerRollbackError):
    """A hook failed. If it runs before the capture, nothing was changed; a later one does not change the outcome.

    Attributes:
        hook: "before_quiesce", "after_resume" or "after_rollback".
        program: the hook's program or function.
        container: the container in which the program runs; None for a function.
        reason: the cause, a sentence.
        exit_code: the program's exit code; None if it was ended early, and for a function.
        stderr: the end of the program's error output.
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
    """Quiesced containers could not be resumed, although each was tried several times.

    Attributes:
        containers: their names.
        failures: one error for each container, after the error that ended the capture, if there was one.
    """

    def __init__(self, containers: Sequence[str], failures: Sequence[BaseException]) -> None:
        self.containers: tuple[str, ...] = tuple(containers)
        self.failures: tuple[BaseException, ...] = tuple(failures)
        names = ", ".join(map(repr, self.containers))
        super().__init__(f"{names} could not be resumed; start them by hand{_listed(self.failures)}")


class ImagePlatformError(DockerRollbackError):
    """The image of an update is for another platform than the engine's; nothing was changed.

    Attributes:
        image: the image's name.
        platform: the image's platform ("linux/arm64").
        engine: the engine's platform.
    """

    def __init__(self, image: str, platform: str, engine: str) -> None:
        self.image = image
        self.platform = platform
        self.engine = engine
        super().__init__(
            f"image {image!r} is for {platform}, and the engine runs {engine}; name an image, or a platform=, that fits"
        )


class UpdateRejectedError(DockerRollbackError):
    """The update ended without an error, but a check rejected its container.

    Values of the container's environment are replaced by the names of their variables, in every attribute.

    Attributes:
        container: the container's name.
        reason: the finding of the check, a sentence.
        state: the container's state, in the engine's words; None if unknown, for example if the container is gone.
        exit_code: the exit code of the container's last run; None if unknown.
        probe: the result and output of its last health probe; None if it has no health check.
        log: the last lines of its log.
        details: all of these as text.
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
        self.log: tuple[str, ...] = tuple(log)
        lines = [details] if details else []
        lines += [f"state: {state}, exit code {exit_code}"] if state is not None else []
        lines += [f"last health probe: {probe}"] if probe is not None else []
        lines += ["last lines of its log:", *self.log] if self.log else []
        self.details: str = "\n".join(lines)
        rejected = f"the update of container {container!r} was rejected: {reason}"
        super().__init__(f"{rejected}\n{self.details}" if self.details else rejected)


class RestoreError(DockerRollbackError):
    """A step of a restore failed, or the restored container differs from the captured one.

    Attributes:
        container: the container's name, or several names separated by commas.
        reason: the cause, a sentence.
        differences: the differences from the captured inspection, one line each.
        failures: all failures, if there were several.
        restored: True if everything has been restored, so that another restore would end the same.
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
        self.differences: tuple[str, ...] = tuple(differences)
        self.failures: tuple[Exception, ...] = tuple(failures)
        self.restored = restored
        detail = "".join(f"\n  {line}" for line in self.differences) + _listed(self.failures)
        super().__init__(f"container {container!r}: {reason}{detail}")


class RollbackFailedError(DockerRollbackError):
    """The update failed, and so did its rollback; the backup is kept, unless a failure says that it cannot be read.

    The ``__cause__`` is the exception that left the ``with`` block.

    Attributes:
        backup_id: the id of the backup, for another try with ``restore``.
        containers: the names of the containers.
        failures: all failures of the rollback, as one group.
        store: the path of the store that has the backup.
    """

    def __init__(self, backup_id: str, containers: Sequence[str], failures: Sequence[Exception], *, store: str) -> None:
        self.backup_id = backup_id
        self.containers: tuple[str, ...] = tuple(containers)
        self.failures: ExceptionGroup[Exception] = ExceptionGroup("the rollback failed", list(failures))
        self.store = store
        names = ", ".join(map(repr, containers))
        call = f"docker_rollback.restore({backup_id!r}, store={store!r})"
        if all(isinstance(failure, RestoreError) and failure.restored for failure in failures):
            advice = (
                "everything else was restored, and another restore would end the same. Fix the cause, start containers "
                f"that do not run, copy files that are named, then call docker_rollback.recover(store={store!r})"
            )
        elif any(isinstance(failure, (BackupNotFoundError, CorruptBackupError)) for failure in failures):
            advice = f"its backup cannot be read. If you have a copy of it elsewhere, import that, then call {call}"
        else:
            advice = f"its backup is kept. Fix the cause, then call {call}"
        super().__init__(f"the rollback of {names} failed; {advice}{_listed(failures)}")


class RecoveryFailedError(DockerRollbackError):
    """Some interrupted operations could not be finished. All were tried, and the rest can be tried again.

    Attributes:
        failures: all failures, as one group; a note on each names its operation.
        finished: the ids of the operations that were finished.
        store: the path of the store that has the records of the others.
    """

    def __init__(self, failures: Sequence[Exception], finished: Sequence[str] = (), *, store: str) -> None:
        self.failures: ExceptionGroup[Exception] = ExceptionGroup("the recovery failed", list(failures))
        self.finished: tuple[str, ...] = tuple(finished)
        self.store = store
        done = f"; finished: {', '.join(self.finished)}" if self.finished else ""
        reasons = "".join(
            _listed([failure]) + "".join(f" ({note})" for note in getattr(failure, "__notes__", ()))
            for failure in failures
        )
        super().__init__(
            f"some operations could not be finished{done}. Fix the cause, then call "
            f"docker_rollback.recover(store={store!r}) again{reasons}"
        )


class RollbackRequested(Exception):  # noqa: N818  (control flow, not an error)
    """Raise this inside the block to roll back on purpose; the block swallows it.

    Example:
        >>> with rollback("web"):
        ...     update()
        ...     if not convinced():
        ...         raise RollbackRequested("not convinced")
    """


class UnfinishedElsewhereError(DockerRollbackError):
    """Containers of this engine are in an unfinished operation whose journal record is in another store.

    The operations that this store has a record of are finished first.

    Attributes:
        operations: the unfinished operations, each with its store and the command that finishes it.
        finished: the operations that were finished from this store.
        store: the path of this store.
    """

    def __init__(
        self, operations: Sequence[InFlight], finished: Sequence[Recovered] = (), *, store: str, reason: str = ""
    ) -> None:
        self.operations: tuple[InFlight, ...] = tuple(operations)
        self.finished: tuple[Recovered, ...] = tuple(finished)
        self.store = store
        listed = "".join(f"\n  {operation}" for operation in self.operations)
        here = reason or f"store {store}: it has no record of these operations; finish them from the store that has"
        super().__init__(here + listed)
