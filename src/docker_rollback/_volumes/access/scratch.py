"""Folders for temporary files outside of any store, which go with the next recovery if their process is killed."""

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

logger = logging.getLogger("docker_rollback")

_PREFIX: Final = ".docker-rollback-scratch-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Have an empty folder of ours for the time of a block; raises `OSError` where there can be none.

    The kernel's lock on the folder says that its process lives. Between the making of the folder and its lock, somebody
    may take it for a dead one's and remove it: then another one is made.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        try:
            held = _open(folder)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not _leads_to(folder, held):
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return
        finally:
            os.close(held)


def remove_dead_scratch() -> None:
    """Remove the folders of this user whose processes died; what cannot be removed is named in the log."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{'?' * 8}"):
        # Anybody may make folders there: another user's is none of ours, and may lead anywhere.
        with suppress(OSError):
            held = _open(folder)
            try:
                found = os.fstat(held)
                if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
                    continue
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _leads_to(folder, held):
                    shutil.rmtree(folder)
            except BlockingIOError:
                continue
            except OSError as error:
                logger.warning("%s is left over from a process that died: %s", folder, error.strerror)
            finally:
                os.close(held)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _leads_to(folder: Path, descriptor: int) -> bool:
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))
