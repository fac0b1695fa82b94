"""Where helpers come from: how each volume is mounted in one, and whose image it may have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal, TypeAlias

from docker_rollback._engine import ContainerFilter, Engine, Inspection
from docker_rollback._model import is_folder
from docker_rollback._volumes.access import helper_image, host_programs, same_folder
from docker_rollback._volumes.access.helper import CAPABILITIES, LOOKING, Helper, HelperMount, standing
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback.errors import EngineError, EngineTimeoutError, EngineUnavailableError, VolumeAccessError

Use: TypeAlias = Literal["read", "look", "fill", "make", "make above"]
"""What volumes are mounted for; to be made is for folders of the host alone.

A look is for folders that are not of a container, as the host's root: no file in them is read or written, and no image
of a container gets to see them. Neither does it see the folder above a single file, in which that is to be made.
"""

_Provider: TypeAlias = Callable[[], helper_image.Toolbox]
_READING: Final = ("read", "look")
_MAKING: Final = ("make", "make above")
_OF_NO_CONTAINER: Final = ("look", "make above")
_GENERATED: Final = re.compile(r"[0-9a-f]{64}")
"""The names that engines give to anonymous volumes."""


class Helpers:
    """Stands helpers up.

    Args:
        engine: where they stand.
        image: the image that they have, by name or id; None for one of our own, or where that cannot be had, that of a
            container which uses the volume.
    """

    def __init__(self, engine: Engine, *, image: str | None = None) -> None:
        self._engine = engine
        self._image = image
        self._own_image = helper_image.OwnImage(engine)

    @contextmanager
    def standing(
        self, volumes: Mapping[str, Inspection], use: Use, *, operation: str, lock: str = ""
    ) -> Iterator[Helper]:
        """Have a helper with volumes for the time of a block.

        Args:
            volumes: their inspections, by name.
            use: to read them or to look at them, which changes nothing in them, or to fill the one that it is.
            operation: what it serves, for whoever finds it left over.
            lock: the path of a lock that we hold as long as we live.

        Raises:
            VolumeAccessError: none can be had that reaches one of the volumes; it names it.
            EngineUnavailableError, EngineTimeoutError: the engine does not answer.
        """
        podman = self._engine.info().flavour == "podman"
        mounts = [
            mount(name, found, use, number, podman=podman) for number, (name, found) in enumerate(volumes.items())
        ]
        reasons: list[str] = []
        with self._own_image.lease():
            for provide in self._images(volumes, use):
                with ExitStack() as attempt:
                    # Podman removes anonymous volumes, an application's too, with a container that removes itself.
                    kept = podman and any(_may_be_anonymous(mount) for mount in mounts)
                    # A mount that fails ends it as it starts. Removed by then, it could not be started again for the
                    # reason to be known.
                    kept = kept or any(not same_folder.is_plain(found) for found in volumes.values())
                    start = standing(
                        self._engine,
                        provide,
                        mounts,
                        operation=operation,
                        auto_remove=not kept,
                        lock=lock,
                        capabilities=LOOKING if use == "look" else CAPABILITIES,
                    )
                    helper = _try(attempt, start, reasons)
                    if helper is not None:
                        yield helper
                        return
        if len(volumes) > 1:
            for name, found in volumes.items():
                with self.standing({name: found}, use, operation=operation, lock=lock):
                    pass
        raise VolumeAccessError(next(iter(volumes)), f"no helper container reaches it: {'; '.join(reasons)}")

    def forget_image(self) -> None:
        """Remove our own image where a process that died has left it."""
        self._own_image.forget()

    def _images(self, volumes: Mapping[str, Inspection], use: Use) -> Iterator[_Provider]:
        """Yield where the image may come from, the best first."""
        if self._image is not None:
            yield self._provider(self._image)
            return
        yield self._own_image.provide
        # What is looked at is not of a container, and none may run its image on it.
        for image in self._images_of_users(volumes) if use not in _OF_NO_CONTAINER else ():
            yield self._provider(image)

    def _provider(self, image: str) -> _Provider:
        def provide() -> helper_image.Toolbox:
            found = self._engine.inspect_image(image)
            return helper_image.foreign(str(found["Id"]), found.get("Config") or {})

        return provide

    def _images_of_users(self, volumes: Mapping[str, Inspection]) -> dict[str, None]:
        named = [volume for volume in volumes if not is_folder(volume)]
        lists = [self._engine.list_containers(ContainerFilter(volume=volume)) for volume in named]
        if len(named) < len(volumes):
            lists.append(self._engine.list_containers(ContainerFilter(running=True)))
        users = sorted({user for users in lists for user in users})
        return {str(self._engine.inspect_container(user)["Image"]): None for user in users}


def mount(volume: str, inspection: Mapping[str, Any], use: Use, number: int, *, podman: bool) -> HelperMount:
    """Return how a helper mounts a volume. Pure.

    Podman copies the image's files into a volume when a container starts with it for the first time, and gives it the
    owner of the folder that it hides; it does not know ``NoCopy`` here. So a volume that is only read is mounted by
    its folder, which Podman does not notice; and one that is filled goes where our image has a file. That way Podman
    takes both for done, and does not do them again over what we put back.
    """
    target = f"{helper_image.HOME}/volumes/{number}"
    if is_folder(volume):
        return _mount_of_folder(volume, use, f"{target}/{gnu_tar.FILE}")
    if podman and use == "read" and same_folder.is_plain(inspection):
        request: dict[str, Any] = {"Type": "bind", "Source": inspection["Mountpoint"], "Target": target}
    else:
        if podman and use == "fill":
            target = helper_image.PADDED
        request = {"Type": "volume", "Source": volume, "Target": target, "VolumeOptions": {"NoCopy": True}}
    return HelperMount(volume, target, {**request, "ReadOnly": use in _READING})


def _mount_of_folder(folder: str, use: Use, target: str) -> HelperMount:
    """Return how a helper mounts a folder of the host; one that is missing is made where that is asked for alone.

    A single file is mounted likewise, with nothing beside it.
    """
    request: dict[str, Any] = {"Type": "bind", "Source": folder, "Target": target, "ReadOnly": use in _READING}
    if use not in _MAKING:
        return HelperMount(folder, target, request)
    if ":" not in folder:
        return HelperMount(folder, target, {}, bind=f"{folder}:{target}")
    # There is no other way to write such a path; an engine with an API below 1.42 will say that it is missing.
    return HelperMount(folder, target, {**request, "BindOptions": {"CreateMountpoint": True}})


def _may_be_anonymous(mount: HelperMount) -> bool:
    return mount.request.get("Type") == "volume" and _GENERATED.fullmatch(mount.volume) is not None


def _try(attempt: ExitStack, start: Any, reasons: list[str]) -> Helper | None:
    """Start a helper and see that it has GNU tar; adds to `reasons` why not."""
    try:
        helper: Helper = attempt.enter_context(start)
        if helper.toolbox.ours or host_programs.is_gnu_tar((helper.ask(("tar", "--version")) or "").encode()):
            return helper
        reasons.append(f"image {helper.toolbox.image} has no GNU tar")
    except (EngineUnavailableError, EngineTimeoutError):
        raise
    except (EngineError, host_programs.ToolError) as error:
        reasons.append(str(error))
    return None
