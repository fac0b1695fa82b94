"""`BackupStore`, the store of backups on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from docker_rollback._arguments import texts
from docker_rollback._host import now
from docker_rollback._model import Backup, Descriptor
from docker_rollback._store import oci
from docker_rollback._store.backup_import import import_backup
from docker_rollback._store.catalog import Catalog
from docker_rollback._store.draft import Draft
from docker_rollback._store.export import backup_archive, image_archive
from docker_rollback._store.files import DISK, Disk, make_folders, temporary_for, translated, write_atomic, write_stream
from docker_rollback._store.holds import Holds
from docker_rollback._store.layout import Layout
from docker_rollback._store.locations import default_path, file_path, store_path
from docker_rollback._store.locks import FileLock, LockedError, is_held
from docker_rollback._store.pieces import Needed, Piece, blobs_of, pieces_of, read_needed, read_tar
from docker_rollback._store.records import Records
from docker_rollback._store.retention import Keep, KeepArgument, PruneReport, Scope, choose
from docker_rollback._store.sweep import Sweep, sweep
from docker_rollback._store.verify import load, verify
from docker_rollback.errors import (
    ContainerBusyError,
    StoreError,
    StoreFullError,
    StoreNotFoundError,
    StoreNotWritableError,
)

logger = logging.getLogger("docker_rollback")

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)


class BackupStore:
    """Stores backups in a folder that is an OCI image layout.

    Any number of processes and threads may use a store at once. The folder is created at the first write.

    Args:
        path: the store's folder; None for the default in the user's data folder.
        disk: performs all changes of the file system.
        clock: returns the time, for the age of backups.
        threads: the number of threads that compress an image's layers.

    Example:
        >>> store = BackupStore("/var/backups/middleware")
        >>> for backup in store.list():
        ...     print(backup.id, [container.name for container in backup.containers])
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        disk: Disk = DISK,
        clock: Callable[[], datetime] = now,
        threads: int = 2,
    ) -> None:
        self.path: Path = store_path(path)
        self._layout = Layout(self.path, disk=disk)
        self._catalog = Catalog(self._layout)
        self._holds = Holds(self._layout)
        self.journal: Records = Records(self._layout, "journal")
        self._disk = disk
        self._clock = clock
        self._threads = threads

    def require(self) -> None:
        """Check that there is a store here, without creating one. An empty folder is an empty store.

        Raises:
            StoreNotFoundError: there is none.
            StoreError: its folder cannot be read.
        """
        reason = self._layout.why_absent()
        if reason is not None:
            raise StoreNotFoundError(str(self.path), reason, default=str(default_path()))

    # Reading

    def ids(self) -> list[str]:
        """Return the ids of all backups, damaged ones included, oldest first.

        Raises:
            CorruptBackupError: the store's ``index.json`` is damaged.
            UnsupportedFormatError: the store was written in a newer format.
        """
        return sorted(self._catalog.roots())

    def list(self) -> list[Backup]:
        """Return all readable backups, oldest first; an unreadable one is skipped with a warning in the log.

        Raises:
            CorruptBackupError: the store's ``index.json`` is damaged.
            UnsupportedFormatError: the store was written in a newer format.
        """
        backups = []
        for backup_id, root in self._catalog.roots().items():
            try:
                backups.append(load(self._layout, backup_id, root).backup)
            except StoreError as error:
                logger.warning("skipping backup %r: %s", backup_id, error)
        return sorted(backups, key=lambda backup: (backup.created, backup.id))

    def get(self, backup_id: str) -> Backup:
        """Return a backup's record without reading its blobs, which `verify` does.

        Raises:
            BackupNotFoundError: there is no backup of this id.
            CorruptBackupError: it is damaged.
            UnsupportedFormatError: it was written in a newer format.
        """
        return load(self._layout, backup_id, self._catalog.root(backup_id)).backup

    def verify(self, backup_id: str, *, deep: bool = True) -> None:
        """Read, hash and decompress all blobs of a backup, and check its references.

        It takes as long as reading the backup. Nothing is written.

        Args:
            backup_id: the backup.
            deep: False to decompress nothing, and to skip blobs that this object has already read and found intact if
                their files have the same inode, size and times. This takes milliseconds for a backup that was just
                taken or verified, and detects everything except bit rot since then.

        Raises:
            BackupNotFoundError: there is no backup of this id.
            CorruptBackupError: a blob is missing or damaged; the error names it.
            UnsupportedFormatError: it was written in a newer format.
        """
        parts = verify(self._layout, backup_id, self._catalog.root(backup_id), again=deep, deep=deep)
        self._catalog.check_parts(backup_id, parts.children)

    def open_blob(self, blob: Descriptor) -> Iterator[bytes]:
        """Yield a blob's content, verified while it is read, and never more bytes than its size.

        Raises:
            CorruptBackupError: it is damaged; raised before the last chunk at the latest.
        """
        return self._layout.blobs.open(blob)

    def open_tar(self, tar: Descriptor) -> Iterator[bytes]:
        """Yield the uncompressed content of a volume's base or increment, or of another zstd stream of an archive.

        Args:
            tar: its blob, which may be a list of pieces.

        Raises:
            CorruptBackupError: a blob is missing or damaged; the error names it.
        """
        return read_tar(self._layout.blobs, tar)

    def pieces(self, tar: Descriptor) -> tuple[Piece, ...]:
        """Return the pieces of a volume's base or increment, in order; a single one if it was stored whole.

        Raises:
            CorruptBackupError: the list of its pieces is missing or damaged.
        """
        return pieces_of(self._layout.blobs, tar)

    def blobs_of(self, tar: Descriptor) -> tuple[Descriptor, ...]:
        """Return all blobs that reading a volume's base or increment takes; raises as `pieces`."""
        return blobs_of(self._layout.blobs, tar)

    def read_needed(self, piece: Needed) -> bytes:
        """Return the content of a plain piece; raises as `open_tar`."""
        return read_needed(self._layout.blobs, piece)

    def image_archive(self, manifest: Descriptor, tags: Sequence[str] = ()) -> Iterator[bytes]:
        """Yield an image of the store as a tar that every engine can load.

        Args:
            manifest: the image's manifest, from a container's snapshot.
            tags: the image's names in the engine, each ``repository:tag``.

        Raises:
            CorruptBackupError: a blob of it is damaged; the error names it.
        """
        return image_archive(self._layout, manifest, tags)

    # Writing

    def check(self, room: int = 0) -> tuple[int, int | None]:
        """Check that a backup can be written here; return the free bytes and files (None for no limit).

        Args:
            room: the number of bytes that the backup may need.

        Raises:
            StoreNotWritableError: this user may not write here.
            StoreFullError: there is less free space than that.
            CorruptBackupError: the store's ``index.json`` is damaged.
            UnsupportedFormatError: the store was written in a newer format.
        """
        self._layout.create()
        self._layout.index()
        probe = temporary_for(self._layout.drafts / "probe")
        with self._layout.locked("testing whether it can be written"), translated(self.path):
            try:
                self._disk.close(self._disk.create(probe))
            finally:
                with suppress(OSError):
                    self._disk.remove(probe)
            free, files = self._disk.room(self.path), self._disk.inodes(self.path)
        if free < room:
            raise StoreFullError(str(self.path), "there is too little space for the backup", needed=room, free=free)
        return free, files

    def draft(self, backup_id: str) -> Draft:
        """Return a draft of a new backup, a context manager that does nothing until entered.

        Args:
            backup_id: its id, at most 100 letters, digits, ``-`` and ``_``.

        Raises:
            ValueError: the id has other characters, or is too long.
        """
        if not oci.is_backup_id(backup_id):
            raise ValueError(f"{backup_id!r} cannot be a backup's id: use letters, digits, - and _, at most 100")
        return Draft(self._layout, backup_id, threads=self._threads)

    def delete(self, backup_id: str) -> None:
        """Remove a backup, damaged or not, and the blobs that only it refers to.

        Raises:
            BackupNotFoundError: there is no backup of this id.
            StoreError: an unfinished rollback needs it.
        """
        self._catalog.root(backup_id)
        with self._layout.locked(f"deleting backup {backup_id}"):
            reason = self._holds.needed().get(backup_id)
            if reason is not None:
                raise StoreError(str(self.path), f"backup {backup_id!r} cannot be deleted: {reason}")
            self._catalog.remove({backup_id})
            self._sweep(dry_run=False)

    def prune(
        self,
        *,
        keep: KeepArgument = None,
        containers: Collection[str] | None = None,
        project: str | None = None,
        engine: str | None = None,
        protect: Collection[str] = (),
        dry_run: bool = False,
    ) -> PruneReport:
        """Remove old backups, and every blob that nothing refers to.

        Rules apply to each series. A series is the backups of the same subject on one engine: whole backups of the same
        containers or of one compose project, snapshots of containers alone, or archives of a volume alone. With both
        rules, a backup is removed only if neither keeps it; with none, no backup is removed. The newest backup of a
        series that verifies is never removed, nor is one that an unfinished rollback needs. Damaged backups stay until
        `delete` removes them.

        Args:
            keep: the backups to keep of each series: a number, a `timedelta` for their age, or both in a `Keep`.
            containers: prune only the series of exactly these containers, by name; with `project`, of these additional
                containers.
            project: prune only the series of this compose project, with any containers.
            engine: prune only the series of one engine, by its identity (`Backup.engine.identity`).
            protect: ids of backups to keep in any case.
            dry_run: True to report what would be removed, and change nothing.

        Raises:
            ValueError, TypeError: a rule is negative, or has the wrong type.
            CorruptBackupError: the store's ``index.json`` is damaged; nothing was removed.

        Example:
            >>> BackupStore().prune(keep=Keep(count=3, age=timedelta(days=30)), dry_run=True).removed
            ()
        """
        rules = Keep.of(keep)
        containers = None if containers is None else texts("containers", containers, what="names of containers")
        protect = texts("protect", protect, what="ids of backups")
        if not self._layout.root.exists():
            return PruneReport((), (), dry_run=dry_run)
        self._layout.create()
        backups = self.list()
        with self._layout.locked("choosing backups to prune"):
            held = self._holds.needed()
        needed = {**held, **dict.fromkeys(protect, "the caller protects it")}
        choice = choose(
            backups,
            keep=rules,
            now=self._clock(),
            scope=Scope(containers, project, engine),
            needed=needed,
            is_sound=self._is_sound,
        )
        with self._layout.locked("pruning"):
            # Backups that became needed since the choice was made stay.
            needed_now = self._holds.needed()
            removed = tuple(one for one in choice.removed if one not in needed_now)
            index = self._catalog.remove(set(removed), dry_run=dry_run)
            swept = self._sweep(dry_run=dry_run, index=index)
        kept = tuple(backup.id for backup in backups if backup.id not in removed)
        return PruneReport(removed, kept, choice.spared, swept.blobs, swept.size, swept.skipped, dry_run)

    def clear_left_over(self) -> None:
        """Remove the leftovers of dead processes: drafts, temporary files, blobs that nothing refers to.

        Kernel locks tell which files belong to a living process; those stay. A missing store is not created.

        Raises:
            StoreError: a file could not be read or removed.
        """
        if not self._layout.locks.exists():
            return
        with self._layout.locked("removing leftovers"):
            self._holds.needed()
            self._sweep(dry_run=False)

    def hold(self, backup_id: str, by: str, reason: str) -> None:
        """Protect a backup from removal, durably, until `release`; harmless if it is held already.

        Args:
            backup_id: the backup.
            by: the holder's name: letters, digits, ``-``, ``_`` and ``.``. A backup may have several holders.
            reason: the reason, a sentence, stored with the hold.

        Raises:
            BackupNotFoundError: there is no backup of this id.
        """
        self._layout.create()
        with self._layout.locked(f"holding backup {backup_id}"):
            self._catalog.root(backup_id)
            self._holds.add(backup_id, by, reason)

    def release(self, backup_id: str, by: str) -> None:
        """End a hold; harmless if there is none."""
        if oci.is_backup_id(backup_id):
            self._holds.remove(backup_id, by)

    def held_by(self, by: str) -> tuple[str, ...]:
        """Return the ids of the backups that a holder holds, missing backups included."""
        return self._holds.held_by(by)

    @contextmanager
    def using(self, backup_id: str, *, leaves: Path | None = None) -> Iterator[None]:
        """Protect a backup from removal until the block ends or this process dies.

        Args:
            backup_id: the backup.
            leaves: a temporary file of the block, which `clear_left_over` removes if this process is killed.

        Raises:
            BackupNotFoundError: there is no backup of this id.
        """
        with ExitStack() as stack:
            # Restoring has to work from a full or read-only store too, without this protection.
            with suppress(StoreNotWritableError, StoreFullError):
                self._layout.create()
                with self._layout.locked(f"reading backup {backup_id}"):
                    self._catalog.root(backup_id)
                    stack.enter_context(self._holds.reading(backup_id, leaves))
            self._catalog.root(backup_id)
            yield

    def keep_file(self, backup_id: str, path: str, content: bytes) -> Path:
        """Keep a file of this machine as long as a backup, durably; return where it is.

        Args:
            backup_id: the backup.
            path: the path of the file, from which its name here is made.
            content: the content to keep.

        Raises:
            StoreError: it could not be written.
        """
        folder = self._layout.replaced / backup_id
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(path).name)[:100]
        # One content has one name, so another attempt keeps nothing twice.
        kept = folder / f"{hashlib.sha256(content).hexdigest()[:16]}-{name}"
        with self._layout.locked(f"keeping a file for backup {backup_id}"):
            self._catalog.root(backup_id)
            make_folders(folder, disk=self._disk)
            write_atomic(kept, content, disk=self._disk)
        return kept

    # Locks

    @contextmanager
    def lock(self, container_id: str, *, container: str, timeout: float = 0) -> Iterator[FileLock]:
        """Lock a container against backups and rollbacks by other processes and threads.

        The kernel releases the lock when this process ends, in any way. The yielded lock has a `fileno` for a child
        process that has to keep it.

        Args:
            container_id: the container's full id.
            container: the container's name, for messages.
            timeout: the time to wait for the lock, in seconds.

        Raises:
            ContainerBusyError: another holder has the lock; the error says which, on which host and since when.
        """
        if _SAFE_NAME.fullmatch(container_id) is None:
            raise ValueError(f"{container_id!r} is not a container's id")
        self._layout.create()
        with FileLock(self._lock_of(container_id), transient=True, disk=self._disk) as lock:
            try:
                lock.acquire(timeout, note=f"container {container}")
            except LockedError as holder:
                raise ContainerBusyError(container, str(holder)) from None
            yield lock

    def is_locked(self, container_id: str) -> bool:
        """Return True if a process holds a container's lock; nothing is created or written.

        Raises:
            StoreError: this user may not read it.
        """
        return _SAFE_NAME.fullmatch(container_id) is not None and is_held(self._lock_of(container_id))

    # Moving

    def export(self, backup_id: str, file: str | os.PathLike[str] | BinaryIO) -> None:
        """Write a whole backup to one tar: images that every engine can load, volumes, and its record.

        Args:
            backup_id: the backup.
            file: a path, which is written whole or not changed; or a binary file that is open for writing, which may be
                a pipe. Exceptions of an open file are passed on.

        Raises:
            BackupNotFoundError: there is no backup of this id.
            CorruptBackupError: a blob is damaged; an open file contains the part before it.
            StoreError: `file` is a path that cannot be written.

        Example:
            >>> store.export("20260102T030405Z-web-a1b2c3", sys.stdout.buffer)
        """
        target = file_path(file, "write")
        root = self._catalog.root(backup_id)
        temporary = None if target is None else temporary_for(target)
        with self.using(backup_id, leaves=temporary):
            archive = backup_archive(self._layout, backup_id, root)
            if isinstance(file, str | os.PathLike):
                write_stream(Path(file).absolute(), archive, disk=self._disk, temporary=temporary)
            else:
                for data in archive:
                    file.write(data)

    def import_(self, file: str | os.PathLike[str] | BinaryIO) -> Backup:
        """Import a tar that `export` wrote on any machine; harmless if its backup is here already.

        Args:
            file: a path, or a binary file that is open for reading, which may be a pipe; it is read once, to the end of
                the tar.

        Raises:
            CorruptBackupError: it is not a whole backup, or a part of it is damaged; nothing was added to the list.
            UnsupportedFormatError: it was written in a newer format.
            StoreError: the store has another backup of its id, or `file` is a path that cannot be read.
            StoreFullError: there is too little free space.

        Example:
            >>> BackupStore().import_(sys.stdin.buffer).id
            '20260102T030405Z-web-a1b2c3'
        """
        file_path(file, "read")
        if not isinstance(file, str | os.PathLike):
            return import_backup(self._layout, file, getattr(file, "name", None) or "the stream")
        path = Path(file)
        with translated(path), path.open("rb") as source:
            return import_backup(self._layout, source, str(path))

    # Helpers

    def _lock_of(self, container_id: str) -> Path:
        return self._layout.locks / f"container-{container_id}.lock"

    def _sweep(self, *, dry_run: bool, index: oci.Index | None = None) -> Sweep:
        swept = sweep(self._layout, index=index, dry_run=dry_run)
        if not dry_run:
            self._layout.keep_reserve()
        return swept

    def _is_sound(self, backup: Backup) -> bool:
        try:
            self.verify(backup.id, deep=False)
        except StoreError as error:
            logger.warning("backup %r does not verify: %s", backup.id, error)
            return False
        return True
