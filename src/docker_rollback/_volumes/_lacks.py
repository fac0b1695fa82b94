"""Whether a path of the engine's host is gone, as a helper that mounts the root of the host sees it."""

from __future__ import annotations

import re
from typing import Final

from docker_rollback._volumes._again import tried
from docker_rollback._volumes._helper import Helper
from docker_rollback._volumes._stream import pieces_of
from docker_rollback.errors import ArchiveError

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
