"""The image of helpers, made from this machine's own programs; nothing is pulled."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import field, frozen

from docker_rollback._engine import Engine, removal_error, remove_named
from docker_rollback._volumes.access import host_programs
from docker_rollback.errors import (
    EngineConflictError,
    EngineError,
    EngineTimeoutError,
    EngineUnavailableError,
    ImageNotFoundError,
)

logger = logging.getLogger("docker_rollback")

HOME: Final = "/.docker-rollback"  # the folder of our own files in a helper; no application mounts anything there
# A FIFO that the helper's main program reads, so that it exits with the last writer.
LIFELINE: Final = f"{HOME}/lifeline"
SCRATCH: Final = f"{HOME}/scratch"  # a folder for tar's snapshot files
# A folder that is not empty, for volumes that Podman would otherwise fill later; see `helper_source.mount`.
PADDED: Final = f"{HOME}/padded"

HELPER_REPOSITORY: Final = "docker-rollback-helper"
TOOLS: Final = ("cat", "cp", "rm", "sleep", "stat", "sync", "tee")  # the programs in the image in addition to tar
OPTIONAL_TOOLS: Final = ("find", "setfattr", "xargs")  # the programs in the image if this machine has them

_EXECUTABLE: Final = 0o755
_TRIES: Final = 5
_FOLDERS: Final = (HOME, f"{HOME}/bin", f"{HOME}/lib", PADDED, SCRATCH, "/dev", "/etc", "/proc", "/sys")


@frozen
class Toolbox:
    """An image, and the commands that run its programs."""

    image: str
    main: tuple[str, ...]  # the helper's main command, which waits until the last writer closes `LIFELINE`
    lifeline: tuple[str, ...]  # the command that keeps `LIFELINE` open as long as its own input is open
    ours: bool = False  # whether the image is our own, and its content known
    # The words before each program's arguments, by its name; other programs are found by the image's PATH.
    prefixes: Mapping[str, tuple[str, ...]] = field(factory=dict)
    masked: tuple[str, ...] = ()  # folders that the image declares as volumes, for which an engine would create volumes
    labels: tuple[str, ...] = ()  # the image's own labels, which a helper must not have

    def command(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return the full command for `words`, whose first word is a program, as is the one that xargs runs."""
        return _called(lambda name: self.prefixes.get(name, (name,)), words)


def foreign(image: str, config: Mapping[str, object]) -> Toolbox:
    """Return the toolbox of somebody else's image, with its own shell, tar and programs.

    Args:
        image: its id.
        config: its configuration, as the engine inspects it.
    """
    volumes, labels = config.get("Volumes"), config.get("Labels")
    wait = f"mkdir -p {SCRATCH} && mkfifo -m 600 {LIFELINE} && exec cat {LIFELINE}"
    # tee would create a regular file in the FIFO's place.
    hold = f"until test -p {LIFELINE}; do sleep 0.02; done; exec tee {LIFELINE}"
    return Toolbox(
        image=image,
        main=("sh", "-c", wait),
        lifeline=("sh", "-c", hold),
        masked=tuple(volumes) if isinstance(volumes, Mapping) else (),
        labels=tuple(labels) if isinstance(labels, Mapping) else (),
    )


@frozen
class Kit:
    """Our own image, before its import into an engine."""

    archive: bytes = field(repr=False)  # the tar of its file system; the same programs give the same bytes
    prefixes: Mapping[str, tuple[str, ...]]  # the words before each program's arguments
    tag: str = field(init=False)  # its name, derived from its content

    @tag.default
    def _tag(self) -> str:
        # Computed once: to hash some megabytes takes longer than a call of the engine.
        return f"{HELPER_REPOSITORY}:{hashlib.sha256(self.archive).hexdigest()[:16]}"

    def toolbox(self, image: str) -> Toolbox:
        """Return its toolbox, for the id that the engine gave it."""
        return Toolbox(
            image=image,
            main=(*self.prefixes["cat"], LIFELINE),
            lifeline=(*self.prefixes["tee"], LIFELINE),
            ours=True,
            prefixes=self.prefixes,
        )


@frozen
class Programs:
    """This machine's programs, with all files that they need in an otherwise empty root file system.

    Every program is run by its own loader with the path of its libraries, so it depends on no standard folder, which
    a mounted volume could hide.
    """

    files: Mapping[str, Path]  # this machine's files, by their paths in the new root
    prefixes: Mapping[str, tuple[str, ...]]  # the words before each program's arguments

    def command(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return the full command for `words`, whose first word is a program; raises `ToolError` if it is missing."""
        return _called(self._prefix, words)

    def _prefix(self, name: str) -> tuple[str, ...]:
        try:
            return self.prefixes[name]
        except KeyError:
            raise host_programs.ToolError(f"this machine has no {name}") from None


def programs() -> Programs:
    """Find this machine's programs and the files that they need; raises `ToolError` if one is missing."""
    tar = host_programs.find_tar()
    if tar is None:
        raise host_programs.ToolError("this machine has no GNU tar")
    found = {"tar": host_programs.needs(tar)}
    for tool in (*TOOLS, *OPTIONAL_TOOLS):
        try:
            found[tool] = host_programs.needs(host_programs.find_program(tool))
        except host_programs.ToolError:
            if tool in TOOLS:
                raise
    files: dict[str, Path] = {}
    prefixes: dict[str, tuple[str, ...]] = {}
    for name, program in found.items():
        here = f"{HOME}/bin/{name}"
        files[here] = program.path
        if program.loader is None:
            prefixes[name] = (here,)
            continue
        loader = f"{HOME}/lib/{program.loader.name}"
        files[loader] = program.loader
        files |= {f"{HOME}/lib/{library}": path for library, path in program.libraries.items()}
        prefixes[name] = (loader, "--library-path", f"{HOME}/lib", here)
    return Programs(files, prefixes)


def pack_kit() -> Kit:
    """Make the helper's image from this machine's programs; raises `ToolError` if one is missing."""
    found = programs()
    return Kit(_pack(found.files), found.prefixes)


def _called(prefix: Callable[[str], tuple[str, ...]], words: Sequence[str]) -> tuple[str, ...]:
    first = prefix(words[0])
    if words[0] != "xargs":
        return (*first, *words[1:])
    inner = next(number for number, word in enumerate(words) if number and not word.startswith("-"))
    return (*first, *words[1:inner], *prefix(words[inner]), *words[inner + 1 :])


def _pack(files: Mapping[str, Path]) -> bytes:
    """Return a small, reproducible tar of a file system with `files` in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for folder in _FOLDERS:
            archive.addfile(_entry(folder, tarfile.DIRTYPE, _EXECUTABLE))
        archive.addfile(_entry(LIFELINE, tarfile.FIFOTYPE, 0o600))
        archive.addfile(_entry(f"{PADDED}/padding", tarfile.REGTYPE, 0o600))
        for name in sorted(files):
            data = files[name].read_bytes()
            entry = _entry(name, tarfile.REGTYPE, _EXECUTABLE)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name.lstrip("/"))
    entry.type = kind
    entry.mode = mode
    return entry


class OwnImage:
    """Our own image in one engine, removed after its last use.

    The import takes 0.03 to 0.24 seconds, so nothing is gained by keeping it.

    Args:
        engine: the engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._users = 0
        self._kit: Kit | None = None

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Keep the image that `provide` imports; the last block to end removes it."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users and self._kit is not None:
                    self._remove(self._kit.tag)

    def provide(self) -> Toolbox:
        """Return our image, and import it if necessary; raises `ToolError` if it cannot be made.

        Another process may remove it before a container is created from it. The creation then raises an
        `ImageNotFoundError`, and the caller calls this again.
        """
        here, there = os.uname().machine, self._engine.info().architecture
        if here != there:
            raise host_programs.ToolError(f"this machine's programs are for {here}, and the engine's host is {there}")
        with self._lock:
            if self._kit is None:
                self._kit = pack_kit()
            kit = self._kit
            return kit.toolbox(self._bring_in(kit))

    def forget(self) -> None:
        """Remove the image if a process that died has left it; an image in use stays.

        A process that is about to use it imports it again.
        """
        with self._lock, suppress(host_programs.ToolError):
            if not self._users:
                self._remove(pack_kit().tag)

    def _bring_in(self, kit: Kit) -> str:
        """Return the image's id, and import it if necessary; other processes may import and remove it meanwhile."""
        for tries_left in reversed(range(_TRIES)):
            try:
                return str(self._engine.inspect_image(kit.tag)["Id"])
            except ImageNotFoundError:
                try:
                    return self._engine.import_image(iter([kit.archive]), kit.tag)
                except (EngineUnavailableError, EngineTimeoutError):
                    raise
                except EngineError:
                    # The containerd store refuses an image that another process has just imported.
                    if not tries_left:
                        raise
        raise AssertionError("the last try returns or raises")

    def _remove(self, tag: str) -> None:
        error = removal_error(lambda: remove_named(self._engine, tag))
        if isinstance(error, EngineConflictError):
            logger.debug("the helper image %s is in use elsewhere, and is removed there", tag)
        elif error is not None:
            # The helper's work has succeeded or failed already.
            logger.warning("the helper image %s is left over: %s", tag, error)
