"""Reads tar archives in memory: the members with their contents; truncation is noticed."""

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
"""The tar type of each kind of node; tar has none for sockets."""

KINDS: dict[bytes, Kind] = {code: kind for kind, code in TYPES.items()} | {tarfile.AREGTYPE: "file"}
"""The kind of node for each tar type."""

XATTR = "SCHILY.xattr."
"""The prefix of PAX keywords for extended attributes."""


def entries(data: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the members of an archive with their contents; bytes of names that are not UTF-8 are surrogates.

    Raises:
        tarfile.TarError: it is not an archive, or is truncated.
    """
    if not data:
        return
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="surrogateescape") as archive:
        for entry in archive:
            source = archive.extractfile(entry) if entry.isreg() else None
            yield entry, source.read() if source is not None else b""
        # Python takes a truncated header for the end of the archive.
        if 0 < len(data) - archive.offset < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("Unexpected EOF in archive")
