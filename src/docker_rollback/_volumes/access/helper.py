"""A helper: a container of ours that mounts volumes, waits, and runs programs next to their files."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from docker_rollback._engine import ContainerFilter, Engine, Process, removal_error
from docker_rollback._inspection import quiet_request
from docker_rollback._names import HELPER_NAME, OPERATION_LABEL, ROLE_LABEL
from docker_rollback._volumes.access.helper_image import Toolbox
from docker_rollback.errors import ContainerNotFoundError, EngineConflictError, EngineError, ImageNotFoundError

logger = logging.getLogger("docker_rollback")

ROLE: Final = "helper"
LOCK_LABEL: Final = "docker-rollback.lock"
LOCKS_LABEL: Final = "docker-rollback.locks"
"""Which folder of which kernel that lock is in: a path may lead elsewhere on another machine or in a container."""

# Read and write every file as whoever owns it, devices included; SYS_ADMIN is for attributes that begin with trusted,
# which tar would leave out without a word.
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
LOOKING: Final = ("DAC_READ_SEARCH",)
"""What it takes to see whether a path is there; nothing can be changed with it."""
_ENVIRONMENT: Final = ("LC_ALL=C", "TAR_OPTIONS=")
_TRIES: Final = 3
_ANSWER: Final = 1 << 20
_REPLACEMENTS: Final = 3
"""How often one helper is replaced; whoever removes more of them wants none to stand."""


@frozen
class HelperMount:
    """One volume in a helper.

    Attributes:
        volume: its name.
        target: where the helper has it.
        request: the mount, as a create request names it.
        bind: the mount instead, in the older words by which an engine makes a folder that is missing.
    """

    volume: str
    target: str
    request: Mapping[str, Any]
    bind: str = ""


class Helper:
    """A helper for the time of a `standing` block; one that somebody removes or ends meanwhile is replaced.

    Args:
        engine: where it stands.
        provide: returns its image, again each time that the image was gone.
        mounts: the volumes that it mounts.
        labels: its labels.
        auto_remove: whether the engine removes it when it ends by itself.
        capabilities: what its root may do.
    """

    def __init__(
        self,
        engine: Engine,
        provide: Callable[[], Toolbox],
        mounts: Sequence[HelperMount],
        *,
        labels: Mapping[str, str],
        auto_remove: bool,
        capabilities: Sequence[str] = CAPABILITIES,
    ) -> None:
        self._engine = engine
        self._provide = provide
        self._mounts = tuple(mounts)
        self._labels = dict(labels)
        self._auto_remove = auto_remove
        self._capabilities = tuple(capabilities)
        self._lock = threading.Lock()
        self._stands: _Standing | None = None
        self._replaced = 0
        self.roots: Mapping[str, str] = {mount.volume: mount.target for mount in mounts}

    @property
    def toolbox(self) -> Toolbox:
        """The programs that it has; raises `EngineConflictError` where it does not stand."""
        return self._standing().toolbox

    def stand(self) -> None:
        """Create it and start it; once more where somebody removes or ends it meanwhile.

        Raises:
            EngineError: it could not be made, or not be started.
        """
        while True:
            try:
                self._stand_once()
                return
            except (ContainerNotFoundError, EngineConflictError) as error:
                self._clear_away(error)

    def _stand_once(self) -> None:
        container, toolbox = _create(
            self._engine,
            self._provide,
            lambda toolbox: request(
                toolbox,
                self._mounts,
                labels=self._labels,
                auto_remove=self._auto_remove,
                capabilities=self._capabilities,
            ),
        )
        # Known from here on, so that it is removed also where it does not start.
        self._stands = _Standing(container, toolbox)
        self._engine.start_container(container)
        # The program that keeps it alive goes when its input does, which at the latest is when we do.
        lifeline = self._engine.exec(container, toolbox.lifeline, stdin=True)
        self._stands = _Standing(container, toolbox, lifeline)

    def remove(self) -> None:
        """Remove it; a failure is logged."""
        stands, self._stands = self._stands, None
        if stands is None:
            return
        _remove(self._engine, stands.container)
        if stands.lifeline is not None:
            # Its container is gone, and the engine may say so.
            with suppress(EngineError):
                stands.lifeline.kill()

    def run(self, words: Sequence[str], /, *, stdin: bool = False) -> Process:
        """Start a program in it, by its bare name; in a new helper where this one is gone or has ended.

        Files that the old one held beside its volumes are gone: whoever needs one is told by the program.
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
        """Return what a program prints, which is no more than a few lines; None where it failed."""
        with self.run(words) as process:
            answer = bytearray()
            while piece := process.read(_ANSWER):
                answer += piece[: _ANSWER - len(answer)]
            return answer.decode("utf-8", "replace") if process.finish().exit_code == 0 else None

    def _clear_away(self, error: EngineError) -> None:
        """Remove what is left of a helper that is gone; raises `error` where that was done often enough."""
        if self._replaced >= _REPLACEMENTS:
            raise error
        self._replaced += 1
        logger.warning("a helper container was removed or ended at work, and is replaced: %s", error)
        self.remove()

    def _standing(self) -> _Standing:
        # Waits for a new one, while it is made.
        with self._lock:
            if self._stands is None:
                raise EngineConflictError("run a program in a helper container", "it is gone, and no new one was made")
            return self._stands


@frozen
class _Standing:
    """A helper's container.

    Attributes:
        container: its full id.
        toolbox: the programs that it has.
        lifeline: keeps it alive.
    """

    container: str
    toolbox: Toolbox
    lifeline: Process | None = None


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
    """Have a helper for the time of a block.

    Where this process dies, it ends by itself: it waits for the end of an input that only we keep open.

    Args:
        engine: where it is to stand.
        provide: returns its image, again each time that the image was gone.
        mounts: the volumes that it mounts.
        operation: what it serves, for whoever finds it left over.
        auto_remove: whether the engine removes it when it ends by itself; it then also removes anonymous volumes.
        lock: the path of a lock that we hold as long as we live.
        capabilities: what its root may do.

    Raises:
        EngineError: it could not be made, or not be started.
    """
    labels = {ROLE_LABEL: ROLE, OPERATION_LABEL: operation, LOCK_LABEL: lock, LOCKS_LABEL: _folder_of(lock)}
    helper = Helper(engine, provide, mounts, labels=labels, auto_remove=auto_remove, capabilities=capabilities)
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
        # Owners read as on disk, also if the engine maps the numbers of its containers.
        "UsernsMode": "host",
        "AutoRemove": auto_remove,
        "Mounts": [dict(mount.request) for mount in mounts if mount.request],
        "Binds": [mount.bind for mount in mounts if mount.bind],
        "Tmpfs": {path: "" for path in toolbox.masked if path not in taken},
    }
    quiet = quiet_request(toolbox.image, toolbox.main, labels=labels, hidden=toolbox.labels, host=host)
    return quiet | {"Env": list(_ENVIRONMENT)}


def remove_left_over(engine: Engine, is_dead: Callable[[str], bool]) -> list[str]:
    """Remove the helpers whose makers died; return the ids of those that were there.

    Args:
        engine: where they are.
        is_dead: says of the lock of a maker, by its path, whether nobody holds it.

    One that has ended goes in any case: its maker is dead, or has replaced it.
    """
    removed = []
    # By their names too: an image may bear any label, and give it to a container that is none of ours.
    for container in engine.list_containers(ContainerFilter(labels={ROLE_LABEL: ROLE}, name_prefix=HELPER_NAME)):
        try:
            found = engine.inspect_container(container)
        except ContainerNotFoundError:
            continue
        labels = found["Config"].get("Labels") or {}
        lock = str(labels.get(LOCK_LABEL) or "")
        # One that has ended serves nobody, whoever made it: it ends with its maker, and is never started again.
        ended = found["State"].get("Status") in ("exited", "dead")
        if not ended and not (lock and _is_free(lock, str(labels.get(LOCKS_LABEL) or ""), is_dead)):
            continue
        try:
            engine.remove_container(container, force=True)
        except EngineError as error:
            if not ended:
                # It may write to its volumes yet.
                raise
            logger.warning("a helper container is left over, %s: %s", container[:12], error)
        else:
            removed.append(container)
    return removed


def _is_free(lock: str, folder: str, is_dead: Callable[[str], bool]) -> bool:
    """Return True if nobody holds a lock; False also if it is another user's, so that nobody can tell."""
    try:
        # The file of a lock goes once nobody holds it, and never while somebody does.
        gone = not Path(lock).exists() and _folder_of(lock) == folder != ""
        return gone or is_dead(lock)
    except OSError:
        return False


def _folder_of(lock: str) -> str:
    """Return which folder of which kernel a lock's file is in; empty if that cannot be told."""
    if not lock:
        return ""
    try:
        found = Path(lock).parent.stat()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
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
            # Another process was done with the image that we share, and removed it just now.
            if not tries_left:
                raise
        except EngineError:
            # It may have been made all the same, and only the answer have been lost.
            _remove(engine, name)
            raise
    raise AssertionError("the last try returns or raises")


def _remove(engine: Engine, container: str) -> None:
    # Without its anonymous volumes: it has none of its own, and Podman counts every anonymous volume that it mounts as
    # one, an application's too.
    error = removal_error(lambda: engine.remove_container(container, force=True))
    if error is not None:
        # The work is done or has failed; this neither undoes nor explains it. It ends by itself when we do.
        logger.warning("a helper container is left over, %s: %s", container[:12], error)
