"""Checks folders of the engine's host: refuses those that must not be touched, and recognises them later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from attrs import asdict

from docker_rollback._engine import Engine
from docker_rollback._host import BOOT_ID, Spot, Tree, boot_id, overlap, spot_of
from docker_rollback._inspection import engine_spot, inspection_of, is_straight, why_never, why_not_there
from docker_rollback._model import SINGLE_FILE
from docker_rollback._volumes.access.mount_points import MOUNTINFO, here
from docker_rollback._volumes.access.reach import Run, output_of
from docker_rollback.errors import VolumeAccessError

PLACE = "Place"  # the key in a folder's inspection for the place that it led to at its capture
REGULAR: Final = "regular file"  # stat's word for a file with content


class HostFolders:
    """Checks folders before anything is read or written in them.

    Args:
        engine: the engine on their host.
        kept: folders of this machine that must not be touched, by their descriptions.
    """

    def __init__(self, engine: Engine, kept: Mapping[str, str]) -> None:
        self._engine = engine
        self._kept = dict(kept)

    def inspect(self, folder: str) -> dict[str, Any]:
        """Return a folder's inspection, as for a volume; raises `VolumeAccessError` if it is never archived."""
        info = self._engine.info()
        reason = why_never(folder, engine_root=info.root)
        for what, path in self._kept.items() if info.address.startswith("unix://") else ():
            if reason is None and any(overlap(folder, own) for own in {path, os.path.realpath(path)}):
                reason = f"{what} is there, at {path}"
        if reason is not None:
            raise VolumeAccessError(folder, f"it is never archived: {reason}")
        return inspection_of(folder)

    def place(self, folder: str, run: Run, root: str, tree: Tree | None) -> dict[str, Any]:
        """Return the place of a folder or file, by which it is recognised later, and its kind.

        Args:
            folder: its path.
            run: starts a program that sees its files.
            root: the path of its files there.
            tree: the open folder, if it is this machine's own and not a helper's mount.

        Raises:
            VolumeAccessError: it must not be touched, is neither a folder nor a file, or cannot be checked.
        """
        kind, mountinfo, boot = _facts_here() if tree is not None else _facts_there(run, root)
        found: dict[str, Any] = {}
        if kind is not None and kind != "directory":
            named = kind.replace("regular empty file", REGULAR)
            if named != REGULAR:
                raise VolumeAccessError(folder, f"it is a {named}; folders and regular files alone are archived")
            found |= SINGLE_FILE
        if tree is not None:
            # Use the descriptor: the path may lead elsewhere by now.
            root = os.readlink(f"/proc/self/fd/{tree.descriptor}")  # noqa: PTH115 - no such path exists
        spot = spot_of(mountinfo or "", root)
        if kind is None or mountinfo is None or spot is None or (tree is not None and tree.is_removed):
            raise VolumeAccessError(folder, "its place on the host cannot be determined")
        engine_root = self._engine.info().root
        if tree is not None:
            own = spot_of(mountinfo, os.path.realpath(engine_root)) if engine_root.startswith("/") else None
        else:
            own = engine_spot(mountinfo)
        reason = why_not_there(folder, spot, engine_root=engine_root, own=own, kept=self._kept_spots(boot))
        if reason is not None:
            raise VolumeAccessError(folder, f"it is never archived: {reason}")
        place = {"Boot": boot, **{key.capitalize(): value for key, value in asdict(spot).items()}}
        return {**found, PLACE: place}

    def check_same(self, folder: str, now: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
        """Raise a `VolumeAccessError` if a folder leads elsewhere than at its capture: a restore would fill that place.

        The numbers of file systems are valid until the next boot. After a boot, and on another host, the path must
        contain no symbolic link, or lead to the same path.
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
        """Return the places of the folders that must not be touched, if they are on the same machine."""
        if not boot or boot_id() != boot:
            return {}
        try:
            mountinfo = here()
        except OSError:
            return {}
        found = {what: spot_of(mountinfo, os.path.realpath(path)) for what, path in self._kept.items()}
        return {what: spot for what, spot in found.items() if spot is not None}


def _facts_here() -> tuple[str | None, str | None, str]:
    """Return the same as `_facts_there` for an open folder of this machine."""
    boot = boot_id()
    try:
        return ("directory", here(), boot) if boot else (None, None, "")
    except OSError:
        return None, None, ""


def _facts_there(run: Run, root: str) -> tuple[str | None, str | None, str]:
    """Return a folder's kind, the mounts, and the machine's boot id, from a helper."""
    kind = _said(run, "stat", "-c", "%F", root)
    boot = _said(run, "cat", BOOT_ID) or ""
    return None if kind is None else kind.strip(), _said(run, "cat", MOUNTINFO), boot.strip()


def _said(run: Run, *words: str) -> str | None:
    """Return a program's output; None if it failed."""
    said, finished = output_of(run, *words)
    return said.decode("utf-8", "surrogateescape") if finished.exit_code == 0 else None
