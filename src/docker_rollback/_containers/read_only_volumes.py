"""Finds read-only volumes that prevent a container from being recreated or filled. Pure.

When Docker creates a container on an empty volume, it copies the image's files at the mount point into it: at least the
owner and mode of the folder. That fails if the volume is read-only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from docker_rollback._model import Mount, Observed
from docker_rollback._volumes import Survey


def _is_read_only(options: Mapping[str, str]) -> bool:
    """Return True if a local volume's options mount its file system read-only."""
    return "ro" in options.get("o", "").split(",")


def uncopied(container: Observed, surveys: Mapping[str, Survey], *, copies: bool) -> Iterator[str]:
    """Yield the reasons why a container cannot be recreated with its volumes, or a volume cannot be filled.

    With `copies`, the engine copies the image's files into empty volumes.
    """
    for mount in container.mounts:
        survey = surveys.get(mount.source) if mount.kind == "volume" else None
        if survey is None or not _is_read_only(survey.options):
            continue
        if survey.options.get("type") == "tmpfs":
            yield (
                f"its volume {mount.source!r} lives in memory and is read-only (o=ro): if it has to be mounted again, "
                "nothing can be put back into it; give the volume other options, or create the container without it"
            )
        # If the image had nothing there, the container was created without a copy. But its writable layer has had the
        # mount point since its start, and so does its committed image.
        elif copies and survey.is_empty and not _is_not_copied(container, mount):
            yield (
                f"its volume {mount.source!r} is empty and read-only (o=ro): to create the container again, its engine "
                f"would copy into it what the image has at {mount.destination}, and fail; mount the volume with "
                "`nocopy`, or put a file into it"
            )


def _is_not_copied(container: Observed, mount: Mount) -> bool:
    """Return True if the container mounts a volume with `nocopy`."""
    host: Mapping[str, Any] = container.inspection["HostConfig"]
    for bind in host.get("Binds") or ():
        _, destination, *mode = [*str(bind).split(":"), ""][:3]
        if destination.rstrip("/") == mount.destination.rstrip("/") and "nocopy" in ",".join(mode).split(","):
            return True
    for one in host.get("Mounts") or ():
        if str(one.get("Target", "")).rstrip("/") == mount.destination.rstrip("/"):
            return bool((one.get("VolumeOptions") or {}).get("NoCopy"))
    return False
