"""Finds and reads the files that a compose project was started from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from docker_rollback._host import read_file
from docker_rollback._model import HostFile, Observed

_FOLDER: Final = "com.docker.compose.project.working_dir"
_FILES: Final = "com.docker.compose.project.config_files"
_ENVIRONMENT: Final = "com.docker.compose.project.environment_file"


def read_files(
    containers: Iterable[Observed],
    include: bool | tuple[str, ...],  # noqa: FBT001  (the value of a public argument)
) -> tuple[tuple[HostFile, ...], tuple[str, ...]]:
    """Return the files to back up, and the reasons why others cannot be.

    Args:
        containers: the containers of the backup.
        include: whether to read the files that the labels of the containers name; or the paths to read instead.
    """
    paths = _started_from(containers) if include is True else include or ()
    if include is True and not paths:
        return (), (f"include_files=True, but no container has the label {_FILES} of compose; give the paths",)
    files, unread = list[HostFile](), list[str]()
    for path in paths:
        try:
            files.append(read_file(path))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            unread.append(
                f"include_files covers {path!r}, which cannot be backed up ({reason}); make it readable here, "
                "or give the paths of the files to include"
            )
    return tuple(files), tuple(unread)


def _started_from(containers: Iterable[Observed]) -> tuple[str, ...]:
    """Return the compose files and environment files that the labels of containers name, each once."""
    labels = [one.inspection["Config"].get("Labels") or {} for one in containers]
    return tuple(dict.fromkeys(path for found in labels if found.get(_FILES) for path in _named(found)))


def _named(labels: Mapping[str, str]) -> Iterator[str]:
    folder = Path(labels.get(_FOLDER) or "/")
    for label in (_FILES, _ENVIRONMENT):
        for path in filter(None, str(labels.get(label) or "").split(",")):
            yield str(folder / path)
    if not labels.get(_ENVIRONMENT) and (default := folder / ".env").exists():
        yield str(default)
