"""The helper's image: made on the spot from this machine's own programs, nothing pulled."""

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

HOME: Final = "/.docker-rollback"
"""Where all that is ours lies in a helper; no application mounts anything there."""
LIFELINE: Final = f"{HOME}/lifeline"
"""A FIFO that the helper's main program reads, so that it ends when the last writer goes."""
SCRATCH: Final = f"{HOME}/scratch"
"""A folder for tar's snapshot files."""
PADDED: Final = f"{HOME}/padded"
"""A folder that is not empty, for a volume to be mounted on that its engine would else fill later; see `_helpers`."""

HELPER_REPOSITORY: Final = "docker-rollback-helper"
TOOLS: Final = ("cat", "cp", "rm", "sleep", "stat", "sync", "tee")
"""What goes along beside tar."""
OPTIONAL_TOOLS: Final = ("find", "setfattr", "xargs")
"""What goes along where this machine has it."""

_EXECUTABLE: Final = 0o755
_TRIES: Final = 5
_FOLDERS: Final = (HOME, f"{HOME}/bin", f"{HOME}/lib", PADDED, SCRATCH, "/dev", "/etc", "/proc", "/sys")


@frozen
class Toolbox:
    """An image with programs in it, and how to call them.

    Attributes:
        image: the image's id.
        main: the command that a helper runs as its main program: it waits until the last writer of `LIFELINE` goes.
        lifeline: the command that keeps `LIFELINE` open for as long as its input is.
        ours: whether we made it, so that it holds nothing but what we know.
        prefixes: what stands before each program's arguments, by its name; programs that are not named here are
            looked up by the image.
        masked: folders that the image declares to be volumes, which would make an engine create some.
        labels: the image's own labels, which a helper must not bear.
    """

    image: str
    main: tuple[str, ...]
    lifeline: tuple[str, ...]
    ours: bool = False
    prefixes: Mapping[str, tuple[str, ...]] = field(factory=dict)
    masked: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def command(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return the command that runs the program that `words` begins with; and the one that xargs is to run."""
        return _called(lambda name: self.prefixes.get(name, (name,)), words)


def foreign(image: str, config: Mapping[str, object]) -> Toolbox:
    """Return how to use an image that somebody else made: with its own shell, tar and programs.

    Args:
        image: its id.
        config: its configuration, as the engine inspects it.
    """
    volumes, labels = config.get("Volumes"), config.get("Labels")
    wait = f"mkdir -p {SCRATCH} && mkfifo -m 600 {LIFELINE} && exec cat {LIFELINE}"
    # tee would make a plain file where the FIFO is to be.
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
    """Our own image, before an engine has it.

    Attributes:
        archive: the tar of its file system; the same bytes wherever the programs are the same.
        prefixes: how its programs are called.
        tag: its name, by its content.
    """

    archive: bytes = field(repr=False)
    prefixes: Mapping[str, tuple[str, ...]]
    tag: str = field(init=False)

    @tag.default
    def _tag(self) -> str:
        # Once: to hash some megabytes takes longer than a call of the engine.
        return f"{HELPER_REPOSITORY}:{hashlib.sha256(self.archive).hexdigest()[:16]}"

    def toolbox(self, image: str) -> Toolbox:
        """Return how to use it as the image of that id."""
        return Toolbox(
            image=image,
            main=(*self.prefixes["cat"], LIFELINE),
            lifeline=(*self.prefixes["tee"], LIFELINE),
            ours=True,
            prefixes=self.prefixes,
        )


@frozen
class Programs:
    """This machine's programs with all that they need, to be put into a root file system that holds nothing else.

    Every program is called through the loader that comes along, which is told where its libraries lie: nothing needs a
    place that a volume, mounted where its application has it, might hide.

    Attributes:
        files: this machine's files, by where they belong.
        prefixes: how the programs are called.
    """

    files: Mapping[str, Path]
    prefixes: Mapping[str, tuple[str, ...]]

    def command(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return the command that runs the program that `words` begins with; raises `ToolError` if it is missing."""
        return _called(self._prefix, words)

    def _prefix(self, name: str) -> tuple[str, ...]:
        try:
            return self.prefixes[name]
        except KeyError:
            raise host_programs.ToolError(f"this machine has no {name}") from None


def programs() -> Programs:
    """Find this machine's programs and what they need; raises `ToolError` where one is missing."""
    tar = host_programs.find_tar()
    if tar is None:
        raise host_programs.ToolError("this machine has no GNU tar")
    found = {"tar": host_programs.needs(tar)}
    for tool in TOOLS:
        found[tool] = host_programs.needs(host_programs.find_program(tool))
    for tool in OPTIONAL_TOOLS:
        with suppress(host_programs.ToolError):
            found[tool] = host_programs.needs(host_programs.find_program(tool))
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
    """Make the helper's image from this machine's programs; raises `ToolError` where one is missing."""
    found = programs()
    return Kit(_pack(found.files), found.prefixes)


def _called(prefix: Callable[[str], tuple[str, ...]], words: Sequence[str]) -> tuple[str, ...]:
    first = prefix(words[0])
    if words[0] != "xargs":
        return (*first, *words[1:])
    inner = next(number for number, word in enumerate(words) if number and not word.startswith("-"))
    return (*first, *words[1:inner], *prefix(words[inner]), *words[inner + 1 :])


def _pack(files: Mapping[str, Path]) -> bytes:
    """Return a tar of a file system with `files` in it: small, and the same bytes each time."""
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
    """Our own image in one engine, there for as long as somebody uses it.

    It is imported in 0.03 to 0.24 seconds, so that nothing is gained by leaving it behind.

    Args:
        engine: where it is to be.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._users = 0
        self._kit: Kit | None = None

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Keep what `provide` brings in; the last to leave removes it."""
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
        """Return our image, imported where the engine does not have it; raises `ToolError` where it cannot be had.

        Another process may remove it again before a container of it stands: creating one then raises an
        `ImageNotFoundError`, and the answer is to ask here once more.
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
        """Remove the image where a process that died has left it; one that is in use stays.

        Whoever is about to use it finds it gone, and brings it in again.
        """
        with self._lock, suppress(host_programs.ToolError):
            if not self._users:
                self._remove(pack_kit().tag)

    def _bring_in(self, kit: Kit) -> str:
        """Return the image's id, imported where it is not there; others may bring it in and remove it meanwhile."""
        for tries_left in reversed(range(_TRIES)):
            try:
                return str(self._engine.inspect_image(kit.tag)["Id"])
            except ImageNotFoundError:
                try:
                    return self._engine.import_image(iter([kit.archive]), kit.tag)
                except (EngineUnavailableError, EngineTimeoutError):
                    raise
                except EngineError:
                    # The containerd store refuses an image that another import has just brought in.
                    if not tries_left:
                        raise
        raise AssertionError("the last try returns or raises")

    def _remove(self, tag: str) -> None:
        error = removal_error(lambda: remove_named(self._engine, tag))
        if isinstance(error, EngineConflictError):
            logger.debug("the helper image %s is in use elsewhere, and is removed there", tag)
        elif error is not None:
            # What the helper was for is done or has failed; this neither undoes nor explains it.
            logger.warning("the helper image %s is left over: %s", tag, error)
