"""A large increment, put aside next to its volume while the service rests, and fetched once it runs again.

What an engine carries from a helper to us it carries at some 300 MB/s, and the service would wait for it. tar writes a
file in the helper several times as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Final

from docker_rollback._engine import Process
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.running_programs import Crew
from docker_rollback._volumes.capture.scan import check, run
from docker_rollback._volumes.tar.archive_stream import Sink, carry, pieces_of

ASIDE_FROM: Final = 64 << 20
"""From how many bytes on it is worth it: what is smaller comes as quickly by the stream."""
MOST_ASIDE: Final = 1 << 30
"""So many bytes of what has changed are rather put aside at rest than read by a new base while the service runs."""
_PARTS_OF_ROOM: Final = 4
"""One of so many parts of the room that the engine has may be taken by it."""
_READER: Final = ("xargs", "-0", "cat", "--")


class Aside:
    """A file in a helper, for one increment; it goes with the helper.

    Args:
        reach: the volume.
        crew: what is at work.

    Attributes:
        file: where tar is to write it.
    """

    def __init__(self, reach: Reach, crew: Crew) -> None:
        self.file = f"{reach.snapshot}.increment"
        self._reach = reach
        self._crew = crew
        self._reader: Process | None = None

    def has_room(self, size: int) -> bool:
        """Whether there is room for so many bytes, and much more; raises `ArchiveError` where it cannot be told."""
        said = run(self._reach, self._crew, ("stat", "-f", "-c", "%a %S", self._reach.snapshot.rpartition("/")[0]))
        blocks, of = map(int, said.split())
        return size * _PARTS_OF_ROOM <= blocks * of

    def ready(self) -> AbstractContextManager[object]:
        """Start what is to read it; it ends at the latest with the block of what is returned."""
        held = ExitStack()
        self._reader = held.enter_context(self._crew.at_work(self._reach.run, _READER, stdin=True))
        return held

    def carry_head(self, sink: Sink, look: Callable[[bytes], bool]) -> int:
        """Carry its beginning into `sink` until `look` has seen enough of it; return how many bytes that were."""
        reader = self._waiting
        reader.write(self.file.encode() + b"\0")
        reader.close_input()
        size = 0
        for data in pieces_of(reader):
            size += len(data)
            sink.write(data)
            if look(data):
                break
        return size

    def carry_rest(self, sink: Sink) -> None:
        """Carry what follows into `sink`; raises `ArchiveError` where that fails."""
        reader = self._waiting
        carry(pieces_of(reader), sink)
        check(self._reach, "fetching what changed", "cat", reader.finish())

    @property
    def _waiting(self) -> Process:
        if self._reader is None:
            raise ValueError("it has to be ready first")
        return self._reader
