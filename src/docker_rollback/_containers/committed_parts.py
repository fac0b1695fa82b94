"""Reads a committed layer by the API, file by file, where the engine's own files cannot be read and little changed.

What changed is read from a container that is created from the committed image and never started: its files stay as
they are, and none of the application's volumes is mounted. The layer's digest, which the engine gave, proves the tar.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Final

from attrs import evolve, frozen

from docker_rollback._containers.layer_archive import (
    BLOCK,
    REPLACED,
    Deletion,
    Earlier,
    LayerArchiveError,
    LayerMember,
    Part,
    Step,
    mark_of,
    members,
    proven,
    shown_by,
    steps,
)
from docker_rollback._containers.store_identity import StoreIdentity
from docker_rollback._engine import Engine, Inspection, removal_error
from docker_rollback._inspection import quiet_request
from docker_rollback._model import ImageSnapshot
from docker_rollback._names import GUARD, GUARD_NAME, OPERATION_LABEL, ROLE_LABEL
from docker_rollback._store import BackupStore, Draft, ImageParts
from docker_rollback.errors import EngineError, StoreError

logger = logging.getLogger("docker_rollback")

_MOST_READ: Final = 64
"""How many archives are read at most. Docker 20.10 takes 50 ms for each, an export of a gigabyte a few seconds."""
_MOST_BYTES: Final = 32 << 20
"""The size of a layer, in bytes, above which it is exported; it is held in memory."""
_MARKER: Final = "/.dockerenv"
_ENGINES_OWN: Final = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
"""Empty files that Docker makes for each container, at the same moment as `_MARKER`, and mounts others over."""
_OF_CONTAINER: Final = ("/dev", "/etc", _MARKER)
"""The paths that are younger in the copy, because Docker makes files of its own there."""
_UNLISTED: Final = dict.fromkeys(("/etc", *_ENGINES_OWN), "changed")
"""What is in the layer of a container that was started twice on Docker 28, but not in its list of changes."""


@frozen
class Committed:
    """The facts of a committed image.

    Attributes:
        found: the image's inspection.
        base: the number of layers of the container's original image.
        container: the id of the container.
        changes: the changes in the container's writable layer at the commit, by path ("added", "changed", "deleted");
            None if they are unknown.
        stored: the images that the backup has already.
    """

    found: Inspection
    base: int
    container: str = ""
    changes: Mapping[str, str] | None = None
    stored: Sequence[ImageSnapshot] = ()


def committed_parts(
    engine: Engine, store: BackupStore, draft: Draft, image: ImageSnapshot, committed: Committed
) -> ImageParts | None:
    """Return the parts of a committed image if the store has all its layers but the last one; otherwise None.

    None also if the layer has too many changes, or something that the API does not tell. Podman's layers have files
    that its list of changes lacks.

    Args:
        engine: the engine that committed it.
        store: the store that has its other layers.
        draft: the backup that it goes to.
        image: the image.
        committed: what is known of it.
    """
    found, changes = committed.found, committed.changes
    if image.clean or engine.info().flavour == "podman":
        return None
    last = image.layers[-1]
    earlier = _earlier(store, image, committed.stored)
    if earlier is None or not draft.has_layers(image.layers[:-1]):
        return None
    try:
        config = _config(draft, image, found, earlier)
        if draft.has_layers(image.layers):
            return ImageParts(config, {})
        if changes is None or _are_many(steps(changes)):
            return None
        known = _known(draft, earlier) if len(earlier.layers) == len(image.layers) else Earlier()
        with _unstarted(engine, store, draft.backup_id, image, found) as copy:
            files = _Files(engine, container=committed.container, copy=copy)
            layer = _layer(files, changes, known, last)
    except (EngineError, StoreError, LayerArchiveError) as error:
        logger.debug("image %s is exported, because its layer cannot be read by the API: %s", image.id, error)
        return None
    if layer is None:
        logger.debug("image %s is exported, because what the API gives is not its layer", image.id)
        return None
    return ImageParts(config, {last: lambda: iter(layer)})


def _are_many(found: Sequence[Step]) -> bool:
    """Return True if the parts of a layer are too many to read, or too large even if all files are empty."""
    return sum(step.kind != "mark" for step in found) > _MOST_READ or len(found) * BLOCK > _MOST_BYTES


def _layer(files: _Files, changes: Mapping[str, str], known: Earlier, digest: str) -> list[bytes] | None:
    """Return the layer with these changes and a digest, in pieces; None if it does not come out."""
    times = not files.engine.info().containerd_store
    found = proven(list(_parts(files, changes, known)), digest, marks_have_times=times)
    if found is None and times:
        found = proven(list(_parts(files, {**_UNLISTED, **changes}, known)), digest, marks_have_times=times)
    return found


def _parts(files: _Files, changes: Mapping[str, str], known: Earlier) -> Iterator[Part]:
    """Return the parts of a layer, with what an earlier layer shows."""
    replaced: bytes | None = None
    for step in steps(changes):
        for member in files.read(step) if step.kind != "mark" else ():
            yield known.named(member)
            if (mark := known.marks.get(member.name + b"/" + REPLACED)) is not None:
                # Nothing of the folder below is left, so no mark says so of a single file.
                replaced = member.name + b"/"
                yield mark
        name = os.fsencode(step.path.strip("/"))
        if step.kind == "mark" and (replaced is None or not name.startswith(replaced)):
            yield known.marks.get(mark_of(name)) or Deletion(name)


class _Files:
    """Reads the changed files of a container from its copy, each once."""

    def __init__(self, engine: Engine, *, container: str, copy: str) -> None:
        self.engine = engine
        self._container = container
        self._copy = copy
        self._left = _MOST_BYTES
        self._read: dict[Step, list[LayerMember]] = {}

    def read(self, step: Step) -> list[LayerMember]:
        """Return the members of a step. Raises `EngineError` and `LayerArchiveError`."""
        if step.path in _ENGINES_OWN:
            name = os.fsencode(step.path.strip("/"))
            return [evolve(marker, name=name) for marker in self.read(Step(_MARKER, "first"))]
        if step not in self._read:
            self._read[step] = []
            ref = self._container if step.kind == "first" and step.path in _OF_CONTAINER else self._copy
            with closing(self.engine.get_archive(ref, step.path)) as archive:
                for member in members(archive, step.path, most=self._left):
                    self._read[step].append(member)
                    self._left -= member.size
                    if step.kind == "first":
                        break
        return self._read[step]


@contextmanager
def _unstarted(
    engine: Engine, store: BackupStore, operation: str, image: ImageSnapshot, found: Inspection
) -> Iterator[str]:
    """Create a container from a committed image for a block, and yield its id. It is removed like a guard."""
    config, name = found.get("Config") or {}, f"{GUARD_NAME}{secrets.token_hex(6)}"
    labels = {ROLE_LABEL: GUARD, OPERATION_LABEL: operation, **StoreIdentity(store).labels()}
    # Otherwise the engine would create a volume for each path that the image declares.
    host = {"Mounts": [{"Type": "tmpfs", "Target": path} for path in config.get("Volumes") or {}]}
    request = quiet_request(image.id, ["/none"], labels=labels, hidden=config.get("Labels") or {}, host=host)
    try:
        yield engine.create_container(name, request)
    finally:
        # By its name: it may exist though the engine's answer was lost.
        error = removal_error(lambda: engine.remove_container(name, force=True, volumes=True))
        if error is not None:
            logger.warning("container %s is left over, which recovery removes: %s", name, error)


def _earlier(store: BackupStore, image: ImageSnapshot, stored: Sequence[ImageSnapshot]) -> ImageSnapshot | None:
    """Return the newest image in the store, or in this backup, with the same layers below the last one, or None."""
    below = image.layers[:-1]
    held = (container.image for backup in reversed(store.list()) for container in backup.containers)
    return next(
        (one for one in (*held, *stored) if one.manifest is not None and below in (one.layers, one.layers[:-1])), None
    )


def _known(draft: Draft, earlier: ImageSnapshot) -> Earlier:
    """Return what the last layer of an earlier image shows; nothing if it cannot be read."""
    if earlier.manifest is None:
        return Earlier()
    try:
        return shown_by(draft.last_layer(earlier.manifest), most=_MOST_BYTES)
    except (StoreError, LayerArchiveError) as error:
        logger.debug("the last layer of image %s cannot be used: %s", earlier.id, error)
        return Earlier()


def _config(draft: Draft, image: ImageSnapshot, found: Inspection, earlier: ImageSnapshot) -> bytes:
    """Return the config of a committed image, with the history of an earlier one. Raises `StoreError`."""
    # The API gives the contents of a config and not its bytes.
    below = len(image.layers) - 1
    history = draft.image_history(earlier.manifest, layers=below) if earlier.manifest is not None else []
    made = {"created": str(found["Created"]), **({"author": author} if (author := found.get("Author")) else {})}
    command = " ".join((found.get("Config") or {}).get("Cmd") or ())
    config = {
        **made,
        "architecture": found["Architecture"],
        "os": found["Os"],
        **({"variant": variant} if (variant := found.get("Variant")) else {}),
        "config": found.get("Config") or {},
        "rootfs": {"type": "layers", "diff_ids": list(image.layers)},
        "history": [*history, {**made, "created_by": command}],
    }
    return json.dumps(config, separators=(",", ":")).encode()
