"""Watches the main processes of containers through the kernel, which reports their end before the engine does.

An engine takes down a container's network and mounts before it reports the stop. Docker 28.5 takes 0.2 s for that, and
nobody writes to the volumes meanwhile: when the first process of a PID namespace ends, all others in it end too.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from docker_rollback._containers.quiesce import quiesced_container
from docker_rollback._host import is_first_of_its_namespace, is_main_program
from docker_rollback._model import Observed, Quiesce

_LOOK: Final = 50
"""Milliseconds between two checks whether a wait was given up."""


class MainProcesses:
    """The main processes of some containers.

    Args:
        descriptors: a pidfd for each container whose main process can be watched, by the container's id.
    """

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        self._descriptors = descriptors

    @property
    def watched(self) -> Collection[str]:
        """The ids of the containers whose main processes are watched, so that their end counts as the stop."""
        return self._descriptors.keys()

    def ended(self, containers: Iterable[str], given_up: threading.Event) -> bool:
        """Wait until those of some containers, by their ids, have ended, or `given_up` is set.

        Returns:
            True if all have ended; False at once if one of them is not watched.
        """
        wanted = set(containers)
        if not wanted <= self._descriptors.keys():
            return False
        poll, left = select.poll(), {self._descriptors[one] for one in wanted}
        for descriptor in left:
            poll.register(descriptor, select.POLLIN)
        while left and not given_up.is_set():
            for descriptor, _ in poll.poll(_LOOK):
                poll.unregister(descriptor)
                left.discard(descriptor)
        return not left


@contextmanager
def main_processes(containers: Iterable[Observed], quiesce: Quiesce) -> Iterator[MainProcesses]:
    """Watch the main processes of running containers during a block that quiesces them."""
    descriptors: dict[str, int] = {}
    with ExitStack() as held:
        for container in containers:
            with suppress(OSError, _UnknownError):
                descriptors[container.id] = _watch(container, quiesce, held)
        yield MainProcesses(descriptors)


class _UnknownError(Exception):
    """A process is not visible, or its end does not mean the end of all others in its container."""


def _watch(container: Observed, quiesce: Quiesce, held: ExitStack) -> int:
    """Return a pidfd of a container's main process. Raises `OSError` or `_UnknownError` if it cannot be watched."""
    pid = (container.inspection.get("State") or {}).get("Pid")
    alone = not container.inspection["HostConfig"].get("PidMode")
    # A container in a restart loop has another process by the time it is stopped.
    stopped = not container.state.loops and quiesced_container(container, quiesce).how == "stop"
    if not pid or not alone or not stopped or not hasattr(os, "pidfd_open"):
        raise _UnknownError
    process = Path("/proc", str(pid))
    descriptor = os.pidfd_open(pid)
    held.callback(os.close, descriptor)
    # On another machine than the engine's, the pid is another process's. And a runtime may start a process that is not
    # the first of its namespace, so that others outlive it. A process that is alive after these files were read is the
    # one that they describe, so it is checked last.
    known = is_main_program(process, container.inspection) and is_first_of_its_namespace(process)
    if not known or select.select([descriptor], [], [], 0)[0]:
        raise _UnknownError
    return descriptor
