"""Finds the backups in a store's ``index.json``, and removes them from it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from contextlib import suppress

from attrs import evolve

from docker_rollback._arguments import instance
from docker_rollback._model import Descriptor
from docker_rollback._store import oci
from docker_rollback._store.layout import Layout
from docker_rollback._store.verify import load, record_id
from docker_rollback.errors import BackupNotFoundError, StoreError

logger = logging.getLogger("docker_rollback")


class Catalog:
    """The backups of a layout, by id."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def roots(self) -> dict[str, Descriptor]:
        """Return the index of every backup, by id.

        An entry may have lost its annotations in a copy by another tool, or its name by damage. So the blobs are read.
        """
        roots: dict[str, Descriptor] = {}
        for child in self._layout.index().children:
            backup_id = self._id_of(child)
            if backup_id is None:
                continue
            if roots.setdefault(backup_id, child.blob).digest != child.blob.digest:
                raise self._layout.blobs.corrupt(oci.INDEX_FILE, f"it names two backups {backup_id!r}")
        return roots

    def root(self, backup_id: str) -> Descriptor:
        """Return a backup's index; raises `BackupNotFoundError`, or `TypeError` if the id is not a string."""
        instance("backup_id", backup_id, (str,), what="the id of a backup")
        if oci.is_backup_id(backup_id):
            for child in self._layout.index().children:
                # The index is not read here, because an unreadable backup is not a missing one.
                may_be = oci.is_backup(child.artifact_type) or child.blob.media_type in oci.INDEXES
                if child.name == backup_id and may_be:
                    return child.blob
            if (unnamed := self.roots().get(backup_id)) is not None:
                return unnamed
        raise BackupNotFoundError(str(self._layout.root), backup_id)

    def check_parts(self, backup_id: str, children: Collection[oci.Child]) -> None:
        """Raise `CorruptBackupError` if a name in ``index.json`` of a backup's part leads elsewhere than its index.

        A missing name is no damage: other tools set none.
        """
        known = {oci.child_name(backup_id, number): child.blob for number, child in enumerate(children, start=1)}
        for child in self._layout.index().children:
            name = child.name or ""
            if name.partition(".")[0] == backup_id != name:
                part = known.get(name)
                if part is None or (part.digest, part.size) != (child.blob.digest, child.blob.size):
                    raise self._layout.blobs.corrupt(oci.INDEX_FILE, f"its entry {name!r} is not of that backup")

    def remove(self, ids: set[str], *, dry_run: bool = False) -> oci.Index:
        """Remove backups and their parts from ``index.json``, and return the new index; only while locked."""
        index = self._layout.index()
        roots = [child.blob for child in index.children if self._id_of(child) in ids]
        gone = {root.digest for root in roots} | self._children(roots)
        stay = [child for child in index.children if not _belongs(child, ids, gone)]
        if ids and not dry_run:
            self._layout.replace_index(index, [child.raw for child in stay], to_free=True)
        return evolve(index, children=tuple(stay))

    def _id_of(self, child: oci.Child) -> str | None:
        """Return the id of an entry's backup; None if the entry is not a backup's."""
        name = child.name
        if name is not None and not oci.is_backup_id(name) and not oci.is_backup(child.artifact_type):
            return None  # a part of a backup, or another tool's
        if not self._is_backup(child):
            return None
        if name is not None and oci.is_backup_id(name):
            return name
        try:
            backup_id = record_id(self._layout, child.blob)
            load(self._layout, backup_id, child.blob)
        except StoreError as error:
            logger.warning("skipping unreadable backup without a name: %s", error)
            return None
        return backup_id

    def _is_backup(self, child: oci.Child) -> bool:
        if oci.is_backup(child.artifact_type):
            return True
        if child.blob.media_type not in oci.INDEXES:
            return False
        try:
            index = self._layout.child_index(child.blob)
        except StoreError as error:
            logger.warning("skipping unreadable entry %r of the store: %s", child.name, error)
            return False
        # Some tools drop the artifact type of an entry; none drops the annotations of an index.
        return oci.FORMAT_KEY in index.annotations

    def _children(self, roots: Iterable[Descriptor]) -> set[str]:
        """Return the digests of the children of all readable indexes."""
        digests: set[str] = set()
        for root in roots:
            with suppress(StoreError):
                digests.update(child.blob.digest for child in self._layout.child_index(root).children)
        return digests


def _belongs(child: oci.Child, ids: Collection[str], digests: Collection[str]) -> bool:
    """Return True if an entry of ``index.json`` belongs to one of these backups, whose blobs have these digests."""
    if child.name is None or oci.is_backup(child.artifact_type):
        # Other tools list a backup's parts without names. Another backup's index refers to its own parts.
        return child.blob.digest in digests or child.name in ids
    return child.name.partition(".")[0] in ids
