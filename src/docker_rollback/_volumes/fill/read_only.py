"""Compares a volume with its archive, for volumes that cannot be written to.

tar reads the volume as for a capture, and its output is compared with the archive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from docker_rollback._model import Descriptor, VolumeArchive
from docker_rollback._store import BackupStore
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.archive_stream import pieces_of
from docker_rollback._volumes.tar.members import DUMPDIR, Member, Members
from docker_rollback.errors import ArchiveError

# Records that hold only names or directory lists; tar puts its process id into the name of a sparse file.
_OF_TAR: Final = (DUMPDIR, b"path", b"GNU.sparse.name")


def check_same(reach: Reach, archive: VolumeArchive, store: BackupStore) -> None:
    """Raise an `ArchiveError` if a volume differs from its archive; nothing is written.

    Raises:
        ArchiveError: it differs, and the error has the path of a difference; or it cannot be read.
        CorruptBackupError: the archive is damaged.
        StoreError, EngineError: the store or the engine failed.
    """
    if differ := differences(reach, archive, store):
        raise ArchiveError(
            reach.volume,
            f"it is read-only, and differs from the backup: {gnu_tar.quoted(differ[0])} is not as it was"
            f"{f', and {len(differ) - 1} more' if differ[1:] else ''}. Nothing was touched; make it writable, or as it "
            "was, then restore again",
        )


def differences(reach: Reach, archive: VolumeArchive, store: BackupStore) -> list[bytes]:
    """Return the paths at which a volume differs from its archive; raises as `check_same`."""
    wanted = _files(store.open_tar(archive.base))
    if archive.increment is not None:
        wanted = _joined(wanted, store, archive.increment)
    passed_over = {*reach.unread, *(b"./" + one.name for one in archive.mount_points)}
    command = gnu_tar.create(reach.root, reach.snapshot, excluded=archive.excluded, passed_over=passed_over)
    with reach.run(reach.creating() if reach.is_file else command) as tar:
        found = _files(pieces_of(tar))
        gnu_tar.check_created(reach.volume, tar.finish(), at_rest=True)
    return sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))


def _files(pieces: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return a digest of each member of an archive, over its content and metadata, by its path."""
    return dict(_digests(pieces))


def _digests(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    members, name, digest = Members(), b"", hashlib.sha256()
    for data in pieces:
        for part in members.parts(data):
            if not isinstance(part, Member):
                digest.update(part)
                continue
            if name:
                yield name, digest.digest()
            name, digest = part.name, hashlib.sha256(_said_of(part))
    if name:
        yield name, digest.digest()


def _said_of(member: Member) -> bytes:
    """Return a member's metadata without its name."""
    header = member.header
    # Skip the fields that depend on the name: the name, the checksum, and the prefix of a long name.
    plain = header[100:148] + header[156:345]
    records = sorted((key, value) for key, value in member.records.items() if key not in _OF_TAR)
    return plain + b"".join(key + b"=" + value + b"\0" for key, value in records)


def _joined(base: dict[bytes, bytes], store: BackupStore, increment: Descriptor) -> dict[bytes, bytes]:
    """Return the files of a base and an increment together: the increment's directories list the files that remain."""
    joined = _files(store.open_tar(increment))
    members = Members()
    for data in store.open_tar(increment):
        for member in members.feed(data):
            listed = (member.name + b"/" + name for _, name in member.entries)
            joined |= {path: base[path] for path in listed if path not in joined and path in base}
    return joined
