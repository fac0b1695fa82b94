"""One backup, restore or rollback by this library, in a process of its own that says what it took.

As a command: ``python -m bench.ours backup|restore|rollback|entry|enter ADDRESS STORE WAY NAME...``. It prints a line
of JSON; `rollback` and `entry` print one when their block is entered, and leave it when they read a line: `rollback`
rolls back, `entry` does not.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, Final, cast, get_args
from unittest.mock import patch

import docker
from attrs import define

from bench.stage import CommandError, Stage, peak
from docker_rollback import BackupStore, RollbackRequested, backup, restore, rollback
from docker_rollback.types import Way

TURNS: Final = 5
"""How often `enter` enters and leaves; the first time, which stores the image, does not count."""


def call(stage: Stage, task: str, store: str, way: Way, *names: str, block: Callable[[], None] | None = None) -> Any:
    """Do a task in a process of its own; return what it says of it: seconds and bytes, by name.

    Args:
        stage: where.
        task: which.
        store: the store's path.
        way: how volumes are reached.
        names: the containers' names.
        block: called in the block of a `rollback` or an `entry`.
    """
    words = [sys.executable, "-m", "bench.ours", task, stage.address, store, way, *names]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if block is not None and process.stdout is not None and process.stdout.readline():
            block()
        said, _ = process.communicate("\n")
    if process.returncode != 0:
        raise CommandError(f"our {task} of {names[0]} ended with {process.returncode}")
    return json.loads(said)


def do(task: str, address: str, store: str, way: Way, *names: str) -> dict[str, float]:
    """Do a task here; return what it took."""
    more: dict[str, float] = {}
    client = docker.DockerClient(address, timeout=600)
    took: list[float] = []
    match task:
        case "backup":
            with timed(took):
                backup(*names, client=client, store=store, way=way)
        case "restore":
            newest = BackupStore(store).list()[-1]
            with timed(took):
                restore(newest, client=client, store=store, way=way)
        case "rollback" | "entry":
            counter, began = RequestCounter(), time.perf_counter()
            with counter.counting(), rollback(*names, client=client, store=store, way=way, verify=None, keep=None):
                more = {"entry": time.perf_counter() - began, "requests": counter.requests}
                print("entered", flush=True)
                sys.stdin.readline()
                took.append(time.perf_counter())
                if task == "rollback":
                    raise RollbackRequested
            took[0] = time.perf_counter() - took[0]
        case _:
            for _ in range(TURNS + 1):
                with timed(took), rollback(*names, client=client, store=store, way=way, verify=None):
                    pass
            took = [median(took[1:])]
    client.close()
    return {"seconds": took[0], "memory": peak(), **more}


@define
class RequestCounter:
    """Counts the HTTP requests that this process sends.

    Attributes:
        requests: how many so far.
    """

    requests: int = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count for the time of a block."""
        put = http.client.HTTPConnection.putrequest

        def counted(connection: http.client.HTTPConnection, *words: Any, **options: Any) -> None:
            self.requests += 1
            put(connection, *words, **options)

        # Below every client, so that each request counts.
        with patch.object(http.client.HTTPConnection, "putrequest", counted):
            yield


@contextmanager
def timed(took: list[float]) -> Iterator[None]:
    """Note how many seconds a block takes."""
    began = time.perf_counter()
    yield
    took.append(time.perf_counter() - began)


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench.ours", description=__doc__)
    parser.add_argument("task", choices=("backup", "restore", "rollback", "entry", "enter"))
    parser.add_argument("address")
    parser.add_argument("store")
    parser.add_argument("way", choices=get_args(Way))
    parser.add_argument("names", nargs="+")
    given = parser.parse_args()
    way = cast(Way, given.way)
    print(json.dumps(do(given.task, given.address, given.store, way, *given.names)), flush=True)


if __name__ == "__main__":
    main()
