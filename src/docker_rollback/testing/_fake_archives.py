"""Tar archives in memory: members with what they hold, and an end that is checked."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

from docker_rollback.testing._fake_tree import Kind

TYPES: dict[Kind, bytes] = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "fifo": tarfile.FIFOTYPE,
    "character": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
}
"""How a tar names what a node is; it has no word for a socket."""

KINDS: dict[bytes, Kind] = {code: kind for kind, code in TYPES.items()} | {tarfile.AREGTYPE: "file"}
"""What a node is, by how a tar names it."""

XATTR = "SCHILY.xattr."
"""How a PAX keyword begins that is an extended attribute."""


def entries(data: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the members of an archive, each with its bytes; names that are not UTF-8 hold surrogates.

    Raises:
        tarfile.TarError: it is none, or it is cut short.
    """
    if not data:
        return
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="surrogateescape") as archive:
        for entry in archive:
            source = archive.extractfile(entry) if entry.isreg() else None
            yield entry, source.read() if source is not None else b""
        # Python takes part of a header for the end.
        if 0 < len(data) - archive.offset < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("Unexpected EOF in archive")
