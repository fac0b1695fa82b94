"""Writes the files that a backup has of this machine back."""

from __future__ import annotations

import logging
import os

from docker_rollback._host import this_machine, write_back
from docker_rollback._model import Backup
from docker_rollback._recovery.operations import Operation
from docker_rollback.errors import RestoreError

logger = logging.getLogger("docker_rollback")


def write_files_back(operation: Operation, backup: Backup) -> list[RestoreError]:
    """Write the files of a backup back, if its operation is to do so on this machine; return the errors of all."""
    host = operation.record.files_host
    if not backup.files or not host:
        return []
    if host != this_machine():
        # The same paths may be those of other files here.
        paths = ", ".join(file.path for file in backup.files)
        logger.warning("leaving %s: the operation began on another machine, %s", paths, host)
        return []
    failures = []
    for file in backup.files:
        try:
            if write_back(file):
                logger.info("%s is written back", file.target)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            failure = RestoreError(", ".join(operation.record.names), f"file {file.target!r}: {reason}")
            failure.__cause__ = error
            failures.append(failure)
            continue
        if os.path.realpath(file.path) != file.target:
            operation.notes.append(
                f"file {file.path!r}: it was a link to {file.target!r} at the capture and leads elsewhere now; the "
                "file is as it was, the link is left as it is"
            )
    return failures
