"""Removes new attributes from a volume's root, the only folder that a restore never recreates."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from contextlib import suppress

from docker_rollback._host import NotAFileError, Tree
from docker_rollback._volumes.access.reach import Reach, output_of
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.archive_stream import pieces_of

logger = logging.getLogger("docker_rollback")


def drop_attributes(reach: Reach, *, keep: Collection[str], folder: str = ".") -> None:
    """Remove the extended attributes of a volume's root, or of a folder in it, that the archive does not have.

    A warning names an attribute that cannot be removed, as in a helper without ``setfattr``.
    """
    if reach.is_file:
        # tar is killed once the attributes are read: the rest is the file's content.
        with reach.run(reach.creating()) as process:
            present = gnu_tar.attributes(pieces_of(process))
    else:
        archive, finished = output_of(reach.run, *gnu_tar.show_root(_path(reach, folder)))
        present = gnu_tar.attributes([archive])
        # The tar that fills the volume reports other failures itself.
        if finished.signal is not None:
            raise gnu_tar.failed(reach.volume, "reading the attributes of its folders", "tar", finished)
    for name in sorted(present - frozenset(keep)):
        if not name.startswith(gnu_tar.OWN_ATTRIBUTES) and not _drop(reach, folder, name):
            where = "its root" if folder == "." else folder
            logger.warning("volume %s: %s keeps the attribute %s, which it did not have", reach.volume, where, name)


def drop_foreign_attributes(tree: Tree, folder: bytes, *, keep: Collection[bytes]) -> None:
    """Remove the extended attributes of a folder that the archive does not have; raises `OSError`."""
    with tree.reading(folder) as file:
        for name in os.listxattr(file):
            if os.fsencode(name) not in keep and not name.startswith(gnu_tar.OWN_ATTRIBUTES):
                os.removexattr(file, name)


def _drop(reach: Reach, folder: str, name: str) -> bool:
    if reach.tree is not None:
        with suppress(FileNotFoundError, NotAFileError), reach.tree.reading(os.fsencode(folder)) as file:
            os.removexattr(file, name)
        # A folder that was replaced meanwhile is recreated from the archive.
        return True
    with reach.run(("setfattr", f"--remove={name}", _path(reach, folder))) as process:
        finished = process.finish()
        if finished.signal is not None:
            raise gnu_tar.failed(reach.volume, "removing an attribute of its folders", "setfattr", finished)
        return finished.exit_code == 0


def _path(reach: Reach, folder: str) -> str:
    return reach.root if folder == "." else f"{reach.root}/{folder}"
