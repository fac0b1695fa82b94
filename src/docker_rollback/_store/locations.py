"""Where a store is, and the other end of an export or an import: arguments that name places on disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import NoneType
from typing import Any

import platformdirs

from docker_rollback._arguments import instance


def default_path() -> Path:
    """Return the path of the store that is used where none is named: in the user's data folder."""
    return platformdirs.user_data_path("docker-rollback", appauthor=False) / "store"


def store_path(path: str | os.PathLike[str] | None) -> Path:
    """Return the absolute path of a store, the default one for None.

    Raises:
        TypeError: it is no path.
        ValueError: it is empty.
    """
    instance("store", path, (str, os.PathLike, NoneType), what="a BackupStore, a path or None")
    if path is None:
        return default_path()
    if not os.fspath(path):
        raise ValueError("store is an empty path; leave it out for the user's data folder")
    return Path(path).absolute()


def file_path(file: str | os.PathLike[str] | Any, method: str) -> Path | None:
    """Return the absolute path of a file; None for one that is open.

    Args:
        file: a path, or an open binary file.
        method: what an open one has to have, "read" or "write".

    Raises:
        TypeError: it is neither.
        ValueError: it is an empty path.
    """
    if callable(getattr(file, method, None)) and not isinstance(file, str | os.PathLike):
        return None
    instance("file", file, (str, os.PathLike), what=f"a path, or a binary file with a {method} method")
    if not os.fspath(file):
        raise ValueError("file is an empty path")
    return Path(file).absolute()
