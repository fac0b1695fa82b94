"""What the transport raises, as errors that say what it means."""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from types import ModuleType

import pytest
import requests
import urllib3
from docker.errors import DockerException, TLSParameterError

from docker_rollback._engine.docker import errors
from docker_rollback._engine.docker.errors import Asking, secrets_of
from docker_rollback.errors import (
    EngineConflictError,
    EngineError,
    EngineForbiddenError,
    EngineTimeoutError,
    EngineUnavailableError,
)

ASKING = Asking("ask", secrets=("hunter2", "hunter2-hunter2"))


def _wrapped(error: BaseException) -> requests.ConnectionError:
    """Wrap an error as requests and urllib3 do."""
    return requests.ConnectionError(urllib3.exceptions.ProtocolError("Connection aborted.", error))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_wrapped(PermissionError(errno.EACCES, "Permission denied")), EngineForbiddenError),
        (_wrapped(FileNotFoundError(errno.ENOENT, "No such file or directory")), EngineUnavailableError),
        (_wrapped(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")), EngineUnavailableError),
        (_wrapped(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")), EngineTimeoutError),
        (_wrapped(ssl.SSLEOFError(8, "EOF occurred in violation of protocol")), EngineTimeoutError),
        (_wrapped(ssl.SSLError(errno.EPERM, "not of the system")), EngineTimeoutError),
        (_wrapped(ssl.SSLError(errno.ENOENT, "not of the system")), EngineTimeoutError),
        (
            requests.exceptions.SSLError(ssl.SSLCertVerificationError(1, "certificate verify failed")),
            EngineUnavailableError,
        ),
        (requests.ConnectionError(socket.gaierror(-2, "Name or service not known")), EngineUnavailableError),
        (requests.ConnectTimeout("timed out"), EngineUnavailableError),
        (requests.ReadTimeout("timed out"), EngineTimeoutError),
        (requests.exceptions.ChunkedEncodingError("incomplete"), EngineTimeoutError),
        (urllib3.exceptions.IncompleteRead(3, 5), EngineTimeoutError),
        (TimeoutError("timed out"), EngineTimeoutError),
        (OSError(errno.ECONNRESET, "Connection reset by peer"), EngineTimeoutError),
        (DockerException("Error while fetching server API version"), EngineUnavailableError),
        (TLSParameterError("no certificates"), EngineUnavailableError),
    ],
)
def test_a_failure_of_the_transport_says_what_it_means(error: Exception, expected: type[EngineError]) -> None:
    """Nobody reached, nothing allowed and no answer are told apart, however deep the reason is wrapped."""
    with pytest.raises(EngineError) as caught, ASKING.translated():
        raise error
    assert type(caught.value) is expected
    assert caught.value.__cause__ is error
    assert caught.value.status is None


def test_other_errors_are_left_alone() -> None:
    """A mistake in the code is not told as the engine's."""
    with pytest.raises(KeyError), ASKING.translated():
        raise KeyError("mine")


def test_the_systems_words_are_told() -> None:
    """The reason is the system's own, without the wrappers around it."""
    with pytest.raises(EngineUnavailableError) as caught, ASKING.translated():
        raise _wrapped(FileNotFoundError(errno.ENOENT, "No such file or directory"))
    assert str(caught.value) == "could not ask: no engine answers: No such file or directory"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, "invalid pool request: Pool overlaps with other one on this address space"),
        (500, "subnet 10.89.0.0/24 is already used on the host or by another config"),
    ],
)
def test_addresses_that_are_taken_are_a_conflict(status: int, reason: str) -> None:
    """Docker calls it forbidden, Podman its own error."""
    error = ASKING.refused(status, f'{{"message": "{reason}"}}')
    assert isinstance(error, EngineConflictError)
    assert error.permanent


def test_secrets_are_taken_out_whole() -> None:
    """A secret that is part of another one leaves nothing of the other behind."""
    assert ASKING.clean("a hunter2-hunter2 b hunter2") == "a *** b ***"


def test_secrets_are_the_values_of_the_environment() -> None:
    """Every value of more than two characters is a secret; names are none."""
    found = secrets_of({"Env": ["A=one=two", "B=xy", "C", "=three", 4], "Labels": {"D": "four"}})
    assert set(found) == {"one=two", "three"}
    assert secrets_of({}) == secrets_of({"Env": None}) == ()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, "", "the engine failed and gave no reason"),
        (500, "500", "the engine failed and gave no reason; its own log may have one (500)"),
        (500, "{}", "the engine failed and gave no reason"),
        (500, '{"message": ""}', "the engine failed and gave no reason"),
        (403, "", "does not allow it"),
        (401, "null", "requires authentication"),
        (404, "", "there is no such object, or the address is not an engine's"),
        (400, "", "the engine refused and gave no reason"),
        (502, "<html><head><style>p {}</style></head><body><h1>502</h1></body></html>", "a proxy answers"),
        (502, "<html><body><h1>502 Bad Gateway</h1><hr>nginx</body></html>", ": 502 Bad Gateway nginx (HTTP 502)"),
        (500, '{"message": "driver failed"}', "could not ask: driver failed (HTTP 500)"),
    ],
)
def test_no_status_stands_without_a_sentence(status: int, body: str, words: str) -> None:
    """An answer without a reason gets one, and a page of a proxy is read without its marks."""
    text = str(Asking("ask").refused(status, body))
    assert words in text
    assert "<" not in text


def test_errors_of_the_ssh_client_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its own, such as for a channel that the server refuses; it is an extra."""

    class SSHException(Exception):  # noqa: N818  (paramiko's name)
        pass

    paramiko = ModuleType("paramiko")
    paramiko.SSHException = SSHException  # type: ignore[attr-defined]  # a module made here
    monkeypatch.setitem(sys.modules, "paramiko", paramiko)
    monkeypatch.setattr(errors, "find_spec", lambda _: None)
    assert errors._ssh_errors() == ()
    monkeypatch.setattr(errors, "find_spec", lambda _: object())
    monkeypatch.setattr(errors, "TRANSPORT_ERRORS", errors._ssh_errors())
    for raised in (SSHException("administratively prohibited"), EOFError()):
        with (
            pytest.raises(EngineTimeoutError, match="stop container 'web'"),
            Asking("stop container 'web'").translated(),
        ):
            raise raised
