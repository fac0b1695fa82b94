"""Watches the main processes of containers through the kernel, which reports their end before the engine does.

An engine takes down a container's network and mounts before it reports the stop. Docker 28.5 takes 0.2 s for that, in
which nobody writes to the volumes: when the first process of a PID namespace ends, all others in it end too.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from docker_rollback._containers.quiesce import quiesced_container
from docker_rollback._host import is_first_of_its_namespace, is_main_program
from docker_rollback._model import Observed, Quiesce

_LOOK: Final = 50
"""Milliseconds after which a wait notices that it was given up."""


class MainProcesses:
    """The main processes of some containers.

    Args:
        descriptors: a pidfd for each; None if one of them cannot be watched.
    """

    def __init__(self, descriptors: Iterable[int] | None) -> None:
        self._descriptors = None if descriptors is None else frozenset(descriptors)

    @property
    def known(self) -> bool:
        """Return True if the processes are watched, so that their end counts."""
        return bool(self._descriptors)

    def ended(self, given_up: threading.Event) -> bool:
        """Wait until all have ended or the wait is given up; return True if all are known to have ended."""
        if not self._descriptors:
            return False
        poll, left = select.poll(), set(self._descriptors)
        for descriptor in left:
            poll.register(descriptor, select.POLLIN)
        while left and not given_up.is_set():
            for descriptor, _ in poll.poll(_LOOK):
                poll.unregister(descriptor)
                left.discard(descriptor)
        return not left


@contextmanager
def main_processes(containers: Iterable[Observed], quiesce: Quiesce) -> Iterator[MainProcesses]:
    """Watch the main processes of running containers during a block that quiesces them.

    Args:
        containers: the running containers.
        quiesce: how they are quiesced.
    """
    descriptors = None
    with ExitStack() as held:
        with suppress(OSError, _UnknownError):
            descriptors = [_watch(container, quiesce, held) for container in containers]
        yield MainProcesses(descriptors)


class _UnknownError(Exception):
    """A process is not visible, or its end does not mean the end of all others in its container."""


def _watch(container: Observed, quiesce: Quiesce, held: ExitStack) -> int:
    """Return a pidfd of a container's main process. Raises `OSError` or `_UnknownError` if there is none."""
    pid = (container.inspection.get("State") or {}).get("Pid")
    alone = not container.inspection["HostConfig"].get("PidMode")
    # A container in a restart loop has another process by the time it is stopped.
    stopped = not container.state.loops and quiesced_container(container, quiesce).how == "stop"
    if not pid or not alone or not stopped or not hasattr(os, "pidfd_open"):
        raise _UnknownError
    process = Path("/proc", str(pid))
    descriptor = os.pidfd_open(pid)
    held.callback(os.close, descriptor)
    # The engine may run on another machine, where the number is somebody else's; and what a runtime has started may not
    # be the first of its namespace, which takes all others along. What is alive after this was read is what it was of.
    known = is_main_program(process, container.inspection) and is_first_of_its_namespace(process)
    if not known or select.select([descriptor], [], [], 0)[0]:
        raise _UnknownError
    return descriptor
