"""Resolves arguments that are paths: the store's folder, and the file of an export or import."""

from __future__ import annotations

import os
from pathlib import Path
from types import NoneType
from typing import Any

import platformdirs

from docker_rollback._arguments import instance


def default_path() -> Path:
    """Return the default store's path, in the user's data folder."""
    return platformdirs.user_data_path("docker-rollback", appauthor=False) / "store"


def store_path(path: str | os.PathLike[str] | None) -> Path:
    """Return the absolute path of a store; None means the default one. Raises `TypeError`, or `ValueError` if empty."""
    instance("store", path, (str, os.PathLike, NoneType), what="a BackupStore, a path or None")
    if path is None:
        return default_path()
    if not os.fspath(path):
        raise ValueError("store is an empty path; omit it for the default in the user's data folder")
    return Path(path).absolute()


def file_path(file: str | os.PathLike[str] | Any, method: str) -> Path | None:
    """Return the absolute path of a file; None for a file that is open, and has the method "read" or "write".

    Raises `TypeError` for anything else, and `ValueError` for an empty path.
    """
    if callable(getattr(file, method, None)) and not isinstance(file, str | os.PathLike):
        return None
    instance("file", file, (str, os.PathLike), what=f"a path, or a binary file with a {method} method")
    if not os.fspath(file):
        raise ValueError("file is an empty path")
    return Path(file).absolute()
