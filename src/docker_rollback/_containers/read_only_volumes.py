"""Read-only volumes that an engine cannot mount, or nobody can fill, in a container that is created again. Pure.

Docker copies what an image has at a mount point into an empty volume when it creates a container, its owner and mode at
least, and that fails if the volume is read-only. A container that was created without, because its image had nothing
there, has the mount point in its writable layer from its start on, and its committed image has it then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from docker_rollback._model import Mount, Observed
from docker_rollback._volumes import Survey


def is_read_only(options: Mapping[str, str]) -> bool:
    """Return True if the options of a local volume have its file system mounted read-only."""
    return "ro" in options.get("o", "").split(",")


def uncopied(container: Observed, surveys: Mapping[str, Survey], *, copies: bool) -> Iterator[str]:
    """Yield why a container cannot be created again with its volumes, or they not be filled.

    Args:
        container: the container.
        surveys: what is known of the volumes that are archived.
        copies: whether the engine copies into empty volumes what the image has there.
    """
    for mount in container.mounts:
        survey = surveys.get(mount.source) if mount.kind == "volume" else None
        if survey is None or not is_read_only(survey.options):
            continue
        if survey.options.get("type") == "tmpfs":
            yield (
                f"its volume {mount.source!r} lives in memory and is read-only (o=ro): if it has to be mounted again, "
                "nothing can be put back into it; give the volume other options, or create the container without it"
            )
        elif copies and survey.is_empty and not _is_not_copied(container, mount):
            yield (
                f"its volume {mount.source!r} is empty and read-only (o=ro): to create the container again, its engine "
                f"would copy into it what the image has at {mount.destination}, and fail; mount the volume with "
                "`nocopy`, or put a file into it"
            )


def _is_not_copied(container: Observed, mount: Mount) -> bool:
    """Return True if a container asked for nothing to be copied into a volume."""
    host: Mapping[str, Any] = container.inspection["HostConfig"]
    for bind in host.get("Binds") or ():
        _, destination, *mode = [*str(bind).split(":"), ""][:3]
        if destination.rstrip("/") == mount.destination.rstrip("/") and "nocopy" in ",".join(mode).split(","):
            return True
    for one in host.get("Mounts") or ():
        if str(one.get("Target", "")).rstrip("/") == mount.destination.rstrip("/"):
            return bool((one.get("VolumeOptions") or {}).get("NoCopy"))
    return False
