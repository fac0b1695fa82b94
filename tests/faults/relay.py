"""What stands between the library and the engine: passes everything on, and lets the referee break it.

It speaks just enough HTTP/1.1 to know where a request ends and what it asks.
"""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.faults.referee import Referee, Turn

BLOCK = 1 << 16
LATE = "X-Late"
"""The header of an answer that the client is to take for one that came too late."""

_REFUSAL = b'{"message":"made to fail"}'
_DIGITS = re.compile(r"[0-9a-f]{12,}")
_HARMLESS = re.compile(r"/(wait|resize|attach)$")


class _End:
    """One end of a connection, read through a buffer."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    def head(self) -> bytes:
        """Return everything up to the empty line; nothing where the connection has ended."""
        while b"\r\n\r\n" not in self._buffer:
            data = self.sock.recv(BLOCK)
            if not data:
                return b""
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def some(self) -> bytes:
        """Return what is there, waiting for at least a byte; nothing at the end."""
        data, self._buffer = self._buffer, b""
        return data or self.sock.recv(BLOCK)

    def pass_body(self, head: bytes, target: _End | None, *, answer: bool) -> None:
        """Pass a message's body on; to nobody where there is no target. What it read is nobody else's."""
        if re.search(rb"^transfer-encoding:.*chunked", head, re.IGNORECASE | re.MULTILINE):
            while self._pass_chunk(target):
                pass
        elif length := re.search(rb"^content-length:\s*(\d+)", head, re.IGNORECASE | re.MULTILINE):
            self._pass(int(length[1]), target)
        elif answer and status_of(head) not in (101, 204, 304):
            while data := self.some():
                _send(target, data)

    def _pass_chunk(self, target: _End | None) -> bool:
        line = self._line()
        _send(target, line)
        size = int(line.split(b";")[0], 16)
        # Its own end of line too; after the last, empty one, trailers up to an empty line.
        self._pass(size + 2, target)
        return size > 0

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._buffer += self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line + b"\r\n"

    def _pass(self, size: int, target: _End | None) -> None:
        while size:
            if not self._buffer:
                self._buffer = self._more()
            piece, self._buffer = self._buffer[:size], self._buffer[size:]
            size -= len(piece)
            _send(target, piece)

    def _more(self) -> bytes:
        data = self.sock.recv(BLOCK)
        if not data:
            raise ConnectionResetError("cut short")
        return data


def _send(target: _End | None, data: bytes) -> None:
    if target is not None:
        target.sock.sendall(data)


def status_of(head: bytes) -> int:
    """Return the status of an answer."""
    return int(head.split(b" ", 2)[1])


def effect_of(head: bytes) -> str | None:
    """Return what a request changes, in words that do not depend on ids; None for one that only looks."""
    method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    parts = urlsplit(target)
    path = re.sub(r"^/v[\d.]+/", "/", parts.path)
    if method in ("GET", "HEAD") or _HARMLESS.search(path) or path == "/auth":
        return None
    name = re.search(r"(?:^|&)(?:name|tag)=([^&]*)", parts.query)
    words = f"{method} {unquote(path)}" + (f" {unquote(name[1])}" if name else "")
    return re.sub(r"\d{8}T\d{6}Z-", "<time>-", _DIGITS.sub("<id>", words))


class Relay:
    """Listens at `path`, and passes on to the engine's socket.

    Args:
        path: where it listens, a unix socket.
        engine: the engine's unix socket.
        referee: is asked before each effect.
    """

    def __init__(self, path: Path, engine: Path, referee: Referee) -> None:
        self.path = path
        self._engine = engine
        self._referee = referee
        self._listener: socket.socket | None = None
        self._ends: set[socket.socket] = set()
        self._at_work: dict[_End, tuple[str, float]] = {}
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"unix://{self.path}"

    def open(self) -> None:
        """Begin to listen."""
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="relay", daemon=True).start()

    def close(self) -> None:
        """Listen no more, as an engine that is gone, and break every connection."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut()

    def at_work(self) -> list[tuple[str, float]]:
        """Return the effects that the engine has not answered for, each with the moment when it was asked."""
        with self._lock:
            return list(self._at_work.values())

    def cut(self) -> None:
        """Break every connection."""
        with self._lock:
            ends = list(self._ends)
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                threading.Thread(target=self._serve, args=(near,), name="relayed", daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far, suppress(OSError):
            with self._lock:
                self._ends |= {near, far}
            try:
                client, engine, connected = _End(near), _End(far), False
                while head := client.head():
                    words = effect_of(head)
                    turn = self._referee.ask("engine", words) if words else Turn("go")
                    if turn.verdict in ("dead", "drop"):
                        return
                    if turn.verdict == "refuse":
                        client.pass_body(head, None, answer=False)
                        size = str(len(_REFUSAL)).encode()
                        near.sendall(b"HTTP/1.1 500 Error\r\nContent-Length: " + size + b"\r\n\r\n" + _REFUSAL)
                        continue
                    if not connected:
                        far.connect(str(self._engine))
                        connected = True
                    with self._lock:
                        if words:
                            self._at_work[client] = words, time.time()
                    if not self._exchange(head, client, engine, turn, words):
                        return
                    with self._lock:
                        self._at_work.pop(client, None)
            finally:
                with self._lock:
                    self._ends -= {near, far}
                    self._at_work.pop(client, None)

    def _exchange(self, head: bytes, client: _End, engine: _End, turn: Turn, words: str | None) -> bool:
        """Pass one request and its answer on; False where the connection has no more of them."""
        engine.sock.sendall(head)
        client.pass_body(head, engine, answer=False)
        _meanwhile(turn)
        answer = engine.head()
        if not answer:
            return False
        if turn.verdict in ("late", "lose") and status_of(answer) != 101:
            # What takes effect as it goes has its effect before its answer ends.
            engine.pass_body(answer, None, answer=True)
        turn.after()
        if turn.verdict == "lose":
            return False
        if turn.verdict == "late":
            client.sock.sendall(b"HTTP/1.1 200 OK\r\n" + LATE.encode() + b": 1\r\nContent-Length: 0\r\n\r\n")
            return False
        client.sock.sendall(answer)
        if status_of(answer) == 101:
            self._stream(client, engine, words or "")
            return False
        engine.pass_body(answer, client, answer=True)
        return True

    def _stream(self, client: _End, engine: _End, words: str) -> None:
        """Carry bytes both ways until both have ended; the first input, and its end, are effects."""
        back = threading.Thread(target=_carry, args=(engine, client), name="relayed back", daemon=True)
        back.start()
        with suppress(OSError):
            first = True
            while data := client.some():
                if first and not self._pass_input(words, "first input", engine, data):
                    return
                if not first:
                    engine.sock.sendall(data)
                first = False
            if not first and not self._pass_input(words, "end of input", engine, b""):
                return
            engine.sock.shutdown(socket.SHUT_WR)
        back.join()

    def _pass_input(self, words: str, what: str, engine: _End, data: bytes) -> bool:
        turn = self._referee.ask("stream", f"{what} of {words}")
        if turn.verdict in ("dead", "drop"):
            for end in (engine.sock,):
                end.shutdown(socket.SHUT_RDWR)
            return False
        engine.sock.sendall(data)
        _meanwhile(turn)
        turn.after()
        return True


def _meanwhile(turn: Turn) -> None:
    """Do what is to be done while the engine works; at which moment of its work is left to chance."""
    if turn.during is not Turn("go").during:
        time.sleep(random.random() * 0.02)
        turn.during()


def _carry(source: _End, target: _End) -> None:
    with suppress(OSError):
        while data := source.some():
            target.sock.sendall(data)
        target.sock.shutdown(socket.SHUT_WR)
