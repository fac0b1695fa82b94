"""Flags that keep even root from changing a file (chattr +i, +a): found and taken off, where the files are at hand.

tar knows nothing of them: it archives such files, cannot replace them, and does not set the flags again.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from typing import Final

# From <linux/fs.h>, for machines whose long has eight bytes.
_GET: Final = 0x80086601
_SET: Final = 0x40086602
_KEEPS_US_OUT: Final = 0x10 | 0x20
_FLAGS: Final = struct.Struct("l")


def clear_flags(root: str) -> int:
    """Take the flags off a folder and all that is in it; return how many files had one.

    Links are not followed, and what cannot be opened is passed over: whoever cannot do without will say so.
    """
    cleared = _clear(root, None)
    for _, folders, files, folder in os.fwalk(os.fsencode(root), follow_symlinks=False):
        # Here, and not when it is come by: a folder that may not be changed can be walked all the same.
        cleared += sum(_clear(name, folder) for name in (*folders, *files))
    return cleared


def _clear(name: str | bytes, folder: int | None) -> int:
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return 0
        file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        return 0
    try:
        flags = int(_FLAGS.unpack(fcntl.ioctl(file, _GET, _FLAGS.pack(0)))[0])
        if not flags & _KEEPS_US_OUT:
            return 0
        fcntl.ioctl(file, _SET, _FLAGS.pack(flags & ~_KEEPS_US_OUT))
    except OSError:
        # A file system without flags.
        return 0
    finally:
        os.close(file)
    return 1
