"""Sends requests to an engine: one HTTP session, one API version, every error translated.

docker-py's client is used for the transport alone (unix socket, TCP, TLS, ssh). Its methods would rewrite requests;
here bodies are sent as they are, with every null and every empty list in them.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeAlias, TypedDict, Unpack

import requests
import urllib3
from attrs import define, field, frozen
from docker import APIClient

from docker_rollback._engine.docker.errors import Asking
from docker_rollback.errors import EngineError

Params: TypeAlias = Mapping[str, str | int]

# From 1.52 on an inspection hides a requested MAC address; below 1.45 it adds to the aliases.
NEWEST_API: Final = (1, 51)

_OLDEST_LIBPOD: Final = "5.0.0"  # the version of Podman's own API for a Podman that names none

BLOCK: Final = 1 << 20  # bytes to read from a stream at a time

IDENTITY: Final = {"Accept-Encoding": "identity"}

_OVER_SSH: Final = 4
"""The most requests to send at once over ssh: sshd allows ten channels to a connection (MaxSessions), and streams need
some of them."""


class RequestOptions(TypedDict, total=False):
    """The optional parts of a request."""

    params: Params | None
    body: object  # a JSON body (an empty mapping is sent as ``{}``), or an `Upload` to stream
    headers: Mapping[str, str]
    # True to wait for the answer with `Wire.patience`; a number of seconds if that may be too short.
    patient: bool | float


@define(eq=False)
class Wire:
    """Sends requests to one engine over a docker-py client.

    Attributes:
        api: the client; its settings are never changed.
        timeout: the time for an answer to begin, in seconds, if the work does not grow with data.
        patience: the same if the work does.
    """

    api: APIClient
    timeout: float = field(kw_only=True)
    patience: float = field(kw_only=True)
    _known: _Versions | None = field(default=None, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _turns: threading.Semaphore = field(factory=lambda: threading.Semaphore(_OVER_SSH), init=False)

    @property
    def version(self) -> str:
        """The API version in use: the engine's own, but none that hides fields that we need.

        The client's own version is not used, because inspections have to be complete for any client.
        """
        return self._engine().version

    @property
    def address(self) -> str:
        """The engine's address, in the form of DOCKER_HOST."""
        adapter = getattr(self.api, "_custom_adapter", None)
        path = getattr(adapter, "socket_path", None)
        if path:
            return f"unix://{os.fspath(path)}"
        host = getattr(adapter, "ssh_host", None)
        if host:
            return f"ssh://{str(host).removeprefix('ssh://')}"
        return self.api.base_url.replace("http://", "tcp://").replace("https://", "tcp://")

    @property
    def podman(self) -> bool:
        """True if the engine is Podman."""
        return self._engine().podman

    def native(self, path: str, asking: Asking) -> Any:
        """Send a GET to a quoted path below ``/libpod`` in Podman's own API, and return the answer's JSON."""
        # In the engine's own version: for an older one, the answer has an older structure.
        return self._json("GET", f"/v{self._engine().libpod}/libpod{path}", asking)

    def json(
        self, method: str, path: str, asking: Asking, *, raw_names: bool = False, **options: Unpack[RequestOptions]
    ) -> Any:
        """Send a request, and return the answer's JSON; None for an empty answer.

        With `raw_names`, bytes that are not UTF-8 are decoded as by `os.fsdecode`: Podman does not encode file names.
        """
        return self._json(method, f"/v{self.version}{path}", asking, raw_names=raw_names, **options)

    def answer(self, method: str, path: str, asking: Asking, **options: Unpack[RequestOptions]) -> requests.Response:
        """Send a request to a quoted path below the version; return a successful answer with its body unread.

        Any other answer is raised as an error.
        """
        path = f"/v{self.version}{path}"
        # The source of an upload may send requests itself, so an upload must not wait for those of others.
        with nullcontext() if isinstance(options.get("body"), Upload) else self._turn():
            return self._send(method, path, asking, **options)

    def _turn(self) -> AbstractContextManager[object]:
        """Return the context in which a request is sent and answered."""
        return self._turns if self.address.startswith("ssh://") else nullcontext()

    def blocks(self, response: requests.Response, asking: Asking, *, size: int = BLOCK) -> Generator[bytes, None, None]:
        """Yield an answer's body in blocks of `size` bytes; a truncated body is an error."""
        try:
            while True:
                with asking.translated():
                    block = response.raw.read(size)
                if not block:
                    return
                yield block
        finally:
            # Close a stream that is not read to its end, because the engine works for it.
            response.close()

    def _send(self, method: str, path: str, asking: Asking, **options: Unpack[RequestOptions]) -> requests.Response:
        body = options.get("body")
        sent = {**_configured_headers(self.api), **options.get("headers", {})}
        source = body if isinstance(body, Upload) else None
        data: Any = source
        if source is not None:
            sent["Content-Type"] = "application/x-tar"
        elif body is not None:
            data = json.dumps(body, default=_plain).encode()
            sent["Content-Type"] = "application/json"
        failure: BaseException | None = None
        for attempt in (1, 2):
            try:
                with asking.translated(self.address):
                    response = self.api.request(
                        method,
                        self.api.base_url + path,
                        params=dict(options.get("params") or {}),
                        data=data,
                        headers=sent,
                        stream=True,
                        timeout=(self.timeout, self._seconds(options.get("patient", False))),
                        # Explicit, because requests would prefer the environment's certificates to the client's own.
                        verify=self.api.verify,
                        # An engine redirects malformed paths only, and the answer of another path would be wrong.
                        allow_redirects=False,
                    )
                break
            except EngineError as error:
                if source is not None and source.error is not None:
                    failure = source.error
                    break
                # docker-py has a connection pool for each URL, and closes the oldest of 25, even one that another
                # thread has just taken. Nothing has been sent then.
                if attempt == 1 and source is None and _closed_pool(error):
                    continue
                raise
        if failure is not None:
            # Raised outside the except block, so that the transport's error does not become its context.
            raise failure
        if response.status_code >= 300 and response.status_code != 304:
            with response, asking.translated():
                text = response.content.decode("utf-8", "replace")
            raise asking.refused(response.status_code, text)
        return response

    def _json(
        self, method: str, path: str, asking: Asking, *, raw_names: bool = False, **options: Unpack[RequestOptions]
    ) -> Any:
        with self._turn(), self._send(method, path, asking, **options) as response, asking.translated():
            text = response.content
        if not text.strip():
            return None
        try:
            return json.loads(text.decode("utf-8", "surrogateescape" if raw_names else "strict"))
        except ValueError as error:
            # The text is not shown, because it may contain secrets.
            raise asking.unreadable(f"{error}") from None

    def _seconds(self, patient: bool | float) -> float:  # noqa: FBT001  (the seconds are the odd case)
        if isinstance(patient, bool):
            return self.patience if patient else self.timeout
        return max(self.patience, patient)

    def _engine(self) -> _Versions:
        with self._lock:
            if self._known is None:
                self._known = self._negotiate()
            return self._known

    def _negotiate(self) -> _Versions:
        asking = Asking("ask the engine for its version")
        answer = self._json("GET", "/version", asking)
        newest, oldest = (_numbers(answer, key) for key in ("ApiVersion", "MinAPIVersion"))
        if newest is None:
            raise asking.unreadable("it names no ApiVersion")
        chosen = max(min(newest, NEWEST_API), oldest or (0, 0))
        components = [one for one in answer.get("Components") or [] if "Podman" in str(one.get("Name"))]
        return _Versions(f"{chosen[0]}.{chosen[1]}", libpod=_native_version(components[0]) if components else "")


@frozen
class _Versions:
    """The API versions of an engine."""

    version: str  # the version of Docker's API
    libpod: str  # the version of Podman's own API; empty for another engine

    @property
    def podman(self) -> bool:
        return bool(self.libpod)


class Upload:
    """Streams a request's body, and records an exception of its source, to distinguish it from errors of the transport.

    Otherwise an error while reading the source would look like a lost connection.
    """

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = blocks
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._blocks
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise


def events(blocks: Iterable[bytes], asking: Asking) -> Iterator[Mapping[str, Any]]:
    """Yield the JSON objects of a progress stream; raises the failure that one of them reports."""
    decoder = json.JSONDecoder()
    rest = ""
    for block in blocks:
        rest += block.decode("utf-8", "replace")
        while rest := rest.lstrip():
            try:
                event, end = decoder.raw_decode(rest)
            except ValueError:
                break
            rest = rest[end:]
            if isinstance(event, dict):
                if reason := failure_in(event):
                    raise asking.failed(reason)
                yield event
    if rest.strip():
        raise asking.unreadable(rest.strip()[:200])


def failure_in(event: Mapping[str, Any]) -> str:
    """Return the failure that a JSON object of a stream reports; empty if it reports none."""
    detail = event.get("errorDetail")
    return str((detail.get("message") if isinstance(detail, dict) else None) or event.get("error") or "")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | list):
        return list(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent as JSON")


def _numbers(answer: object, key: str) -> tuple[int, int] | None:
    value = answer.get(key) if isinstance(answer, dict) else None
    match = re.fullmatch(r"(\d+)\.(\d+)", str(value))
    return (int(match[1]), int(match[2])) if match else None


def _native_version(component: Mapping[str, Any]) -> str:
    """Return the version of Podman's own API, without the suffix of a build."""
    said = (component.get("Details") or {}).get("APIVersion") or component.get("Version")
    match = re.match(r"\d+\.\d+\.\d+", str(said))
    return match[0] if match else _OLDEST_LIBPOD


def _configured_headers(api: APIClient) -> Mapping[str, str]:
    """Return the headers of the user's Docker configuration, which a proxy in front of the engine may require."""
    configured = getattr(api, "_general_configs", {}).get("HttpHeaders") or {}
    return {str(key): str(value) for key, value in configured.items()}


def _closed_pool(error: EngineError) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, urllib3.exceptions.ClosedPoolError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
