"""When the processes of containers end, as this machine's kernel tells it: some time before their engine does.

An engine takes down a container's network and mounts before it says that it has stopped it. Docker 28.5 takes 0.2 s for
that, in which nobody writes to the volumes any more: with the first process of a PID namespace, all others in it end.
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
"""Milliseconds after which somebody who waits sees that nobody wants to know any more."""


class MainProcesses:
    """The main processes of some containers.

    Args:
        descriptors: a pidfd for each; None where one of them cannot be watched.
    """

    def __init__(self, descriptors: Iterable[int] | None) -> None:
        self._descriptors = None if descriptors is None else frozenset(descriptors)

    @property
    def known(self) -> bool:
        """Return True if the processes are watched, so that their end counts."""
        return bool(self._descriptors)

    def ended(self, given_up: threading.Event) -> bool:
        """Wait until all have ended, or nobody wants to know any more; return whether it is known that they have."""
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
    """Have the main processes of running containers watched for the time of a block, in which they are brought to rest.

    Args:
        containers: those that run.
        quiesce: how they are brought to rest.
    """
    descriptors = None
    with ExitStack() as held:
        with suppress(OSError, _UnknownError):
            descriptors = [_watch(container, quiesce, held) for container in containers]
        yield MainProcesses(descriptors)


class _UnknownError(Exception):
    """A process is none of ours to see, or does not stand for all that are in its container."""


def _watch(container: Observed, quiesce: Quiesce, held: ExitStack) -> int:
    """Return a pidfd of a container's main process; raises `OSError` or `_UnknownError` where it cannot be had."""
    pid = (container.inspection.get("State") or {}).get("Pid")
    alone = not container.inspection["HostConfig"].get("PidMode")
    # One that its engine starts again and again has another process by the time it is stopped.
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
