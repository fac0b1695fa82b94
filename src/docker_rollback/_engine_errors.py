"""The root of every error of this library, and what an engine says; `errors` has them all."""

from __future__ import annotations

import re
from collections.abc import Sequence

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


def may_pass(error: BaseException) -> bool:
    """Return True if another try may help, after one failure or several.

    The engine was away for a moment, or somebody has removed something that was there.
    """
    failures = getattr(error, "failures", ())
    if failures:
        return all(may_pass(failure) for failure in failures)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, EngineError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None and (not cause.permanent or isinstance(cause, NotFoundError))
