"""Translates failures of an engine or of the connection to it into our errors.

Each request has an `Asking`. It knows the request in words, and turns a bad answer (`refused`) and a failure of the
transport (`translated`), also while a stream is being read, into the error that fits.
"""

from __future__ import annotations

import errno
import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

import requests
import urllib3
from attrs import field, frozen
from docker.errors import DockerException

from docker_rollback.errors import (
    ContainerNotFoundError,
    EngineConflictError,
    EngineError,
    EngineForbiddenError,
    EngineTimeoutError,
    EngineUnavailableError,
    NetworkNotFoundError,
    NotFoundError,
)


def _ssh_errors() -> tuple[type[Exception], ...]:
    """Return the errors of docker-py's ssh client, which is an extra; none if it is not installed."""
    if find_spec("paramiko") is None:
        return ()
    # A transport that has ended answers with an EOFError, too.
    return (import_module("paramiko").SSHException, EOFError)


# The transport's errors. They include `OSError`, so no code of a caller may run where they are caught.
TRANSPORT_ERRORS: tuple[type[Exception], ...] = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    DockerException,
    OSError,
    *_ssh_errors(),
)

# The engine was never reached, so the request has no effect.
_UNREACHED = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ENOENT,
        errno.ENOTSOCK,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EADDRNOTAVAIL,
    }
)
_NEVER_SENT = (
    requests.ConnectTimeout,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.ProxyError,
    requests.exceptions.SSLError,
    socket.gaierror,
    urllib3.exceptions.ClosedPoolError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.NewConnectionError,
)
_TIMEOUTS = (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
_WHO_MAY = "run as root, or as a member of the socket's group"
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_BY_STATUS: Mapping[int | None, type[EngineError]] = {
    **dict.fromkeys((401, 403, 407), EngineForbiddenError),
    **dict.fromkeys((408, 504), EngineTimeoutError),
    **dict.fromkeys((502, 503), EngineUnavailableError),
}

# Docker answers 403 not only for forbidden requests, but also for a network that is in use, already joined, or whose
# addresses another one has. Podman answers 500 for most states that do not allow a request.
_CONFLICT_TEXTS = re.compile(
    r"already in use|has active endpoints|has associated containers|being used|already exists in network"
    r"|already connected|container state improper|is not running|is not paused|already paused|is in use"
    r"|UNIQUE constraint failed|more than one tag|referenced in multiple repositories|pool overlaps"
    r"|already used on the host",
    re.IGNORECASE,
)
_FULL_TEXTS = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_MISSING_NETWORK = re.compile(r"\bnetwork (\S+) not found", re.IGNORECASE)
_MISSING_CONTAINER = re.compile(r"no such container|no container with (?:name|id)", re.IGNORECASE)

# Matches at least two words; a number, or a page of markup, is not a reason.
_SENTENCE = re.compile(r"[^\W\d]{2,}\W+(?:\w+\W+)*[^\W\d]{2,}")
_MARKS = re.compile(r"<(style|script)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


@frozen
class Asking:
    """A request in words, for its errors."""

    action: str  # the request ("stop container 'web'")
    missing: type[NotFoundError] | None = None  # the error for a 404; None if a 404 has no special meaning
    name: str = ""  # the caller's name for the object that may be missing
    # Texts that an error must not contain, such as the values of environment variables.
    secrets: Sequence[str] = field(factory=tuple)

    def refused(self, status: int, body: str) -> EngineError:
        """Return the error for an answer with an HTTP status of 300 or more."""
        said = _message(body)
        reason = self.clean(said if _SENTENCE.search(said) else _without_a_reason(status, said))
        # An engine redirects unknown paths, such as one with a slash in a name. And while a container is removed,
        # Podman still has it in one place and not in another, and reports an internal error.
        nowhere = status in (301, 404) or (status == 500 and _MISSING_CONTAINER.search(reason))
        if self.missing is not None and nowhere:
            return self._not_found(reason, 404)
        return self._judged(reason, status)

    def failed(self, reason: str) -> EngineError:
        """Return the error for a failure that an answer reports inside its stream, after a good status."""
        return self._judged(self.clean(" ".join(reason.split())), None)

    def _judged(self, reason: str, status: int | None) -> EngineError:
        if _FULL_TEXTS.search(reason):
            error = EngineError(self.action, f"the engine's disk is full: {reason}", status=status)
        elif status == 409 or (status in (None, 403, 500) and _CONFLICT_TEXTS.search(reason)):
            error = EngineConflictError(self.action, reason, status=status)
        else:
            return _BY_STATUS.get(status, EngineError)(self.action, reason, status=status)
        error.permanent = True
        return error

    def broken(self, error: BaseException, *, address: str = "") -> EngineError:
        """Return the error for a failure of the transport to an engine at `address`."""
        where = f" at {address}" if address else ""
        chain = list(_chain(error))
        reason = self.clean(_deepest_words(chain))
        # An SSLError has OpenSSL's own error numbers, not the system's.
        codes = {link.errno for link in chain if isinstance(link, OSError) and not isinstance(link, ssl.SSLError)}
        if codes & _DENIED:
            return EngineForbiddenError(
                self.action, f"this user may not open the engine's socket: {reason}; {_WHO_MAY}"
            )
        if codes & _UNREACHED or any(isinstance(link, _NEVER_SENT) for link in chain):
            return EngineUnavailableError(self.action, f"no engine answers{where}: {reason}")
        if any(isinstance(link, _TIMEOUTS) for link in chain):
            return EngineTimeoutError(self.action, f"no answer within the time-out: {reason}")
        if isinstance(error, DockerException) and not isinstance(error, requests.RequestException):
            return EngineUnavailableError(self.action, f"no engine answers{where}: {reason}")
        # The request had been sent, so it is unknown whether the engine carried it out.
        return EngineTimeoutError(self.action, f"the connection was lost before the answer was complete: {reason}")

    def unreadable(self, what: str) -> EngineError:
        """Return the error for an answer that does not come from an engine."""
        return EngineError(self.action, f"the answer is not an engine's: {self.clean(what)}")

    @contextmanager
    def translated(self, address: str = "") -> Iterator[None]:
        """Translate the transport's errors in the block into ours; no code of a caller may run in it."""
        try:
            yield
        except TRANSPORT_ERRORS as error:
            raise self.broken(error, address=address) from error

    def clean(self, text: str) -> str:
        """Replace all secrets in `text`, longest first, so that no part of one remains."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def _not_found(self, reason: str, status: int) -> EngineError:
        # Requests about networks name containers too, and the create and the start of a container name networks. Only
        # the text says which of them is missing.
        kind = self.missing or NotFoundError
        network = _MISSING_NETWORK.search(reason)
        if network is not None and kind.kind != "network":
            return NetworkNotFoundError(network[1], action=self.action, status=status)
        if kind.kind != "container" and _MISSING_CONTAINER.search(reason):
            return ContainerNotFoundError(reason.rpartition(": ")[2].strip("\"'"), action=self.action, status=status)
        return kind(self.name, action=self.action, status=status)


def secrets_of(request: object) -> tuple[str, ...]:
    """Return the values of the environment variables in a create request.

    Values of one or two characters are skipped: they reveal nothing, and are part of too many words.
    """
    if not isinstance(request, dict) or not isinstance(request.get("Env"), (list, tuple)):
        return ()
    entries = [entry for entry in request["Env"] if isinstance(entry, str)]
    values = {entry.partition("=")[2] for entry in entries}
    return tuple(value for value in values if len(value) > 2)


def _without_a_reason(status: int, said: str) -> str:
    """Return a sentence for an answer that gives no reason of its own."""
    if status in (401, 407):
        why = "the engine, or a proxy in front of it, requires authentication"
    elif status == 403:
        why = "the engine, or a proxy in front of it, does not allow it"
    elif status == 404:
        why = "there is no such object, or the address is not an engine's"
    elif status in (502, 503, 504):
        why = "a proxy answers, and the engine behind it does not"
    elif status >= 500:
        why = "the engine failed and gave no reason; its own log may have one"
    else:
        why = "the engine refused and gave no reason"
    return f"{why} ({said})" if said else why


def _message(body: str) -> str:
    """Return the reason in an engine's answer: JSON with a message, or plain text from a proxy."""
    try:
        answer = json.loads(body)
    except ValueError:
        # A proxy may answer with an HTML page.
        return " ".join(_MARKS.sub(" ", body).split())[:500]
    if isinstance(answer, dict):
        # Podman has "message" as Docker does; "cause" says less. An exec that fails has only "cause" at times.
        for key in ("message", "error", "cause"):
            if isinstance(answer.get(key), str) and answer[key]:
                return " ".join(str(answer[key]).split())
    return " ".join(body.split())[:500]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all errors behind it: causes, contexts and arguments."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        inner = [link.__cause__, link.__context__, getattr(link, "reason", None), *link.args]
        waiting.extend(other for other in inner if isinstance(other, BaseException))


def _deepest_words(chain: Sequence[BaseException]) -> str:
    """Return the text of the system's own error if there is one; the wrappers around it only add addresses."""
    for link in chain:
        if isinstance(link, OSError) and link.strerror and not isinstance(link, requests.RequestException):
            return f"{link.strerror}" + (f": {link.filename}" if link.filename else "")
    return str(chain[-1]) or type(chain[-1]).__name__
