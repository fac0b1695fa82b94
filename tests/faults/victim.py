"""The process that rolls back, and dies of it: forked for each case from one that has everything imported.

Its effects on the disk, and the programs that it starts, are told to the referee before and after; those on the engine
the relay sees by itself.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import docker
import requests

from docker_rollback import BackupStore, RollbackFailedError, healthy, recover, rollback
from docker_rollback._store.files import Disk
from docker_rollback._volumes.access import volume_access
from docker_rollback._volumes.access.direct import LocalProcess
from tests.faults.cases import SCENES, Kind
from tests.faults.relay import LATE
from tests.faults.world import UpdateFailedError
from tests.faults.worlds import world_of


class Control:
    """The line to the referee; its calls return when the referee has spoken.

    Args:
        path: the unix socket where it listens.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._answers = self._socket.makefile("r", encoding="utf-8")
        self._lock = threading.Lock()

    def tell(self, **words: Any) -> Any:
        """Say something, and return the answer."""
        with self._lock:
            self._socket.sendall(json.dumps(words).encode() + b"\n")
            answer = self._answers.readline()
        return json.loads(answer) if answer else None

    @contextmanager
    def effect(self, kind: Kind, name: str) -> Iterator[None]:
        """Have one effect in a block."""
        verdict = self.tell(say="effect", kind=kind, name=name)
        if verdict == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if verdict == "dead":
            _wait_for_death()
        yield
        if verdict == "after":
            self.tell(say="after")
            _wait_for_death()


class ToldDisk(Disk):
    """A disk whose every effect is told."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def make_folder(self, path: Path) -> None:
        """Make one folder."""
        with self._control.effect("write", f"make folder {_plain(path)}"):
            super().make_folder(path)

    def create(self, path: Path) -> int:
        """Make a new file."""
        with self._control.effect("write", f"create {_plain(path)}"):
            return super().create(path)

    def write(self, fd: int, data: bytes | memoryview) -> None:
        """Write."""
        name = f"write {_plain(_file(fd))}"
        with self._control.effect("write", name):
            super().write(fd, data)

    def sync(self, fd: int) -> None:
        """Bring a file to the disk."""
        with self._control.effect("write", f"sync {_plain(_file(fd))}"):
            super().sync(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its name."""
        with self._control.effect("write", f"rename {_plain(target)}"):
            super().rename(source, target)

    def sync_folder(self, path: Path) -> None:
        """Bring a folder to the disk."""
        with self._control.effect("disk", f"sync folder {_plain(path)}"):
            super().sync_folder(path)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        with self._control.effect("disk", f"remove {_plain(path)}"):
            super().remove(path)

    def remove_folder(self, path: Path) -> None:
        """Remove a folder."""
        with self._control.effect("disk", f"remove folder {_plain(path)}"):
            super().remove_folder(path)


def told_program(control: Control) -> Callable[..., LocalProcess]:
    """Return a `LocalProcess` whose start, first input and end are told."""

    class Told(LocalProcess):
        def __init__(self, command: Sequence[str], *, stdin: bool = False, **options: Any) -> None:
            self._begun = False
            self._words = f"{Path(command[0]).name}{' -x' if stdin else ''}"
            with control.effect("program", f"start {self._words}"):
                super().__init__(command, stdin=stdin, **options)

        def write(self, data: bytes | memoryview, /) -> None:
            if self._begun:
                super().write(data)
                return
            self._begun = True
            with control.effect("program", f"first input of {self._words}"):
                super().write(data)

        def close_input(self) -> None:
            if self._begun:
                self._begun = False
                with control.effect("program", f"end of input of {self._words}"):
                    super().close_input()
            super().close_input()

    return Told


def _file(fd: int) -> Path:
    """Return the path of an open file."""
    return Path(f"/proc/self/fd/{fd}").readlink()


def _plain(path: Path) -> str:
    """Return a path's name without what chance made of it."""
    parts = [part for part in path.name.split(".") if part]
    name = parts[0] if path.name.startswith(".") and path.name.endswith(".tmp") else path.name
    if len(name) >= 32 and set(name) <= set("0123456789abcdef"):
        name = "<digest>"
    return f"{path.parent.name if len(path.parent.name) < 20 else '<id>'}/{name if len(name) < 24 else '<id>'}"


def _wait_for_death() -> None:
    """Do nothing any more: whoever sends the signal has been told that this process stands still."""
    while True:
        time.sleep(60)


def client_of(address: str) -> docker.DockerClient:
    """Return a client that takes a marked answer for one that came too late."""
    client = docker.DockerClient(address, timeout=60)
    ask = client.api.request

    def request(*words: Any, **options: Any) -> requests.Response:
        answer = ask(*words, **options)
        if LATE in answer.headers:
            answer.close()
            raise requests.exceptions.ReadTimeout("made to come too late")
        return answer

    client.api.request = request  # type: ignore[method-assign] # the SDK is the victim's: only its clock is moved
    return client


def play_rollback(job: dict[str, Any], control: Control) -> dict[str, Any]:
    """Take a backup, update, and fail or not; return what came of it."""
    scene = next(scene for scene in SCENES if scene.name == job["scene"])
    client = client_of(job["relay"])
    world = world_of(scene, client, Path(job["witness"]))
    store = BackupStore(job["store"], disk=ToldDisk(control))
    check = healthy(timeout=10.0, stable_for=0.1)
    control.tell(say="enter", phase="backup")
    tx = rollback(*world.names, client=client, store=store, verify=check, keep=2, way=scene.way)
    error: BaseException | None = None
    try:
        with tx:
            control.tell(say="enter", phase="body")
            world.update(tx, lambda name: control.effect("data", name))
            control.tell(say="enter", phase="rollback" if job["fail"] else "commit")
            if job["fail"]:
                raise UpdateFailedError
    except Exception as raised:
        error = raised
    control.tell(say="enter", phase="end")
    return {
        "status": tx.status.value,
        "error": None if error is None else type(error).__name__,
        "failed": isinstance(error, RollbackFailedError),
        "story": "" if error is None else "".join(traceback.format_exception(error)),
    }


def play_recovery(job: dict[str, Any], control: Control) -> dict[str, Any]:
    """Finish what an earlier process left."""
    scene = next(scene for scene in SCENES if scene.name == job["scene"])
    client = client_of(job["relay"])
    store = BackupStore(job["store"], disk=ToldDisk(control))
    control.tell(say="enter", phase="recover")
    try:
        done = recover(store=store, client=client, way=scene.way)
    except Exception as raised:
        return {"error": type(raised).__name__, "story": "".join(traceback.format_exception(raised)), "outcomes": []}
    finally:
        control.tell(say="enter", phase="end")
    outcomes = [[one.outcome, one.kept] for one in done]
    return {"error": None, "story": "", "outcomes": outcomes}


PLAYS: Final = {"rollback": play_rollback, "recover": play_recovery}


def play(job: dict[str, Any]) -> None:
    """Play one job, in a process of its own."""
    logging.basicConfig(
        filename=job["log"], filemode="w", format="%(relativeCreated)6d %(levelname)s %(message)s", level="INFO"
    )
    control = Control(job["control"])
    setattr(volume_access, "LocalProcess", told_program(control))  # noqa: B010  (a class in the place of another type)
    result = PLAYS[job["play"]](job, control)
    control.tell(say="result", result=result)


def main() -> None:
    """Fork a victim for each line of input; say its process id, and how it ended."""
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                play(job)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(70)
            os._exit(0)
        _say(child)
        _, status = os.waitpid(child, 0)
        _say(os.waitstatus_to_exitcode(status))


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
