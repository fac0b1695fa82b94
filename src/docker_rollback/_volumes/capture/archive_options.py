"""How volumes are archived, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from attrs import frozen

from docker_rollback._volumes.tar.cutting import CUT_RULE, CutRule

ByteListener: TypeAlias = Callable[[str, int], None]
"""Told a volume's name and the bytes of tar that were read or written so far; called from several threads."""

SizeListener: TypeAlias = Callable[[str, int | None], None]
"""Told a volume's name and about how many bytes of tar there will be, None if that is not known."""

LIVE_FROM: Final = 16 << 20
"""From how many bytes on a volume is archived while it is in use; each file counts for 16 KiB besides its own.

Below that, archiving all of a stopped service's volume takes no longer than an increment."""


@frozen(kw_only=True)
class ArchiveOptions:
    """How volumes are archived, and who is told of it.

    Attributes:
        level: of zstd.
        live_from: from how many bytes on a volume is archived while it is in use.
        progress: called with the bytes so far.
        expect: called before with about how many bytes there will be.
        rule: where large files are cut into pieces.
    """

    level: int = 1
    live_from: int = LIVE_FROM
    progress: ByteListener | None = None
    expect: SizeListener | None = None
    rule: CutRule = CUT_RULE

    def progress_of(self, volume: str, before: int = 0) -> Callable[[int], None] | None:
        """Return the volume's progress callback, offset by `before` bytes, or None."""
        progress = self.progress
        return None if progress is None else lambda done: progress(volume, before + done)

    def announce(self, volume: str, size: int | None) -> None:
        """Announce about how many bytes of tar a volume makes; None if that is not known."""
        if self.expect is not None:
            self.expect(volume, size)
