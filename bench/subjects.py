"""What is backed up: containers with volumes of different shapes, each in use."""

from __future__ import annotations

import io
import os
import random
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final, Protocol

from attrs import define, field, frozen
from docker.errors import APIError, NotFound

from bench.clients import Kind, Load, Watcher, ask_http, ask_postgresql
from bench.stage import BUSYBOX, LABEL, Stage
from demo.database import FOLDER, START, free_port
from demo.session import Session
from tests.engines.images import busybox_tar

PATIENCE: Final = 1800.0
"""Seconds that a data set gets to be made: a machine that does other things as well is no error."""

PART: Final = 100
"""One of so many parts changes at a time: 1%."""

# It answers, and writes a little into its volume while it runs.
SERVE: Final = "httpd -p 80; while :; do date >> /data/log; sleep 0.1; done"

_BLOCK: Final = 1 << 20
_PAGE: Final = 8 << 10
_PART_BYTES: Final = 10_000_000


class Data(Protocol):
    """What is in a volume."""

    def fill(self, subject: Subject) -> None:
        """Put it there; the container runs."""

    def change(self, subject: Subject, turn: int) -> None:
        """Change 1% of it; the container runs."""


@define
class Subject:
    """A container, with one volume or without.

    Attributes:
        stage: where it is.
        title: what it is called in the tables.
        name: its name, and that of its volume.
        kind: which clients it has.
        data: what is in its volume; None where it has none.
        image_bytes: the size of the files that its image has beyond busybox; with 0 it is the image of all.
        port: where it answers.
    """

    stage: Stage
    title: str
    name: str
    kind: Kind
    data: Data | None
    image_bytes: int = 0
    port: int = field(factory=free_port, init=False)
    _turn: int = field(default=0, init=False)

    @property
    def root(self) -> Path:
        """Where the volume's files are."""
        return Path(self.stage.client.volumes.get(self.name).attrs["Mountpoint"])

    def create(self) -> None:
        """Create and start the container, on its volume; one of its name goes first."""
        self.remove_container()
        database = self.kind == "postgresql"
        volumes = {}
        if self.data is not None:
            self.stage.client.volumes.create(self.name, labels={LABEL: ""})
            volumes = {self.name: {"bind": self.folder, "mode": "rw"}}
        self.stage.client.containers.run(
            self.stage.postgresql if database else self.image,
            ["sh", "-c", START if database else SERVE if self.data is not None else "httpd -f -p 80"],
            entrypoint=[],
            name=self.name,
            user="postgres" if database else "root",
            labels={LABEL: ""},
            ports={f"{self.inner_port}/tcp": ("127.0.0.1", self.port)},
            volumes=volumes,
            stop_signal="SIGINT" if database else "SIGKILL",
            detach=True,
        )
        self.wait()

    @property
    def image(self) -> str:
        """The name of its image, unless it is PostgreSQL's."""
        return f"docker-rollback-bench:{self.name}-image" if self.image_bytes else BUSYBOX

    @property
    def inner_port(self) -> int:
        """Where it listens inside."""
        return 5432 if self.kind == "postgresql" else 80

    @property
    def folder(self) -> str:
        """Where its volume is mounted inside."""
        return FOLDER if self.kind == "postgresql" else "/data"

    def wait(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + PATIENCE
        while not (ask_postgresql if self.kind == "postgresql" else ask_http)(self.port):
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name} does not answer")
            time.sleep(0.05)

    def change(self) -> None:
        """Change 1% of the data, another part each time."""
        self._turn += 1
        if self.data is not None:
            self.data.change(self, self._turn)

    def change_layer(self) -> None:
        """Write a small file into the container's layer."""
        self._turn += 1
        self.stage.docker("exec", self.name, "sh", "-c", f"date > /etc/changed-{self._turn}")

    def changed_since(self, moment: float) -> int:
        """Return the bytes of the files that were changed since a moment."""
        found = [path.lstat() for path in _files(self.root)]
        return sum(one.st_size for one in found if one.st_ctime >= moment)

    def load(self) -> AbstractContextManager[object]:
        """Have a writer at work, beside what the container writes by itself."""
        return Load(self.port) if self.kind == "postgresql" else nullcontext()

    def watcher(self) -> Watcher:
        """Return who tells for how long it does not answer."""
        return Watcher(self.kind, self.port)

    def remove_container(self) -> None:
        """Remove the container; its volume stays."""
        try:
            self.stage.client.containers.get(self.name).remove(force=True)
        except NotFound:
            return

    def remove_volume(self) -> None:
        """Remove the volume."""
        if self.data is not None:
            self.stage.client.volumes.get(self.name).remove()

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Have it there, filled, for the time of a block."""
        try:
            if self.image_bytes:
                large_image(self.stage, self.image, self.image_bytes)
            self.create()
            if self.data is not None:
                self.data.fill(self)
            yield
        finally:
            # What a program that broke off still holds goes with the engine, and must not hide why it did.
            with suppress(APIError):
                self.remove_container()
                self.remove_volume()
                if self.image_bytes:
                    self.stage.client.images.remove(self.image, force=True)


@frozen
class Accounts:
    """A database with one large table.

    Attributes:
        rows: how many; a million take 150 MB.
    """

    rows: int

    def fill(self, subject: Subject) -> None:
        """Make the table."""
        filler = "md5(id::text) || md5((-id)::text) || md5((2 * id)::text)"
        with Session(subject.port, timeout=PATIENCE) as session:
            session.run(
                f"CREATE TABLE accounts AS SELECT id, 0 AS balance, left({filler}, 84) AS filler "
                f"FROM generate_series(1, {self.rows}) AS id"
            )
            session.run("ALTER TABLE accounts ADD PRIMARY KEY (id)")
            session.run("VACUUM ANALYZE accounts")
            session.run("CHECKPOINT")

    def change(self, subject: Subject, turn: int) -> None:
        """Change rows that lie together."""
        some = self.rows // PART
        first = turn % PART * some
        with Session(subject.port, timeout=PATIENCE) as session:
            session.run(f"UPDATE accounts SET balance = balance + 1 WHERE id BETWEEN {first + 1} AND {first + some}")
            session.run("CHECKPOINT")


@frozen
class Pgbench:
    """The tables of PostgreSQL's own benchmark, changed by its own transactions.

    Attributes:
        scale: how large they are; a hundred takes 1.5 GB.
        transactions: how many are made for a change.
    """

    scale: int
    transactions: int

    def fill(self, subject: Subject) -> None:
        """Make the tables."""
        self._pgbench(subject, "--initialize", f"--scale={self.scale}", "--quiet")
        with Session(subject.port, timeout=PATIENCE) as session:
            session.run("CHECKPOINT")

    def change(self, subject: Subject, turn: int) -> None:
        """Make transactions on rows all over the tables, others each time."""
        self._pgbench(subject, f"--transactions={self.transactions}", f"--random-seed={turn}", "--no-vacuum")
        with Session(subject.port, timeout=PATIENCE) as session:
            session.run("CHECKPOINT")

    def _pgbench(self, subject: Subject, *words: str) -> None:
        script = 'exec $(echo /usr/lib/postgresql/*/bin)/pgbench --host=127.0.0.1 "$@" postgres'
        subject.stage.docker("exec", subject.name, "sh", "-c", script, "pgbench", *words)


@frozen
class Files:
    """Files of one size, a hundred to a folder; what is in them shrinks to half when it is compressed.

    Attributes:
        number: how many.
        size: bytes of each.
        scattered: whether a change is of pages at random places in all of them.
    """

    number: int
    size: int
    scattered: bool = False

    def fill(self, subject: Subject) -> None:
        """Write them."""
        root = subject.root
        for number in range(self.number):
            path = self._path(root, number)
            if number % PART == 0:
                path.parent.mkdir()
            _write(path, self.size)

    def change(self, subject: Subject, turn: int) -> None:
        """Write every hundredth file again; where there are not so many, a part of one, or pages all over them."""
        if self.scattered:
            self._scatter(subject, turn)
            return
        if self.number >= PART:
            root = subject.root
            for number in range(turn % PART, self.number, PART):
                _write(self._path(root, number), self.size)
            return
        some = self.number * self.size // PART
        with self._path(subject.root, turn % self.number).open("r+b") as file:
            file.seek(turn * some % (self.size - some))
            file.write(os.urandom(some // 2).hex().encode())

    def _scatter(self, subject: Subject, turn: int) -> None:
        places = random.Random(turn)
        for number in range(self.number):
            with self._path(subject.root, number).open("r+b") as file:
                for page in sorted(places.sample(range(self.size // _PAGE), max(1, self.size // _PAGE // PART))):
                    file.seek(page * _PAGE)
                    file.write(os.urandom(_PAGE // 2).hex().encode())

    def _path(self, root: Path, number: int) -> Path:
        return root / f"folder{number // PART}" / f"file{number}"


def large_image(stage: Stage, name: str, size: int) -> None:
    """Make an image of one layer: busybox, and files of 10 MB that shrink to half when they are compressed."""
    repository, tag = name.split(":")
    with tempfile.TemporaryFile(dir=stage.folder) as whole:
        whole.write(busybox_tar())
        whole.seek(0)
        with tarfile.open(fileobj=whole, mode="a") as archive:
            for number, left in enumerate(range(size, 0, -_PART_BYTES)):
                entry = tarfile.TarInfo(f"var/file{number}")
                entry.size = min(left, _PART_BYTES)
                archive.addfile(entry, io.BytesIO(os.urandom(entry.size // 2).hex().encode().ljust(entry.size)))
        whole.seek(0)
        stage.client.api.import_image(src=whole, repository=repository, tag=tag)


def _write(path: Path, size: int) -> None:
    with path.open("wb") as file:
        while size:
            file.write(os.urandom(min(size, _BLOCK) // 2).hex().encode())
            size -= min(size, _BLOCK)


def _files(root: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(root):
        yield from (Path(parent, name) for name in names)
