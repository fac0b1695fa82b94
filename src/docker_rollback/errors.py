"""Every error of this library, and nothing else."""

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
"""A container's id in a sentence, where twelve digits say as much; volumes have names that look the same."""


class DockerRollbackError(Exception):
    """The root of every error that this library raises.

    All of them can be copied and pickled with all their fields; an exception's own way is by its message alone.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _made_again, (type(self), self.args), dict(vars(self))


def _made_again(kind: type[DockerRollbackError], words: tuple[object, ...]) -> DockerRollbackError:
    return kind.__new__(kind, *words)


class EngineError(DockerRollbackError):
    """The engine refused or failed a request.

    Attributes:
        action: what was asked, in words ("stop container 'web'").
        reason: what the engine answered.
        status: the HTTP status of the answer, or None where there was none.
        permanent: whether the same request would fail again.
    """

    permanent = True

    def __init__(self, action: str, reason: str, *, status: int | None = None) -> None:
        self.action = action
        self.reason = reason
        self.status = status
        answer = f" (HTTP {status})" if status is not None else ""
        super().__init__(_FULL_ID.sub(r"\1\2", f"could not {action}: {reason}{answer}"))
        if status is not None and status >= 500:
            self.permanent = False


class EngineUnavailableError(EngineError):
    """No engine answered at the address that was given."""

    permanent = False


class EngineTimeoutError(EngineError):
    """The engine did not answer in time; it may have done what was asked all the same."""

    permanent = False


class EngineForbiddenError(EngineError):
    """The engine, or a proxy in front of it, does not allow this request."""


class EngineConflictError(EngineError):
    """A name is taken, or the object is in a state that does not allow the request."""


class NotFoundError(EngineError):
    """The engine has no such object.

    Attributes:
        name: the name or id that was looked for.
    """

    kind = "object"

    def __init__(self, name: str, *, action: str | None = None, status: int | None = 404) -> None:
        self.name = name
        super().__init__(
            action or f"find {self.kind} {name!r}", f"the engine has no {self.kind} {name!r}", status=status
        )


class ContainerNotFoundError(NotFoundError):
    """The engine has no such container."""

    kind = "container"


class ProjectNotFoundError(NotFoundError):
    """The engine has no container of such a compose project.

    Attributes:
        projects: the names of the projects that it has containers of.
    """

    kind = "compose project"

    def __init__(self, name: str, projects: Sequence[str] = ()) -> None:
        self.name = name
        self.projects = tuple(projects)
        there = f"it has some of {', '.join(map(repr, self.projects))}" if self.projects else "nor of any other project"
        EngineError.__init__(
            self, f"find compose project {name!r}", f"the engine has no container of it; {there}. Bring it up first"
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
        path: the file or folder it happened to.
        reason: what happened, a sentence.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"store {path}: {reason}")


class StoreNotFoundError(StoreError):
    """There is no store at a path, and none was made.

    Attributes:
        default: the path of the store that is used where none is named.
    """

    def __init__(self, path: str, reason: str, *, default: str) -> None:
        self.default = default
        told = "this is the default" if path == default else f"the default is {default}"
        super().__init__(
            path,
            f"there is no store here: {reason}. Is its disk mounted? Name the store that the rollbacks use, by store= "
            f"or --store PATH; {told}",
        )


class StoreNotWritableError(StoreError):
    """The store's folder cannot be written by this user."""


class StoreFullError(StoreError):
    """There is no room left for the backup; what was half-written has been removed.

    Attributes:
        needed: bytes that would have been needed, at least; None where that is not known.
        free: bytes that were there for them; None where that is not known, as under a quota.
    """

    def __init__(self, path: str, reason: str, *, needed: int | None = None, free: int | None = None) -> None:
        self.needed = needed
        self.free = free
        numbers = [f"{needed / 1e6:,.2f} MB or more are needed"] if needed is not None else []
        numbers += [f"{free / 1e6:,.2f} MB are free"] if free is not None else []
        told = f"{reason}: {', '.join(numbers)}" if numbers else reason
        super().__init__(path, f"{told}; remove old backups (BackupStore.prune), or give the store another place")


class BackupNotFoundError(StoreError):
    """The store holds no backup of that id.

    Attributes:
        backup_id: the id that was looked for.
    """

    def __init__(self, path: str, backup_id: str) -> None:
        self.backup_id = backup_id
        super().__init__(path, f"no backup {backup_id!r}; BackupStore.list() names those that are there")


class CorruptBackupError(StoreError):
    """What the store holds is not what was written; nothing has been touched.

    Attributes:
        blob: the digest of the blob, or the name of the file, that is damaged.
    """

    def __init__(self, path: str, blob: str, reason: str) -> None:
        self.blob = blob
        super().__init__(
            path,
            f"{blob} is damaged: {reason}; take another backup (see BackupStore.list()), or a copy of this one",
        )


class UnsupportedFormatError(StoreError):
    """The store, or a backup in it, was written in a format that this version does not know."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, f"{reason}; use a newer version of docker-rollback")


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


class UnfinishedElsewhereError(DockerRollbackError):
    """Containers of this engine are in an unfinished operation whose journal record is in another store.

    Everything that this store has a record of is finished before this is raised.

    Attributes:
        operations: the operations, each with its store and the command that finishes it.
        finished: what was finished from this store.
        store: the path of this store.
    """

    def __init__(
        self, operations: Sequence[InFlight], finished: Sequence[Recovered] = (), *, store: str, reason: str = ""
    ) -> None:
        self.operations = tuple(operations)
        self.finished = tuple(finished)
        self.store = store
        told = "".join(f"\n  {operation}" for operation in self.operations)
        here = reason or f"store {store}: it has no record of this work, which another store has to finish"
        super().__init__(here + told)
