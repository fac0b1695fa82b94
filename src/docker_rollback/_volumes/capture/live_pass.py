"""What is done about a volume while it is in use: its base is taken, or found, and what follows it made ready."""

from __future__ import annotations

import logging
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from docker_rollback._engine import Process
from docker_rollback._model import Descriptor
from docker_rollback._store import BackupStore, Draft
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.running_programs import Crew
from docker_rollback._volumes.capture.archive_options import ArchiveOptions
from docker_rollback._volumes.capture.base import Base, take_base
from docker_rollback._volumes.capture.earlier_base import MOST as MOST_BY_TAR
from docker_rollback._volumes.capture.earlier_base import Former
from docker_rollback._volumes.capture.helper_spool import ASIDE_FROM, MOST_ASIDE, Aside
from docker_rollback._volumes.capture.increment import Increment
from docker_rollback._volumes.capture.listing import Lister
from docker_rollback._volumes.capture.live_copies import Copies, Room
from docker_rollback._volumes.capture.scan import Large
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.archive_writer import ArchiveWriters
from docker_rollback._volumes.tar.members import MalformedArchiveError
from docker_rollback.errors import ArchiveError, EngineError, StoreError

logger = logging.getLogger("docker_rollback")


class LivePass:
    """Makes volumes ready for their capture while they are in use; several of them may be at once.

    Args:
        store: where earlier backups are.
        draft: the backup that they go into.
        crew: what is at work.
        options: how they are archived.
        copies: ends the copies of large files, when it ends.
        standing_by: ends the programs that wait, when it ends.
        writers: make the writers of archives.
    """

    def __init__(
        self,
        store: BackupStore,
        draft: Draft,
        crew: Crew,
        options: ArchiveOptions,
        *,
        copies: ExitStack,
        standing_by: ExitStack,
        writers: ArchiveWriters,
    ) -> None:
        self._store = store
        self._draft = draft
        self._crew = crew
        self._copies = copies
        self._room = Room(draft)
        self._standing_by = standing_by
        self._options = options
        self._writers = writers

    def prepare(self, reach: Reach, threads: int) -> tuple[Base | None, Increment | None, Process | None]:
        """Return a volume's base, and the increment that is ready to follow it; or tar, waiting to archive all of it.

        A single file has neither: it is archived when it is at rest.

        Raises:
            StoreError, EngineError: what they say.
        """
        if reach.is_file:
            return None, None, None
        copies = Copies(reach, self._draft, self._copies, self._crew, self._room, threads=threads)
        try:
            if (base := self._base_to_build_on(reach, threads, copies)) is not None:
                increment = Increment(reach, base, copies, self._crew, self._aside(reach, base.flux))
                self._standing_by.enter_context(increment.ready())
                return base, increment, None
        except (ArchiveError, MalformedArchiveError, EngineError) as error:
            if isinstance(error, EngineError) and error.permanent:
                raise
            logger.info("volume %s: all of it is archived at rest: %s", reach.volume, error)
            copies.drop()
        command = gnu_tar.create(
            reach.root, reach.snapshot, waiting=True, excluded=reach.excluded, passed_over=reach.unread
        )
        return None, None, self._standing_by.enter_context(self._crew.at_work(reach.run, command, stdin=True))

    def _base_to_build_on(self, reach: Reach, threads: int, copies: Copies) -> Base | None:
        """Return the last base or a new one, and have copies of what an increment on it will hold anyway."""
        base = self._base(reach, threads, self._load(reach))
        if base is None or isinstance(base.listing, Lister):
            return self._with_copies(reach, base, copies)
        with ThreadPoolExecutor(1, thread_name_prefix="proving a base") as pool:
            # To read it takes as long as to make the copies.
            sound = pool.submit(self._adopt, base.blob, base.listing)
            left = self._copy(reach, base, copies)
        if not sound.result():
            logger.warning("volume %s: its last base is damaged, and a new one is taken", reach.volume)
        elif left > MOST_BY_TAR:
            logger.info("volume %s: a new base is taken: no copy will do of much that has changed", reach.volume)
        else:
            return base
        copies.drop()
        return self._with_copies(reach, self._base(reach, threads, None), copies)

    def _with_copies(self, reach: Reach, base: Base | None, copies: Copies) -> Base | None:
        if base is not None:
            self._copy(reach, base, copies)
        return base

    def _copy(self, reach: Reach, base: Base, copies: Copies) -> int:
        """Copy what is at work, where that can be done; return how many bytes of it are left to tar."""
        return copies.take(base.flux) if reach.way == "direct" else 0

    def _base(self, reach: Reach, threads: int, former: Former | None) -> Base | None:
        with self._writers.writer(reach.volume, threads=threads) as writer:
            base = take_base(
                reach,
                writer,
                self._crew,
                self._options,
                former=former,
                hastened=lambda flux: self._hastened(reach, flux),
            )
        if base is not None:
            how = "is archived while in use" if not base.former else "has its last base used again"
            logger.info("volume %s %s (%d bytes)", reach.volume, how, base.about.size)
        return base

    def _load(self, reach: Reach) -> Former | None:
        """Return the base of an earlier backup, as far as it can be read."""
        archives = [one for one in self._writers.earlier(reach.volume) if one.listing is not None]
        try:
            return Former.load(archives, self._store.open_tar) if archives else None
        except (ValueError, StoreError) as error:
            logger.warning("volume %s: its last base cannot be used again: %s", reach.volume, error)
            return None

    def _hastened(self, reach: Reach, flux: Collection[Large]) -> int:
        """Return how many bytes of large files do not have to come by the stream at rest."""
        size = sum(one.size for one in flux)
        if reach.way == "direct":
            return size
        return min(size, MOST_ASIDE) if self._aside(reach, flux) is not None else 0

    def _aside(self, reach: Reach, flux: Collection[Large]) -> Aside | None:
        """Return where a large increment is to wait; None where it comes quickly enough, or there is no room."""
        size = sum(one.size for one in flux)
        if reach.way == "direct" or size < ASIDE_FROM:
            return None
        aside = Aside(reach, self._crew)
        return aside if aside.has_room(size) else None

    def _adopt(self, base: Descriptor, listing: Descriptor) -> bool:
        """Keep what this backup has of an earlier one from now on; False where that is damaged."""
        if not (self._draft.adopt(listing) and self._draft.adopt(base)):
            return False
        blobs = self._store.blobs_of(base)
        self._draft.pin(blobs)
        return all(map(self._draft.adopt, blobs))
