"""A session with PostgreSQL, by as much of its protocol as it takes to ask something from outside."""

from __future__ import annotations

import socket
import struct
from typing import Self

PROTOCOL = 3 << 16
READY = b"Z"
ERROR = b"E"
USER = b"user\0postgres\0\0"


class SessionError(Exception):
    """PostgreSQL refused, or the connection broke."""


class Session:
    """A session on a local port, open once it is made; a context manager.

    Args:
        port: where PostgreSQL listens.
        timeout: seconds that it has for each answer.
    """

    def __init__(self, port: int, *, timeout: float = 1.0) -> None:
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        except OSError as error:
            raise SessionError(str(error)) from error
        self._answers = self._socket.makefile("rb")
        try:
            self._send(struct.pack("!ii", 8 + len(USER), PROTOCOL) + USER)
        except BaseException:
            self.close()
            raise

    def run(self, statement: str) -> None:
        """Run a statement, and drop what it returns; raises `SessionError`."""
        text = statement.encode() + b"\0"
        self._send(b"Q" + struct.pack("!i", 4 + len(text)) + text)

    def close(self) -> None:
        """Hang up."""
        self._answers.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, message: bytes) -> None:
        """Send a message, and wait until PostgreSQL is ready for the next."""
        refused = ""
        try:
            self._socket.sendall(message)
            while kind := self._answers.read(1):
                (length,) = struct.unpack("!i", self._answers.read(4))
                said = self._answers.read(length - 4)
                if kind == ERROR:
                    refused = said.replace(b"\0", b" ").decode(errors="replace")
                if kind == READY:
                    break
            else:
                raise SessionError(refused or "it hung up")
        except (OSError, struct.error) as error:
            raise SessionError(str(error)) from error
        if refused:
            raise SessionError(refused)
