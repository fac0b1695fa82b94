"""Reads processes, their namespaces and privileges from /proc."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from docker_rollback._host.clock import BOOT_ID
from docker_rollback._host.tree import Tree

_UID_MAP: Final = "/proc/self/uid_map"
# The command with which a helper reports its kernel's boot, and its mapping of user ids.
IDENTITY: Final = ("cat", BOOT_ID, _UID_MAP)

_EVERY_OWNER: Final = ["0", "0", "4294967295"]

# tar needs these capabilities to read and write everything: chown, dac_override, dac_read_search, fowner, fsetid,
# sys_admin for attributes that begin with trusted, mknod, and setfcap.
_CAPABILITIES: Final = sum(1 << number for number in (0, 1, 2, 3, 4, 21, 27, 31))

_SAME_START: Final = 2.0  # seconds by which the engine's start time of a process and the kernel's may differ


def may_do_anything(process: str = "/proc/self") -> bool:
    """Return True if a process may read and write all files of all owners, with all attributes."""
    try:
        fields = _status(Path(process))
        owners = Path(process, "uid_map").read_text().split()
    except OSError:
        return False
    effective = int(fields.get("CapEff", "0"), 16)
    uid = fields.get("Uid", "- -").split()[1]
    return uid == "0" and effective & _CAPABILITIES == _CAPABILITIES and owners == _EVERY_OWNER


def is_first_of_its_namespace(process: Path) -> bool:
    """Return True if a process is number 1 of another PID namespace, whose processes all end with it."""
    try:
        numbers = _status(process).get("NSpid", "").split()
    except OSError:
        return False
    return len(numbers) > 1 and numbers[-1] == "1"


def _status(process: Path) -> dict[str, str]:
    """Return the fields of a process's status file; raises `OSError`."""
    status = (process / "status").read_text(encoding="utf-8", errors="replace")
    return dict(line.split(":", 1) for line in status.splitlines() if ":" in line)


def same_kernel(identity: str) -> bool:
    """Return True if a helper with this output of `IDENTITY` runs on this kernel, with the same user ids."""
    try:
        return identity == Path(BOOT_ID).read_text() + Path(_UID_MAP).read_text()
    except OSError:
        return False


def seen_by(process: Path, folder: str) -> tuple[int, int] | None:
    """Return device and inode of a folder as a process sees it; None if a link, which it could swap, is in the path."""
    try:
        with Tree.at(process / "root") as root, root.below(os.fsencode(folder.lstrip("/")) or b".") as found:
            return found.identity
    except OSError:
        return None


def is_main_program(process: Path, container: Mapping[str, Any]) -> bool:
    """Return True if a process of this machine is a container's main process.

    Its cgroup contains the container's full id. A clone of this machine, reached through a forwarded socket, may have
    the same container and process id, so the start times have to match too.
    """
    try:
        groups = Path(process, "cgroup").read_text()
        owners = Path(process, "uid_map").read_text().split()
    except OSError:
        return False
    return str(container["Id"]) in groups and owners == _EVERY_OWNER and began_with(process, container)


def is_of_this_machine(container: Mapping[str, Any]) -> bool:
    """Return False if a container runs, and no process of this machine is its main process."""
    pid = int(container["State"].get("Pid") or 0)
    try:
        return not pid or str(container["Id"]) in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def began_with(process: Path, container: Mapping[str, Any]) -> bool:
    """Return True if a process of this machine started at the container's last start."""
    try:
        ticks = int(Path(process, "stat").read_text().rpartition(")")[2].split()[19])
        stat = Path("/proc/stat").read_text()
        started = datetime.fromisoformat(str(container["State"].get("StartedAt"))).timestamp()
    except (OSError, ValueError, IndexError):
        return False
    booted = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith("btime ")), 0)
    began = booted + ticks / os.sysconf("SC_CLK_TCK")
    return abs(started - began) <= _SAME_START
