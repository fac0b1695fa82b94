"""Converts a backup's record to JSON and back. Pure.

Inspections are JSON already, and stay as they are.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import TypeVar

from docker_rollback._model import Backup
from docker_rollback._store.oci import CONVERTER, FIRST_FORMAT, FORMAT, PIECES
from docker_rollback._store.strict_json import MalformedError, dump_json, load_object

T = TypeVar("T")


class NewerFormatError(ValueError):
    """The data was written by a newer version of this library."""


def dump_backup(backup: Backup) -> bytes:
    """Serialize a backup's record."""
    return dump(backup, "backup", version=format_of(backup))


def format_of(backup: Backup) -> int:
    """Return the oldest format version that can represent a backup."""
    if any(blob.media_type == PIECES for volume in backup.volumes for blob in volume.tars):
        return 3
    newer = backup.excluded or any(volume.listing is not None or volume.is_partial for volume in backup.volumes)
    return 2 if newer else FIRST_FORMAT


def load_backup(data: bytes) -> Backup:
    """Parse a backup's record; raises `NewerFormatError`, or `MalformedError` if it is not one."""
    return load(data, Backup, "backup")


def dump(value: object, name: str, *, version: int = FIRST_FORMAT) -> bytes:
    """Serialize a value of the model under the name of its kind."""
    return dump_json({"format": version, "writer": _writer(), name: CONVERTER.hooks.unstructure(value)})


def load(data: bytes, kind: type[T], name: str) -> T:
    """Parse the output of `dump`; raises `NewerFormatError`, or `MalformedError` if the data is something else."""
    raw = load_object(data)
    version = raw.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise MalformedError("it does not say its format")
    if version > FORMAT:
        raise NewerFormatError(f"it has format {version}, and this version reads formats up to {FORMAT}")
    try:
        return CONVERTER.structure(raw.get(name), kind)
    except MalformedError as error:
        # Without the cause: a record contains secrets, and cattrs' errors may quote them.
        raise MalformedError(f"it is not a valid {name} record: {error}") from None


def _writer() -> str:
    try:
        return f"docker-rollback {version_of('docker-rollback')}"
    except PackageNotFoundError:  # a source tree that was never installed
        return "docker-rollback"
