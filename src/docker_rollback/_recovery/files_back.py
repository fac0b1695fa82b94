"""Writes the files of a backup back, and keeps the content that they have by then."""

from __future__ import annotations

import logging

from docker_rollback._host import UNUSABLE, FileState, read_file, reason_of, replace_file, this_machine
from docker_rollback._model import Backup, HostFile
from docker_rollback._recovery.operations import Operation
from docker_rollback._store import BackupStore
from docker_rollback.errors import DockerRollbackError, RestoreError

logger = logging.getLogger("docker_rollback")


def write_files_back(operation: Operation, backup: Backup, store: BackupStore) -> None:
    """Write back the files of a backup that have changed; only report them if the operation leaves files alone.

    Nothing is lost: the content that a file has is kept in the store first, and so is that of the backup if it could
    not be written. A sentence for each such file goes to `Operation.files`, an error for each that could not be written
    to `Operation.unwritten`. No error is raised, because the containers matter more.
    """
    for file in backup.files if operation.record.files_host else ():
        operation.unwritten.pop(file.path, None)
        try:
            _check_machine(operation)
            if operation.leaves_files:
                _check_unchanged(file, store)
            else:
                _write_back(operation, file, store)
        except (*UNUSABLE, DockerRollbackError) as error:
            _give_up(operation, file, store, error)


def _check_unchanged(file: HostFile, store: BackupStore) -> None:
    if read_file(file.path) != _state_of(file, store):
        raise ValueError("it is left alone, since what is there may be new work")


def _write_back(operation: Operation, file: HostFile, store: BackupStore) -> None:
    state = _state_of(file, store)
    kept: list[str] = []

    def keep(content: bytes) -> None:
        kept.append(str(store.keep_file(operation.id, file.path, content)))

    # One process at a time works on an operation, so no other one uses this name.
    if replace_file(file.path, state, temporary=f".docker-rollback.{operation.id}.tmp", keep=keep):
        before = f"the content that it had is kept in {kept[-1]}" if kept else "it was gone"
        _say(operation, file, f"written back; {before}")


def _give_up(operation: Operation, file: HostFile, store: BackupStore, error: Exception) -> None:
    reason = f"it is not written back: {reason_of(error)}"
    try:
        kept = store.keep_file(operation.id, file.path, _state_of(file, store).content)
        reason += f"; its content at the backup is in {kept}"
    except DockerRollbackError as failure:
        logger.warning("the content of %s could not be copied out of backup %s: %s", file.path, operation.id, failure)
    _say(operation, file, reason, level=logging.ERROR)
    names = ", ".join(operation.record.names)
    operation.unwritten[file.path] = RestoreError(names, f"file {file.path!r}: {reason}", restored=True)
    operation.unwritten[file.path].__cause__ = error


def _say(operation: Operation, file: HostFile, words: str, *, level: int = logging.WARNING) -> None:
    operation.files[file.path] = f"file {file.path!r}: {words}"
    logger.log(level, "%s", operation.files[file.path])


def _check_machine(operation: Operation) -> None:
    # The same path may be another file's elsewhere.
    if operation.record.files_host != this_machine():
        raise ValueError(f"the operation began on another machine, {operation.record.files_host}")


def _state_of(file: HostFile, store: BackupStore) -> FileState:
    return FileState(b"".join(store.open_blob(file.data)), file.mode, file.uid, file.gid)
