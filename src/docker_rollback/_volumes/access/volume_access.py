"""The way to each volume's files: directly, or by a helper; chosen once, proven, and the same from then on."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from attrs import evolve

from docker_rollback._engine import ContainerFilter, Engine, Inspection, Process
from docker_rollback._host import folder_of, processes
from docker_rollback._inspection import inspection_of, mounts, uses
from docker_rollback._model import MountPoint, Way, is_folder
from docker_rollback._names import OPERATION_LABEL, is_guard, is_helper
from docker_rollback._store import FileLock
from docker_rollback._volumes.access import helper_image, host_programs, mount_points, same_folder
from docker_rollback._volumes.access.bound_folders import PLACE, REGULAR, HostFolders
from docker_rollback._volumes.access.direct import LocalProcess
from docker_rollback._volumes.access.helper import Helper
from docker_rollback._volumes.access.helper_source import Helpers, Use
from docker_rollback._volumes.access.missing_paths import first_missing, folder_above, make_file, remove_made_folders
from docker_rollback._volumes.access.mount_points import Sight
from docker_rollback._volumes.access.reach import Reach
from docker_rollback._volumes.access.retries import tried
from docker_rollback._volumes.access.run import Run
from docker_rollback._volumes.access.sandbox import SCRATCH, VOLUME, Sandbox, Sandboxes
from docker_rollback._volumes.access.single_file import check_writable
from docker_rollback.errors import (
    ArchiveError,
    ContainerNotFoundError,
    EngineError,
    EngineTimeoutError,
    EngineUnavailableError,
    VolumeAccessError,
    VolumeError,
)

logger = logging.getLogger("docker_rollback")

_GONE: Final = re.compile(r"does not exist|no such file or directory", re.IGNORECASE)
"""What engines say where a folder of their host is missing."""


class VolumeAccess:
    """Finds the way to volumes, and to folders of the engine's host: those are named by their paths.

    What was proven of a volume's folder is kept for as long as the folder stays the same, so that whoever asks again
    pays nothing.

    Args:
        engine: where the volumes are.
        way: the only way to go; None for directly where that is proven, else by a helper.
        helper_image: the image of the helpers; None for one of our own, or where that cannot be had, that of a
            container which uses the volume.
        kept: folders of this machine that are never archived, by what they are.
        lock: returns the lock that is held for a volume, None where there is none. Our children keep it, should they
            outlive us, and helpers name it.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        way: Way | None = None,
        helper_image: str | None = None,
        kept: Mapping[str, str] | None = None,
        lock: Callable[[str], FileLock | None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._way = way
        self._helpers = Helpers(engine, image=helper_image)
        self._folders = HostFolders(engine, kept or {})
        self._lock = lock
        self._proven: dict[str, same_folder.Root] = {}
        self._operations: list[str] = []

    def inspect(self, volume: str) -> Inspection:
        """Return what the engine says of a volume, or we of a folder; changes nothing.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: it is a folder that is never archived.
        """
        return self._folders.inspect(folder_of(volume)) if is_folder(volume) else self._engine.inspect_volume(volume)

    def probe(self, volumes: Sequence[str]) -> dict[str, Way]:
        """Return the way to each volume; changes nothing in any of them.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: there is no way to one of them; it names it.
            EngineError: the engine does not answer.
        """
        with self.reading(volumes, operation=f"probe-{secrets.token_hex(4)}") as reaches:
            return {reach.volume: reach.way for reach in reaches}

    @contextmanager
    def reading(
        self, volumes: Sequence[str], *, operation: str, ways: Mapping[str, Way] | None = None
    ) -> Iterator[tuple[Reach, ...]]:
        """Have volumes within reach for the time of a block, to be read; raises as `probe`.

        Args:
            volumes: their names.
            operation: what a helper serves, for whoever finds it left over.
            ways: the ways that were chosen before; the others are chosen now.
        """
        found = {name: self.inspect(name) for name in volumes}
        chosen = {name: (ways or {}).get(name, self._way) for name in found}
        with Sandboxes(read_only=True) as near, ExitStack() as helping:
            for name, inspection in found.items():
                if chosen[name] != "helper" and (root := self._known(name, inspection)) is not None:
                    near.enter(name, root)
            helper: Helper | None = None
            if missing := {name: inspection for name, inspection in found.items() if name not in near.standing}:
                helper = helping.enter_context(self._helping(missing, "read", operation=operation))
                asked = {name: missing[name] for name in missing if chosen[name] != "helper"}
                for name, root in self._prove(asked, helper).items():
                    near.enter(name, root)
            for name, inspection in found.items():
                if name not in near.standing and chosen[name] == "direct":
                    raise VolumeAccessError(name, near.reasons.get(name) or _why_not_direct(inspection))
            if helper is not None and len(near.standing) == len(found):
                helping.close()
            listed = _mounts_of(helper) if helper is not None and len(near.standing) < len(found) else ""
            reaches = []
            for number, (name, inspection) in enumerate(found.items()):
                reach, sight = self._reach(name, inspection, near.standing.get(name), helper, listed, str(number))
                seen = sight.mounted if reach.tree is None else sight.mounted_anywhere(at=str(inspection["Mountpoint"]))
                points = mount_points.described(reach.run, reach.root, seen)
                reach = evolve(reach, mount_points=points)
                reaches.append(self._placed(reach) if is_folder(name) else reach)
            yield tuple(reaches)

    @contextmanager
    def filling(self, volume: str, *, operation: str, place: Mapping[str, object] | None = None) -> Iterator[Reach]:
        """Have one volume within reach for the time of a block, to be filled; raises as `probe`.

        Args:
            volume: its name.
            operation: what a helper serves, for whoever finds it left over.
            place: where a folder led at its capture; one that leads elsewhere by now is not filled.
        """
        found = self.inspect(volume)
        if self._way == "direct" and _candidate(found) is None:
            raise VolumeAccessError(volume, _why_not_direct(found))
        with Sandboxes(read_only=False) as near, ExitStack() as helping:
            if self._way != "helper" and (root := self._known(volume, found)) is not None:
                near.enter(volume, root)
            helper: Helper | None = None
            # On Podman a helper has to mount it even so; `_helpers.mount` says why.
            podman = self._engine.info().flavour == "podman" and not is_folder(volume)
            if podman or not near.standing:
                helper = helping.enter_context(self._helping({volume: found}, "fill", operation=operation))
                if self._way != "helper" and not near.standing:
                    for root in self._prove({volume: found}, helper).values():
                        near.enter(volume, root)
            if not near.standing and self._way == "direct":
                raise VolumeAccessError(volume, near.reasons.get(volume) or _why_not_direct(found))
            if near.standing:
                helping.close()
            seen = _mounts_of(helper) if helper is not None and not near.standing else ""
            reach, sight = self._reach(volume, found, near.standing.get(volume), helper, seen, "0")
            points = _in_the_way(sight, helper if not near.standing else None)
            reach = evolve(reach, mount_points=points, read_only=sight.is_read_only)
            if is_folder(volume):
                reach = self._placed(reach)
                self._folders.check_same(volume, reach.inspection[PLACE], place)
            yield reach

    def provide(self, volume: str) -> None:
        """Have a volume's folder, or a folder of the engine's host, there; one that is gone is made, empty.

        Of a volume this can be seen here alone, next to the engine and with the rights to look.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: something else is in its place, or there is no way to it.
            EngineError: the engine does not answer.
        """
        found = self.inspect(volume)
        folder = str(found.get("Mountpoint") or "")
        if not is_folder(volume):
            if not same_folder.is_plain(found) or not self._is_gone(folder):
                return
            logger.warning("volume %s: its folder %s is gone from the host, and made again", volume, folder)
        known = self._proven.get(volume)
        if known is not None and same_folder.look(folder) == known:
            return
        # The engine makes it: there may be no other way to its host, and it never makes anything where something is.
        wanted = {folder: found if is_folder(volume) else inspection_of(folder)}
        with self._helping(wanted, "make", operation=f"make-{secrets.token_hex(4)}") as helper:
            made = self._placed(self._reach(folder, found, None, helper, "", "")[0]) if is_folder(volume) else None
            if made is not None and made.is_file:
                raise VolumeAccessError(volume, f"a {REGULAR} is in its place; remove it, then restore again")

    def provide_file(self, path: str) -> None:
        """Have a single file of the engine's host there; one that is gone is made, empty, with the folders above it.

        An engine that was to mount it may have made an empty folder in its place, which is removed.

        Raises:
            VolumeAccessError: it cannot be made, or there is no way to its folder.
            EngineError: the engine does not answer.
        """
        path = str(self.inspect(path)["Name"])
        above, _, name = path.rpartition("/")
        above = above or "/"
        operation = f"make-{secrets.token_hex(4)}"
        with self._helping({above: inspection_of(above)}, "make above", operation=operation) as helper:
            make_file(helper, f"{helper.roots[above]}/{name}", path)

    def check_device(self, volume: str) -> None:
        """Raise a `VolumeAccessError` if the folder that a volume is bound to by its options is gone from the host.

        Its engine notices when it mounts the volume; so a helper mounts it.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: the folder is gone, or no helper can mount the volume.
            EngineError: the engine does not answer.
        """
        found = self.inspect(volume)
        device = str((found.get("Options") or {}).get("device") or "")
        if same_folder.is_plain(found) or not device.startswith("/"):
            return
        try:
            with self._helping({volume: found}, "read", operation=f"find-{secrets.token_hex(4)}"):
                pass
        except VolumeAccessError as error:
            if _GONE.search(error.reason) is None or device not in error.reason:
                raise
            raise VolumeAccessError(
                volume,
                f"it is bound to {device!r} of the engine's host, which is gone; put it there again, then restore the "
                "backup",
            ) from error

    def missing(self, paths: Sequence[str]) -> dict[str, str]:
        """Return which paths of the engine's host are missing, and the first missing folder or file on each path.

        If neither our own image nor the requested one can start a helper for this, nothing is reported as missing, and
        a warning is logged.

        Raises:
            EngineUnavailableError, EngineTimeoutError: the engine does not answer.
        """
        if not paths:
            return {}
        try:
            # Podman makes a missing folder that a helper mounts, so the helper mounts the root of the host.
            with self._helping({"/": inspection_of("/")}, "look", operation=f"find-{secrets.token_hex(4)}") as helper:
                found = {path: first_missing(helper, path) for path in paths}
                return {path: first for path, first in found.items() if first is not None}
        except (EngineUnavailableError, EngineTimeoutError):
            raise
        except (EngineError, VolumeError) as error:
            logger.warning("cannot check whether the paths that containers bind exist: %s", error)
            return {}

    @contextmanager
    def keeping_missing(self, missing: Mapping[str, str]) -> Iterator[None]:
        """Remove, after a block, the empty folders that the engine made in it for missing paths.

        Args:
            missing: the first missing folder or file on the way to each path, as `missing` returns it.

        Raises:
            VolumeAccessError: such a folder has something in it, or no helper can remove it.
            EngineError: the engine refused or failed.
        """
        if not missing:
            yield
            return
        above = {folder: inspection_of(folder) for folder in map(folder_above, missing.values())}
        # Started before the block: a process that dies before the removal leaves a folder.
        with self._helping(above, "make above", operation=f"tidy-{secrets.token_hex(4)}") as helper:
            try:
                yield
            finally:
                remove_made_folders(helper, missing)

    def _is_gone(self, folder: str) -> bool:
        """Whether a volume's folder is missing from where all volumes of the engine are, as far as can be seen here."""
        try:
            here = self._engine.info().address.startswith("unix://") and Path(folder).parent.parent.is_dir()
            return here and not Path(folder).exists()
        except OSError:
            return False

    @contextmanager
    def holding(self, volumes: Sequence[str]) -> Iterator[None]:
        """Keep volumes mounted for the time of a block, where their files may go with a mount; raises as `probe`."""
        found = {name: self.inspect(name) for name in volumes}
        fleeting = {name: inspection for name, inspection in found.items() if not same_folder.is_plain(inspection)}
        with ExitStack() as stack:
            if fleeting:
                stack.enter_context(self._helping(fleeting, "read", operation=f"hold-{secrets.token_hex(4)}"))
            yield

    def forget_image(self) -> None:
        """Remove our own image of helpers where a process that died has left it; one that is in use stays."""
        self._helpers.forget_image()

    def users(self, volume: str) -> list[Inspection]:
        """Return the running containers that mount a volume, or anything of a folder, paused ones too.

        Our own helpers do not count as long as they are wanted; one that somebody else left over does. A guard never
        does: it does nothing with what it mounts.
        """
        users = []
        where = ContainerFilter(volume=None if is_folder(volume) else volume, running=True)
        for found in self._engine.list_containers(where):
            try:
                container = self._engine.inspect_container(found)
            except ContainerNotFoundError:
                continue
            labels = container["Config"].get("Labels") or {}
            name = str(container["Name"]).lstrip("/")
            helps = is_helper(name) and labels.get(OPERATION_LABEL) in self._operations
            ours = helps or is_guard(name)
            # An engine also names containers that mount something else at a path of that name.
            if not ours and any(uses(mount, volume) for mount in mounts(container)):
                users.append(container)
        return users

    def _placed(self, reach: Reach) -> Reach:
        """Return a folder's reach with the note of where it leads; raises where that is nowhere for us."""
        found = self._folders.place(reach.volume, reach.run, reach.root, reach.tree)
        placed = evolve(reach, inspection={**reach.inspection, **found})
        if placed.is_file:
            check_writable(placed)
        return placed

    @contextmanager
    def _helping(self, volumes: Mapping[str, Inspection], use: Use, *, operation: str) -> Iterator[Helper]:
        self._operations.append(operation)
        try:
            locks = [str(lock.path) for lock in map(self._lock, volumes) if lock is not None]
            with self._helpers.standing(volumes, use, operation=operation, lock=next(iter(locks), "")) as helper:
                yield helper
        finally:
            self._operations.remove(operation)

    def _reach(
        self,
        volume: str,
        inspection: Inspection,
        sandbox: Sandbox | None,
        helper: Helper | None,
        seen: str,
        snapshot: str,
    ) -> tuple[Reach, Sight]:
        """Return a volume within reach, and how the programs next to it see it; `seen` are the mounts of the helper."""
        if sandbox is not None:
            run = _run_in(sandbox, self._lock(volume))
            recorded = f"{SCRATCH}/{snapshot}"
            reach = Reach(volume, inspection, "direct", VOLUME, recorded, run, tree=sandbox.tree)
            return reach, sandbox.sight
        if helper is None:
            raise VolumeAccessError(volume, "no way to it was found")
        root = helper.roots[volume]
        reach = Reach(volume, inspection, "helper", root, f"{helper_image.SCRATCH}/{snapshot}", helper.run)
        return reach, Sight(seen, root)

    def _known(self, volume: str, inspection: Inspection) -> same_folder.Root | None:
        """Return a volume's folder here where that can be known without a helper."""
        root = _candidate(inspection)
        if root is None or self._proven.get(volume) == root:
            return root
        if not self._engine.info().address.startswith("unix://"):
            return None
        if not same_folder.shown_by(self.users(volume), volume, root):
            return None
        self._proven[volume] = root
        return root

    def _prove(self, inspections: Mapping[str, Inspection], helper: Helper) -> dict[str, same_folder.Root]:
        """Return the volumes' folders here, of those where a helper sees the same folder."""
        candidates = {name: root for name, found in inspections.items() if (root := _candidate(found)) is not None}
        if not candidates or not _is_near(helper):
            return {}
        numbers = helper.ask(("stat", "-c", "%d:%i", *(helper.roots[name] for name in candidates))) or ""
        seen = dict(zip(candidates, numbers.split(), strict=False))
        proven = {name: root for name, root in candidates.items() if seen.get(name) == root.number}
        self._proven |= proven
        return proven


def _candidate(inspection: Inspection) -> same_folder.Root | None:
    """Return the folder that may be a volume's own, where we could do there all that tar has to."""
    if not same_folder.is_plain(inspection) or not processes.may_do_anything() or host_programs.find_tar() is None:
        return None
    return same_folder.look(str(inspection["Mountpoint"]))


def _mounts_of(helper: Helper) -> str:
    """Return the list of the mounts that a helper sees."""

    def ask() -> str:
        seen = helper.ask(("cat", mount_points.MOUNTINFO))
        if not seen:
            names = ", ".join(helper.roots)
            raise ArchiveError(names, "a helper container does not tell what is mounted in it", permanent=False)
        return seen

    return tried(ask, doing="asking a helper container for its mounts")


def _is_near(helper: Helper) -> bool:
    return processes.same_kernel(helper.ask(processes.IDENTITY) or "")


def _in_the_way(sight: Sight, helper: Helper | None) -> tuple[MountPoint, ...]:
    """Return the mount points in a volume that is to be filled, also those of other namespaces of this machine."""
    near = helper is None or tried(lambda: _is_near(helper), doing="asking a helper container where it runs")
    return tuple(map(MountPoint, sight.mounted_anywhere() if near else sight.mounted))


def _why_not_direct(inspection: Inspection) -> str:
    if not same_folder.is_plain(inspection):
        return "it has a driver or options of its own, so its files can be reached by a helper container alone"
    if not processes.may_do_anything():
        return "reaching its files directly takes root, with every capability"
    if host_programs.find_tar() is None:
        return "reaching its files directly takes GNU tar, which this machine does not have"
    folder = inspection["Mountpoint"]
    if is_folder(inspection["Name"]) and Path(folder).is_file():
        return "it is a single file, which can be reached by a helper container alone"
    if same_folder.look(str(folder)) is None:
        return f"its folder, {folder} on the engine's host, cannot be read here"
    return f"nothing proves that {folder} on this machine is the folder that the engine means"


def _run_in(sandbox: Sandbox, lock: FileLock | None) -> Run:
    def run(words: Sequence[str], /, *, stdin: bool = False) -> Process:
        return LocalProcess(words, stdin=stdin, keep=() if lock is None else (lock.fileno(),), start=sandbox.start)

    return run
