"""Temporary folders outside of any store; the next recovery removes those whose process was killed."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from docker_rollback._host import leads_to

logger = logging.getLogger("docker_rollback")

_PREFIX: Final = ".docker-rollback-scratch-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty temporary folder for a block; raises `OSError` if none can be created.

    A lock on the folder shows that its process is alive. Before the folder is locked, another process may take it for
    one of a dead process and remove it; then another one is created.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        try:
            held = _open(folder)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not leads_to(folder, held):
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return
        finally:
            os.close(held)


def remove_dead_scratch() -> None:
    """Remove the folders of this user whose processes died; the log names folders that cannot be removed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{'?' * 8}"):
        # Anybody may create folders there: skip another user's, which may be a link to any place.
        with suppress(OSError):
            held = _open(folder)
            try:
                found = os.fstat(held)
                if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
                    continue
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if leads_to(folder, held):
                    shutil.rmtree(folder)
            except BlockingIOError:
                continue
            except OSError as error:
                logger.warning("%s is left over from a process that died: %s", folder, error.strerror)
            finally:
                os.close(held)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
