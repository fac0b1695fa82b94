"""Holds the options of a backup as two values, made once and passed whole."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TypeAlias, get_args

from attrs import field, frozen

from docker_rollback._arguments import flag, one_of, seconds, text, texts
from docker_rollback._capture.hooks import Hooks
from docker_rollback._host import folder_of
from docker_rollback._model import Exclude, ExcludeArgument, Quiesce, Shared, Way, as_excludes

FilesArgument: TypeAlias = bool | Collection[str | os.PathLike[str]]
"""Whether the files of the compose project are backed up, or the paths of the files that are."""


# A converter of this module, because the types of its arguments become those of the class's constructor.
def _excludes(given: Iterable[ExcludeArgument]) -> tuple[Exclude, ...]:
    return as_excludes(given)


def _folders(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(folder_of, texts("include_binds", paths, what="paths"))))


def _files(given: FilesArgument) -> bool | tuple[str, ...]:
    if isinstance(given, bool):
        return given
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
        raise TypeError(f"include_files is True, False or a list of paths, not {given!r}")
    plain = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in given]
    paths = texts("include_files", plain, what="paths")
    return tuple(dict.fromkeys(folder_of(str(Path(path).absolute())) for path in paths))


@frozen(kw_only=True)
class CaptureOptions:
    """How containers are captured.

    Attributes:
        quiesce: how they are quiesced: "stop", "pause" or "none".
        resume: whether they run again once they are captured.
        shared: how to treat a running container outside the backup that writes to a volume of theirs: "refuse" to
            begin, "stop" it for the capture as well, or "ignore" it.
        max_downtime: for how many seconds they may be stopped or paused; None sets no limit.
        hooks: what to run around the capture and after a rollback; None runs nothing.
        export_image: whether their images go into the store.
        include_files: whether the files that their compose project was started from are backed up; or the paths of the
            files that are.

    Raises:
        ValueError, TypeError: a value is not among the choices.
    """

    quiesce: Quiesce = "stop"
    resume: bool = True
    shared: Shared = "refuse"
    max_downtime: float | None = None
    hooks: Hooks | None = None
    export_image: bool = True
    include_files: bool | tuple[str, ...] = field(default=False, converter=_files)

    def __attrs_post_init__(self) -> None:
        one_of("quiesce", self.quiesce, get_args(Quiesce))
        flag("resume", self.resume)
        one_of("shared", self.shared, get_args(Shared))
        seconds("max_downtime", self.max_downtime, above=True, optional=True)
        flag("export_image", self.export_image)


@frozen(kw_only=True)
class VolumeOptions:
    """Which data of volumes is archived, and how it is reached.

    Attributes:
        way: the access method, "direct" or "helper"; None takes the first that works.
        helper_image: an image with GNU tar for the helper; None builds one from this machine's own tar.
        exclude: volumes, and paths within them, that are not archived.
        include_binds: folders and files of the engine's host that are archived if the containers bind them.

    Raises:
        ValueError, TypeError: a value is not among the choices, or a path is not absolute.
    """

    way: Way | None = None
    helper_image: str | None = None
    exclude: tuple[Exclude, ...] = field(default=(), converter=_excludes)
    include_binds: tuple[str, ...] = field(default=(), converter=_folders)

    def __attrs_post_init__(self) -> None:
        one_of("way", self.way, (None, *get_args(Way)))
        text("helper_image", self.helper_image, what="the name or id of an image", optional=True)
