"""Writes the headers of archive members: pax records and the ustar header; pure."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Collection, Mapping
from typing import Final

from docker_rollback._model import MountPoint
from docker_rollback._volumes.tar.members import ATTRIBUTE, DUMPDIR, Member, quoted

NOTHING: Final = b"\0"  # the list of an empty directory
_LONGEST_NAME: Final = 100
_LARGEST_ID: Final = 0o7777777
_LARGEST: Final = 0o77777777777
_SECOND: Final = 1_000_000_000


def headers(header: bytes, records: Mapping[bytes, bytes]) -> bytes:
    """Return a member's headers: pax records, then the given ustar header."""
    data = b"".join(_record(key, value) for key, value in records.items())
    before = tarfile.TarInfo("././@PaxHeader")
    before.type, before.size = tarfile.XHDTYPE, len(data)
    return before.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE) + header


def of_folder(path: bytes, listing: bytes | None) -> bytes:
    """Return the headers of a directory that only root can enter, with its list; without a list its entries stay."""
    header = tarfile.TarInfo("./")
    header.type, header.mode = tarfile.DIRTYPE, 0o700
    return headers(
        header.tobuf(tarfile.USTAR_FORMAT), {b"path": path + b"/"} | ({} if listing is None else {DUMPDIR: listing})
    )


def of_mount_point(point: MountPoint) -> bytes:
    """Return the headers of an empty directory or file to serve as a mount point."""
    header = tarfile.TarInfo("./")
    header.type = tarfile.DIRTYPE if point.is_directory else tarfile.REGTYPE
    header.mode, header.uid, header.gid = point.mode, min(point.uid, _LARGEST_ID), min(point.gid, _LARGEST_ID)
    ids = {b"uid": b"%d" % point.uid, b"gid": b"%d" % point.gid}
    path = b"./" + point.name
    of_kind = {b"path": path + b"/", DUMPDIR: NOTHING} if point.is_directory else {b"path": path}
    return headers(header.tobuf(tarfile.USTAR_FORMAT), {**ids, **of_kind})


def of_file(path: bytes, status: os.stat_result, attributes: Mapping[str, bytes]) -> bytes:
    """Return the headers of a regular file without holes, as GNU tar writes them.

    Args:
        path: its path as tar writes it.
        status: its status.
        attributes: its extended attributes, without ACLs and SELinux labels, for which tar has other records.
    """
    header = tarfile.TarInfo(path[:_LONGEST_NAME].decode("latin-1"))
    header.mode = stat.S_IMODE(status.st_mode)
    header.uid, header.gid = min(status.st_uid, _LARGEST_ID), min(status.st_gid, _LARGEST_ID)
    header.size, header.mtime = min(status.st_size, _LARGEST), min(max(0, int(status.st_mtime)), _LARGEST)
    numbers = (
        (b"size", status.st_size, _LARGEST),
        (b"uid", status.st_uid, _LARGEST_ID),
        (b"gid", status.st_gid, _LARGEST_ID),
    )
    records = {
        b"path": path,
        b"mtime": _moment(status.st_mtime_ns),
        # A number that does not fit the ustar header has a record of its own.
        **{key: b"%d" % value for key, value, largest in numbers if value > largest},
        **{ATTRIBUTE + quoted(os.fsencode(name)): value for name, value in attributes.items()},
    }
    return headers(header.tobuf(tarfile.USTAR_FORMAT, "latin-1"), records)


def listing_with(listing: bytes, letter: bytes, names: Collection[bytes]) -> bytes:
    """Return a directory's list with these names added, under a letter; tar needs the names sorted."""
    entries = {entry[1:]: entry for entry in listing.split(b"\0") if entry}
    entries |= {name: letter + name for name in names}
    return b"".join(entries[name] + b"\0" for name in sorted(entries)) + NOTHING


def listing_more(member: Member, letter: bytes, names: Collection[bytes]) -> bytes:
    """Return the headers of a directory with these names added to its list, under a letter."""
    if not names or member.listing is None:
        return member.head
    return headers(member.header, {**member.records, DUMPDIR: listing_with(member.listing, letter, names)})


def _moment(nanoseconds: int) -> bytes:
    seconds, fraction = divmod(abs(nanoseconds), _SECOND)
    return b"%b%d.%09d" % (b"-" if nanoseconds < 0 else b"", seconds, fraction)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %b=%b\n" % (key, value)
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d%b" % (length, rest)
