"""What changed since a base, archived while its volume is at rest: made ready before, sound or not at all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Final

from docker_rollback._engine import Process
from docker_rollback._host import read_clock, was_set_back
from docker_rollback._model import NotCovered
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.running_programs import Crew
from docker_rollback._volumes.capture.base import Base, write_snapshot
from docker_rollback._volumes.capture.helper_spool import Aside
from docker_rollback._volumes.capture.live_copies import Copies
from docker_rollback._volumes.capture.scan import nanoseconds
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.archive_stream import Sink, carry, pieces_of
from docker_rollback._volumes.tar.members import Member, Members
from docker_rollback._volumes.tar.snapshot_file import ROOT, Place, SnapshotFile, moved
from docker_rollback.errors import ArchiveError

logger = logging.getLogger("docker_rollback")

_PROBE: Final = ("xargs", "-0", "stat", "--printf", "%i %.9Y %.9Z %n\\0", "--")
_SOME_GONE: Final = (0, 123)
"""How xargs ends: 123 where stat did not find one of the names."""


class UnsoundError(Exception):
    """An increment on this base could miss something, or could not be extracted; the volume is fine."""


class Increment:
    """An increment of one volume: the programs that it takes wait for it from `ready` on.

    Args:
        reach: the volume.
        base: what it follows.
        copies: what tar passes over.
        crew: what is at work.
        aside: where it waits until it is fetched; None where it comes at once.

    Attributes:
        copies: the same.
        snapshot: the snapshot file of the base; once it is taken, without the directories that have moved since.
    """

    def __init__(self, reach: Reach, base: Base, copies: Copies, crew: Crew, aside: Aside | None = None) -> None:
        self._reach = reach
        self._base = base
        self.copies = copies
        self._crew = crew
        self._aside = aside
        self.snapshot = base.snapshot
        self._held = ExitStack()
        self._probe: Process | None = None
        self._tar: Process | None = None

    @property
    def is_aside(self) -> bool:
        """Whether it is a large one, and put aside next to its volume."""
        return self._aside is not None

    def ready(self) -> AbstractContextManager[object]:
        """Start what will be needed; all of it ends at the latest with the block of what is returned.

        Raises:
            ArchiveError: the snapshot file could not be put where tar looks for it.
            EngineError: a program could not be started.
        """
        run = self._reach.run
        with ExitStack() as starting:
            if self._aside is not None:
                starting.enter_context(self._aside.ready())
            self._held = starting.enter_context(ExitStack())
            write_snapshot(self._reach, self._crew, self._base.snapshot)
            reach = self._reach
            command = gnu_tar.create(
                reach.root,
                reach.snapshot,
                whole=False,
                waiting=True,
                excluded=reach.excluded,
                passed_over=(*reach.unread, *self.copies.paths),
                into="-" if self._aside is None else self._aside.file,
            )
            self._probe = self._held.enter_context(self._crew.at_work(run, _PROBE, stdin=True))
            self._tar = self._held.enter_context(self._crew.at_work(run, command, stdin=True))
            return starting.pop_all()

    def take(self, sink: Sink, *, progress: Callable[[int], None] | None) -> tuple[int, tuple[NotCovered, ...]]:
        """Archive what has changed, but for the files that there are copies of: these are brought up to date.

        Args:
            sink: where the archive goes.
            progress: told the bytes so far.

        Returns:
            How many bytes of tar that is, and what neither archive holds.

        Raises:
            UnsoundError: everything has to be archived instead.
            ArchiveError: a file changed although all was to be at rest.
            StoreError, EngineError: what they say.
        """
        if self._probe is None or self._tar is None:
            raise ValueError("it has to be ready first")
        if was_set_back(self._base.clock, read_clock()):
            raise UnsoundError("the clock was set back since its base was taken")
        proof = Proof(self._base.about.attributes)
        with self._held, self.copies.updating() as updated:
            self._put_right(places(self._reach.root, self._base.snapshot, self._probe))
            self._tar.write(gnu_tar.GO)
            self._tar.close_input()
            size = carry(pieces_of(self._tar), sink, progress=progress, look=proof.feed)
            finished = self._tar.finish()
        try:
            not_covered = gnu_tar.check_created(self._reach.volume, finished, at_rest=True)
        except ArchiveError as error:
            if finished.exit_code == gnu_tar.CHANGED:
                raise
            raise UnsoundError(str(error)) from error
        if self._aside is not None:
            size = self._aside.carry_head(sink, proof.feed)
        proof.check()
        if reason := updated.result():
            raise UnsoundError(reason)
        sockets = {gap.what: gap for gap in (*self._base.not_covered, *not_covered)}
        return size, tuple(sockets.values())

    def fetch(self, sink: Sink) -> None:
        """Have all of it in the sink that `take` was given, where a part was put aside; raises `ArchiveError`."""
        if self._aside is not None:
            self._aside.carry_rest(sink)

    def _put_right(self, now: Mapping[bytes, Place]) -> None:
        """Have tar forget the directories that are not where they were."""
        snapshot = self._base.snapshot
        gone = moved(snapshot, now)
        if not gone:
            return
        inodes = {folder.inode for folder in snapshot.folders if folder.name in gone}
        if self._base.linked and self._lie_elsewhere(inodes):
            # A file with names in and out of a directory that moved would come back as two files.
            raise UnsoundError("directories were moved, and there are files with several names")
        logger.debug("volume %s: %d directories are taken whole", self._reach.volume, len(gone))
        self.snapshot = snapshot.without(gone)
        write_snapshot(self._reach, self._crew, self.snapshot)

    def _lie_elsewhere(self, inodes: set[int]) -> bool:
        """Whether a directory of one of these numbers is anywhere in the volume."""
        words = self._reach.finding("-type", "d", "-printf", "%i\\n")
        with self._crew.at_work(self._reach.run, words) as find:
            found = b"".join(pieces_of(find))
            if find.finish().exit_code != 0:
                return True
        return not inodes.isdisjoint(map(int, found.split()))


def places(root: str, snapshot: SnapshotFile, probe: Process) -> dict[bytes, Place]:
    """Ask a probe for the directories of a snapshot file, as they are now; those that are gone are left out.

    Raises:
        UnsoundError: it did not answer as it should.
    """
    above = root.encode("utf-8", "surrogateescape") + b"/"
    asked = b"".join(above + folder.name + b"\0" for folder in snapshot.folders)

    def ask() -> None:
        probe.write(asked)
        probe.close_input()

    asking = threading.Thread(target=ask, name="asking where directories are")
    asking.start()
    try:
        answer = b"".join(pieces_of(probe))
    finally:
        asking.join()
    finished = probe.finish()
    found = {}
    for line in answer.split(b"\0")[:-1]:
        inode, modified, changed, name = line.split(b" ", 3)
        turned = 0 if modified == changed else nanoseconds(changed)
        found[name.removeprefix(above)] = Place(int(inode), turned)
    if finished.exit_code not in _SOME_GONE or ROOT not in found:
        raise UnsoundError(f"what became of its directories cannot be told: {finished.stderr[:300].strip()}")
    return found


class Proof:
    """Looks at an increment as it passes by, for what would not come back by it.

    Args:
        attributes: the names of the extended attributes of each directory in its base that has some.
    """

    def __init__(self, attributes: Mapping[bytes, frozenset[bytes]]) -> None:
        self._attributes = attributes
        self._members = Members()
        self._over = False
        self._reason = ""

    def feed(self, data: bytes) -> bool:
        """Take in the next piece; tell whether all directories have passed. Raises `MalformedArchiveError`."""
        for member in () if self._over else self._members.feed(data):
            if not member.is_directory:
                # They come first.
                self._over = True
                break
            self._reason = self._reason or self._against(member)
        return self._over

    def check(self) -> None:
        """Raise an `UnsoundError` where something was found."""
        if self._reason:
            raise UnsoundError(self._reason)

    def _against(self, member: Member) -> str:
        if member.listing is not None and any(letter in b"RTX" for letter, _ in member.entries):
            return f"it renames directories in {member.name!r}"
        if self._attributes.get(member.name, frozenset()) - member.attributes:
            # tar takes no attribute off a directory that is there.
            return f"the directory {member.name!r} has fewer attributes than in the base"
        return ""
