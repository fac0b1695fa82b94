"""Takes the connection of a running exec out of the HTTP answer that opened it.

Both directions may be used by one or two threads, and never block: only `wait` waits, so that writing input cannot
block on unread output. A TLS connection must not be read and written by two threads at once, hence the lock around each
call.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import requests
from docker import APIClient

_TRY_AGAIN = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_GONE = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_KERNEL_BUFFER = 1 << 20
_ALERT = 1 << 12


class Duplex(Protocol):
    """A connection with two directions; no method but `wait` blocks."""

    def receive(self, into: memoryview) -> int | None:
        """Read into the start of `into`; return the number of bytes, None if none are available, 0 at the end."""

    def send(self, data: memoryview) -> int | None:
        """Send part of `data`; return the number of bytes, None if none can be sent now. Raises BrokenPipeError."""

    def wait(self, *, reading: bool, writing: bool, timeout: float | None) -> bool:
        """Wait until a wanted direction is ready, at most `timeout` seconds; return True if one is."""

    def close_write(self) -> None:
        """Close the direction for sending; data can still be received."""

    def close(self) -> None:
        """Close both directions."""


def take_over(api: APIClient, response: requests.Response) -> Duplex:
    """Return the connection of an answer; the answer is kept only to hold the connection open.

    docker-py reads such a connection below the reader that parsed the answer's head, and loses the data that the reader
    has already buffered. Here that data comes first.
    """
    answer: Any = response.raw._fp
    reader = answer.fp  # docker-py uses the same attribute; http.client has no public one.
    if api.base_url.startswith("http+docker://ssh"):
        channel: Any = getattr(reader, "channel", None)
        if isinstance(getattr(channel, "proc", None), subprocess.Popen):
            return PipeDuplex(channel.proc, response)
        early = bytes(getattr(reader, "_rbuffer", b""))  # paramiko's own buffer, below its reader
        return ChannelDuplex(channel, early, response)
    raw = getattr(reader, "raw", None)
    sock = getattr(raw, "_sock", None)
    if not isinstance(sock, socket.socket):
        raise OSError(f"connections of the kind {type(raw).__name__} cannot be taken over")
    sock.settimeout(0)
    return SocketDuplex(sock, _buffered(reader), response)


class SocketDuplex:
    """A unix socket, a TCP connection, or one under TLS."""

    def __init__(self, sock: socket.socket, early: bytes, keep: object) -> None:
        self._socket = sock
        self._early = early
        self._keep = keep
        self._lock = threading.Lock()
        self._closed = False
        if isinstance(sock, ssl.SSLSocket):
            # A TLS connection ends with an alert. An end without one means that it was lost.
            secure: Any = sock
            secure.suppress_ragged_eofs = False
        _enable_keepalive(sock)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _KERNEL_BUFFER)

    def receive(self, into: memoryview) -> int | None:
        with self._lock:
            if self._closed:
                return 0
            if self._early:
                size, self._early = _pour(self._early, into)
                return size
            try:
                size = self._socket.recv_into(into)
                if isinstance(self._socket, ssl.SSLSocket):
                    size += self._more(into[size:]) if size else 0
            except _TRY_AGAIN:
                return None
            except ssl.SSLZeroReturnError:
                return 0
            return size

    def send(self, data: memoryview) -> int | None:
        with self._lock:
            if self._closed:
                raise BrokenPipeError("the connection is closed")
            try:
                return self._socket.send(data)
            except _TRY_AGAIN:
                return None
            except _GONE as error:
                raise BrokenPipeError("the other end takes no more") from error

    def wait(self, *, reading: bool, writing: bool, timeout: float | None) -> bool:
        descriptor = self._socket.fileno()
        if descriptor < 0 or self._closed:
            return True
        return _poll({descriptor: (select.POLLIN if reading else 0) | (select.POLLOUT if writing else 0)}, timeout)

    def close_write(self) -> None:
        with self._lock:
            if isinstance(self._socket, ssl.SSLSocket):
                self._send_close_notify(self._socket)
                return
            # The other end may be gone already.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            # Wakes waiting threads, and informs the engine at once, because the answer still holds the descriptor.
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            self._socket.close()
        _close_quietly(self._keep)

    def _more(self, into: memoryview) -> int:
        # TLS returns one record of at most 16 KiB at a time, so read all that are available.
        size = 0
        with suppress(*_TRY_AGAIN, ssl.SSLError):
            while size < len(into) and (came := self._socket.recv_into(into[size:])):
                size += came
        # The next call reports the end, or an error, again.
        return size

    def _send_close_notify(self, sock: ssl.SSLSocket) -> None:
        """Close the sending direction of a TLS connection with the alert close_notify, and leave the other one open.

        OpenSSL sends the alert in the first of two steps, and waits for the other end's in the second, in which
        arriving data is a fatal error. Python always takes both steps. So they run on a socket on which nothing
        arrives, and the alert is passed on from there.
        """
        while waiting := sock.pending():
            self._early += sock.recv(waiting)
        descriptor = sock.fileno()
        kept = os.dup(descriptor)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(0)
            try:
                os.dup2(ours.fileno(), descriptor)
                with suppress(ssl.SSLWantReadError):
                    sock.unwrap()
            finally:
                os.dup2(kept, descriptor)
                os.close(kept)
            alert = theirs.recv(_ALERT)
        while alert:
            try:
                alert = alert[os.write(descriptor, alert) :]
            except BlockingIOError:
                _poll({descriptor: select.POLLOUT}, None)


class PipeDuplex:
    """The pipes of an ssh program that docker-py has started on this machine."""

    def __init__(self, process: subprocess.Popen[bytes], keep: object) -> None:
        if process.stdin is None or process.stdout is None:
            raise OSError("the ssh program has no pipes")
        self._process = process
        self._input = process.stdin
        self._output = process.stdout
        self._keep = keep
        for pipe in (self._input, self._output):
            os.set_blocking(pipe.fileno(), False)
        self._early = _buffered(self._output)

    def receive(self, into: memoryview) -> int | None:
        if self._early:
            size, self._early = _pour(self._early, into)
            return size
        try:
            return os.readv(self._output.fileno(), [into])
        except _TRY_AGAIN:
            return None

    def send(self, data: memoryview) -> int | None:
        try:
            return os.write(self._input.fileno(), data)
        except _TRY_AGAIN:
            return None

    def wait(self, *, reading: bool, writing: bool, timeout: float | None) -> bool:
        wanted = {}
        if reading:
            wanted[self._output.fileno()] = select.POLLIN
        if writing:
            wanted[self._input.fileno()] = select.POLLOUT
        return _poll(wanted, timeout)

    def close_write(self) -> None:
        _close_quietly(self._input)

    def close(self) -> None:
        _close_quietly(self._input)
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _close_quietly(self._output)


class ChannelDuplex:
    """A channel of paramiko, docker-py's own ssh client."""

    _PAUSE = 0.01

    def __init__(self, channel: Any, early: bytes, keep: object) -> None:
        self._channel = channel
        self._early = early
        self._keep = keep
        channel.settimeout(0)

    def receive(self, into: memoryview) -> int | None:
        if self._early:
            size, self._early = _pour(self._early, into)
            return size
        try:
            data: bytes = self._channel.recv(min(len(into), 1 << 16))
        except (TimeoutError, *_TRY_AGAIN):
            return None
        into[: len(data)] = data
        return len(data)

    def send(self, data: memoryview) -> int | None:
        try:
            sent = int(self._channel.send(bytes(data[: 1 << 15])))
        except (TimeoutError, *_TRY_AGAIN):
            return None
        except OSError as error:
            raise BrokenPipeError("the channel is closed") from error
        if sent == 0:
            raise BrokenPipeError("the channel is closed")
        return sent

    def wait(self, *, reading: bool, writing: bool, timeout: float | None) -> bool:
        # A channel's window has no descriptor to wait on, so poll.
        channel, began = self._channel, time.monotonic()
        while not (
            (reading and (channel.recv_ready() or channel.eof_received or channel.closed))
            or (writing and (channel.send_ready() or channel.closed))
        ):
            if timeout is not None and time.monotonic() - began > timeout:
                return False
            time.sleep(self._PAUSE)
        return True

    def close_write(self) -> None:
        with suppress(OSError):
            self._channel.shutdown_write()

    def close(self) -> None:
        _close_quietly(self._channel)
        _close_quietly(self._keep)


def _enable_keepalive(sock: socket.socket) -> None:
    """Enable keepalive, so that the kernel notices the loss of a remote engine; a program may be silent for hours."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _poll(wanted: dict[int, int], timeout: float | None) -> bool:
    poll = select.poll()
    for descriptor, events in wanted.items():
        poll.register(descriptor, events)
    return bool(poll.poll(None if timeout is None else timeout * 1000))


def _pour(early: bytes, into: memoryview) -> tuple[int, bytes]:
    size = min(len(into), len(early))
    into[:size] = early[:size]
    return size, early[size:]


def _buffered(reader: Any) -> bytes:
    """Return the data that a reader has buffered; its descriptor must be non-blocking."""
    try:
        return bytes(reader.peek())
    except _TRY_AGAIN:
        return b""


def _close_quietly(thing: Any) -> None:
    close: Callable[[], object] | None = getattr(thing, "close", None)
    if close is None:
        return
    with suppress(OSError):
        close()
