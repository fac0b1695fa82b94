"""Finds paths that are missing on the engine's host, makes single files there, and removes empty folders."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Final

from docker_rollback._engine import Finished
from docker_rollback._host import lies_in
from docker_rollback._volumes.access.helper import Helper
from docker_rollback._volumes.access.reach import output_of
from docker_rollback._volumes.access.retries import tried
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback.errors import ArchiveError, VolumeAccessError

_MISSING: Final = re.compile(r"no such file or directory|not a directory", re.IGNORECASE)


def first_missing(helper: Helper, path: str) -> str | None:
    """Return the first folder or file on the way to a path of the host that is missing.

    Returns:
        The path itself if all folders above it exist; None if nothing is missing, or if a symbolic link is on the way:
        it leads elsewhere in the helper.

    Raises:
        ArchiveError: the helper gave no answer in three attempts.
        EngineError: the engine refused or failed.
    """
    return tried(lambda: _first_missing(helper, path), doing=f"looking for {path!r} on the engine's host")


def _first_missing(helper: Helper, path: str) -> str | None:
    root = helper.roots["/"]
    steps = ["", *_steps(path)]
    said, done = output_of(helper.run, "stat", "-c", "%F", *(root + step for step in steps))
    # stat prints nothing for a missing path.
    kinds = said.splitlines()
    if done.exit_code == 0 and len(kinds) == len(steps):
        return None
    # The root always exists. A program that was killed, or that may not look, says nothing about the path.
    if done.exit_code != 1 or not kinds or _MISSING.search(done.stderr) is None:
        reason = (
            f"a helper container does not tell whether {path!r} is there, exit code {done.exit_code}: {done.stderr}"
        )
        raise ArchiveError("/", reason, permanent=False)
    return None if b"symbolic link" in kinds else steps[len(kinds)]


def _steps(path: str) -> list[str]:
    """Return the folders on the way to a path, the outermost first, and the path."""
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:end]) for end in range(1, len(parts) + 1)]


def remove_made_folders(helper: Helper, missing: Mapping[str, str]) -> None:
    """Remove the empty folders that the engine has made for missing paths; a file that exists by now stays.

    Args:
        helper: mounts, for each path, the folder above the first missing one.
        missing: the first missing folder or file on the way to each path, by the path.

    Raises:
        VolumeAccessError: a folder has something in it, or cannot be removed.
        EngineError: the engine refused or failed.
    """
    made = {
        step: posixpath.dirname(first)
        for path, first in missing.items()
        for step in _steps(path)
        if lies_in(step, first)
    }
    # The deepest first: a folder can be removed once it is empty.
    for path, above in sorted(made.items(), key=lambda item: item[0].count("/"), reverse=True):
        _remove_empty_folder(helper, f"{helper.roots[above]}/{posixpath.relpath(path, above)}", path)


def make_file(helper: Helper, there: str, path: str) -> None:
    """Create a single file, empty, unless it exists.

    An engine that was to mount it may have made an empty folder in its place, which is removed.

    Args:
        helper: mounts the folder above it.
        there: its path in the helper.
        path: its path on the engine's host.

    Raises:
        VolumeAccessError: it cannot be created.
    """
    if _remove_empty_folder(helper, there, path) in ("", "directory"):
        folder, _, name = there.rpartition("/")
        # tar keeps a file that exists by now.
        with helper.run(gnu_tar.make_files(folder), stdin=True) as tar:
            tar.write(gnu_tar.private_file(name))
            tar.close_input()
            _check(path, "the file is missing, and cannot be created", tar.finish())


def _remove_empty_folder(helper: Helper, there: str, path: str) -> str:
    """Remove an empty folder; return the kind of file that was found, in stat's words, or an empty string.

    Raises:
        VolumeAccessError: the folder has something in it, or cannot be removed.
    """
    kind = (helper.ask(("stat", "-c", "%F", there)) or "").strip()
    if kind == "directory":
        # With -d, rm removes no folder that has something in it.
        with helper.run(("rm", "-d", "--", there)) as rm:
            reason = "a folder with something in it is in its place; move that away, then restore again"
            _check(path, reason, rm.finish())
    return kind


def _check(path: str, reason: str, finished: Finished) -> None:
    """Raise a `VolumeAccessError` with this reason if a program failed."""
    if finished.exit_code != 0:
        raise VolumeAccessError(path, f"{reason}: {finished.stderr.strip()}")
