"""Folders of the engine's host that containers bind: refused where they are none of ours, and known again later."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from attrs import asdict

from docker_rollback._engine import Engine, Process
from docker_rollback._host import Spot, Tree, overlap, spot_of
from docker_rollback._inspection import engine_spot, inspection_of, is_straight, why_never, why_not_there
from docker_rollback._model import SINGLE_FILE
from docker_rollback._volumes.tar.archive_stream import pieces_of
from docker_rollback.errors import VolumeAccessError

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MOUNTINFO = "/proc/self/mountinfo"
_Runs: TypeAlias = Callable[[Sequence[str]], Process]

PLACE = "Place"
"""Where a folder's inspection says where it led at its capture."""
REGULAR: Final = "regular file"
"""What stat calls a file with content."""


class HostFolders:
    """Looks at folders before anything is done with what is in them.

    Args:
        engine: whose host they are on.
        kept: folders of this machine that must not be touched, by what they are.
    """

    def __init__(self, engine: Engine, kept: Mapping[str, str]) -> None:
        self._engine = engine
        self._kept = dict(kept)

    def inspect(self, folder: str) -> dict[str, Any]:
        """Return of a folder what an engine would say of a volume; raises `VolumeAccessError` for one of no use."""
        info = self._engine.info()
        reason = why_never(folder, engine_root=info.root)
        for what, path in self._kept.items() if info.address.startswith("unix://") else ():
            if reason is None and any(overlap(folder, own) for own in {path, os.path.realpath(path)}):
                reason = f"{what} is there, at {path}"
        if reason is not None:
            raise VolumeAccessError(folder, f"it is never archived: {reason}")
        return inspection_of(folder)

    def place(self, folder: str, run: _Runs, root: str, tree: Tree | None) -> dict[str, Any]:
        """Return where a folder or file within reach leads, to know it again by, and which of the two it is.

        Args:
            folder: its path.
            run: starts a program next to its files.
            root: where its files are, as such a program sees it.
            tree: the folder itself, if it is this machine's own and not a helper's mount of it.

        Raises:
            VolumeAccessError: it leads where nothing may be touched, is neither of them, or nobody can tell.
        """
        kind, mountinfo, boot = _told_here() if tree is not None else _told_there(run, root)
        found: dict[str, Any] = {}
        if kind is not None and kind != "directory":
            named = kind.replace("regular empty file", REGULAR)
            if named != REGULAR:
                raise VolumeAccessError(folder, f"it is a {named}; folders and regular files alone are archived")
            found |= SINGLE_FILE
        if tree is not None:
            # By the descriptor: the path may lead elsewhere by now.
            root = os.readlink(f"/proc/self/fd/{tree.descriptor}")  # noqa: PTH115 - no such path exists
        spot = spot_of(mountinfo or "", root)
        if kind is None or mountinfo is None or spot is None or (tree is not None and tree.is_removed):
            raise VolumeAccessError(folder, "nothing tells where it leads")
        engine_root = self._engine.info().root
        if tree is not None:
            own = spot_of(mountinfo, os.path.realpath(engine_root)) if engine_root.startswith("/") else None
        else:
            own = engine_spot(mountinfo)
        reason = why_not_there(
            folder,
            spot,
            engine_root=engine_root,
            own=own,
            kept=self._kept_spots(boot),
        )
        if reason is not None:
            raise VolumeAccessError(folder, f"it is never archived: {reason}")
        place = {"Boot": boot, **{key.capitalize(): value for key, value in asdict(spot).items()}}
        return {**found, PLACE: place}

    def check_same(self, folder: str, now: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
        """Raise a `VolumeAccessError` where a folder leads elsewhere than at its capture: it would fill what is there.

        Numbers of file systems mean something until the next boot alone. After it, and on another host, there has to
        be no symbolic link on the way, or it has to lead to the same path.
        """
        if before is not None and before.get("Boot") == now["Boot"]:
            same = (before.get("Device"), before.get("Path")) == (now["Device"], now["Path"])
        else:
            spot = Spot(now["Device"], now["Path"], now["Filesystem"])
            same = is_straight(folder, spot) or (before is not None and before.get("Path") == now["Path"])
        if not same:
            was = f", and led to {before['Path']} ({before['Device']}) at its capture" if before is not None else ""
            raise VolumeAccessError(
                folder,
                f"it leads to {now['Path']} ({now['Device']}) now{was}; what is there is left alone. Put the symbolic "
                "link, or the file system, back that was there, then restore again",
            )

    def _kept_spots(self, boot: str) -> dict[str, Spot]:
        """Return where the folders lead that must not be touched, where that is on the same machine."""
        try:
            if Path(_BOOT_ID).read_text().strip() != boot:
                return {}
            mountinfo = Path(_MOUNTINFO).read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return {}
        found = {what: spot_of(mountinfo, os.path.realpath(path)) for what, path in self._kept.items()}
        return {what: spot for what, spot in found.items() if spot is not None}


def _told_here() -> tuple[str | None, str | None, str]:
    """Return of a folder of this machine what `_told_there` does; its tree is open, so it is a directory."""
    try:
        mountinfo = Path(_MOUNTINFO).read_text(encoding="utf-8", errors="surrogateescape")
        return "directory", mountinfo, Path(_BOOT_ID).read_text().strip()
    except OSError:
        return None, None, ""


def _told_there(run: _Runs, root: str) -> tuple[str | None, str | None, str]:
    """Return what a helper tells of a folder: its kind, the mounts, and which start of its machine this is."""
    kind = _said(run, "stat", "-c", "%F", root)
    boot = _said(run, "cat", _BOOT_ID) or ""
    return None if kind is None else kind.strip(), _said(run, "cat", _MOUNTINFO), boot.strip()


def _said(run: _Runs, *words: str) -> str | None:
    """Return what a program next to a folder prints; None where it failed."""
    with run(words) as process:
        said = b"".join(pieces_of(process))
        return said.decode("utf-8", "surrogateescape") if process.finish().exit_code == 0 else None
