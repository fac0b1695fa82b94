"""Reads single files of this machine whole, and writes them back as they were."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Final

from docker_rollback._host.tree import NotAFileError, Tree
from docker_rollback._model import HostFile

LARGEST: Final = 1 << 20
"""The maximum size of a file, in bytes: its content is in the record of the backup, which is read as a whole."""

_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def machine_id() -> str:
    """Return the machine id; empty if there is none."""
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def this_machine() -> str:
    """Return a text that distinguishes this machine, or this container, from others."""
    # Clones of a virtual machine may share a machine id, and only the host name distinguishes them.
    return f"{socket.gethostname()} {machine_id()}".strip()


def read_file(path: str) -> HostFile:
    """Read a file and its permissions; symbolic links are followed.

    Raises:
        OSError: it cannot be read, is not a regular file, or is larger than `LARGEST`; or this user could not write it
            back.
    """
    target = os.path.realpath(path)
    descriptor = os.open(target, _READ)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotAFileError(errno.EINVAL, "it is not a regular file")
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise OSError(errno.EFBIG, f"it is larger than {LARGEST} bytes")
    if not os.access(Path(target).parent, os.W_OK) or os.geteuid() not in (0, found.st_uid):
        raise PermissionError(errno.EPERM, "this user could not write it back with its owner")
    mode = stat.S_IMODE(found.st_mode)
    return HostFile(path, target, mode, found.st_uid, found.st_gid, b64encode(content).decode("ascii"))


def write_back(file: HostFile) -> bool:
    """Write a file back atomically, unless it is unchanged; return whether it was written.

    No symbolic link is followed. A link that has taken the file's place is replaced by the file.

    Raises:
        OSError: it cannot be written, or its folder is gone or has become a link.
    """
    folder, name = os.path.split(file.target)
    if not folder.startswith("/") or not name or name in (".", ".."):
        raise OSError(errno.EINVAL, "its path is not absolute")
    with Tree.at("/") as root, root.below(os.fsencode(folder.lstrip("/") or ".")) as tree:
        if _is_unchanged(tree.descriptor, name, file):
            return False
        temporary = f".docker-rollback.{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=tree.descriptor)
        try:
            with os.fdopen(descriptor, "wb") as written:
                written.write(file.content)
                written.flush()
                made = os.fstat(descriptor)
                if (made.st_uid, made.st_gid) != (file.uid, file.gid):
                    os.fchown(descriptor, file.uid, file.gid)
                # After the owner, whose change clears bits.
                os.fchmod(descriptor, file.mode)
                os.fsync(descriptor)
            os.replace(temporary, name, src_dir_fd=tree.descriptor, dst_dir_fd=tree.descriptor)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=tree.descriptor)
            raise
        names = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.descriptor)
        try:
            os.fsync(names)
        finally:
            os.close(names)
    return True


def _is_unchanged(folder: int, name: str, file: HostFile) -> bool:
    try:
        descriptor = os.open(name, _READ, dir_fd=folder)
    except OSError:  # it is gone, or a link
        return False
    with os.fdopen(descriptor, "rb") as there:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return False
        same = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (file.mode, file.uid, file.gid)
        return same and there.read(len(file.content) + 1) == file.content
