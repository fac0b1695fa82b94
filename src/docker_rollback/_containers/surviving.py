"""Finds running containers that could not start again, because a container or path that they need is gone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from docker_rollback._host import is_main_program, mounted
from docker_rollback._inspection import could_make, partners, refers
from docker_rollback._model import Mount, Observed
from docker_rollback._names import SHORT_ID

_USED: Final = {
    "NetworkMode": "the network",
    "PidMode": "the process namespace",
    "IpcMode": "the shared memory",
    "VolumesFrom": "the volumes",
    "Links": "a link",
}
_ID: Final = re.compile("[0-9a-f]{64}")
_DELETED: Final = "//deleted"
"""The end of a mount's root in mountinfo, if the mounted file has been unlinked."""


def lost_partners(container: Observed, everything: Iterable[Observed]) -> list[str]:
    """Return why a container cannot be started or recreated, if another one that it needs is gone or stopped. Pure."""
    there = tuple(everything)
    reasons = []
    for partner in partners(container.inspection):
        used = _USED[partner.setting]
        found = next((one for one in there if refers(partner.reference, one.name, one.id)), None)
        if found is None:
            reasons.append(
                f"it uses {used} of container {_short(partner.reference)!r}, which is gone: once it is stopped, its "
                "engine can neither start nor create it again; recreate it first"
            )
        elif partner.setting != "VolumesFrom" and container.state.alive and not found.state.alive:
            reasons.append(
                f"it uses {used} of container {found.name!r}, which does not run: once it is stopped, its engine "
                f"cannot start it again; start {found.name!r}, or recreate both, first"
            )
    return reasons


def _short(reference: str) -> str:
    """Return a reference with a full id shortened."""
    return reference[:SHORT_ID] if _ID.fullmatch(reference) else reference


def doubtful_paths(container: Observed, group: Iterable[Observed], *, mountinfo: str) -> list[str]:
    """Return the host paths of a running container that may be gone; the caller has to look for them on the host.

    Args:
        container: the inspected container.
        group: the containers that are stopped and started with it; a path that one of them can create is left out.
        mountinfo: its mounts, as the kernel lists them; if empty, no bind is in the result.
    """
    if not container.state.alive:
        return []
    makers = [mount for one in group if one.id != container.id for mount in one.mounts]
    # The kernel only shows that the mounted file has no name. A file that was replaced under its name looks the same.
    nameless = frozenset(one.target for one in mounted(mountinfo) if one.root.endswith(_DELETED))
    binds = [mount for mount in container.mounts if mount.kind == "bind" and _is_at(mount, nameless)]
    paths = [mount.source for mount in binds]
    devices = container.inspection["HostConfig"].get("Devices") or ()
    paths += [path for one in devices if (path := str(one.get("PathOnHost") or "")) and not Path(path).exists()]
    return list(dict.fromkeys(path for path in paths if not any(could_make(maker, path) for maker in makers)))


def lost_path(path: str) -> str:
    """Return why a container cannot start again because a path of its host is gone."""
    return (
        f"it was given {path!r} of the engine's host, which is gone: once it is stopped, its engine cannot start it "
        "again, or makes an empty folder there; put it there again first"
    )


def _is_at(mount: Mount, targets: frozenset[str]) -> bool:
    return (mount.destination.rstrip("/") or "/") in targets


def mountinfo_of(container: Observed) -> str:
    """Return the mountinfo of a container's main process; empty if this program cannot read it."""
    process = Path("/proc", str((container.inspection.get("State") or {}).get("Pid") or ""))
    if not is_main_program(process, container.inspection):
        return ""
    try:
        return (process / "mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return ""
