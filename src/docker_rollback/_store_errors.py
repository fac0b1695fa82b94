"""What can be wrong with durable storage; `errors` has them all."""

from __future__ import annotations

from docker_rollback._engine_errors import DockerRollbackError


class StoreError(DockerRollbackError):
    """Durable storage failed.

    Attributes:
        path: the file or folder it happened to.
        reason: what happened, a sentence.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"store {path}: {reason}")


class StoreNotFoundError(StoreError):
    """There is no store at a path, and none was made.

    Attributes:
        default: the path of the store that is used where none is named.
    """

    def __init__(self, path: str, reason: str, *, default: str) -> None:
        self.default = default
        told = "this is the default" if path == default else f"the default is {default}"
        super().__init__(
            path,
            f"there is no store here: {reason}. Is its disk mounted? Name the store that the rollbacks use, by store= "
            f"or --store PATH; {told}",
        )


class StoreNotWritableError(StoreError):
    """The store's folder cannot be written by this user."""


class StoreFullError(StoreError):
    """There is no room left for the backup; what was half-written has been removed.

    Attributes:
        needed: bytes that would have been needed, at least; None where that is not known.
        free: bytes that were there for them; None where that is not known, as under a quota.
    """

    def __init__(self, path: str, reason: str, *, needed: int | None = None, free: int | None = None) -> None:
        self.needed = needed
        self.free = free
        numbers = [f"{needed / 1e6:,.2f} MB or more are needed"] if needed is not None else []
        numbers += [f"{free / 1e6:,.2f} MB are free"] if free is not None else []
        told = f"{reason}: {', '.join(numbers)}" if numbers else reason
        super().__init__(path, f"{told}; remove old backups (BackupStore.prune), or give the store another place")


class BackupNotFoundError(StoreError):
    """The store holds no backup of that id.

    Attributes:
        backup_id: the id that was looked for.
    """

    def __init__(self, path: str, backup_id: str) -> None:
        self.backup_id = backup_id
        super().__init__(path, f"no backup {backup_id!r}; BackupStore.list() names those that are there")


class CorruptBackupError(StoreError):
    """What the store holds is not what was written; nothing has been touched.

    Attributes:
        blob: the digest of the blob, or the name of the file, that is damaged.
    """

    def __init__(self, path: str, blob: str, reason: str) -> None:
        self.blob = blob
        super().__init__(
            path,
            f"{blob} is damaged: {reason}; take another backup (see BackupStore.list()), or a copy of this one",
        )


class UnsupportedFormatError(StoreError):
    """The store, or a backup in it, was written in a format that this version does not know."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, f"{reason}; use a newer version of docker-rollback")
