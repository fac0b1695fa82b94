"""Removes blobs that nothing refers to, and the drafts of dead processes."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from docker_rollback._model import Descriptor
from docker_rollback._store import oci
from docker_rollback._store.files import translated
from docker_rollback._store.layout import Layout
from docker_rollback._store.locks import is_held, remove_unheld
from docker_rollback.errors import CorruptBackupError, StoreError

logger = logging.getLogger("docker_rollback")

DRAFT_LOCK = "lock"
DRAFT_PINS = "pins"


@frozen
class Sweep:
    """The result of a sweep."""

    blobs: int = 0  # the number of removed blobs
    size: int = 0  # their size in bytes
    # Why no blob was removed, for example because a manifest is damaged; None if the sweep was done.
    skipped: str | None = None


def clear_dead_drafts(layout: Layout, *, dry_run: bool = False) -> set[str]:
    """Remove the drafts of dead processes, and return the digests that living ones need; only while locked."""
    pinned: set[str] = set()
    with translated(layout.drafts):
        entries = list(os.scandir(layout.drafts)) if layout.drafts.exists() else []
        folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    for folder in folders:
        if is_held(folder / DRAFT_LOCK):
            pinned |= _pins(folder)
        elif not dry_run:
            remove_draft(layout, folder)
    return pinned


def remove_draft(layout: Layout, folder: Path) -> None:
    """Remove a draft's folder, or another one of ours, with its files."""
    with translated(folder), suppress(FileNotFoundError):
        for path in list(folder.iterdir()):
            layout.disk.remove(path)
        layout.disk.remove_folder(folder)


def sweep(
    layout: Layout, *, index: oci.Index | None = None, only: set[str] | None = None, dry_run: bool = False
) -> Sweep:
    """Remove every blob that neither the index nor a living draft refers to; only while the layout is locked.

    The index is ``index.json`` unless another is given. With `only`, no other digests are removed; with `dry_run` none
    are, and the result says what would be removed.
    """
    for path in [] if dry_run else list(layout.leftovers()):
        with translated(path):
            layout.disk.remove(path)
    with translated(layout.locks):
        locks = [] if dry_run else list(layout.locks.glob("container-*.lock"))
    for path in locks:
        # The locks of dead processes, and of earlier versions, which never removed them.
        remove_unheld(path, disk=layout.disk)
    pinned = clear_dead_drafts(layout, dry_run=dry_run)
    try:
        index = index or layout.index()
        kept = pinned | referred_to(layout, index)
    except CorruptBackupError as error:
        logger.warning("removing no blobs, because a manifest is damaged: %s", error)
        return Sweep(skipped=str(error))
    if not dry_run:
        _remove_replaced(layout, {child.name for child in index.children})
    blobs = size = 0
    for name, length in _files(layout.blobs.folder):
        digest = "sha256:" + name
        if digest in kept or (only is not None and digest not in only):
            continue
        if not dry_run:
            with translated(layout.blobs.folder / name):
                layout.disk.remove(layout.blobs.folder / name)
        blobs += 1
        size += length
    return Sweep(blobs, size)


def _remove_replaced(layout: Layout, backups: set[str | None]) -> None:
    """Remove the files that rollbacks replaced, of all backups that are gone."""
    with translated(layout.replaced):
        entries = list(os.scandir(layout.replaced)) if layout.replaced.exists() else []
    for entry in entries:
        if entry.name not in backups and entry.is_dir(follow_symlinks=False):
            remove_draft(layout, Path(entry.path))


def referred_to(layout: Layout, index: oci.Index) -> set[str]:
    """Return the digests of all blobs that an index leads to; raises `CorruptBackupError` if that is unknown."""
    digests: set[str] = set()
    for child in index.children:
        ours = child.artifact_type is not None and oci.format_of(child.artifact_type) is not None

        def absent(blob: Descriptor, error: StoreError, *, ours: bool = ours) -> None:
            # Another tool's image may be sparse: an index of several platforms, of which one was pulled.
            if ours or layout.blobs.path(blob.digest).exists():
                raise error

        digests.update(blob.digest for blob in layout.tree(child.blob, absent=absent))
    return digests


def _pins(folder: Path) -> set[str]:
    with translated(folder):
        try:
            text = (folder / DRAFT_PINS).read_bytes()
        except FileNotFoundError:
            return set()
    return {digest.decode("ascii", "replace") for digest in text.split()}


def _files(folder: Path) -> list[tuple[str, int]]:
    with translated(folder):
        found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in os.scandir(folder)]
    return [(name, status.st_size) for name, status in found if not stat.S_ISDIR(status.st_mode)]
