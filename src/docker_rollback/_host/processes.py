"""What the kernel tells of processes, their namespaces and rights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from docker_rollback._host.clock import BOOT_ID
from docker_rollback._host.tree import Tree

_UID_MAP: Final = "/proc/self/uid_map"


IDENTITY: Final = ("cat", BOOT_ID, _UID_MAP)
"""What a helper runs to tell which kernel it runs on, and as whom."""


_EVERY_OWNER: Final = ["0", "0", "4294967295"]


_CAPABILITIES: Final = sum(1 << number for number in (0, 1, 2, 3, 4, 21, 27, 31))


_SAME_START: Final = 2.0
"""Seconds by which the engine's note of when a process began may be later than the kernel's."""


def may_do_anything(process: str = "/proc/self") -> bool:
    """Whether a process may read and write every file with all its attributes, as whoever owns it."""
    try:
        fields = _status(Path(process))
        owners = Path(process, "uid_map").read_text().split()
    except OSError:
        return False
    effective = int(fields.get("CapEff", "0"), 16)
    uid = fields.get("Uid", "- -").split()[1]
    return uid == "0" and effective & _CAPABILITIES == _CAPABILITIES and owners == _EVERY_OWNER


def is_first_of_its_namespace(process: Path) -> bool:
    """Whether a process is number 1 of a PID namespace other than ours, so that all in it end with it."""
    try:
        numbers = _status(process).get("NSpid", "").split()
    except OSError:
        return False
    return len(numbers) > 1 and numbers[-1] == "1"


def _status(process: Path) -> dict[str, str]:
    """Return what the kernel says of a process, by field; raises `OSError`."""
    status = (process / "status").read_text(encoding="utf-8", errors="replace")
    return dict(line.split(":", 1) for line in status.splitlines() if ":" in line)


def same_kernel(identity: str) -> bool:
    """Whether a helper whose `IDENTITY` is that runs on this kernel, with the same numbers for owners."""
    try:
        return identity == Path(BOOT_ID).read_text() + Path(_UID_MAP).read_text()
    except OSError:
        return False


def _seen_by(process: Path, folder: str) -> tuple[int, int] | None:
    """Return device and inode of a folder that a process sees; None where a link is on its way, which it may swap."""
    try:
        with Tree.at(process / "root") as root, root.below(os.fsencode(folder.lstrip("/")) or b".") as found:
            return found.identity
    except OSError:
        return None


def is_main_program(process: Path, container: Mapping[str, Any]) -> bool:
    """Whether a process of this machine is a container's main program.

    Its control group names the container's full id. A clone of the machine, reached through a forwarded socket, may
    have the same container and the same number; so it must have begun at the same moment as well.
    """
    try:
        groups = Path(process, "cgroup").read_text()
        owners = Path(process, "uid_map").read_text().split()
    except OSError:
        return False
    return str(container["Id"]) in groups and owners == _EVERY_OWNER and began_with(process, container)


def began_with(process: Path, container: Mapping[str, Any]) -> bool:
    """Whether a process of this machine began when a container was started last."""
    try:
        ticks = int(Path(process, "stat").read_text().rpartition(")")[2].split()[19])
        stat = Path("/proc/stat").read_text()
        started = datetime.fromisoformat(str(container["State"].get("StartedAt"))).timestamp()
    except (OSError, ValueError, IndexError):
        return False
    booted = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith("btime ")), 0)
    began = booted + ticks / os.sysconf("SC_CLK_TCK")
    return abs(started - began) <= _SAME_START
