"""Finds the files that a compose project was started from, and backs them up."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from attrs import evolve

from docker_rollback._host import LARGEST, UNUSABLE, FileState, check_replaceable, folder_of, read_file, reason_of
from docker_rollback._inspection import COMPOSE_PROJECT
from docker_rollback._model import Backup, HostFile
from docker_rollback._store import FILE, Draft, digest_of
from docker_rollback.errors import CaptureError

_SERVICE: Final = "com.docker.compose.service"
_FOLDER: Final = "com.docker.compose.project.working_dir"
_FILES: Final = "com.docker.compose.project.config_files"
_ENVIRONMENT: Final = "com.docker.compose.project.environment_file"
_NAMING: Final = (_FOLDER, _FILES, _ENVIRONMENT)


def started_from(labels: Mapping[str, str], *, of_image: Iterable[str]) -> tuple[str, ...]:
    """Return the files that a container's project was started from, by the labels that compose gave it.

    Args:
        labels: the container's labels.
        of_image: the labels that its image has. An image may have any, so none of these is taken for compose's.
    """
    if not (labels.get(COMPOSE_PROJECT) and labels.get(_SERVICE)) or set(_NAMING) & set(of_image):
        return ()
    if not labels.get(_FILES):
        return ()
    # A path of compose 1 is relative.
    folder = Path(labels.get(_FOLDER) or "/")
    paths = [folder / path for label in (_FILES, _ENVIRONMENT) for path in labels.get(label, "").split(",") if path]
    if not labels.get(_ENVIRONMENT) and os.path.lexists(folder / ".env"):
        paths.append(folder / ".env")
    return tuple(dict.fromkeys(folder_of(str(path.absolute())) for path in paths))


def unusable_files(paths: Iterable[str]) -> Iterator[str]:
    """Yield why files cannot be backed up, or could not be written back; nothing of theirs is changed."""
    size = 0
    for path in paths:
        try:
            size += len(check_replaceable(path).content)
        except UNUSABLE as error:
            yield (
                f"include_files covers {path!r}, which cannot be backed up and written back: {reason_of(error)}; "
                "give the paths of the files to include"
            )
    if size > LARGEST:
        yield f"the files of include_files have {size} bytes, and at most {LARGEST} are backed up; give fewer paths"


def store_files(paths: Iterable[str], draft: Draft, *, container: str) -> tuple[HostFile, ...]:
    """Read files into a draft. Raises `CaptureError`, which names the container, or `StoreError`."""
    files = []
    for path in paths:
        state = _read(path, container)
        with draft.blob(FILE) as writer:
            writer.write(state.content)
            files.append(HostFile(path, state.mode, state.uid, state.gid, writer.close()))
    return tuple(files)


def check_unchanged(backup: Backup) -> None:
    """Raise a `CaptureError` if a file has changed since it was backed up."""
    for file in backup.files:
        state = _read(file.path, backup.containers[0].name)
        now = HostFile(file.path, state.mode, state.uid, state.gid, evolve(file.data, digest=digest_of(state.content)))
        if now != file:
            raise _changed(file.path, backup.containers[0].name, "somebody changed it")


def _read(path: str, container: str) -> FileState:
    try:
        return read_file(path)
    except UNUSABLE as error:
        raise _changed(path, container, reason_of(error)) from error


def _changed(path: str, container: str, reason: str) -> CaptureError:
    return CaptureError(
        container, f"the file {path!r} of include_files was lost during the backup: {reason}; try again"
    )
