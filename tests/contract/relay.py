"""Another way to an engine: by TCP, with TLS or without, as to one on another machine."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from docker_rollback._engine.docker.socket import SocketDuplex

_BLOCK = 1 << 16


def _pump(source: SocketDuplex, target: SocketDuplex) -> None:
    """Carry what comes from one end to the other, its end too."""
    buffer = memoryview(bytearray(_BLOCK))
    with suppress(OSError):
        while (size := source.receive(buffer)) != 0:
            if size is None:
                source.wait(reading=True, writing=False, timeout=None)
                continue
            data = buffer[:size]
            while data:
                data = data[target.send(data) or 0 :]
                target.wait(reading=False, writing=True, timeout=None)
        target.close_write()
        return
    # One end has gone: the other one need not wait for it.
    for end in (source, target):
        end.close()


def _carry(near: socket.socket, engine: str, tls: ssl.SSLContext | None) -> None:
    with suppress(OSError), near:
        ours = tls.wrap_socket(near, server_side=True) if tls else near
        address = urlsplit(engine)
        far = socket.socket(socket.AF_UNIX if address.scheme == "unix" else socket.AF_INET)
        with ours, far:
            far.connect(address.path if address.scheme == "unix" else (address.hostname, address.port))
            ends = []
            for sock in (ours, far):
                sock.settimeout(0)
                ends.append(SocketDuplex(sock, b"", None))
            back = threading.Thread(target=_pump, args=(ends[1], ends[0]), daemon=True)
            back.start()
            _pump(ends[0], ends[1])
            back.join()


@contextmanager
def relay(engine: str, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Listen at a port of this machine, carry all to the engine, and give the address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                threading.Thread(target=_carry, args=(near, engine, tls), daemon=True).start()

    host = threading.Thread(target=accept, daemon=True)
    host.start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        host.join()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine, and the key to it."""
    paths = folder / "certificate.pem", folder / "key.pem"
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*words.split(), "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True)
    return paths
