"""A quick look at every file of a volume in use: how much there is, and by what each can be known again.

A file whose inode's number, time of change and size are what they were has the content that it had: the kernel stamps
every change, and no program can set that stamp. So a line for each file, kept beside a base, tells later which of them
the base still has. That holds until the machine starts again: after a crash, data may be on a disk whose stamp is not.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from attrs import frozen

from docker_rollback._engine import Finished
from docker_rollback._host import BOOT_ID
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.running_programs import Crew
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.archive_stream import pieces_of, split, whole
from docker_rollback._volumes.tar.members import LONGEST_PATH
from docker_rollback._volumes.tar.snapshot_file import Place
from docker_rollback.errors import VolumeAccessError

logger = logging.getLogger("docker_rollback")

_A_FILE: Final = 16 << 10
"""How many bytes a file counts for, beside its own: what reading them would take as long as opening it."""
_HEADERS: Final = 1536
"""How many bytes tar prints for a file beside its own: its header, and one of attributes before it."""
_SHAPE: Final = "%y %n %b %i %C@ %T@ %s %P\\0"
_CLOCKS: Final = (BOOT_ID, "/proc/uptime", "/proc/stat")
_MAY_VANISH: Final = (0, 1)
"""How find ends: 1 where something vanished before it."""
_SECOND: Final = 1_000_000_000
LARGE: Final = 4 << 20
"""From how many bytes on a file counts as large: what a pass over it takes is worth a thought of its own."""


@frozen
class Ground:
    """Where a volume's files lie: what has to be the same for what was known of them to mean something.

    Attributes:
        kind: of the file system, as stat names it.
        filesystem: its number.
        boot: when the machine started last, as the kernel names it.
        now: the time there, in seconds since 1970; 0 where it cannot be told.
    """

    kind: str
    filesystem: str
    boot: str
    now: float

    def is_that_of(self, other: Ground) -> bool:
        """Whether it is the same one, on a machine that has not started again since."""
        return bool(self.boot) and (self.kind, self.filesystem, self.boot) == (other.kind, other.filesystem, other.boot)


@frozen
class Large:
    """A large file that has one name and no holes.

    Attributes:
        path: as tar has it.
        size: its bytes.
        changed: when it was last changed, in nanoseconds since 1970.
    """

    path: bytes
    size: int
    changed: int


@frozen
class Look:
    """What a look found.

    Attributes:
        weight: the bytes of its files, and some more for each.
        size: about how many bytes tar prints of all of it.
        linked: whether a file has several names.
        sockets: the paths of its sockets, as tar has them.
        large: its large files.
    """

    weight: int
    size: int
    linked: bool
    sockets: tuple[bytes, ...]
    large: tuple[Large, ...] = ()


class Onlooker(Protocol):
    """Is told of everything in a volume while it is looked at."""

    def folder(self, path: bytes, place: Place) -> None:
        """Take note of a directory."""

    def file(self, line: bytes, weight: int) -> None:
        """Take note of anything else, by the line that tells it from what it will be once it has changed."""


def path_of(line: bytes) -> bytes:
    """Return the path, as tar has it, of the file that a line is of."""
    return b"./" + line.split(b" ", 4)[4]


def changed_of(line: bytes) -> int:
    """Return when the file that a line is of was last changed, in nanoseconds since 1970."""
    return nanoseconds(line.split(b" ", 2)[1])


def look(reach: Reach, crew: Crew, onlookers: Collection[Onlooker] = ()) -> Look | None:
    """Look at a volume; None where there is no GNU find next to it, or nothing in it.

    Args:
        reach: the volume.
        crew: what is at work.
        onlookers: are told of everything in it.

    Raises:
        VolumeAccessError: a path in it is too long to be restored.
    """
    weight, size, linked, sockets, left_out = 0, 0, False, [], reach.left_out
    large: list[Large] = []
    with crew.at_work(reach.run, reach.finding("-printf", _SHAPE, depth=LONGEST_PATH // 2)) as find:
        for line in split(pieces_of(find)):
            kind, names, blocks, rest = line.split(b" ", 3)
            if left_out and path_of(rest) in left_out:
                continue
            if len(rest) > LONGEST_PATH:
                check_path(reach.volume, path_of(rest))
            weighs = int(blocks) * 512 + _A_FILE
            weight += weighs
            size += _HEADERS
            if kind == b"d":
                for onlooker in onlookers:
                    onlooker.folder(*_folder(rest))
                continue
            size += weighs - _A_FILE
            linked = linked or names != b"1"
            if kind == b"s":
                sockets.append(path_of(rest))
                continue
            if weighs > LARGE and kind == b"f" and names == b"1":
                large.extend(_large(rest, weighs - _A_FILE))
            for onlooker in onlookers:
                onlooker.file(rest, weighs)
        finished = find.finish()
    if finished.exit_code not in _MAY_VANISH or not weight:
        logger.debug("volume %s: no look at it: %s", reach.volume, finished.stderr[:300])
        return None
    return Look(weight, size, linked, tuple(sockets), tuple(large))


def check_path(volume: str, path: bytes) -> None:
    """Raise a `VolumeAccessError` if tar can archive a path, and not put it back."""
    # A folder's has a slash at its end.
    if len(path) >= LONGEST_PATH:
        raise VolumeAccessError(
            volume,
            f"it has a path of more than {LONGEST_PATH} bytes, which tar cannot put back: "
            f"{gnu_tar.quoted(path[:60])}...; remove it, or leave it out by exclude=",
        )


def ground(reach: Reach, crew: Crew) -> Ground:
    """Return where a volume's files lie; raises `ArchiveError` where that cannot be told."""
    said = run(reach, crew, ("stat", "-f", "-c", "%T %i", reach.root)).decode("utf-8", "replace").strip()
    kind, _, filesystem = said.rpartition(" ")
    clocks = (_clocks_here() if reach.tree is not None else run(reach, crew, ("cat", *_CLOCKS))).decode().splitlines()
    booted = [line.split()[1] for line in clocks if line.startswith("btime ")]
    try:
        # By the clock of the machine where the files are, not by ours.
        now = float(booted[0]) + float(clocks[1].split()[0])
    except (IndexError, ValueError):
        now = 0
    return Ground(kind, filesystem, clocks[0] if clocks else "", now)


def _clocks_here() -> bytes:
    """Return what this machine's kernel says; a program in a sandbox does not see that."""
    try:
        return b"".join(Path(clock).read_bytes() for clock in _CLOCKS)
    except OSError:
        return b""


def run(reach: Reach, crew: Crew, words: Sequence[str]) -> bytes:
    """Run a program next to a volume, and return what it prints; raises `ArchiveError` where it fails."""
    with crew.at_work(reach.run, words) as process:
        printed = whole(pieces_of(process))
        check(reach, f"running {words[0]}", words[0], process.finish())
    return printed


def check(reach: Reach, doing: str, program: str, finished: Finished) -> None:
    """Raise an `ArchiveError` unless a program ended well."""
    if finished.exit_code != 0:
        raise gnu_tar.failed(reach.volume, doing, program, finished)


def nanoseconds(text: bytes) -> int:
    """Return a time, as programs print it with a fraction, in nanoseconds since 1970.

    Before that, as find prints it: a second and a half before 1970 is "-2.5". tar and stat print "-1.5".
    """
    seconds, _, fraction = text.partition(b".")
    return int(seconds) * _SECOND + int(fraction[:9].ljust(9, b"0"))


def _large(line: bytes, on_disk: int) -> Iterator[Large]:
    """Yield the large file that a line is of, unless it is none, or has holes."""
    size = int(line.split(b" ", 4)[3])
    if LARGE <= size <= on_disk:
        yield Large(path_of(line), size, changed_of(line))


def _folder(rest: bytes) -> tuple[bytes, Place]:
    inode, changed, modified, _, path = rest.split(b" ", 4)
    turned = 0 if modified == changed else nanoseconds(changed)
    return b"./" + path if path else b".", Place(int(inode), turned)
