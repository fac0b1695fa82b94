"""Clients of a service, each a process of its own: one that asks whether it answers, and one that writes to it.

As a command: ``python -m bench.clients watch|load postgresql|http PORT``. The watcher answers each line of its input by
the seconds of downtime since the last one; both end with their input.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, get_args

from demo.session import Session, SessionError

Kind: TypeAlias = Literal["postgresql", "http"]

INTERVAL: Final = 0.01
"""Seconds between two questions."""
ROWS: Final = 100_000
"""How many rows the writer chooses from; each data set has more."""
PAUSE: Final = 0.01
"""Seconds between two writes."""


class _Client:
    """A client at work for the time of a block."""

    def __init__(self, task: str, kind: Kind, port: int) -> None:
        self._words = [sys.executable, "-m", "bench.clients", task, kind, str(port)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.communicate()

    def _ask(self) -> str:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("this client is not at work")
        with suppress(BrokenPipeError):
            process.stdin.write("\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a client ended by itself: {' '.join(self._words)}")
        return answer


class Watcher(_Client):
    """Asks a service on a local port again and again, while its block lasts."""

    def __init__(self, kind: Kind, port: int) -> None:
        super().__init__("watch", kind, port)

    def take(self) -> float:
        """Return for how many seconds nobody answered since the last call, once somebody answers again."""
        return float(self._ask())


class Load(_Client):
    """Writes to a PostgreSQL on a local port, a transaction at a time, while its block lasts."""

    def __init__(self, port: int) -> None:
        super().__init__("load", "postgresql", port)


def ask_postgresql(port: int) -> bool:
    """Open a session and query it."""
    try:
        with Session(port) as session:
            session.run("SELECT 1")
    except SessionError:
        return False
    return True


def ask_http(port: int) -> bool:
    """Get a page, whichever."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.recv(100).startswith(b"HTTP/")
    except OSError:
        return False


def watch(ask: Callable[[], bool]) -> None:
    """Ask until the input ends; answer each of its lines by the seconds of downtime since the last."""
    down, answered = 0.0, time.monotonic()
    up, wanted = True, False
    while True:
        was_up, up = up, ask()
        if up:
            now = time.monotonic()
            # From the last answer to the next one, where a question in between had none.
            down += 0.0 if was_up else now - answered
            answered = now
            if wanted:
                print(down, flush=True)
                down, wanted = 0.0, False
        if select.select([sys.stdin], [], [], INTERVAL)[0]:
            if not sys.stdin.readline():
                return
            wanted = True


def load(port: int) -> None:
    """Change rows, one transaction each, until the input ends; where the server went, wait until it is back."""
    print("ready", flush=True)
    dice = random.Random(1)
    while True:
        with suppress(SessionError), Session(port, timeout=5.0) as session:
            while not _ended():
                row = dice.randrange(ROWS)
                session.run(f"UPDATE accounts SET balance = balance + 1 WHERE id = {row}")
        if _ended():
            return


def _ended() -> bool:
    """Wait for a moment; say whether the input has ended."""
    return bool(select.select([sys.stdin], [], [], PAUSE)[0]) and not sys.stdin.readline()


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench.clients", description=__doc__)
    parser.add_argument("task", choices=("watch", "load"))
    parser.add_argument("kind", choices=get_args(Kind))
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    if given.task == "load":
        load(given.port)
        return
    # It costs little, and must not wait for what it measures.
    with suppress(PermissionError):
        os.nice(-10)
    ask = ask_postgresql if given.kind == "postgresql" else ask_http
    watch(lambda: ask(given.port))


if __name__ == "__main__":
    main()
