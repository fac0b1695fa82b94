"""A helper: a container of ours that mounts volumes, waits, and runs programs next to their files."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from attrs import frozen

from docker_rollback._engine.port import ContainerFilter, Engine, Process
from docker_rollback._labels import OPERATION_LABEL, ROLE_LABEL
from docker_rollback._volumes._image import Toolbox
from docker_rollback.errors import ContainerNotFoundError, EngineError, ImageNotFoundError

logger = logging.getLogger("docker_rollback")

ROLE: Final = "helper"
LOCK_LABEL: Final = "docker-rollback.lock"

# Read and write every file as whoever owns it, devices included; SYS_ADMIN is for attributes that begin with trusted,
# which tar would leave out without a word.
_CAPABILITIES: Final = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "MKNOD",
    "SETFCAP",
    "SYS_ADMIN",
)
_ENVIRONMENT: Final = ("LC_ALL=C", "TAR_OPTIONS=")
_TRIES: Final = 3
_ANSWER: Final = 1 << 20


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
    """A helper that stands; made by `standing`.

    Args:
        engine: where it stands.
        container: its full id.
        toolbox: the programs that it has.
        roots: where it has each volume.
    """

    def __init__(self, engine: Engine, container: str, toolbox: Toolbox, roots: Mapping[str, str]) -> None:
        self._engine = engine
        self._container = container
        self.toolbox = toolbox
        self.roots = roots

    def run(self, words: Sequence[str], /, *, stdin: bool = False) -> Process:
        """Start a program in it, by its bare name."""
        return self._engine.exec(self._container, self.toolbox.command(words), stdin=stdin)

    def hold(self) -> Process:
        """Start the program that keeps it alive: it goes when its input does, which at the latest is when we do."""
        return self._engine.exec(self._container, self.toolbox.lifeline, stdin=True)

    def ask(self, words: Sequence[str]) -> str | None:
        """Return what a program prints, which is no more than a few lines; None where it failed."""
        with self.run(words) as process:
            answer = bytearray()
            while piece := process.read(_ANSWER):
                answer += piece[: _ANSWER - len(answer)]
            return answer.decode("utf-8", "replace") if process.finish().exit_code == 0 else None


@contextmanager
def standing(
    engine: Engine,
    provide: Callable[[], Toolbox],
    mounts: Sequence[HelperMount],
    *,
    operation: str,
    auto_remove: bool,
    lock: str = "",
) -> Iterator[Helper]:
    """Have a helper for the time of a block.

    Where this process dies, it ends by itself: it waits for the end of an input that only we keep open.

    Args:
        engine: where it is to stand.
        provide: returns its image, anew each time that the image was gone again.
        mounts: the volumes that it mounts.
        operation: what it serves, for whoever finds it left over.
        auto_remove: whether the engine removes it when it ends by itself; it then also removes anonymous volumes.
        lock: the path of a lock that we hold as long as we live.

    Raises:
        EngineError: it could not be made, or not be started.
    """
    labels = {ROLE_LABEL: ROLE, OPERATION_LABEL: operation, LOCK_LABEL: lock}
    container, toolbox = _create(engine, provide, mounts, labels=labels, auto_remove=auto_remove)
    lifeline: Process | None = None
    try:
        engine.start_container(container)
        helper = Helper(engine, container, toolbox, {mount.volume: mount.target for mount in mounts})
        lifeline = helper.hold()
        yield helper
    finally:
        _remove(engine, container)
        if lifeline is not None:
            # Its container is gone, and the engine may say so.
            with suppress(EngineError):
                lifeline.kill()


def request(
    toolbox: Toolbox, mounts: Sequence[HelperMount], *, labels: Mapping[str, str], auto_remove: bool
) -> dict[str, Any]:
    """Return the request that creates a helper. Pure."""
    taken = {mount.target for mount in mounts}
    return {
        "Image": toolbox.image,
        "Entrypoint": list(toolbox.main),
        "Cmd": [],
        "Env": list(_ENVIRONMENT),
        "User": "0:0",
        "WorkingDir": "/",
        # A label of an application's image could have a proxy, a backup tool or an updater take it for the application.
        "Labels": {**dict.fromkeys(toolbox.labels, ""), **labels},
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGKILL",
        "HostConfig": {
            "NetworkMode": "none",
            # With any other driver, all that it prints is written to disk as well: 23 times slower.
            "LogConfig": {"Type": "none", "Config": {}},
            "CapDrop": ["ALL"],
            "CapAdd": list(_CAPABILITIES),
            # Owners are to read as on disk, whatever numbers the engine gives to its containers.
            "UsernsMode": "host",
            "SecurityOpt": ["label=disable"],
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "AutoRemove": auto_remove,
            "Mounts": [dict(mount.request) for mount in mounts if mount.request],
            "Binds": [mount.bind for mount in mounts if mount.bind],
            "Tmpfs": {path: "" for path in toolbox.masked if path not in taken},
        },
    }


def remove_left_over(engine: Engine, is_dead: Callable[[str], bool]) -> list[str]:
    """Remove the helpers whose makers died; return the ids of those that were there.

    Args:
        engine: where they are.
        is_dead: says of the lock of a maker, by its path, whether nobody holds it.
    """
    removed = []
    for container in engine.list_containers(ContainerFilter(labels={ROLE_LABEL: ROLE})):
        try:
            labels = engine.inspect_container(container)["Config"].get("Labels") or {}
        except ContainerNotFoundError:
            continue
        if labels.get(LOCK_LABEL) and is_dead(str(labels[LOCK_LABEL])):
            engine.remove_container(container, force=True)
            removed.append(container)
    return removed


def _create(
    engine: Engine,
    provide: Callable[[], Toolbox],
    mounts: Sequence[HelperMount],
    *,
    labels: Mapping[str, str],
    auto_remove: bool,
) -> tuple[str, Toolbox]:
    for tries_left in reversed(range(_TRIES)):
        toolbox = provide()
        name = f"docker-rollback-helper-{secrets.token_hex(6)}"
        try:
            wanted = request(toolbox, mounts, labels=labels, auto_remove=auto_remove)
            return engine.create_container(name, wanted), toolbox
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
    try:
        # Without its anonymous volumes: it has none of its own, and Podman counts every anonymous volume that it mounts
        # as one, an application's too.
        engine.remove_container(container, force=True)
    except EngineError as error:
        # The work is done or has failed; this neither undoes nor explains it. It ends by itself when we do.
        logger.warning("a helper container is left over, %s: %s", container[:12], error)
