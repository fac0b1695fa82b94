"""An engine on a unix socket that answers what a test tells it to, byte for byte: real HTTP, no engine behind it."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import docker
from attrs import define, field, frozen

from docker_rollback._engine.docker.engine import DockerEngine

ID = "ab" * 32
VERSION = {"ApiVersion": "1.51", "MinAPIVersion": "1.24", "Components": [{"Name": "Engine"}]}
CONTAINER = {"Id": ID, "Name": "/web", "State": {"Running": True}, "HostConfig": {}, "Config": {}}


@frozen
class Asked:
    """One request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


Answer: TypeAlias = bytes | Callable[[socket.socket], None]
"""What goes over the connection, which is closed then; or what does something else with it."""


def answer(body: object, status: int = 200, *, kind: str = "application/json") -> bytes:
    """Return a whole answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} Words\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + data


def refusal(status: int, message: str) -> bytes:
    """Return an answer that says no, as engines do."""
    return answer({"message": message}, status)


def chunked(*blocks: bytes, end: bool = True) -> bytes:
    """Return an answer in chunks, with or without its end."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + (b"0\r\n\r\n" if end else b"")


@define
class ScriptedEngine:
    """The engine: what it answers, and what it was asked.

    Attributes:
        answers: by method and a pattern of the path below the version; the first that matches is given.
        asked: every request, in order.
        deaf: whether bodies are left unread.
    """

    path: Path
    answers: list[tuple[str, str, Answer]] = field(factory=list)
    asked: list[Asked] = field(factory=list)
    deaf: bool = False

    def says(self, method: str, pattern: str, given: Answer) -> None:
        """Have it answer; later words go before earlier ones."""
        self.answers.insert(0, (method, pattern, given))

    def engine(self, **options: Any) -> DockerEngine:
        """Return the engine under test, which speaks with this one."""
        return DockerEngine(docker.APIClient(f"unix://{self.path}", version="1.30"), **options)

    def serve(self, connection: socket.socket) -> None:
        """Hear one request and answer it."""
        with connection, connection.makefile("rb") as stream:
            line = stream.readline().decode().split()
            if not line:
                return
            headers: dict[str, str] = {}
            while name := stream.readline().decode().strip():
                key, _, value = name.partition(":")
                headers[key.lower()] = value.strip()
            body = b"" if self.deaf else stream.read(int(headers.get("content-length", 0)))
            if headers.get("transfer-encoding") == "chunked" and not self.deaf:
                while size := int(stream.readline(), 16):
                    body += stream.read(size)
                    stream.readline()
            path = re.sub(r"^/v[\d.]+", "", line[1])
            self.asked.append(Asked(line[0], line[1], headers, body))
            for method, pattern, given in self.answers:
                if method == line[0] and re.fullmatch(pattern, path):
                    if callable(given):
                        given(connection)
                    else:
                        connection.sendall(given)
                    return
            connection.sendall(refusal(404, f"nothing is scripted for {line[0]} {path}"))


@contextmanager
def scripted(path: Path) -> Iterator[ScriptedEngine]:
    """Run an engine that knows its version and one container, "web"."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(50)
    engine = ScriptedEngine(path)
    engine.says("GET", "/version", answer(VERSION))
    engine.says("GET", f"/containers/(web|{ID})/json", answer(CONTAINER))
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=_quietly, args=(engine.serve, connection), daemon=True)
            threads.append(thread)
            thread.start()

    host = threading.Thread(target=accept, daemon=True)
    host.start()
    try:
        yield engine
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        host.join()
        for thread in threads:
            thread.join(timeout=5)


@contextmanager
def hanging() -> Iterator[Answer]:
    """Give an answer that does not come before the end of the block."""
    over = threading.Event()

    def hang(connection: socket.socket) -> None:
        del connection
        over.wait(10)

    try:
        yield hang
    finally:
        over.set()


def _quietly(serve: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with suppress(OSError):  # whoever asked has left
        serve(connection)


def changing(script: ScriptedEngine) -> list[tuple[str, str, dict[str, str], Any]]:
    """Return what was asked that is no look: method, path below the version, query, body."""
    said = []
    for asked in script.asked:
        if asked.method != "GET":
            path, _, query = asked.path.partition("?")
            body = json.loads(asked.body) if asked.body else None
            said.append((asked.method, "/" + path.split("/", 2)[2], dict(parse_qsl(query)), body))
    return said
