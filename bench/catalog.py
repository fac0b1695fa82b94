"""What is measured, by name; in full, and small enough to see in two minutes that it works. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

from attrs import evolve, frozen

from bench import samples
from bench.clients import Kind
from bench.groups import Shape
from bench.subjects import Accounts, Data, Files, Pgbench

Size: TypeAlias = Literal["small", "full"]

MB: Final = 1_000_000
GB: Final = 1000 * MB

EVERY_WAY: Final = (samples.BARE, samples.DIRECT, samples.HELPER, samples.RESTIC, samples.PLAIN)
TOOLS: Final = (samples.BARE, samples.DIRECT, samples.HELPER, samples.RESTIC)
OURS: Final = (samples.BARE, samples.DIRECT, samples.HELPER)

GROUP_WAYS: Final = (samples.EACH, samples.ALL, samples.COMPOSE, samples.DIRECT)
IDLE_WAYS: Final = (samples.EACH, samples.ALL, samples.DIRECT)

SLOW: Final = (samples.PLAIN,)
"""Ways of which a round takes minutes: two rounds have to do."""

POSTGRESQL: Final = "PostgreSQL, 1 GB, under load"
SMALL_FILES: Final = "50,000 small files"
LARGE_FILES: Final = "four large files, 2 GB"
SMALL_SERVER: Final = "small server"
NO_VOLUMES: Final = "no volumes"
SCATTERED: Final = "four large files, 2 GB, changed all over"
PGBENCH: Final = "pgbench, 1 GB"
ONE_FILE: Final = "one file of 10 GB, changed all over"
XFS: Final = "one file of 10 GB on XFS, changed all over"
SIZES: Final = ("0.1 GB", "1 GB", "10 GB")
NUMBERS: Final = ("3,000 files", "300,000 files")
MILLION: Final = "1,000,000 files"

EIGHT: Final = "8 containers of 1 s"
CHAIN: Final = "8 containers of 1 s in 3 levels"
TEN: Final = "10 containers of 0.3 s with volumes"
IDLE: Final = {number: f"{number} idle container{'s' * (number > 1)}" for number in (1, 10, 50)}
IMAGES: Final = ("image of 0.6 GB", "image of 2 GB")


@frozen
class Case:
    """A subject, and what is measured of it.

    Attributes:
        name: what it is called in the tables; with the size "small" it is not as large as it says.
        kind: what serves.
        data: what is in its volume, None where it has none.
        ways: which ways are compared.
        whole: whether a second backup and the ways back are measured as well.
        often: how many times as many rounds as asked for.
        image_bytes: the size of its image beyond busybox; a further backup of a changed layer is measured then.
        xfs: whether its volume is on XFS, and not on the file system of this machine.
    """

    name: str
    kind: Kind
    data: Data | None
    ways: tuple[str, ...] = OURS
    whole: bool = False
    often: int = 1
    image_bytes: int = 0
    xfs: bool = False

    def rounds(self, asked: int) -> Mapping[str, int]:
        """Return how many rounds each way is in."""
        return {way: min(asked, 2) if way in SLOW else asked * self.often for way in self.ways}


@frozen
class GroupCase:
    """A group of containers, and what is measured of it.

    Attributes:
        name: its name in the tables; with the size "small" it is not as large as it says.
        shape: its containers.
        ways: which methods are compared.
        back: whether all containers are removed and rolled back as well.
    """

    name: str
    shape: Shape
    ways: tuple[str, ...] = GROUP_WAYS
    back: bool = False

    def rounds(self, asked: int) -> Mapping[str, int]:
        """Return how many rounds each method is in."""
        return dict.fromkeys(self.ways, asked)


def cases(size: Size) -> Mapping[str, tuple[Case | GroupCase, ...]]:
    """Return everything that is measured, by the names that `--only` takes."""
    full = size == "full"
    accounts = Accounts(6_700_000 if full else 150_000)
    large, small = Files(4, 500 * MB if full else 10 * MB), Files(50_000 if full else 1000, 3960)
    many = Files(1_000_000 if full else 10_000, 0)
    huge, pgbench = Files(1, 10 * GB if full else 50 * MB, scattered=True), Pgbench(*((65, 800) if full else (1, 20)))
    return {
        "entry": (Case(NO_VOLUMES, "http", None, (samples.BARE, samples.DIRECT), often=3),),
        "small-server": (Case(SMALL_SERVER, "http", Files(100, 1000), often=3),),
        "small-files": (Case(SMALL_FILES, "http", small, EVERY_WAY, whole=True),),
        "postgresql": (Case(POSTGRESQL, "postgresql", accounts, EVERY_WAY, whole=True),),
        "large-files": (Case(LARGE_FILES, "http", large, EVERY_WAY, whole=True),),
        "scattered": (Case(SCATTERED, "http", evolve(large, scattered=True), TOOLS, whole=True),),
        "pgbench": (Case(PGBENCH, "postgresql", pgbench, TOOLS, whole=True),),
        "one-file": (Case(ONE_FILE, "http", huge, whole=True),),
        "xfs": (Case(XFS, "http", huge, whole=True, xfs=True),),
        "sizes": tuple(_sizes(full=full)),
        "numbers": tuple(_numbers(full=full)),
        "million": (Case(MILLION, "http", many),),
        "middleware": tuple(_middleware(full=full)),
        "idle": tuple(_idle(full=full)),
        "layers": tuple(_layers(full=full)),
    }


def _middleware(*, full: bool) -> Iterator[GroupCase]:
    number, stop = (8, 1.0) if full else (3, 0.1)
    yield GroupCase(EIGHT, Shape(number, stop), back=True)
    yield GroupCase(CHAIN, Shape(number, stop, levels=3))
    ten = Shape(10, 0.3, megabytes=8) if full else Shape(2, 0.1, megabytes=1)
    yield GroupCase(TEN, ten, (*GROUP_WAYS, samples.HELPER))


def _idle(*, full: bool) -> Iterator[GroupCase]:
    for number, name in IDLE.items():
        yield GroupCase(name, Shape(number if full else min(number, 3)), IDLE_WAYS)


def _layers(*, full: bool) -> Iterator[Case]:
    for name, size in zip(IMAGES, (600 * MB, 2 * GB), strict=True):
        yield Case(name, "http", None, image_bytes=size if full else size // 100)


def _sizes(*, full: bool) -> Iterator[Case]:
    for name, size in zip(SIZES, (GB // 10, GB, 10 * GB), strict=True):
        yield Case(name, "http", Files(10, size // 10 if full else size // 1000))


def _numbers(*, full: bool) -> Iterator[Case]:
    for name, number in zip(NUMBERS, (3_000, 300_000), strict=True):
        yield Case(name, "http", Files(number if full else number // 100, 1000))
