"""Gives access to the files of volumes, directly or by a helper; the method is chosen once and then kept."""

from __future__ import annotations

import logging
import posixpath
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from attrs import evolve

from docker_rollback._engine import ContainerFilter, Engine, Inspection, Process
from docker_rollback._host import folder_of, processes
from docker_rollback._inspection import inspection_of, mounts, observe, uses
from docker_rollback._model import MountPoint, Way, is_folder
from docker_rollback._names import OPERATION_LABEL, is_guard, is_helper
from docker_rollback._store import FileLock
from docker_rollback._volumes.access import helper_image, host_programs, mount_points, same_folder
from docker_rollback._volumes.access.bound_folders import PLACE, REGULAR, HostFolders
from docker_rollback._volumes.access.direct import LocalProcess
from docker_rollback._volumes.access.helper import Helper
from docker_rollback._volumes.access.helper_source import Helpers, Use
from docker_rollback._volumes.access.missing_paths import first_missing, make_file, remove_made_folders
from docker_rollback._volumes.access.mount_points import Sight
from docker_rollback._volumes.access.reach import Reach, Run
from docker_rollback._volumes.access.retries import tried
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

# Words of engines for a missing folder of their host.
_GONE: Final = re.compile(r"does not exist|no such file or directory", re.IGNORECASE)


class VolumeAccess:
    """Gives access to volumes, and to folders of the engine's host, which are named by their paths.

    The proof that a folder is a volume's own is kept for as long as the folder stays the same, so that a second access
    costs nothing.

    Args:
        engine: the engine that has the volumes.
        way: the only access method to use; None for direct access if it is proven to be safe, else a helper.
        helper_image: the image of the helpers; None for our own image, or if that cannot be made, the image of a
            container that uses the volume.
        kept: folders of this machine that are never archived, by their descriptions.
        lock: returns the lock that is held for a volume, or None. Our children inherit it, in case they outlive us,
            and helpers are labelled with it.
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
        """Return the engine's inspection of a volume, or ours of a folder; changes nothing.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: it is a folder that is never archived.
        """
        return self._folders.inspect(folder_of(volume)) if is_folder(volume) else self._engine.inspect_volume(volume)

    def probe(self, volumes: Sequence[str]) -> dict[str, Way]:
        """Return the access method for each volume; changes nothing in any of them.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: a volume, which the error names, cannot be accessed.
            EngineError: the engine does not answer.
        """
        with self.reading(volumes, operation=f"probe-{secrets.token_hex(4)}") as reaches:
            return {reach.volume: reach.way for reach in reaches}

    @contextmanager
    def reading(
        self, volumes: Sequence[str], *, operation: str, ways: Mapping[str, Way] | None = None
    ) -> Iterator[tuple[Reach, ...]]:
        """Give read access to volumes during a block; raises as `probe`.

        Args:
            volumes: their names.
            operation: the operation's id, for the labels of helpers.
            ways: the access methods that were chosen before; the others are chosen now.
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
        """Give write access to a volume during a block, to fill it; raises as `probe`.

        Args:
            volume: its name.
            operation: the operation's id, for the labels of helpers.
            place: the place that a folder's path led to at its capture; a path that leads elsewhere now is an error.
        """
        found = self.inspect(volume)
        if self._way == "direct" and _candidate(found) is None:
            raise VolumeAccessError(volume, _why_not_direct(found))
        with Sandboxes(read_only=False) as near, ExitStack() as helping:
            if self._way != "helper" and (root := self._known(volume, found)) is not None:
                near.enter(volume, root)
            helper: Helper | None = None
            # On Podman a helper has to mount it in any case; `helper_source.mount` says why.
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
        """Create a volume's folder, or a folder of the engine's host, if it is missing; it is empty.

        A volume's folder is known to be missing only on the engine's own machine, with permission to see the folder.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: something else is in its place, or it cannot be accessed.
            EngineError: the engine does not answer.
        """
        found = self.inspect(volume)
        folder = str(found.get("Mountpoint") or "")
        if not is_folder(volume):
            if not same_folder.is_plain(found) or not self._is_gone(folder):
                return
            logger.warning("volume %s: recreating its folder %s, which is missing on the host", volume, folder)
        known = self._proven.get(volume)
        if known is not None and same_folder.look(folder) == known:
            return
        # The engine creates it: it may be on another host, and never replaces an existing file.
        wanted = {folder: found if is_folder(volume) else inspection_of(folder)}
        with self._helping(wanted, "make", operation=f"make-{secrets.token_hex(4)}") as helper:
            made = self._placed(self._reach(folder, found, None, helper, "", "")[0]) if is_folder(volume) else None
            if made is not None and made.is_file:
                raise VolumeAccessError(volume, f"a {REGULAR} is in its place; remove it, then restore again")

    def provide_file(self, path: str) -> None:
        """Create a single file of the engine's host, empty, with the folders above it, unless it exists.

        An empty folder in its place, which an engine makes when it is to mount a missing file, is removed.

        Raises:
            VolumeAccessError: it cannot be created, or its folder cannot be accessed.
            EngineError: the engine does not answer.
        """
        path = str(self.inspect(path)["Name"])
        above, name = posixpath.split(path)
        operation = f"make-{secrets.token_hex(4)}"
        with self._helping({above: inspection_of(above)}, "make above", operation=operation) as helper:
            make_file(helper, f"{helper.roots[above]}/{name}", path)

    def check_device(self, volume: str) -> None:
        """Raise a `VolumeAccessError` if the host folder that a volume's options bind it to is missing.

        The engine notices that only when it mounts the volume, so a helper mounts it.

        Raises:
            VolumeNotFoundError: the engine has no such volume.
            VolumeAccessError: the folder is missing, or no helper can mount the volume.
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

    def missing(self, paths: Sequence[str], *, lock: str = "") -> dict[str, str]:
        """Return which paths of the engine's host are missing, and the first missing folder or file on each path.

        If neither our own image nor the requested one can start a helper for this, nothing is reported as missing, and
        a warning is logged.

        Args:
            paths: the paths.
            lock: the path of a lock that this process holds.

        Raises:
            EngineUnavailableError, EngineTimeoutError: the engine does not answer.
        """
        if not paths:
            return {}
        try:
            # Podman makes a missing folder that a helper mounts, so the helper mounts the root of the host.
            root, operation = {"/": inspection_of("/")}, f"find-{secrets.token_hex(4)}"
            with self._helping(root, "look", operation=operation, lock=lock) as helper:
                found = {path: first_missing(helper, path) for path in paths}
                return {path: first for path, first in found.items() if first is not None}
        except (EngineUnavailableError, EngineTimeoutError):
            raise
        except (EngineError, VolumeError) as error:
            logger.warning("cannot check whether the paths that containers bind exist: %s", error)
            return {}

    @contextmanager
    def keeping_missing(self, missing: Mapping[str, str], *, lock: str = "") -> Iterator[None]:
        """Remove, after a block, the empty folders that the engine made in it for missing paths.

        Args:
            missing: the first missing folder or file on the way to each path, as `missing` returns it.
            lock: the path of a lock that this process holds.

        Raises:
            VolumeAccessError: such a folder has something in it, or no helper can remove it.
            EngineError: the engine refused or failed.
        """
        if not missing:
            yield
            return
        above = {folder: inspection_of(folder) for folder in map(posixpath.dirname, missing.values())}
        # Started before the block: a process that dies before the removal leaves a folder.
        with self._helping(above, "make above", operation=f"tidy-{secrets.token_hex(4)}", lock=lock) as helper:
            try:
                yield
            finally:
                remove_made_folders(helper, missing)

    def _is_gone(self, folder: str) -> bool:
        """Return True if a volume's folder is missing, and the engine's folder for all volumes is visible here."""
        try:
            here = self._engine.info().address.startswith("unix://") and Path(folder).parent.parent.is_dir()
            return here and not Path(folder).exists()
        except OSError:
            return False

    @contextmanager
    def holding(self, volumes: Sequence[str]) -> Iterator[None]:
        """Keep volumes mounted during a block if their files depend on a mount; raises as `probe`."""
        found = {name: self.inspect(name) for name in volumes}
        fleeting = {name: inspection for name, inspection in found.items() if not same_folder.is_plain(inspection)}
        with ExitStack() as stack:
            if fleeting:
                stack.enter_context(self._helping(fleeting, "read", operation=f"hold-{secrets.token_hex(4)}"))
            yield

    def forget_image(self) -> None:
        """Remove our own image of helpers if a process that died has left it; an image in use stays."""
        self._helpers.forget_image()

    def users(self, volume: str) -> list[Inspection]:
        """Return the running containers that mount a volume, or any part of a folder, including paused ones.

        Helpers of our own operations do not count; a helper that another process left does. A guard never counts: it
        does not use its mounts.
        """
        users = []
        # In any state: to tell those that run, the engine would have to inspect each, as is done here.
        where = ContainerFilter(volume=None if is_folder(volume) else volume)
        for found in self._engine.list_containers(where):
            try:
                container = self._engine.inspect_container(found)
            except ContainerNotFoundError:
                continue
            labels = container["Config"].get("Labels") or {}
            name = str(container["Name"]).lstrip("/")
            helps = is_helper(name) and labels.get(OPERATION_LABEL) in self._operations
            ours = helps or is_guard(name)
            # An engine also returns containers that mount something else at a path of that name.
            if not ours and observe(container).state.alive and any(uses(mount, volume) for mount in mounts(container)):
                users.append(container)
        return users

    def _placed(self, reach: Reach) -> Reach:
        """Return a folder's reach with the place that it leads to; raises if that must not be touched."""
        found = self._folders.place(reach.volume, reach.run, reach.root, reach.tree)
        placed = evolve(reach, inspection={**reach.inspection, **found})
        if placed.is_file:
            check_writable(placed)
        return placed

    @contextmanager
    def _helping(
        self, volumes: Mapping[str, Inspection], use: Use, *, operation: str, lock: str = ""
    ) -> Iterator[Helper]:
        self._operations.append(operation)
        try:
            locks = [str(held.path) for held in map(self._lock, volumes) if held is not None]
            with self._helpers.standing(volumes, use, operation=operation, lock=next(iter(locks), lock)) as helper:
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
        """Return the access to a volume, and its view of mounts; `seen` is the helper's mountinfo."""
        if sandbox is not None:
            run = _run_in(sandbox, self._lock(volume))
            recorded = f"{SCRATCH}/{snapshot}"
            reach = Reach(volume, inspection, "direct", VOLUME, recorded, run, tree=sandbox.tree)
            return reach, sandbox.sight
        if helper is None:
            raise VolumeAccessError(volume, "no access method was found")
        root = helper.roots[volume]
        reach = Reach(volume, inspection, "helper", root, f"{helper_image.SCRATCH}/{snapshot}", helper.run)
        return reach, Sight(seen, root)

    def _known(self, volume: str, inspection: Inspection) -> same_folder.Root | None:
        """Return a volume's folder on this machine if that can be proven without a helper."""
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
        """Return the folders on this machine that a helper sees as the volumes' folders."""
        candidates = {name: root for name, found in inspections.items() if (root := _candidate(found)) is not None}
        if not candidates or not _is_near(helper):
            return {}
        numbers = helper.ask(("stat", "-c", "%d:%i", *(helper.roots[name] for name in candidates))) or ""
        seen = dict(zip(candidates, numbers.split(), strict=False))
        proven = {name: root for name, root in candidates.items() if seen.get(name) == root.number}
        self._proven |= proven
        return proven


def _candidate(inspection: Inspection) -> same_folder.Root | None:
    """Return the folder that may be a volume's own, if this process could access it with all that tar needs."""
    if not same_folder.is_plain(inspection) or not processes.may_do_anything() or host_programs.find_tar() is None:
        return None
    return same_folder.look(str(inspection["Mountpoint"]))


def _mounts_of(helper: Helper) -> str:
    """Return a helper's mountinfo."""

    def ask() -> str:
        seen = helper.ask(("cat", mount_points.MOUNTINFO))
        if not seen:
            names = ", ".join(helper.roots)
            raise ArchiveError(names, "a helper container could not list its mounts", permanent=False)
        return seen

    return tried(ask, doing="asking a helper container for its mounts")


def _is_near(helper: Helper) -> bool:
    return processes.same_kernel(helper.ask(processes.IDENTITY) or "")


def _in_the_way(sight: Sight, helper: Helper | None) -> tuple[MountPoint, ...]:
    """Return the mount points in a volume, including those of other mount namespaces of this machine."""
    near = helper is None or tried(lambda: _is_near(helper), doing="asking a helper container for its machine")
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
