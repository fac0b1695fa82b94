"""What is measured, by name; in full, and small enough to see in two minutes that it works. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

from attrs import frozen

from bench import samples
from bench.clients import Kind
from bench.subjects import Accounts, Data, Files

Size: TypeAlias = Literal["small", "full"]

MB: Final = 1_000_000
GB: Final = 1000 * MB

EVERY_WAY: Final = (samples.BARE, samples.DIRECT, samples.HELPER, samples.RESTIC, samples.PLAIN)
OURS: Final = (samples.BARE, samples.DIRECT, samples.HELPER)

SLOW: Final = (samples.PLAIN,)
"""Ways of which a round takes minutes: two rounds have to do."""

POSTGRESQL: Final = "PostgreSQL, 1 GB, under load"
SMALL_FILES: Final = "50,000 small files"
LARGE_FILES: Final = "four large files, 2 GB"
SMALL_SERVER: Final = "small server"
NO_VOLUMES: Final = "no volumes"
SIZES: Final = ("0.1 GB", "1 GB", "10 GB")
NUMBERS: Final = ("3,000 files", "300,000 files")
MILLION: Final = "1,000,000 files"


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
    """

    name: str
    kind: Kind
    data: Data | None
    ways: tuple[str, ...] = OURS
    whole: bool = False
    often: int = 1

    def rounds(self, asked: int) -> Mapping[str, int]:
        """Return how many rounds each way is in."""
        return {way: min(asked, 2) if way in SLOW else asked * self.often for way in self.ways}


def cases(size: Size) -> Mapping[str, tuple[Case, ...]]:
    """Return everything that is measured, by the names that `--only` takes."""
    full = size == "full"
    accounts = Accounts(6_700_000 if full else 150_000)
    large, small = Files(4, 500 * MB if full else 10 * MB), Files(50_000 if full else 1000, 3960)
    many = Files(1_000_000 if full else 10_000, 0)
    return {
        "entry": (Case(NO_VOLUMES, "http", None, (samples.BARE, samples.DIRECT), often=3),),
        "small-server": (Case(SMALL_SERVER, "http", Files(100, 1000), often=3),),
        "small-files": (Case(SMALL_FILES, "http", small, EVERY_WAY, whole=True),),
        "postgresql": (Case(POSTGRESQL, "postgresql", accounts, EVERY_WAY, whole=True),),
        "large-files": (Case(LARGE_FILES, "http", large, EVERY_WAY, whole=True),),
        "sizes": tuple(_sizes(full=full)),
        "numbers": tuple(_numbers(full=full)),
        "million": (Case(MILLION, "http", many, (samples.DIRECT, samples.HELPER)),),
    }


def _sizes(*, full: bool) -> Iterator[Case]:
    for name, size in zip(SIZES, (GB // 10, GB, 10 * GB), strict=True):
        yield Case(name, "http", Files(10, size // 10 if full else size // 1000))


def _numbers(*, full: bool) -> Iterator[Case]:
    for name, number in zip(NUMBERS, (3_000, 300_000), strict=True):
        yield Case(name, "http", Files(number if full else number // 100, 1000))
