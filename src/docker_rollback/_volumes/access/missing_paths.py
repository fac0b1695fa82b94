"""Whether a path of the engine's host is gone, as a helper that mounts a folder above it sees it; and a file, made."""

from __future__ import annotations

import re
from typing import Final

from docker_rollback._engine import Finished
from docker_rollback._volumes.access.helper import Helper
from docker_rollback._volumes.access.retries import tried
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback._volumes.tar.archive_stream import pieces_of
from docker_rollback.errors import ArchiveError, VolumeAccessError

_MISSING: Final = re.compile(r"no such file or directory|not a directory", re.IGNORECASE)


def lacks(helper: Helper, path: str) -> bool:
    """Return True if a path of the host is gone; False also if a link is on its way, which leads elsewhere there.

    Raises:
        ArchiveError: the helper does not tell, three times.
        EngineError: the engine refused or failed.
    """
    return tried(lambda: _lacks(helper, path), doing=f"looking for {path!r} on the engine's host")


def _lacks(helper: Helper, path: str) -> bool:
    root = helper.roots["/"]
    parts = path.strip("/").split("/")
    steps = [root, *(f"{root}/{'/'.join(parts[:end])}" for end in range(1, len(parts) + 1))]
    with helper.run(("stat", "-c", "%F", *steps)) as stat:
        # Of what is missing, it prints nothing here.
        kinds = b"".join(pieces_of(stat)).splitlines()
        done = stat.finish()
    if done.exit_code == 0 and len(kinds) == len(steps):
        return False
    # The root is always there. A program that was killed, or may not look, says nothing of the path.
    if done.exit_code != 1 or not kinds or _MISSING.search(done.stderr) is None:
        reason = (
            f"a helper container does not tell whether {path!r} is there, exit code {done.exit_code}: {done.stderr}"
        )
        raise ArchiveError("/", reason, permanent=False)
    return b"symbolic link" not in kinds


def make_file(helper: Helper, there: str, path: str) -> None:
    """Have a single file there; one that is gone is made, empty.

    An engine that was to mount it may have made an empty folder in its place, which is removed.

    Args:
        helper: mounts the folder above it.
        there: its path in the helper.
        path: its path on the engine's host.

    Raises:
        VolumeAccessError: it cannot be made.
    """
    kind = (helper.ask(("stat", "-c", "%F", there)) or "").strip()
    if kind == "directory":
        # rm removes no folder that has something in it.
        with helper.run(("rm", "-d", "--", there)) as rm:
            reason = "a folder with something in it is in its place; move that away, then restore again"
            _check(path, reason, rm.finish())
    if kind in ("", "directory"):
        folder, _, name = there.rpartition("/")
        # A file that is there after all stays as it is.
        with helper.run(gnu_tar.make_files(folder), stdin=True) as tar:
            tar.write(gnu_tar.private_file(name))
            tar.close_input()
            _check(path, "the file is gone, and cannot be made again", tar.finish())


def _check(path: str, reason: str, finished: Finished) -> None:
    """Raise a `VolumeAccessError` with a reason unless a program ended well."""
    if finished.exit_code != 0:
        raise VolumeAccessError(path, f"{reason}: {finished.stderr.strip()}")
