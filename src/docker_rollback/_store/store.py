"""`BackupStore`: where backups live."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from docker_rollback._arguments import texts
from docker_rollback._model import Backup, Descriptor
from docker_rollback._store import oci
from docker_rollback._store.backup_import import import_backup
from docker_rollback._store.catalog import Catalog
from docker_rollback._store.draft import Draft
from docker_rollback._store.export import backup_archive, image_archive
from docker_rollback._store.files import DISK, Disk, temporary_for, translated, write_stream
from docker_rollback._store.holds import Holds
from docker_rollback._store.layout import Layout
from docker_rollback._store.locations import default_path, file_path, store_path
from docker_rollback._store.locks import FileLock, LockedError, is_held
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
    """Backups on disk, in a folder that is an OCI image layout.

    Any number of processes and threads may use one store at once. The folder is made when something is first written.

    Args:
        path: its folder; the user's data folder where None.
        disk: what effects on the file system go through.
        clock: the time, for the age of backups.
        threads: how many compress an image's layers.

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
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
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
        """Make sure that there is a store here, without making one; an empty folder is an empty store.

        Raises:
            StoreNotFoundError: there is none.
            StoreError: its folder cannot be read.
        """
        reason = self._layout.why_absent()
        if reason is not None:
            raise StoreNotFoundError(str(self.path), reason, default=str(default_path()))

    # Reading

    def ids(self) -> list[str]:
        """Return the id of every backup, oldest first, also of those that are damaged.

        Raises:
            CorruptBackupError: the store's ``index.json`` is damaged.
            UnsupportedFormatError: the store was written in a newer format.
        """
        return sorted(self._catalog.roots())

    def list(self) -> list[Backup]:
        """Return every backup that can be read, oldest first; one that cannot is named in a warning of the log.

        Raises:
            CorruptBackupError: the store's ``index.json`` is damaged.
            UnsupportedFormatError: the store was written in a newer format.
        """
        backups = []
        for backup_id, root in self._catalog.roots().items():
            try:
                backups.append(load(self._layout, backup_id, root).backup)
            except StoreError as error:
                logger.warning("backup %r is left out: %s", backup_id, error)
        return sorted(backups, key=lambda backup: (backup.created, backup.id))

    def get(self, backup_id: str) -> Backup:
        """Return one backup's record; its blobs are not read, `verify` does that.

        Raises:
            BackupNotFoundError: there is none of this id.
            CorruptBackupError: it is damaged.
            UnsupportedFormatError: it was written in a newer format.
        """
        return load(self._layout, backup_id, self._catalog.root(backup_id)).backup

    def verify(self, backup_id: str, *, deep: bool = True) -> None:
        """Read, hash and decompress all that a backup consists of, and check what refers to what.

        It takes as long as reading the backup. Nothing is written.

        Args:
            backup_id: the backup.
            deep: without, nothing is decompressed, and a blob that this object has read and found right before is not
                read again unless its file's inode, size or times differ from then: what a backup needs that was taken
                or verified a moment ago. It takes milliseconds then, and sees all but a disk that rotted meanwhile.

        Raises:
            BackupNotFoundError: there is none of this id.
            CorruptBackupError: something is missing or damaged; it names the blob.
            UnsupportedFormatError: it was written in a newer format.
        """
        parts = verify(self._layout, backup_id, self._catalog.root(backup_id), anew=deep, deep=deep)
        self._catalog.check_parts(backup_id, parts.children)

    def open_blob(self, blob: Descriptor) -> Iterator[bytes]:
        """Yield a blob's bytes, hashed while they are read, never more than its size.

        Raises:
            CorruptBackupError: it is damaged; at the latest in place of its last piece.
        """
        return self._layout.blobs.open(blob)

    def image_archive(self, manifest: Descriptor, tags: Sequence[str] = ()) -> Iterator[bytes]:
        """Yield an image of the store as a tar that the load of every engine takes.

        Args:
            manifest: the image, as a container's snapshot names it.
            tags: the names that it gets in the engine, each ``repository:tag``.

        Raises:
            CorruptBackupError: something of it is damaged; it names the blob.
        """
        return image_archive(self._layout, manifest, tags)

    # Writing

    def check(self, room: int = 0) -> tuple[int, int | None]:
        """Make sure that a backup can be written here; return how many bytes and files may be (None: no such limit).

        Args:
            room: bytes that the backup may need.

        Raises:
            StoreNotWritableError: this user may not write here.
            StoreFullError: there is less room than that.
            CorruptBackupError: the store's ``index.json`` is damaged.
            UnsupportedFormatError: the store was written in a newer format.
        """
        self._layout.create()
        self._layout.index()
        probe = temporary_for(self._layout.drafts / "probe")
        with self._layout.locked("trying to write"), translated(self.path):
            try:
                self._disk.close(self._disk.create(probe))
            finally:
                with suppress(OSError):
                    self._disk.remove(probe)
            free, files = self._disk.room(self.path), self._disk.inodes(self.path)
        if free < room:
            raise StoreFullError(str(self.path), "there is too little room for the backup", needed=room, free=free)
        return free, files

    def draft(self, backup_id: str) -> Draft:
        """Begin a backup: a context manager, inert until entered.

        Args:
            backup_id: its id: letters, digits, ``-`` and ``_``, at most 100.

        Raises:
            ValueError: the id has other characters.
        """
        if not oci.is_backup_id(backup_id):
            raise ValueError(f"{backup_id!r} cannot be a backup's id: letters, digits, - and _, at most 100, please")
        return Draft(self._layout, backup_id, threads=self._threads)

    def delete(self, backup_id: str) -> None:
        """Remove one backup, damaged or not, and free what only it refers to.

        Raises:
            BackupNotFoundError: there is none of this id.
            StoreError: a rollback that has not ended needs it.
        """
        self._catalog.root(backup_id)
        with self._layout.locked(f"deleting backup {backup_id}"):
            reason = self._holds.needed().get(backup_id)
            if reason is not None:
                raise StoreError(str(self.path), f"backup {backup_id!r} is not deleted: {reason}")
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
        """Remove old backups, and free every blob that nothing refers to.

        Backups of the same things on one engine are one series, and each rule counts within a series: whole backups of
        the same containers or of one compose project, snapshots of containers alone, archives of a volume alone. With
        both rules, a backup goes only if neither wants it. With none, no backup goes. Never removed: the newest backup
        of a series that verifies, and one that a rollback needs that has not ended. Damaged backups are left for
        `delete`.

        Args:
            keep: what to keep of each series: so many, those no older than a `timedelta`, or both by `Keep`.
            containers: only the series of exactly these containers, by name; with `project`, of those beside it.
            project: only the series of this compose project, whatever containers it had.
            engine: only the series of one engine, by its identity (`Backup.engine.identity`).
            protect: ids that stay whatever the rules say.
            dry_run: say what would go, and touch nothing.

        Raises:
            ValueError, TypeError: a rule is negative, or not of its type.
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
        with self._layout.locked("looking for backups to prune"):
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
            # What was needed since the choice was made stays.
            needed_now = self._holds.needed()
            removed = tuple(one for one in choice.removed if one not in needed_now)
            index = self._catalog.remove(set(removed), dry_run=dry_run)
            swept = self._sweep(dry_run=dry_run, index=index)
        kept = tuple(backup.id for backup in backups if backup.id not in removed)
        return PruneReport(removed, kept, choice.spared, swept.blobs, swept.size, swept.skipped, dry_run)

    def clear_left_over(self) -> None:
        """Remove what processes that died have left: drafts, temporary files, blobs that nothing refers to.

        What belongs to a living process stays, by the kernel's locks. A store that is not there is not made.

        Raises:
            StoreError: something could not be read or removed.
        """
        if not self._layout.locks.exists():
            return
        with self._layout.locked("clearing what was left over"):
            self._holds.needed()
            self._sweep(dry_run=False)

    def hold(self, backup_id: str, by: str, reason: str) -> None:
        """Keep a backup from being removed, durably, until `release`; harmless where it is held already.

        Args:
            backup_id: the backup.
            by: who holds it: letters, digits, ``-``, ``_`` and ``.``; one backup may be held by several.
            reason: why, a sentence, kept with it.

        Raises:
            BackupNotFoundError: there is none of this id.
        """
        self._layout.create()
        with self._layout.locked(f"holding backup {backup_id}"):
            self._catalog.root(backup_id)
            self._holds.add(backup_id, by, reason)

    def release(self, backup_id: str, by: str) -> None:
        """Let a held backup go; harmless where it is not held."""
        if oci.is_backup_id(backup_id):
            self._holds.remove(backup_id, by)

    def held_by(self, by: str) -> tuple[str, ...]:
        """Return the ids of the backups that are held under a name, whether they are there or not."""
        return self._holds.held_by(by)

    @contextmanager
    def using(self, backup_id: str, *, leaves: Path | None = None) -> Iterator[None]:
        """Keep a backup from being removed for the time of a block, or until the death of this process.

        Args:
            backup_id: the backup.
            leaves: a temporary file of the block, removed by `clear_left_over` if this process is killed.

        Raises:
            BackupNotFoundError: there is none of this id.
        """
        with ExitStack() as stack:
            # A store that is full, or that this user may only read, is there to be restored from all the same.
            with suppress(StoreNotWritableError, StoreFullError):
                self._layout.create()
                with self._layout.locked(f"reading backup {backup_id}"):
                    self._catalog.root(backup_id)
                    stack.enter_context(self._holds.reading(backup_id, leaves))
            self._catalog.root(backup_id)
            yield

    # Locks

    @contextmanager
    def lock(self, container_id: str, *, container: str, timeout: float = 0) -> Iterator[FileLock]:
        """Keep other processes and threads from backing up or rolling back a container.

        The lock is the kernel's: it ends with this process, however that ends. What it yields has a `fileno` for a
        child that must keep it.

        Args:
            container_id: its full id.
            container: its name, for messages.
            timeout: how long to wait for the lock, in seconds.

        Raises:
            ContainerBusyError: somebody else holds it; it says who, where and since when.
        """
        if _SAFE_NAME.fullmatch(container_id) is None:
            raise ValueError(f"{container_id!r} is no container's id")
        self._layout.create()
        with FileLock(self._lock_of(container_id), transient=True, disk=self._disk) as lock:
            try:
                lock.acquire(timeout, note=f"container {container}")
            except LockedError as holder:
                raise ContainerBusyError(container, str(holder)) from None
            yield lock

    def is_locked(self, container_id: str) -> bool:
        """Return True if a process holds the lock of a container; nothing is made or written.

        Raises:
            StoreError: this user may not read it.
        """
        return _SAFE_NAME.fullmatch(container_id) is not None and is_held(self._lock_of(container_id))

    # Moving

    def export(self, backup_id: str, file: str | os.PathLike[str] | BinaryIO) -> None:
        """Write a whole backup as one tar: its images as every engine loads them, its volumes, its record.

        Args:
            backup_id: the backup.
            file: a path, which gets the whole tar or stays as it was; or a binary file that is open for writing, a
                pipe included.

        Raises:
            BackupNotFoundError: there is none of this id.
            CorruptBackupError: something of it is damaged; an open file has got the part before that.
            StoreError: `file` is a path that cannot be written.

        What an open file raises comes out untouched.

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
        """Take in a tar that `export` wrote, on whatever machine; harmless where its backup is here already.

        Args:
            file: a path, or a binary file that is open for reading, a pipe included; it is read once, to the tar's end.

        Raises:
            CorruptBackupError: it is no whole backup, or something in it is damaged; nothing was listed.
            UnsupportedFormatError: it was written in a newer format.
            StoreError: there is another backup of its id, or `file` is a path that cannot be read.
            StoreFullError: there is no room.

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

    # Within

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
