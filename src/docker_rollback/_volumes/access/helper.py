"""A helper: a container of ours that mounts volumes and runs programs on their files."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from docker_rollback._engine import ContainerFilter, Engine, Process, removal_error
from docker_rollback._host import boot_id
from docker_rollback._inspection import quiet_request
from docker_rollback._names import HELPER_NAME, OPERATION_LABEL, ROLE_LABEL
from docker_rollback._volumes.access.helper_image import Toolbox
from docker_rollback.errors import ContainerNotFoundError, EngineConflictError, EngineError, ImageNotFoundError

logger = logging.getLogger("docker_rollback")

ROLE: Final = "helper"
LOCK_LABEL: Final = "docker-rollback.lock"
# The label for the lock's folder and kernel: on another machine or in a container its path may be another folder.
LOCKS_LABEL: Final = "docker-rollback.locks"

# To read and write every file, whoever owns it, including devices. SYS_ADMIN is for attributes that begin with trusted,
# which tar silently leaves out without it.
CAPABILITIES: Final = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "MKNOD",
    "SETFCAP",
    "SYS_ADMIN",
)
LOOKING: Final = ("DAC_READ_SEARCH",)  # the capability to see whether a path exists; it allows no change
_ENVIRONMENT: Final = ("LC_ALL=C", "TAR_OPTIONS=")
_TRIES: Final = 3
_ANSWER: Final = 1 << 20
_REPLACEMENTS: Final = 3  # how often a helper is replaced; somebody who removes more of them does so on purpose


@frozen
class HelperMount:
    """One volume in a helper."""

    volume: str
    target: str  # its path in the helper
    request: Mapping[str, Any]  # the mount for a create request; empty if `bind` is used
    bind: str = ""  # the mount in the older form, for which an engine creates a missing folder


class Helper:
    """A helper during a `standing` block; it is replaced if somebody removes or stops it.

    Args:
        engine: the engine that runs it.
        provide: returns its image; called again if the image was removed.
        request_for: returns the request that creates it from an image.
        mounts: the volumes that it mounts.
    """

    def __init__(
        self,
        engine: Engine,
        provide: Callable[[], Toolbox],
        request_for: Callable[[Toolbox], dict[str, Any]],
        mounts: Sequence[HelperMount],
    ) -> None:
        self._engine = engine
        self._provide = provide
        self._request_for = request_for
        self._lock = threading.Lock()
        self._stands: _Standing | None = None
        self._replaced = 0
        self.roots: Mapping[str, str] = {mount.volume: mount.target for mount in mounts}

    @property
    def toolbox(self) -> Toolbox:
        """Its programs; raises `EngineConflictError` if it does not exist."""
        return self._standing().toolbox

    def stand(self) -> None:
        """Create and start it; try again if somebody removes or stops it meanwhile.

        Raises:
            EngineError: it could not be created or started.
        """
        while True:
            try:
                self._stand_once()
                return
            except (ContainerNotFoundError, EngineConflictError) as error:
                self._clear_away(error)

    def _stand_once(self) -> None:
        container, toolbox = _create(self._engine, self._provide, self._request_for)
        # Recorded before the start, so that it is removed even if it does not start.
        self._stands = _Standing(container, toolbox)
        self._engine.start_container(container)
        # This program keeps it alive. It ends with its input, at the latest when our process ends.
        lifeline = self._engine.exec(container, toolbox.lifeline, stdin=True)
        self._stands = _Standing(container, toolbox, lifeline)

    def remove(self) -> None:
        """Remove it; a failure is logged."""
        stands, self._stands = self._stands, None
        if stands is None:
            return
        _remove(self._engine, stands.container)
        if stands.lifeline is not None:
            # The engine may report that its container is gone.
            with suppress(EngineError):
                stands.lifeline.kill()

    def run(self, words: Sequence[str], /, *, stdin: bool = False) -> Process:
        """Start a program in it, by its bare name; in a new helper if this one is gone or has exited.

        Files of the old one outside its volumes are lost; a program that needs one fails.
        """
        while True:
            stands = self._standing()
            try:
                return self._engine.exec(stands.container, stands.toolbox.command(words), stdin=stdin)
            except (ContainerNotFoundError, EngineConflictError) as error:
                with self._lock:
                    # Another thread may have replaced it already.
                    if self._stands is stands:
                        self._clear_away(error)
                        self.stand()

    def ask(self, words: Sequence[str]) -> str | None:
        """Return the output of a program that prints a few lines; None if it failed."""
        with self.run(words) as process:
            answer = bytearray()
            while piece := process.read(_ANSWER):
                answer += piece[: _ANSWER - len(answer)]
            return answer.decode("utf-8", "replace") if process.finish().exit_code == 0 else None

    def _clear_away(self, error: EngineError) -> None:
        """Remove the rest of a lost helper; raises `error` if too many were replaced already."""
        if self._replaced >= _REPLACEMENTS:
            raise error
        self._replaced += 1
        logger.warning("replacing a helper container that was removed or stopped while in use: %s", error)
        self.remove()

    def _standing(self) -> _Standing:
        # Wait while another thread replaces it.
        with self._lock:
            if self._stands is None:
                raise EngineConflictError("run a program in a helper container", "it is gone, and no new one was made")
            return self._stands


@frozen
class _Standing:
    """A helper's container."""

    container: str
    toolbox: Toolbox
    lifeline: Process | None = None  # the program that keeps it alive


@contextmanager
def standing(
    engine: Engine,
    provide: Callable[[], Toolbox],
    mounts: Sequence[HelperMount],
    *,
    operation: str,
    auto_remove: bool,
    lock: str = "",
    capabilities: Sequence[str] = CAPABILITIES,
) -> Iterator[Helper]:
    """Run a helper during a block.

    If this process dies, the helper exits: it waits for the end of an input that only this process keeps open.

    Args:
        engine: the engine that runs it.
        provide: returns its image; called again if the image was removed.
        mounts: the volumes that it mounts.
        operation: the operation's id, for its labels.
        auto_remove: whether the engine removes it when it exits; the engine then also removes anonymous volumes.
        lock: the path of a lock that this process holds.
        capabilities: its capabilities.

    Raises:
        EngineError: it could not be created or started.
    """
    labels = {ROLE_LABEL: ROLE, OPERATION_LABEL: operation, LOCK_LABEL: lock, LOCKS_LABEL: _folder_of(lock)}
    request_for = partial(request, mounts=mounts, labels=labels, auto_remove=auto_remove, capabilities=capabilities)
    helper = Helper(engine, provide, request_for, mounts)
    try:
        helper.stand()
        yield helper
    finally:
        helper.remove()


def request(
    toolbox: Toolbox,
    mounts: Sequence[HelperMount],
    *,
    labels: Mapping[str, str],
    auto_remove: bool,
    capabilities: Sequence[str] = CAPABILITIES,
) -> dict[str, Any]:
    """Return the request that creates a helper. Pure."""
    taken = {mount.target for mount in mounts}
    host = {
        "CapAdd": list(capabilities),
        # Numeric owners are those on disk, even if the engine maps the ids of its containers.
        "UsernsMode": "host",
        "AutoRemove": auto_remove,
        "Mounts": [dict(mount.request) for mount in mounts if mount.request],
        "Binds": [mount.bind for mount in mounts if mount.bind],
        "Tmpfs": {path: "" for path in toolbox.masked if path not in taken},
    }
    quiet = quiet_request(toolbox.image, toolbox.main, labels=labels, hidden=toolbox.labels, host=host)
    return quiet | {"Env": list(_ENVIRONMENT)}


def remove_left_over(engine: Engine, is_dead: Callable[[str], bool]) -> list[str]:
    """Remove the helpers of processes that died, and return their ids.

    A helper that has exited is always removed: its process is dead, or has replaced it.

    Args:
        engine: the engine that has them.
        is_dead: returns True if nobody holds the lock at a path.
    """
    removed = []
    # By name too: any image can have the label, and pass it on to a container that is not ours.
    for container in engine.list_containers(ContainerFilter(labels={ROLE_LABEL: ROLE}, name_prefix=HELPER_NAME)):
        try:
            found = engine.inspect_container(container)
        except ContainerNotFoundError:
            continue
        labels = found["Config"].get("Labels") or {}
        lock = str(labels.get(LOCK_LABEL) or "")
        # An exited helper is of no use to any process: it is never started again.
        ended = found["State"].get("Status") in ("exited", "dead")
        if not ended and not (lock and _is_free(lock, str(labels.get(LOCKS_LABEL) or ""), is_dead)):
            continue
        try:
            engine.remove_container(container, force=True)
        except EngineError as error:
            if not ended:
                # It may still write to its volumes.
                raise
            logger.warning("a helper container is left over, %s: %s", container[:12], error)
        else:
            removed.append(container)
    return removed


def _is_free(lock: str, folder: str, is_dead: Callable[[str], bool]) -> bool:
    """Return True if nobody holds a lock; False also for another user's lock, which cannot be checked."""
    try:
        # A lock's file is removed when the lock is released, and never while it is held.
        gone = not Path(lock).exists() and _folder_of(lock) == folder != ""
        return gone or is_dead(lock)
    except OSError:
        return False


def _folder_of(lock: str) -> str:
    """Return the identity of a lock's folder and kernel; empty if it cannot be read."""
    if not lock:
        return ""
    try:
        found = Path(lock).parent.stat()
    except (OSError, ValueError):
        return ""
    boot = boot_id()
    return f"{boot}:{found.st_dev}:{found.st_ino}" if boot else ""


def _create(
    engine: Engine, provide: Callable[[], Toolbox], request_for: Callable[[Toolbox], dict[str, Any]]
) -> tuple[str, Toolbox]:
    for tries_left in reversed(range(_TRIES)):
        toolbox = provide()
        name = f"{HELPER_NAME}{secrets.token_hex(6)}"
        try:
            return engine.create_container(name, request_for(toolbox)), toolbox
        except ImageNotFoundError:
            # Another process that shares the image has just removed it.
            if not tries_left:
                raise
        except EngineError:
            # It may exist nevertheless, if only the answer was lost.
            _remove(engine, name)
            raise
    raise AssertionError("the last try returns or raises")


def _remove(engine: Engine, container: str) -> None:
    # Without its anonymous volumes: it has none of its own, and Podman would remove every anonymous volume that it
    # mounts, including an application's.
    error = removal_error(lambda: engine.remove_container(container, force=True))
    if error is not None:
        # Its work has succeeded or failed already. It exits when this process ends.
        logger.warning("a helper container is left over, %s: %s", container[:12], error)
