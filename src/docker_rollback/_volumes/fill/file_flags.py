"""Clears file flags that keep even root from changing a file (chattr +i, +a), if we can open the files.

tar ignores these flags: it archives such files, cannot replace them, and does not set the flags again.
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Collection
from typing import Final

from docker_rollback._host import FIXED, Tree, flags_of

# From <linux/fs.h>, for machines whose long has eight bytes.
_SET: Final = 0x40086602
_FLAGS: Final = struct.Struct("l")


def clear_flags(tree: Tree, *, but: Collection[bytes] = ()) -> int:
    """Clear the flags of a folder and everything in it, except some paths; return how many files had one.

    Links are not followed. Files that cannot be opened are skipped: tar then reports those that it cannot replace.
    """
    return sum(_clear(tree, path) for path in tree.walk(but=but))


def _clear(tree: Tree, path: bytes) -> int:
    try:
        with tree.reading(path) as file:
            flags = flags_of(file)
            if not flags & FIXED:
                return 0
            fcntl.ioctl(file, _SET, _FLAGS.pack(flags & ~FIXED))
    except OSError:
        # The file is gone, of another kind, or on a file system without flags.
        return 0
    return 1
