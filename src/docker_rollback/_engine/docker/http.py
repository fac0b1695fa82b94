"""Requests to an engine and their answers: one HTTP session, one version of the API, every error translated.

docker-py's client is used for what it knows best, the way to the engine (unix socket, TCP, TLS, ssh), and for nothing
that reads or rewrites what is sent: bodies go out as they are given, with every null and every empty list in them.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import requests
import urllib3
from attrs import frozen
from docker import APIClient

from docker_rollback._engine.docker.errors import Asking
from docker_rollback.errors import EngineError

Params: TypeAlias = Mapping[str, str | int]

NEWEST_API: Final = (1, 51)
"""From 1.52 on an inspection hides the MAC address that was asked for; below 1.45 it pads the aliases."""

_OLDEST_LIBPOD: Final = "5.0.0"
"""The version of Podman's own API that is spoken with one that names none."""

BLOCK: Final = 1 << 20
"""Bytes that are asked of a stream at a time."""

IDENTITY: Final = {"Accept-Encoding": "identity"}


class Wire:
    """Speaks with one engine over a docker-py client.

    Attributes:
        api: the client; its settings are never changed.
        timeout: seconds until an answer must have begun, for requests whose work does not grow with data.
        patience: the same for those whose work does.
    """

    def __init__(self, api: APIClient, *, timeout: float, patience: float) -> None:
        self.api = api
        self.timeout = timeout
        self.patience = patience
        self._known: _Known | None = None
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """The version of the API that is spoken: the engine's own, but none that hides what we need.

        Not the one that docker-py was told: what is read here must be complete, whatever else the client is used for.
        """
        return self._engine().version

    @property
    def address(self) -> str:
        """Where the client reaches its engine, as DOCKER_HOST would say it."""
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
        """Whether Podman answers, whose ways differ here and there."""
        return self._engine().podman

    def native(self, path: str, asking: Asking) -> Any:
        """Ask Podman by its own API, and return the JSON that is answered.

        Args:
            path: below ``/libpod``, quoted.
            asking: what its errors say.
        """
        # In the version of the engine itself: to an older one it answers in an older shape.
        with self._send("GET", f"/v{self._engine().libpod}/libpod{path}", asking) as response, asking.translated():
            text = response.content
        return _decode(text, asking)

    def json(
        self,
        method: str,
        path: str,
        asking: Asking,
        *,
        params: Params | None = None,
        body: object = None,
        patient: bool | float = False,
        raw_names: bool = False,
    ) -> Any:
        """Ask, and return the JSON that is answered; None for an empty answer.

        With `raw_names`, bytes that are no UTF-8 are kept as `os.fsdecode` would: Podman writes file names as they are.
        """
        response = self.answer(method, path, asking, params=params, body=body, patient=patient)
        with response, asking.translated():
            text = response.content
        return _decode(text, asking, raw_names=raw_names)

    def answer(
        self,
        method: str,
        path: str,
        asking: Asking,
        *,
        params: Params | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        patient: bool | float = False,
    ) -> requests.Response:
        """Ask, and return an answer that says yes, its body unread; raise for every other.

        Args:
            method: "GET", "POST", "PUT" or "DELETE".
            path: below the version, quoted.
            asking: what its errors say.
            params: the query.
            body: a JSON body, or an `Upload` to stream; an empty mapping is sent as ``{}``.
            headers: sent besides the usual ones.
            patient: whether to wait for the answer with `patience`; seconds where that is not enough.
        """
        return self._send(
            method,
            f"/v{self.version}{path}",
            asking,
            params=params,
            body=body,
            headers=headers,
            patient=patient,
        )

    def blocks(self, response: requests.Response, asking: Asking) -> Iterator[bytes]:
        """Yield the body of an answer in large blocks; a body that is cut short is an error."""
        try:
            while True:
                with asking.translated():
                    block = response.raw.read(BLOCK)
                if not block:
                    return
                yield block
        finally:
            # A stream that nobody reads to its end must not stay open: the engine works for it.
            response.close()

    def _send(
        self,
        method: str,
        path: str,
        asking: Asking,
        *,
        params: Params | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        patient: bool | float = False,
    ) -> requests.Response:
        sent = dict(_configured_headers(self.api))
        sent.update(headers or {})
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
                        params=dict(params or {}),
                        data=data,
                        headers=sent,
                        stream=True,
                        timeout=(self.timeout, self._seconds(patient)),
                        # Told, since requests would prefer the environment's certificates to the client's own.
                        verify=self.api.verify,
                        # An engine redirects only what is badly addressed; another answer than the one that was
                        # asked for must not pass for it.
                        allow_redirects=False,
                    )
                break
            except EngineError as error:
                if source is not None and source.error is not None:
                    failure = source.error
                    break
                # docker-py keeps a pool for each URL and closes the oldest of 25: one that another thread has just
                # taken may be closed under it. Nothing has been sent then.
                if attempt == 1 and source is None and _closed_pool(error):
                    continue
                raise
        if failure is not None:
            # Raised here and not where it was caught: the error that the transport made of it is none of its causes.
            raise failure
        if response.status_code >= 300 and response.status_code != 304:
            with response, asking.translated():
                text = response.content.decode("utf-8", "replace")
            raise asking.refused(response.status_code, text)
        return response

    def _seconds(self, patient: bool | float) -> float:  # noqa: FBT001  (the seconds are the odd case)
        if isinstance(patient, bool):
            return self.patience if patient else self.timeout
        return max(self.patience, patient)

    def _engine(self) -> _Known:
        with self._lock:
            if self._known is None:
                self._known = self._negotiate()
            return self._known

    def _negotiate(self) -> _Known:
        asking = Asking("ask the engine for its version")
        with self._send("GET", "/version", asking) as response, asking.translated():
            text = response.content
        answer = _decode(text, asking)
        newest, oldest = (_numbers(answer, key) for key in ("ApiVersion", "MinAPIVersion"))
        if newest is None:
            raise asking.unreadable("it names no ApiVersion")
        chosen = max(min(newest, NEWEST_API), oldest or (0, 0))
        components = [one for one in answer.get("Components") or [] if "Podman" in str(one.get("Name"))]
        return _Known(f"{chosen[0]}.{chosen[1]}", libpod=_native_version(components[0]) if components else "")


@frozen
class _Known:
    """What an engine speaks.

    Attributes:
        version: of Docker's API.
        libpod: of Podman's own; empty where it is not Podman.
    """

    version: str
    libpod: str

    @property
    def podman(self) -> bool:
        return bool(self.libpod)


class Upload:
    """A body that is streamed, and that keeps an error of its source apart from errors of the transport.

    Without it, a full disk met while the blocks were read would look like an engine that hung up.
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
    """Yield the JSON objects of a stream of progress; raises the failure that one of them tells of."""
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
                yield _unless_failed(event, asking)
    if rest.strip():
        raise asking.unreadable(rest.strip()[:200])


def _unless_failed(event: Mapping[str, Any], asking: Asking) -> Mapping[str, Any]:
    detail = event.get("errorDetail")
    reason = (detail.get("message") if isinstance(detail, dict) else None) or event.get("error")
    if reason:
        raise asking.failed(str(reason))
    return event


def _decode(text: bytes, asking: Asking, *, raw_names: bool = False) -> Any:
    if not text.strip():
        return None
    try:
        return json.loads(text.decode("utf-8", "surrogateescape" if raw_names else "strict"))
    except ValueError as error:
        # The text itself may hold anything, secrets too: only its beginning is told, and only if it is no JSON at all.
        raise asking.unreadable(f"{error}") from None


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
    """Return the version of its own API that Podman names, without what a build adds to it."""
    said = (component.get("Details") or {}).get("APIVersion") or component.get("Version")
    match = re.match(r"\d+\.\d+\.\d+", str(said))
    return match[0] if match else _OLDEST_LIBPOD


def _configured_headers(api: APIClient) -> Mapping[str, str]:
    """Return the headers of the user's Docker configuration, which a proxy before the engine may ask for."""
    configured = getattr(api, "_general_configs", {}).get("HttpHeaders") or {}
    return {str(key): str(value) for key, value in configured.items()}


def _closed_pool(error: EngineError) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, urllib3.exceptions.ClosedPoolError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
