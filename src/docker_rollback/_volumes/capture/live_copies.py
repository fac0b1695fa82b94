"""Large files that change all the time, copied while their service runs, and brought up to date while it rests.

tar takes a file that has changed as a whole: its bytes go through a pipe and are written to a disk before the service
may run again. A copy that was taken before differs from its file in a few places, and to find these takes a fraction
of the time. So tar passes these files over, and they come into the increment once the service runs again.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Final, TypeAlias

from attrs import define, frozen

from docker_rollback._host import NotAFileError, Tree
from docker_rollback._store import Draft, FileCopy
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.running_programs import Crew
from docker_rollback._volumes.capture.scan import Large
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.headers import listing_more, of_file
from docker_rollback._volumes.tar.members import END, Member, Members
from docker_rollback.errors import ArchiveError, StoreFullError

logger = logging.getLogger("docker_rollback")

_PARTS_OF_ROOM: Final = 2
"""One of so many parts of the room in the store may be taken by copies."""
_NO_FILE: Final = "is no regular file any more"
_HELD: Final = b"Y"
"""Listed as what is in the archive."""
_BLOCK: Final = 512
_LONGEST_WRITE: Final = 10_000_000_000
"""Nanoseconds: a file is stamped when a write to it begins, and what goes past the page cache may come after that."""


_State: TypeAlias = tuple[int, int, int, int]
"""What changes when a file does: its inode, its size, and two times."""


@define(eq=False)
class _Copy:
    """A file and its copy.

    Attributes:
        path: as tar has it.
        file: the copy.
        equals: the state of the file that it is a copy of for sure; None where it has to be compared in any case.
        header: what an archive says of the file; empty where it is gone.
    """

    path: bytes
    file: FileCopy
    equals: _State | None = None
    header: bytes = b""


class Room:
    """The room in the store that copies may take, those of all volumes together.

    Args:
        draft: the backup that they are taken for.
    """

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._guard = threading.Lock()
        self._taken = 0

    def give_back(self, size: int) -> None:
        """Have so many bytes of it free again."""
        with self._guard:
            self._taken -= size

    def take(self, size: int) -> bool:
        """Take so many bytes of it; tell whether they were left."""
        with self._guard:
            # What was copied by now is no room any more, and counts twice: who may fill a disk had better be modest.
            if self._taken + size > self._draft.room() // _PARTS_OF_ROOM:
                return False
            self._taken += size
            return True


class Copies:
    """The copies of large files of one volume that is reached directly.

    Args:
        reach: the volume.
        draft: the backup that they are taken for.
        held: ends them, when it ends.
        crew: what is at work.
        room: the room that there is for them, and for those of other volumes.
        threads: how many compare a file with its copy.
    """

    def __init__(
        self,
        reach: Reach,
        draft: Draft,
        held: ExitStack,
        crew: Crew,
        room: Room | None = None,
        *,
        threads: int = 1,
    ) -> None:
        self._reach = reach
        self._draft = draft
        self._held = held.enter_context(ExitStack())
        self._crew = crew
        self._room = room or Room(draft)
        self._threads = threads
        self._copies: list[_Copy] = []
        self._taken = 0
        self._is_over = False

    @property
    def _tree(self) -> Tree:
        if self._reach.tree is None:
            raise ValueError("copies are taken of a volume that is reached directly")
        return self._reach.tree

    @property
    def paths(self) -> tuple[bytes, ...]:
        """The files that there are copies of."""
        return tuple(copy.path for copy in self._copies)

    def take(self, files: Iterable[Large]) -> int:
        """Copy files while they are in use; return how many bytes are left to tar, because a copy would not do.

        What is copied is on the disk when this returns: a service flushes its files when it stops.

        Raises:
            StoreError: a copy could not be written, for another reason than that there is no room.
            ArchiveError: all was ended meanwhile.
        """
        left = 0
        for file in files:
            try:
                self._take(file.path)
            except (OSError, _UnfitError, StoreFullError) as error:
                left += file.size
                logger.debug("volume %s: %r is left to tar: %s", self._reach.volume, file.path, error)
        for copy in self._copies:
            copy.file.flush()
        if self._copies:
            size = sum(copy.file.size for copy in self._copies) >> 20
            logger.debug("volume %s: %d large files are copied (%d MiB)", self._reach.volume, len(self._copies), size)
        return left

    def drop(self) -> None:
        """Remove all copies: tar has all of these files to take."""
        self._copies.clear()
        self._room.give_back(self._taken)
        self._taken = 0
        self._held.close()

    @contextmanager
    def updating(self) -> Iterator[Future[str]]:
        """Do as `update` beside a block; where the block fails, nobody has to wait for it."""
        with ThreadPoolExecutor(1, thread_name_prefix="docker-rollback-copies") as pool:
            try:
                yield pool.submit(self.update)
            except BaseException:
                self._is_over = True
                raise

    def update(self) -> str:
        """Bring the copies up to date while their files are at rest; return why that will not do, empty where it does.

        Raises:
            ArchiveError: a file changed meanwhile, or all was ended.
            StoreError: a copy could not be written.
        """
        return next(filter(None, map(self._update, self._copies)), "")

    def joined(self, increment: Iterable[bytes]) -> Iterator[bytes | memoryview]:
        """Yield an increment that passed the files over, with them in it."""
        if not self._copies:
            yield from increment
            return
        names: dict[bytes, set[bytes]] = {}
        for copy in self._copies:
            if copy.header:
                folder, _, name = copy.path.rpartition(b"/")
                names.setdefault(folder, set()).add(name)
        members = Members()
        for data in increment:
            for part in members.parts(data):
                yield listing_more(part, _HELD, names.get(part.name, ())) if isinstance(part, Member) else part
        for copy in self._copies:
            if copy.header:
                yield copy.header
                yield from copy.file.pieces()
                yield bytes(-copy.file.size % _BLOCK)
        yield END

    def _take(self, path: bytes) -> None:
        with ExitStack() as attempt, _opened(self._tree, path) as found:
            if not self._room.take(found.status.st_size):
                raise _UnfitError("is too large for the room that there is")
            self._taken += found.status.st_size
            copy = _Copy(path, attempt.enter_context(self._draft.copy()))
            _let_writes_end(found.file)
            # Without it, a page of a mapping that is dirty by now would mark no time when it is written once more.
            os.fsync(found.file)
            status = os.fstat(found.file)
            is_quiet = status.st_ctime_ns + _LONGEST_WRITE < time.time_ns()
            copy.file.update(found.file, status.st_size, self._go_on, threads=self._threads)
            if is_quiet:
                copy.equals = _state(status)
            self._copies.append(copy)
            self._held.push(attempt.pop_all())

    def _update(self, copy: _Copy) -> str:
        try:
            with _opened(self._tree, copy.path) as found:
                before = found.status
                if copy.equals != _state(before):
                    copy.file.update(found.file, before.st_size, self._go_on, threads=self._threads)
                after = os.fstat(found.file)
        except FileNotFoundError:
            return ""
        except _UnfitError as error:
            return f"{copy.path!r} {error}"
        except OSError as error:
            raise ArchiveError(self._reach.volume, f"{copy.path!r} could not be read: {error}") from error
        if _state(before) != _state(after) or copy.file.size != after.st_size:
            raise ArchiveError(self._reach.volume, f"its files changed while they were read: {copy.path!r}")
        copy.header = of_file(copy.path, before, found.attributes)
        return ""

    def _go_on(self) -> None:
        if self._is_over or self._crew.stopped:
            raise ArchiveError(self._reach.volume, "archiving it was ended")


@frozen
class _Found:
    """A file that is open, what the kernel says of it, and its extended attributes."""

    file: int
    status: os.stat_result
    attributes: Mapping[str, bytes]


class _UnfitError(Exception):
    """Of this file a copy and a header of ours would not tell all."""


@contextmanager
def _opened(tree: Tree, path: bytes) -> Iterator[_Found]:
    """Have a file open for the time of a block, through no symbolic link.

    Raises:
        FileNotFoundError: there is nothing of that name.
        _UnfitError: it is no regular file, or one with more to it than its bytes.
    """
    try:
        with tree.reading(path) as file:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise _UnfitError(_NO_FILE)
            attributes = {key: os.getxattr(file, key) for key in os.listxattr(file)}
            if status.st_nlink != 1 or status.st_blocks * _BLOCK < status.st_size:
                raise _UnfitError("has several names, or holes")
            if any(key.startswith(gnu_tar.OWN_ATTRIBUTES) for key in attributes):
                raise _UnfitError("has an ACL, or a label")
            yield _Found(file, status, attributes)
    except NotAFileError as error:
        raise _UnfitError(_NO_FILE) from error


def _let_writes_end(file: int) -> None:
    """Return once every write(2) that is under way has ended: its file was stamped when it began, and not after it.

    Who looks for a hole waits for the writer's lock on ext4, btrfs and f2fs, who reads waits for it on XFS.
    """
    os.lseek(file, 0, os.SEEK_HOLE)
    os.pread(file, 1, 0)


def _state(status: os.stat_result) -> _State:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
