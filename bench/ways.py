"""The ways to back a container up and to put it back, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final, Protocol

import docker
from attrs import frozen

from bench import ours
from bench.stage import BUSYBOX, LABEL, room
from bench.subjects import Subject
from docker_rollback.types import Way as Reached

SECRET: Final = {"RESTIC_PASSWORD": "bench"}


@frozen
class Took:
    """What one thing took.

    Attributes:
        seconds: in total.
        memory: the most bytes that our own process had in use; 0 for the others.
    """

    seconds: float
    memory: float = 0.0


class Way(Protocol):
    """A way to back up and restore; its backups lie in one folder."""

    @property
    def folder(self) -> Path:
        """Where its backups lie."""

    def backup(self, subject: Subject) -> Took:
        """Take a backup; the service runs before and after."""

    def roll_back(self, subject: Subject, change: Callable[[], None]) -> Took:
        """Have 1% changed, then put back what was before; the service runs before and after."""


@frozen
class Plain:
    """By hand: the docker CLI, and busybox in a helper container.

    Attributes:
        folder: where its backups lie.
    """

    folder: Path

    def backup(self, subject: Subject) -> Took:
        """Stop; commit; save; archive; start."""
        docker, name, saved = subject.stage.docker, subject.name, self._saved(subject)
        began = time.perf_counter()
        docker("stop", name)
        docker("commit", name, saved)
        number = len(list(self.folder.iterdir())) // 2
        docker("save", "--output", str(self.folder / f"{number}-image.tar"), saved)
        self._helper(subject, "tar", "-czf", f"/backup/{number}-volume.tar.gz", "/data")
        docker("start", name)
        return Took(time.perf_counter() - began)

    def roll_back(self, subject: Subject, change: Callable[[], None]) -> Took:
        """Remove; load; create by hand; extract; start."""
        change()
        docker, name, saved = subject.stage.docker, subject.name, self._saved(subject)
        number = len(list(self.folder.iterdir())) // 2 - 1
        began = time.perf_counter()
        docker("rm", "--force", name)
        docker("volume", "rm", name)
        docker("load", "--input", str(self.folder / f"{number}-image.tar"))
        docker("volume", "create", "--label", LABEL, name)
        published = f"127.0.0.1:{subject.port}:{subject.inner_port}"
        mounted = f"{name}:{subject.folder}"
        docker("create", "--name", name, "--label", LABEL, "--publish", published, "--volume", mounted, saved)
        self._helper(subject, "tar", "-xzf", f"/backup/{number}-volume.tar.gz", "-C", "/")
        docker("start", name)
        took = Took(time.perf_counter() - began)
        # What it lost, the next one is not to miss.
        subject.create()
        docker("rmi", saved)
        return took

    def _saved(self, subject: Subject) -> str:
        return f"docker-rollback-bench:{subject.name}"

    def _helper(self, subject: Subject, *words: str) -> None:
        mounts = ("--volume", f"{subject.name}:/data", "--volume", f"{self.folder}:/backup")
        subject.stage.docker("run", "--rm", *mounts, BUSYBOX, *words)


@frozen
class Restic:
    """Restic, of the volume's folder, around a stop and a start by the docker CLI.

    Attributes:
        folder: where its backups lie.
    """

    folder: Path

    def backup(self, subject: Subject) -> Took:
        """Stop; back up; start."""
        if not (self.folder / "repository").exists():
            self._restic(subject, "init")
        began = time.perf_counter()
        subject.stage.docker("stop", subject.name)
        self._restic(subject, "backup", str(subject.root))
        subject.stage.docker("start", subject.name)
        return Took(time.perf_counter() - began)

    def roll_back(self, subject: Subject, change: Callable[[], None]) -> Took:
        """Stop; restore into place; start. What came since stays: this restic removes nothing."""
        change()
        began = time.perf_counter()
        subject.stage.docker("stop", subject.name)
        self._restic(subject, "restore", "latest", "--target", "/")
        subject.stage.docker("start", subject.name)
        return Took(time.perf_counter() - began)

    def _restic(self, subject: Subject, *words: str) -> None:
        places = ("--repo", str(self.folder / "repository"), "--cache-dir", str(self.folder.with_name("cache")))
        subject.stage.run("restic", "--quiet", *places, *words, **SECRET)


@frozen
class Ours:
    """This library.

    Attributes:
        folder: its store.
        way: how volumes are reached.
    """

    folder: Path
    way: Reached

    def backup(self, subject: Subject) -> Took:
        """Take a backup by `backup()`."""
        return Took(**ours.call(subject.stage, "backup", str(self.folder), self.way, subject.name))

    def roll_back(self, subject: Subject, change: Callable[[], None]) -> Took:
        """Leave a `rollback()` whose block made the change; its entering does not count."""
        said = ours.call(subject.stage, "rollback", str(self.folder), self.way, subject.name, block=change)
        return Took(said["seconds"], said["memory"])

    def enter(self, subject: Subject) -> Took:
        """Enter and leave a `rollback()` whose block does nothing, several times; the median of them."""
        return Took(**ours.call(subject.stage, "enter", str(self.folder), self.way, subject.name))

    def restore(self, subject: Subject) -> Took:
        """Put the newest backup back where nothing of the container or its volume is left."""
        subject.remove_container()
        subject.remove_volume()
        return Took(**ours.call(subject.stage, "restore", str(self.folder), self.way, subject.name))


def restart(subject: Subject) -> Took:
    """Stop and start a container, and nothing else."""
    began = time.perf_counter()
    subject.stage.docker("stop", subject.name)
    subject.stage.docker("start", subject.name)
    return Took(time.perf_counter() - began)


def bare_calls(subject: Subject) -> Took:
    """Make the calls of the engine that no rollback of a container without volumes can do without, several times.

    The container and its image are looked at, and a mark is set; it is stopped, committed, started, and looked at
    again; then what was made is removed.
    """
    client = docker.DockerClient(subject.stage.address, timeout=600)
    name, mark = subject.name, f"{subject.name}-mark"
    # The SDK has no types for some of these.
    api: Any = client.api
    took = []
    for _ in range(ours.TURNS):
        began = time.perf_counter()
        image = api.inspect_container(name)["Image"]
        api.inspect_image(image)
        api.create_volume(mark)
        api.stop(name)
        committed = api.commit(name, repository=mark, tag="1")["Id"]
        api.inspect_image(committed)
        api.start(name)
        api.inspect_container(name)
        api.remove_image(f"{mark}:1")
        api.remove_volume(mark)
        took.append(time.perf_counter() - began)
    client.close()
    return Took(median(took))


def stored(way: Way) -> int:
    """Return the bytes that the backups of a way take."""
    return room(way.folder)
