"""Kills a program that runs by exec, for which engines have no request.

Closing the connection ends a program that reads its input. For others there are two ways: a signal from this process,
if it can see the engine's processes, or a shell in the container that searches for the program's mark.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from docker_rollback._engine.docker.errors import Asking
from docker_rollback._engine.docker.http import Wire
from docker_rollback.errors import EngineError

# The environment variable that identifies a program among the processes of its container.
MARK: Final = "DOCKER_ROLLBACK_EXEC"

_SCRIPT: Final = (
    'for f in $(grep -l "$1" /proc/[0-9]*/environ 2>/dev/null); do p=${f#/proc/}; kill -KILL "${p%/environ}"; done'
)


@frozen
class Killer:
    """Kills one program."""

    _wire: Wire
    _container: str  # the full id of its container
    _mark: str

    def signal(self, state: Mapping[str, Any]) -> bool:
        """Send SIGKILL to the process that an exec's inspection names; return True on success."""
        pid = state.get("Pid")
        if not isinstance(pid, int) or pid <= 0 or not hasattr(os, "pidfd_open"):
            return False
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            # The process id may belong to another process here. A cgroup with the container's id belongs to that
            # container, and the descriptor refers to this process even if its id is reused.
            if self._container not in Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace"):
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def search(self) -> bool:
        """Start a shell in the container that finds and kills the program; return False if there is no shell."""
        asking = Asking("end a program in its container")
        body = {"User": "0:0", "Cmd": ["sh", "-c", _SCRIPT, "sh", f"{MARK}={self._mark}"]}
        try:
            exec_id = self._wire.json("POST", f"/containers/{self._container}/exec", asking, body=body)["Id"]
            self._wire.answer("POST", f"/exec/{exec_id}/start", asking, body={"Detach": True, "Tty": False}).close()
        except EngineError:
            return False
        return True
