"""Starts helpers: chooses how each volume is mounted, and which image is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal, TypeAlias

from docker_rollback._engine import ContainerFilter, Engine, Inspection
from docker_rollback._inspection import is_generated_name
from docker_rollback._model import is_folder
from docker_rollback._volumes.access import helper_image, host_programs, same_folder
from docker_rollback._volumes.access.helper import CAPABILITIES, LOOKING, Helper, HelperMount, standing
from docker_rollback._volumes.tar import gnu_tar
from docker_rollback.errors import EngineError, EngineTimeoutError, EngineUnavailableError, VolumeAccessError

Use: TypeAlias = Literal["read", "look", "fill", "make", "make above"]
"""The purpose of a mount; "make" and "make above" are for folders of the host alone.

"look" is for folders that belong to no container, such as the host's root: no file in them is read or written. Neither
these nor the folder of "make above", in which a file is created or a folder removed, are mounted with a container's
image.
"""

_Provider: TypeAlias = Callable[[], helper_image.Toolbox]
_READING: Final = ("read", "look")
_MAKING: Final = ("make", "make above")
_OF_NO_CONTAINER: Final = ("look", "make above")


class Helpers:
    """Starts helpers.

    Args:
        engine: the engine that runs them.
        image: their image, by name or id; None for our own image, or if that cannot be made, the image of a container
            that uses the volume.
    """

    def __init__(self, engine: Engine, *, image: str | None = None) -> None:
        self._engine = engine
        self._image = image
        self._own_image = helper_image.OwnImage(engine)

    @contextmanager
    def standing(
        self, volumes: Mapping[str, Inspection], use: Use, *, operation: str, lock: str = ""
    ) -> Iterator[Helper]:
        """Run a helper with volumes during a block.

        Args:
            volumes: their inspections, by name.
            use: the purpose; "read" and "look" mount them read-only, and "fill" is for a single volume.
            operation: the operation's id, for the helper's labels.
            lock: the path of a lock that this process holds.

        Raises:
            VolumeAccessError: no helper can mount a volume, which the error names.
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
                    # With a container that removes itself, Podman removes anonymous volumes, even an application's.
                    kept = podman and any(_may_be_anonymous(mount) for mount in mounts)
                    # A mount that fails stops it at its start. The reason is known only by another start, so it must
                    # not be removed by then.
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
        """Remove our own image if a process that died has left it."""
        self._own_image.forget()

    def _images(self, volumes: Mapping[str, Inspection], use: Use) -> Iterator[_Provider]:
        """Yield the possible sources of the image, the best first."""
        if self._image is not None:
            yield self._provider(self._image)
            return
        yield self._own_image.provide
        # These folders belong to no container, so no container's image may see them.
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

    When a container first starts with a volume, Podman copies the image's files into it and sets its owner to that of
    the folder below the mount; it does not support ``NoCopy`` here. So a volume that is only read is mounted by its
    folder, which Podman does not notice. A volume that is filled is mounted on a folder of our image that has a file:
    Podman then takes both steps for done, and does not repeat them over the restored files.
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
    """Return how a helper mounts a folder, or a single file, of the host; only "make" uses create a missing folder."""
    request: dict[str, Any] = {"Type": "bind", "Source": folder, "Target": target, "ReadOnly": use in _READING}
    if use not in _MAKING:
        return HelperMount(folder, target, request)
    if ":" not in folder:
        return HelperMount(folder, target, {}, bind=f"{folder}:{target}")
    # A bind cannot express such a path; an engine with an API below 1.42 reports it as missing.
    return HelperMount(folder, target, {**request, "BindOptions": {"CreateMountpoint": True}})


def _may_be_anonymous(mount: HelperMount) -> bool:
    return mount.request.get("Type") == "volume" and is_generated_name(mount.volume)


def _try(attempt: ExitStack, start: Any, reasons: list[str]) -> Helper | None:
    """Start a helper and check that it has GNU tar; append the reason to `reasons` if it does not."""
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
