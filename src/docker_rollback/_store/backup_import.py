"""Imports a backup from the stream of a tar that `BackupStore.export` wrote.

Nothing in the tar is trusted: unexpected names are refused or skipped, every blob is checked against its digest, and
the backup is listed only after all of it has verified, decompressed content included.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

from docker_rollback._model import Backup, Descriptor
from docker_rollback._store import oci
from docker_rollback._store.export import BACKUP_FILE
from docker_rollback._store.layout import Layout
from docker_rollback._store.streams import CHUNK
from docker_rollback._store.strict_json import MalformedError
from docker_rollback._store.verify import load
from docker_rollback._store.workspace import Workspace
from docker_rollback.errors import CorruptBackupError

_BLOBS = "blobs/sha256/"


def import_backup(layout: Layout, file: BinaryIO, name: str) -> Backup:
    """Import a backup; see `BackupStore.import_`. Errors give the tar this name."""
    workspace = Workspace(layout, "an import")
    workspace.open()
    try:
        backup_id, root = _read(workspace, file, name)
        known = {child.name: child.blob for child in layout.index().children}.get(backup_id)
        if known is not None and known.digest == root.digest:
            return load(layout, backup_id, root).backup
        return workspace.list(backup_id, root, deep=True).backup
    finally:
        workspace.close()


def _read(workspace: Workspace, file: BinaryIO, name: str) -> tuple[str, Descriptor]:
    """Read the whole tar, store every blob, and return the backup's id and index."""
    index: bytes | None = None
    try:
        with tarfile.open(fileobj=file, mode="r|", bufsize=CHUNK) as tar:
            for member in tar:
                part = posixpath.normpath(member.name)
                if not _is_harmless(member, part):
                    raise CorruptBackupError(name, part[:200], "a backup contains no such file")
                if part.startswith(_BLOBS):
                    _take_blob(workspace, tar, member, part, name)
                elif part == BACKUP_FILE:
                    if index is not None or not member.isfile() or member.size > oci.MAX_MANIFEST:
                        raise CorruptBackupError(name, part, "it is in the file twice, too large, or a folder")
                    index = b"".join(_content(tar, member))
    except (tarfile.TarError, EOFError, UnicodeError, ValueError, OverflowError) as error:
        # tarfile raises the last three for some crafted headers.
        raise CorruptBackupError(name, "the archive", f"it is not a whole tar ({error})") from error
    if index is None:
        raise CorruptBackupError(name, BACKUP_FILE, "it is missing")
    return _root(index, name)


def _root(data: bytes, name: str) -> tuple[str, Descriptor]:
    """Return the id and index of the single backup in the archive's index."""
    try:
        children = oci.parse_index(data).children
    except MalformedError as error:
        raise CorruptBackupError(name, BACKUP_FILE, str(error)) from error
    roots = [child for child in children if oci.is_backup(child.artifact_type)]
    if len(roots) != 1 or roots[0].blob.media_type != oci.INDEX or not oci.is_backup_id(roots[0].name or ""):
        raise CorruptBackupError(name, BACKUP_FILE, "it does not name one backup")
    return roots[0].name or "", roots[0].blob


def _is_harmless(member: tarfile.TarInfo, part: str) -> bool:
    inside = not part.startswith(("/", "../")) and part != ".."
    return inside and (member.isfile() or member.isdir())


def _take_blob(workspace: Workspace, tar: tarfile.TarFile, member: tarfile.TarInfo, part: str, name: str) -> None:
    if member.isdir():
        return
    try:
        digest = oci.check_digest("sha256:" + part.removeprefix(_BLOBS))
    except MalformedError as error:
        raise CorruptBackupError(name, part[:200], str(error)) from error
    if workspace.adopt(Descriptor("", digest, member.size)):
        return
    with workspace.blob("") as writer:
        for data in _content(tar, member):
            writer.write(data)
        try:
            writer.close(digest=digest)
        except MalformedError as error:
            raise CorruptBackupError(name, digest, str(error)) from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    # Callers have made sure that it is a file.
    with cast(IO[bytes], tar.extractfile(member)) as file:
        while data := file.read(CHUNK):
            yield data
